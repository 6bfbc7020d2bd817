"""Finite scalar quantization: each number of a code is rounded to one of a few levels (arXiv 2309.15505).

There is no codebook to learn and none to die; the index of a code is the mixed-radix number of its levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

MOST_LEVELS = 1000
"""The margin of the bound, see `FiniteScalarQuantizer.forward`, is less than half a level up to here."""


class FiniteScalarQuantizer(nn.Module):
    """Rounds vectors of G groups of ``len(levels)`` numbers; each group has one index.

    Args:
        levels: how many values each number of a group can take, 2..1000; (8, 5, 5, 5) makes 1,000 codes.
        groups: how many codes a position has.

    Raises:
        ValueError: too few or too many levels, or no group.
    """

    sizes: Tensor
    strides: Tensor

    def __init__(self, levels: Sequence[int], groups: int = 1) -> None:
        super().__init__()
        if not levels or not 2 <= min(levels) <= max(levels) <= MOST_LEVELS or groups < 1:
            raise ValueError(
                f"levels {tuple(levels)} and groups {groups}: give levels in 2..{MOST_LEVELS} and at least one group"
            )
        self.groups = groups
        self.dim = groups * len(levels)
        self.codebook_size = math.prod(levels)
        strides = [math.prod(levels[:place]) for place in range(len(levels))]
        self.register_buffer("sizes", torch.tensor(levels), persistent=False)
        self.register_buffer("strides", torch.tensor(strides), persistent=False)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Quantize ``z`` (..., G * len(levels)) to values in [-1, 1] and indices (..., G) int64.

        Gradients go through the rounding unchanged (straight-through).
        """
        sizes = self.sizes.to(torch.float32)
        grouped = z.float().unflatten(-1, (self.groups, -1))
        # (size - 1) / 2 * tanh reaches every level; an even number of them is shifted by a half, so that 0 rounds well
        half = (sizes - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.sizes % 2 == 0, 0.5, 0.0)
        shift = (offset / half).atanh()
        bounded = (grouped + shift).tanh() * half - offset
        rounded = bounded + (bounded.round() - bounded).detach()
        steps = rounded + torch.div(self.sizes, 2, rounding_mode="floor")  # 0 .. size - 1
        indices = (steps.detach().round().long() * self.strides).sum(-1)
        return self._scale(steps).flatten(-2).to(z.dtype), indices

    def values(self, indices: Tensor) -> Tensor:
        """The values (..., G * len(levels)) float32 in [-1, 1] of indices (..., G)."""
        steps = torch.div(indices[..., None], self.strides, rounding_mode="floor") % self.sizes
        return self._scale(steps.float()).flatten(-2)

    def _scale(self, steps: Tensor) -> Tensor:
        return 2 * steps / (self.sizes - 1) - 1

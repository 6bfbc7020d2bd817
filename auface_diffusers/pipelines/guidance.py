"""Classifier-free guidance over several sources (arXiv 2207.12598; one scale a source as in arXiv 2211.09800).

logits = full + (scale - 1) (full - without text and structure) + sum over sources of (scale_s - 1) (full - without s)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from auface_diffusers.models.face_transformer import SOURCES

EXPRESSION_SOURCES = ("text", "structure")
"""What says the expression: left out together, or taken from the negative."""


@dataclass(frozen=True)
class Branch:
    """One way to ask the transformer: its ``weight`` in the sum, sources left ``out``, ``negative`` expression."""

    weight: float
    out: tuple[str, ...] = ()
    negative: bool = False


@dataclass(frozen=True)
class Guidance:
    """How strongly a face follows its sources, each a finite number >= 0; 1 is no guidance and costs nothing.

    Attributes:
        guidance_scale: of the expression, text and structure together, away from none or from the negative one.
        text_guidance_scale, structure_guidance_scale, identity_guidance_scale: of one source. At 0 the structure map
            is not given to the decoder either.

    Raises:
        ValueError: a scale out of range.
    """

    guidance_scale: float = 1.0
    text_guidance_scale: float = 1.0
    structure_guidance_scale: float = 1.0
    identity_guidance_scale: float = 1.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{field.name} {value!r}: give a finite number >= 0, where 1 is no guidance")

    def branches(self, negative: bool) -> list[Branch]:
        """The full question first, then what is subtracted; only branches that count."""
        others = list(self._others(negative))
        return [Branch(1.0 - sum(branch.weight for branch in others)), *others]

    def _others(self, negative: bool) -> Iterator[Branch]:
        if self.guidance_scale != 1:
            yield Branch(1 - self.guidance_scale, () if negative else EXPRESSION_SOURCES, negative)
        for source in ("text", "structure", "identity"):
            scale = getattr(self, f"{source}_guidance_scale")
            if scale != 1:
                yield Branch(1 - scale, (source,))


@dataclass(frozen=True)
class Conditions:
    """What the transformer is given for B faces and n branches.

    Attributes:
        tensors: its arguments by name, each (n * B, ...), one branch after the other.
        dropped: by source, (n * B,) bool.
        weights: n of them, that sum to 1.
    """

    tensors: dict[str, Tensor]
    dropped: dict[str, Tensor]
    weights: tuple[float, ...]

    def combine(self, logits: Tensor) -> Tensor:
        """(n * B, N, K) of any float type to (B, N, K) float32."""
        parts = logits.float().chunk(len(self.weights))
        total = parts[0] * self.weights[0]
        for part, weight in zip(parts[1:], self.weights[1:], strict=True):
            total = total + part * weight
        return total


def dropped_sources(branches: list[Branch], unknown: tuple[str, ...], batch: int) -> dict[str, Tensor]:
    """By source, (n * B,) bool: which rows go without it."""
    rows = {s: [s in branch.out or s in unknown for branch in branches] for s in SOURCES}
    return {source: torch.tensor(flags).repeat_interleave(batch) for source, flags in rows.items()}

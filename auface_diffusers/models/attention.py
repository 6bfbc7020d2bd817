"""Attention with 2-D rotary positions, through diffusers' dispatcher so that the backend can be chosen."""

from __future__ import annotations

import logging
from typing import NamedTuple, cast

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_dispatch import AttentionBackendName, dispatch_attention_fn
from torch import Tensor, nn

logger = logging.getLogger(__name__)
SAME = 0.05
"""How far apart two backends may be in half precision, of numbers of about 1."""


class KeysValues(NamedTuple):
    """What is attended to: normalized keys and values, each (B, M, H, W / H)."""

    key: Tensor
    value: Tensor


class AttentionProcessor:
    """Queries, keys and values to attended values; ``set_attention_backend`` puts the backend's name here."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: Attention,
        x: Tensor,
        context: Tensor | KeysValues | None,
        mask: Tensor | None,
        rotation: Tensor | None,
    ) -> Tensor:
        """(B, N, W) to (B, N, W); see `Attention.forward`."""
        query = attn.norm_q(attn.to_q(x).unflatten(-1, (attn.heads, -1)))  # (B, N, H, W / H)
        if not isinstance(context, KeysValues):
            context = attn.keys_values(x if context is None else context)
        key, value = context
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        query, key = query.to(value.dtype), key.to(value.dtype)
        bias = None if mask is None else mask.to(value.dtype)
        out = dispatch_attention_fn(
            query, key, value, attn_mask=bias, backend=self._attention_backend, parallel_config=self._parallel_config
        )
        attended: Tensor = attn.to_out(out.flatten(2).to(x.dtype))
        return attended


class Attention(nn.Module, AttentionModuleMixin):
    """Multi-head self or cross attention; queries and keys are normalized, which keeps low precision stable.

    Args:
        width: of the queries and of the result.
        heads: which divide the width.
        context_width: of what is attended to; None is self attention.
    """

    _default_processor_cls = AttentionProcessor  # type: ignore[assignment] # the mixin says None, and means a class
    _available_processors = [AttentionProcessor]

    def __init__(self, width: int, heads: int, context_width: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.norm_q = nn.RMSNorm(width // heads, eps=1e-6)
        self.norm_k = nn.RMSNorm(width // heads, eps=1e-6)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context_width or width, width, bias=False)
        self.to_v = nn.Linear(context_width or width, width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.set_processor(AttentionProcessor())  # type: ignore[arg-type] # the mixin lists diffusers' own

    def keys_values(self, context: Tensor) -> KeysValues:
        """Of a context (B, M, context_width); worth keeping where the same one is attended to again."""
        key = self.norm_k(self.to_k(context).unflatten(-1, (self.heads, -1)))
        return KeysValues(key, self.to_v(context).unflatten(-1, (self.heads, -1)))

    def forward(
        self,
        x: Tensor,
        context: Tensor | KeysValues | None = None,
        mask: Tensor | None = None,
        rotation: Tensor | None = None,
    ) -> Tensor:
        """Attend.

        Args:
            x: (B, N, W).
            context: (B, M, context_width), what `keys_values` made of it, or None for ``x`` itself.
            mask: (B, 1, 1, M), added to the scores: 0 to attend, very negative not to. Not a bool mask: the xformers
                backend would add it as it is.
            rotation: (2, N, 1, W / H / 2) of `rotation`, for self attention.
        """
        # the mixin's type is the union of every processor of diffusers
        attended: Tensor = cast(AttentionProcessor, self.processor)(self, x, context, mask, rotation)
        return attended


def attends(backend: str, like: Tensor, head_width: int) -> bool:
    """Whether a backend of diffusers gives what the native one gives, on the device and in the type of ``like``.

    Packages of attention that were built for another torch or GPU are there, but raise when they are used.
    """
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 8, 2, head_width, generator=generator).to(like)
    mask = torch.tensor([0.0] * 5 + [-1e4] * 3).to(like)[None, None, None]
    try:
        out, wanted = (
            dispatch_attention_fn(query, key, value, attn_mask=mask, backend=AttentionBackendName(one)).float().cpu()
            for one in (backend, "native")
        )
    except (ImportError, NotImplementedError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        logger.info("attention by %s does not run here: %s", backend, error)
        return False
    return torch.allclose(out, wanted, atol=SAME)


def rotary_angles(side: int, head_width: int, device: torch.device | None = None) -> Tensor:
    """Angles (side * side, head_width / 2) of a square grid: half of them turn with the row, half with the column.

    Rotary positions (arXiv 2104.09864) along two axes; the base is small because grids are. Made anew where they are
    used: a buffer would be rounded with the model by ``.to(torch.bfloat16)``.
    """
    count = head_width // 4
    speed = 100.0 ** (-torch.arange(count, device=device) / count)
    place = torch.arange(side, device=device)
    rows, columns = place.repeat_interleave(side), place.repeat(side)
    return torch.cat([rows[:, None] * speed, columns[:, None] * speed], 1)


def rotation(angles: Tensor) -> Tensor:
    """Cosines and sines (2, N, 1, D / 2) of angles (N, D / 2), for `rotate`."""
    return torch.stack([angles.cos(), angles.sin()])[:, :, None]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Turn the pairs of numbers of (B, N, H, D) by a `rotation` (2, N, 1, D / 2)."""
    cos, sin = rotation
    first, second = x.float().chunk(2, -1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], -1)

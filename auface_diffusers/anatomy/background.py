"""Backgrounds: plain, gradient, blurred lamps, blurred room."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from auface_diffusers.anatomy.appearance import Appearance
from auface_diffusers.anatomy.looks import linear

_COARSE = 64  # backgrounds are out of focus: they are drawn small and enlarged


def backgrounds(looks: Sequence[Appearance], size: int, device: torch.device) -> Tensor:
    """Linear light (B, size, size, 3)."""
    small = torch.stack([_draw(look) for look in looks]).movedim(-1, 1).to(device)
    return F.interpolate(small, size=(size, size), mode="bilinear", align_corners=False).movedim(1, -1)


@lru_cache(maxsize=64)
def _draw(look: Appearance) -> Tensor:
    generator = torch.Generator().manual_seed(look.texture_seed ^ 0xBAC)
    first, second = linear(torch.tensor(look.background_color)), linear(torch.tensor(look.background_color2))
    line = torch.linspace(-1, 1, _COARSE)
    y, x = line[:, None].expand(_COARSE, _COARSE), line.expand(_COARSE, _COARSE)
    if look.background == "plain":
        image = first * (1.05 - 0.12 * (x * x + y * y))[..., None] + 0.04 * second
    elif look.background == "gradient":
        tilt = float(torch.rand((), generator=generator)) * 2 - 1
        t = (0.5 + 0.5 * (y + tilt * x) / (1 + abs(tilt)))[..., None]
        image = first * (1 - t) + second * t
    elif look.background == "bokeh":
        image = _bokeh(x, y, first, second, generator)
    else:
        image = _room(x, y, first, second, generator)
    return image.clamp(min=0)


def _bokeh(x: Tensor, y: Tensor, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    image = (0.35 * first + 0.15 * second).expand(_COARSE, _COARSE, 3).clone()
    for _ in range(26):
        cx, cy, radius, bright = torch.rand(4, generator=generator).tolist()
        color = (first if bright < 0.5 else second) * (0.4 + 1.2 * bright) + 0.12 * torch.rand(3, generator=generator)
        radius = 0.07 + 0.16 * radius
        distance = ((x - 2.4 * cx + 1.2) ** 2 + (y - 2.4 * cy + 1.2) ** 2).sqrt()
        image += ((radius - distance) / 0.05).clamp(0, 1)[..., None] * 0.35 * color
    return image


def _room(x: Tensor, y: Tensor, first: Tensor, second: Tensor, generator: torch.Generator) -> Tensor:
    """A wall with soft upright shapes (door, shelf, window) of its own colours."""
    image = first.expand(_COARSE, _COARSE, 3) * (1.05 - 0.25 * y)[..., None]
    for _ in range(7):
        cx, cy, wide, high, bright, pick = torch.rand(6, generator=generator).tolist()
        color = (first if pick < 0.5 else second) * (0.35 + 1.5 * bright)
        wide, high, soft = 0.1 + 0.4 * wide, 0.2 + 0.9 * high, 0.10
        across = ((wide - (x - 2.4 * cx + 1.2).abs()) / soft + 0.5).clamp(0, 1)
        cover = (across * ((high - (y - 2 * cy + 1).abs()) / soft + 0.5).clamp(0, 1))[..., None] * 0.8
        image = image * (1 - cover) + color * cover
    return image

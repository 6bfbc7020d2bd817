"""Appearances of a batch as tensors, in linear light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from auface_diffusers.anatomy.appearance import Appearance
from auface_diffusers.anatomy.hair import STYLES, hairline

# sRGB of skin from fair to dark, by melanin
_TONES = (
    (0.96, 0.84, 0.77),
    (0.92, 0.76, 0.66),
    (0.83, 0.64, 0.51),
    (0.67, 0.48, 0.375),
    (0.47, 0.315, 0.235),
    (0.30, 0.195, 0.15),
)


def linear(color: Tensor) -> Tensor:
    """sRGB in 0..1 to linear light."""
    return torch.where(color <= 0.04045, color / 12.92, ((color.clamp(min=0.04045) + 0.055) / 1.055) ** 2.4)


def encode(light: Tensor) -> Tensor:
    """Linear light to sRGB in 0..1; what is too bright rolls off softly."""
    knee = 0.60
    over = (light - knee).clamp(min=0)
    light = torch.minimum(light, light.new_tensor(knee)) + (1 - knee) * (1 - torch.exp(-over / (1 - knee)))
    light = light.clamp(0, 1)
    return torch.where(light <= 0.0031308, light * 12.92, 1.055 * light.clamp(min=0.0031308) ** (1 / 2.4) - 0.055)


@dataclass(frozen=True)
class Looks:
    """Fields of `Appearance` for a batch: (B,) numbers, (B, 3) linear colours, and what follows from them."""

    skin: Tensor
    lips: Tensor
    lip_color: Tensor
    redness: Tensor
    blush: Tensor
    freckles: Tensor
    age_spots: Tensor
    age_lines: Tensor
    pores: Tensor
    oil: Tensor
    stubble: Tensor
    brow_density: Tensor
    brow_thickness: Tensor
    brow_arch: Tensor
    brow_height: Tensor
    brow_dark: Tensor
    brow_color: Tensor
    brow_kind: Tensor
    iris: Tensor
    pupil: Tensor
    lashes: Tensor
    hair: Tensor
    hair_density: Tensor
    curl: Tensor
    gray: Tensor
    cloth: Tensor
    neck_depth: Tensor
    room: Tensor
    shift: Tensor
    scalp: Tensor  # (B, 181): the hairline's elevation in degrees, by degrees from the front
    scalp_cover: Tensor


_NUMBERS: tuple[str, ...] = (
    "redness",
    "blush",
    "freckles",
    "age_spots",
    "age_lines",
    "pores",
    "oil",
    "stubble",
    "lashes",
    "gray",
)
_NUMBERS += ("brow_density", "brow_thickness", "brow_arch", "brow_height", "brow_dark", "lip_color")
_NECK = {"crew": 0.03, "v": 0.42, "shirt": 0.12, "turtleneck": 0.0}


def gather(looks: Sequence[Appearance], device: torch.device) -> Looks:
    """Tensors of appearances on a device."""

    def column(name: str) -> Tensor:
        return torch.tensor([getattr(look, name) for look in looks], dtype=torch.float32, device=device)

    numbers = {name: column(name) for name in _NUMBERS}
    skin = skin_tone(column("melanin"), column("redness"), column("warm_skin"))
    hair = linear(column("hair_color"))
    dark = column("brow_dark")[:, None]
    seeds = [look.texture_seed for look in looks]
    shift = torch.tensor([[seed % 997 / 997, seed % 1009 / 1009] for seed in seeds], device=device)
    styles = [STYLES.get(look.hair_style) for look in looks]
    ambient = column("ambient")[:, None]
    warm = column("warmth")[:, None]
    gray = 0.35 * numbers["gray"][:, None] ** 2
    return Looks(
        skin=skin,
        lips=lip_tone(skin, column("lip_color"), column("lip_dark")),
        brow_color=hair * (1 - 0.6 * dark) * (1 - gray) + 0.25 * gray,
        brow_kind=torch.tensor([seed // 7 % 3 for seed in seeds], device=device),
        iris=_muted(linear(column("iris"))),
        pupil=torch.tensor([0.28 + 0.16 * (seed // 11 % 100) / 100 for seed in seeds], device=device),
        hair=hair,
        hair_density=torch.tensor([style.density if style else 0.0 for style in styles], device=device),
        curl=torch.tensor([style.curl if style else 0.0 for style in styles], device=device),
        cloth=linear(column("clothes_color")),
        neck_depth=torch.tensor([_NECK[look.neckline] for look in looks], device=device),
        room=ambient * torch.cat([0.5 + 0.04 * warm, 0.5 + 0 * warm, 0.5 - 0.05 * warm], 1),
        shift=shift,
        scalp=torch.stack([hairline(torch.arange(181.0), style.recede if style else 0.6) for style in styles]).to(
            device
        ),
        scalp_cover=torch.tensor([0.92 * style.density if style else 0.18 for style in styles], device=device),
        **numbers,
    )


def _muted(color: Tensor) -> Tensor:
    mean = color.mean(1, keepdim=True)
    return 1.2 * (mean + 0.7 * (color - mean)) + 0.012


def skin_tone(melanin: Tensor, redness: Tensor, warm: Tensor) -> Tensor:
    """Linear colour (B, 3) of skin."""
    tones = linear(torch.tensor(_TONES, device=melanin.device))
    at = melanin * (len(_TONES) - 1)
    low = at.floor().clamp(max=len(_TONES) - 2)
    t = (at - low)[:, None]
    base = tones[low.long()] * (1 - t) + tones[low.long() + 1] * t
    pink = base.new_tensor([0.0, -0.16, -0.10]) * (redness - 0.4)[:, None]
    olive = base.new_tensor([-0.02, 0.02, -0.20]) * (warm - 0.5)[:, None]
    return base * torch.exp(pink + olive)


def lip_tone(skin: Tensor, color: Tensor, dark: Tensor) -> Tensor:
    """Linear colour (B, 3) of lips on a skin."""
    natural = skin * skin.new_tensor([0.80, 0.52, 0.56]) * (1.05 - 0.45 * dark)[:, None]
    made_up = skin.new_tensor([0.36, 0.045, 0.06]) * (0.5 + 0.9 * skin[:, :1])
    t = ((color - 0.15) / 0.85).clamp(0, 1)[:, None]
    return natural * (1 - 0.75 * t) + made_up * 0.75 * t

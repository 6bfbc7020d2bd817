"""`Appearance`: everything that a picture of a head needs besides its shape, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from auface_diffusers.anatomy.camera import Camera

Color = tuple[float, float, float]
T = TypeVar("T")

HAIR_STYLES = ("bald", "buzz", "short", "side part", "receding", "curly", "afro", "bob", "long", "bun")
NECKLINES = ("crew", "v", "shirt", "turtleneck")
BACKGROUNDS = ("plain", "gradient", "bokeh", "room")
_CHOICES = {"hair_style": HAIR_STYLES, "neckline": NECKLINES, "background": BACKGROUNDS}
_RANGES = {  # fields that are not in 0..1
    "key_azimuth": (-90.0, 90.0),
    "key_elevation": (-30.0, 80.0),
    "key_intensity": (0.0, 3.0),
    "ambient": (0.0, 2.0),
    "warmth": (-1.0, 1.0),
    "rim": (0.0, 2.0),
    "exposure": (0.25, 4.0),
    "shift_x": (-0.5, 0.5),
    "shift_y": (-0.5, 0.5),
    "zoom": (0.5, 2.0),
    "blur": (0.0, 3.0),
    "noise": (0.0, 0.2),
    "brow_arch": (-1.0, 1.0),
    "brow_height": (-1.0, 1.0),
}
_HAIR_COLORS = (  # sRGB, and how common
    ((0.07, 0.06, 0.055), 4.0),
    ((0.15, 0.10, 0.075), 4.0),
    ((0.27, 0.18, 0.12), 3.0),
    ((0.45, 0.31, 0.19), 2.0),
    ((0.72, 0.56, 0.36), 1.5),
    ((0.45, 0.20, 0.10), 0.8),
)
_IRISES = (
    ((0.20, 0.11, 0.06), 4.0),
    ((0.36, 0.21, 0.10), 3.0),
    ((0.42, 0.36, 0.18), 1.5),
    ((0.34, 0.44, 0.33), 1.0),
    ((0.36, 0.50, 0.62), 1.5),
    ((0.44, 0.48, 0.50), 0.8),
)


@dataclass(frozen=True)
class Appearance:
    """Skin, hair, clothes, light, camera and background of one picture; the seed of nothing: the numbers are all.

    Numbers lie in 0..1 unless said otherwise. Colours are sRGB triples in 0..1. Angles are degrees.

    Attributes:
        melanin, redness, warm_skin: the tone of the skin: fair to dark, pale to ruddy, pink to olive.
        freckles, age_spots, age_lines, pores, oil: how many, how deep, how shiny.
        blush: of the cheeks; lip_color: natural to made up; lip_dark: of the lips against the skin.
        stubble: 0 shaven .. 1 a short beard.
        brow_density, brow_thickness, brow_arch (-1..1), brow_height (-1..1), brow_dark: of the eyebrows.
        iris: colour; lashes: length and density.
        hair_style: one of `HAIR_STYLES`; hair_color; hair_volume; gray: share of grey strands.
        neckline: one of `NECKLINES`; clothes_color.
        key_azimuth (-90..90, to the person's left), key_elevation (-30..80), key_intensity (0..3), key_softness: of
            the main lamp; ambient (0..2), warmth (-1..1), rim (0..2): of the other light.
        background: one of `BACKGROUNDS`; background_color; background_color2.
        shift_x, shift_y (dm, -0.5..0.5), zoom (0.5..2): of the camera; exposure (0.25..4).
        blur (pixels of 256, 0..3), noise (0..0.2): of the sensor.
        texture_seed: 0..2^31-1, places strands, spots, bokeh and noise.

    Raises:
        ValueError: a number out of range or not finite, or a name that is not known.
    """

    melanin: float = 0.3
    redness: float = 0.4
    warm_skin: float = 0.5
    freckles: float = 0.0
    age_spots: float = 0.0
    age_lines: float = 0.1
    pores: float = 0.5
    oil: float = 0.4
    blush: float = 0.3
    lip_color: float = 0.3
    lip_dark: float = 0.3
    stubble: float = 0.0
    brow_density: float = 0.7
    brow_thickness: float = 0.5
    brow_arch: float = 0.0
    brow_height: float = 0.0
    brow_dark: float = 0.6
    iris: Color = (0.36, 0.21, 0.10)
    lashes: float = 0.5
    hair_style: str = "short"
    hair_color: Color = (0.15, 0.10, 0.075)
    hair_volume: float = 0.5
    gray: float = 0.0
    neckline: str = "crew"
    clothes_color: Color = (0.25, 0.30, 0.38)
    key_azimuth: float = 30.0
    key_elevation: float = 35.0
    key_intensity: float = 1.0
    key_softness: float = 0.5
    ambient: float = 0.6
    warmth: float = 0.1
    rim: float = 0.3
    background: str = "gradient"
    background_color: Color = (0.45, 0.47, 0.50)
    background_color2: Color = (0.25, 0.27, 0.30)
    shift_x: float = 0.0
    shift_y: float = 0.0
    zoom: float = 1.0
    exposure: float = 1.0
    blur: float = 0.3
    noise: float = 0.01
    texture_seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _CHOICES:
                if value not in _CHOICES[field.name]:
                    raise ValueError(f"{field.name} {value!r}: one of {', '.join(_CHOICES[field.name])}")
            elif field.name == "texture_seed":
                if not isinstance(value, int) or not 0 <= value < 2**31:
                    raise ValueError(f"texture_seed {value!r}: an integer in 0..{2**31 - 1}")
            elif isinstance(field.default, tuple):
                if not (isinstance(value, tuple) and len(value) == 3 and all(_within(x, 0, 1) for x in value)):
                    raise ValueError(f"{field.name} {value!r}: three numbers in 0..1")
            else:
                low, high = _RANGES.get(field.name, (0.0, 1.0))
                if not _within(value, low, high):
                    raise ValueError(f"{field.name} {value!r}: a number in {low:g}..{high:g}")

    def to_dict(self) -> dict[str, Any]:
        """Plain values by field name, for JSON; colours become lists."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Appearance:
        """The inverse of `to_dict`; what is left out takes its default.

        Raises:
            ValueError: for a name that is not a field, or a value that is out of range.
        """
        unknown = set(values) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"not fields of an appearance: {', '.join(sorted(unknown))}")
        given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**given)

    @classmethod
    def sample(cls, seed: int, person: Tensor | None = None, *, scene: int | None = None) -> Appearance:
        """A random appearance; the same seeds give the same one on every platform.

        Args:
            seed: of what belongs to the person: skin, brows, eyes, hair.
            person: identity code (46,), see `identity.identity_codes`: tone, beard and grey hair follow ancestry,
                gender and age. None draws them.
            scene: of what belongs to the picture: clothes, light, camera, background; None: the same as ``seed``.
        """
        own = _Draw(seed)
        values: dict[str, Any] = _person(own, person) | _scene(_Draw((seed if scene is None else scene) ^ 0x5EED))
        return cls(texture_seed=own.integer(2**31), **values)


def _within(value: object, low: float, high: float) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value) and low <= value <= high


class _Draw:
    """Draws of a seeded CPU generator as Python numbers, rounded so that they survive JSON and platforms."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed % 2**63)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return round(low + (high - low) * float(torch.rand((), generator=self.generator)), 4)

    def integer(self, high: int) -> int:
        return int(torch.randint(high, (), generator=self.generator))

    def rare(self, chance: float, low: float = 0.2, high: float = 1.0) -> float:
        """0 mostly; else uniform. Takes two numbers either way, so that later draws do not shift."""
        present, value = self.uniform() < chance, self.uniform(low, high)
        return value if present else 0.0

    def pick(self, options: Sequence[tuple[T, float]]) -> T:
        at = self.uniform(0, sum(weight for _, weight in options))
        for value, weight in options:
            at -= weight
            if at <= 0:
                return value
        return options[-1][0]

    def tint(self, color: Color, spread: float) -> Color:
        bright = 1 + self.uniform(-spread, spread)
        red, green, blue = (min(1.0, max(0.0, c * bright * (1 + self.uniform(-spread, spread) / 3))) for c in color)
        return (round(red, 4), round(green, 4), round(blue, 4))


def _person(draw: _Draw, person: Tensor | None) -> dict[str, Any]:
    if person is None:
        gender, age, african, asian, caucasian = (draw.uniform() for _ in range(5))
        total = african**3 + asian**3 + caucasian**3 + 1e-6
        african, asian, caucasian = african**3 / total, asian**3 / total, caucasian**3 / total
    else:
        gender, age, african, asian, caucasian = person[:5].tolist()
    melanin = 0.78 * african + 0.30 * asian + 0.14 * caucasian + draw.uniform(-0.16, 0.22)
    melanin = min(1.0, max(0.0, melanin))
    fair = max(0.0, 1 - 2 * melanin)
    light_hair = caucasian > 0.45 and melanin < 0.42 and draw.uniform() < 0.8
    colors = tuple(
        (color, weight * (1.0 if light_hair or i < 2 else 0.05)) for i, (color, weight) in enumerate(_HAIR_COLORS)
    )
    irises = tuple(
        (color, weight * (1.0 if light_hair or i < 1 else 0.04)) for i, (color, weight) in enumerate(_IRISES)
    )
    curly = 3.0 * african
    male, old = gender > 0.5, max(0.0, age - 0.4) / 0.6
    man, woman = (1.0, 0.08) if male else (0.12, 1.0)
    styles = tuple(
        zip(
            HAIR_STYLES,
            (man * (0.4 + 0.8 * old), man * (1 + curly), 3 * man, 1.8, man * (0.3 + 2 * old), 0.6 + curly)
            + (0.2 * curly, 2 * woman, 3 * woman, 1.2 * woman),
            strict=True,
        )
    )
    makeup = 0.0 if male else draw.rare(0.5)
    return {
        "melanin": round(melanin, 4),
        "redness": draw.uniform(0.1, 0.8),
        "warm_skin": draw.uniform(0.1, 0.9),
        "freckles": round(draw.rare(0.15 + 0.4 * fair) * (0.3 + 0.7 * fair), 4),
        "age_spots": round(old * draw.uniform(), 4),
        "age_lines": round(min(1.0, 0.05 + 0.75 * age * draw.uniform(0.5, 1.1)), 4),
        "pores": draw.uniform(0.2, 1.0),
        "oil": draw.uniform(0.1, 0.9),
        "blush": round(min(1.0, draw.uniform(0.05, 0.5) + 0.3 * makeup), 4),
        "lip_color": round(min(1.0, draw.uniform(0.1, 0.45) + 0.5 * makeup), 4),
        "lip_dark": draw.uniform(0.1, 0.6),
        "stubble": draw.rare(0.75, 0.1) if male else 0.0,
        "brow_density": draw.uniform(0.45, 1.0),
        "brow_thickness": round(min(1.0, draw.uniform(0.15, 0.7) + (0.25 if male else 0.0)), 4),
        "brow_arch": draw.uniform(-0.8, 0.6) if male else draw.uniform(-0.4, 1.0),
        "brow_height": draw.uniform(-1, 1),
        "brow_dark": draw.uniform(0.35, 1.0),
        "iris": draw.tint(draw.pick(irises), 0.2),
        "lashes": round(draw.uniform(0.15, 0.6) + 0.4 * makeup, 4),
        "hair_style": draw.pick(styles),
        "hair_color": draw.tint(draw.pick(colors), 0.2),
        "hair_volume": draw.uniform(),
        "gray": round(min(1.0, old * draw.uniform(0.2, 1.4)), 4),
    }


def _scene(draw: _Draw) -> dict[str, Any]:
    level = draw.uniform(0.12, 0.85)
    wall = draw.tint((level, level, level), 0.25)
    cloth = draw.uniform(0.06, 0.85)
    return {
        "neckline": draw.pick(tuple((name, 1.0) for name in NECKLINES)),
        "clothes_color": tuple(round(cloth * draw.uniform(0.45, 1.0), 4) for _ in range(3)),
        "key_azimuth": draw.uniform(-65, 65),
        "key_elevation": draw.uniform(5, 60),
        "key_intensity": draw.uniform(0.8, 1.5),
        "key_softness": draw.uniform(),
        "ambient": draw.uniform(0.22, 0.6),
        "warmth": draw.uniform(-0.6, 0.8),
        "rim": draw.uniform(0.0, 0.9),
        "background": draw.pick((("plain", 1.0), ("gradient", 2.0), ("bokeh", 2.0), ("room", 2.0))),
        "background_color": wall,
        "background_color2": draw.tint(wall, 0.6),
        "shift_x": draw.uniform(-0.12, 0.12),
        "shift_y": draw.uniform(-0.12, 0.12),
        "zoom": draw.uniform(0.9, 1.12),
        "exposure": draw.uniform(0.85, 1.2),
        "blur": draw.uniform(0.0, 0.7),
        "noise": round(0.014 * draw.uniform() ** 2, 4),
    }


def project_points(points: Tensor, appearances: Sequence[Appearance], camera: Camera) -> Tensor:
    """Where `render` draws points (B, N, 3): x, y in pixels and depth, with each appearance's shift and zoom."""

    def column(name: str) -> Tensor:
        return points.new_tensor([getattr(look, name) for look in appearances])[:, None]

    flat = camera.project(points)
    half, zoom = camera.size / 2, column("zoom")
    scale = camera.size / camera.height * zoom
    x = (flat[..., 0] - half) * zoom + half + column("shift_x") * scale
    y = (flat[..., 1] - half) * zoom + half - column("shift_y") * scale
    return torch.stack([x, y, flat[..., 2]], -1)

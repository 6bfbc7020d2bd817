"""Textures of skin, brows and hair, drawn once a process, and how to look them up.

The skin's texture space is a cylinder about the neutral head: u is the angle in radians, 0 in front and positive on
the person's left; v is the height in dm. A pixel's place in it comes from its place on the neutral mesh, so that
everything drawn there moves with the skin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

AXIS = -0.55
"""z of the cylinder's axis, dm."""
TILE = 1.2
"""Side of the repeating skin texture, in radians and dm."""
REGION = (0.0, 1.2, -1.3, 0.8)
"""u and v from, to, of the half face that region masks cover; the other half mirrors it."""
REGION_SIZE = (480, 272)


@dataclass(frozen=True)
class Textures:
    """Pyramids of (H, W, C) tensors, each level half the size of the one before.

    ``tile``: skin relief d/du, d/dv, blotches -1..1, freckles 0..1, stubble 0..1, spots 0..1.
    ``regions``: `REGIONS`. ``brow``: three sets of strands. ``strands``: fine, coarse, ends, each 0..1.
    """

    tile: tuple[Tensor, ...]
    regions: tuple[Tensor, ...]
    brow: tuple[Tensor, ...]
    strands: tuple[Tensor, ...]


REGIONS = ("beard", "blush", "freckles", "oil", "tired", "shade", "red")


@lru_cache(maxsize=4)
def textures(device: str) -> Textures:
    """All textures, float32, on a device."""
    generator = torch.Generator().manual_seed(20240301)
    sets = (_tile(generator), _regions(), _brows(generator), _strands(generator))
    return Textures(*(tuple(level.to(device) for level in pyramid(one, 4)) for one in sets))


def pyramid(texture: Tensor, levels: int) -> list[Tensor]:
    """(H, W, C) to a list of it and its halves."""
    result = [texture.contiguous()]
    for _ in range(levels - 1):
        half = F.avg_pool2d(result[-1].movedim(-1, 0), 2)
        result.append(half.movedim(0, -1).contiguous())
    return result


def level_for(levels: tuple[Tensor, ...], extent: float, pixel: float) -> Tensor:
    """The level whose texels are about as wide as a pixel, both in the units of ``extent``, the texture's width."""
    for texture in levels:
        if extent / texture.shape[1] > 0.6 * pixel:
            return texture
    return levels[-1]


def sample(texture: Tensor, x: Tensor, y: Tensor, *, wrap: bool = False, layer: Tensor | None = None) -> Tensor:
    """Bilinear lookup at (M,) x and y in 0..1, x along the width: (M, C). Outside it repeats or holds the edge.

    Args:
        texture: (H, W, C), or (L, H, W, C) with ``layer`` (M,) saying which.
    """
    height, width, channels = texture.shape[-3:]
    across, down = x * width - 0.5, y * height - 0.5
    left, top = across.floor(), down.floor()
    fx, fy = across - left, down - top
    columns = torch.stack([left, left + 1], -1).long()
    rows = torch.stack([top, top + 1], -1).long()
    if wrap:
        columns, rows = columns.remainder(width), rows.remainder(height)
    else:
        columns, rows = columns.clamp(0, width - 1), rows.clamp(0, height - 1)
    if layer is not None:
        rows = rows + (layer * height)[:, None]
    index = (rows[:, :, None] * width + columns[:, None, :]).flatten(1)
    weights = (torch.stack([1 - fy, fy], -1)[:, :, None] * torch.stack([1 - fx, fx], -1)[:, None, :]).flatten(1)
    return F.embedding_bag(index, texture.reshape(-1, channels), mode="sum", per_sample_weights=weights)


def cylinder(points: Tensor) -> tuple[Tensor, Tensor]:
    """Texture place (u, v) of points (..., 3) on the neutral head."""
    return torch.atan2(points[..., 0], points[..., 2] - AXIS), points[..., 1]


def noise(generator: torch.Generator, height: int, width: int, x_period: float, y_period: float) -> Tensor:
    """Repeating smooth noise (H, W), mean 0 and deviation 1, of features about so many texels wide and high."""
    spectrum = torch.fft.rfft2(torch.randn(height, width, generator=generator))
    fy = torch.fft.fftfreq(height)[:, None] * y_period
    fx = torch.fft.rfftfreq(width)[None] * x_period
    result: Tensor = torch.fft.irfft2(spectrum * torch.exp(-2.5 * (fx**2 + fy**2)), s=(height, width))
    result = result - result.mean()
    return result / result.std()


def gradient(height: Tensor, step_x: float, step_y: float) -> tuple[Tensor, Tensor]:
    """Slopes of repeating heights (..., H, W) along x (rightwards) and y (downwards)."""
    dx = (height.roll(-1, -1) - height.roll(1, -1)) / (2 * step_x)
    dy = (height.roll(-1, -2) - height.roll(1, -2)) / (2 * step_y)
    return dx, dy


def splat(points: Tensor, amount: Tensor, height: int, width: int) -> Tensor:
    """Add amounts (N,) at points (N, 2) in texels (x, y) into a repeating image (H, W), bilinearly."""
    image = torch.zeros(height * width)
    low = points.floor()
    part = points - low
    for dx in (0, 1):
        for dy in (0, 1):
            weight = (part[:, 0] if dx else 1 - part[:, 0]) * (part[:, 1] if dy else 1 - part[:, 1])
            index = (low[:, 1].long() + dy).remainder(height) * width + (low[:, 0].long() + dx).remainder(width)
            image.index_add_(0, index, weight * amount)
    return image.view(height, width)


def _dots(generator: torch.Generator, size: int, count: int, radius: float, spread: float) -> Tensor:
    """Fuzzy dots in a repeating square; a dot's height is random, so that a threshold chooses how many show."""
    centers = torch.rand(count, 2, generator=generator) * size
    radii = radius * (1 + spread * torch.randn(count, generator=generator)).clamp(0.4, 2.5)
    heights = torch.rand(count, generator=generator)
    reach = int(3 * radius) + 1
    side = torch.arange(-reach, reach + 1)
    dy, dx = (grid.flatten() for grid in torch.meshgrid(side, side, indexing="ij"))
    base = centers.floor()
    offset = torch.stack([dx, dy], -1) + base[:, None] - centers[:, None]
    value = torch.exp(-((offset**2).sum(-1) / radii[:, None] ** 2)) * heights[:, None]
    x, y = (base[:, None, 0].long() + dx).remainder(size), (base[:, None, 1].long() + dy).remainder(size)
    return (
        torch.zeros(size * size).scatter_reduce(0, (y * size + x).flatten(), value.flatten(), "amax").view(size, size)
    )


def _tile(generator: torch.Generator) -> Tensor:
    size = 512
    step = TILE / size
    pores = -_dots(generator, size, 9000, 1.6, 0.3)
    fine = noise(generator, size, size, 4, 4)
    middle = noise(generator, size, size, 12, 12)
    coarse = noise(generator, size, size, 40, 40)
    relief = 0.0011 * pores + 0.00025 * fine + 0.0008 * middle + 0.002 * coarse
    dx, dy = gradient(relief, step, step)
    blotch = 0.55 * noise(generator, size, size, 24, 24) + 0.55 * noise(generator, size, size, 90, 90) + 0.10 * fine
    freckles = _dots(generator, size, 1500, 3.0, 0.4)
    spots = _dots(generator, size, 60, 8.0, 0.5) * (1 + 0.2 * middle).clamp(0, 1.4)
    roots = torch.rand(16000, 2, generator=generator) * size
    lean = torch.randn(16000, 1, generator=generator) * 0.4
    steps = torch.linspace(0, 5, 6)
    hairs = roots[:, None] + torch.stack([lean * steps, steps.expand(16000, 6)], -1)
    stubble = 1 - torch.exp(-1.4 * splat(hairs.flatten(0, 1), torch.ones(16000 * 6), size, size))
    return torch.stack([dx, dy, blotch, freckles, stubble, spots.clamp(0, 1)], -1)


def _ramp(x: Tensor, start: float, end: float) -> Tensor:
    t = ((x - start) / (end - start)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def _bump(u: Tensor, v: Tensor, at: tuple[float, float], size: tuple[float, float]) -> Tensor:
    return torch.exp(-(((u - at[0]) / size[0]) ** 2) - ((v - at[1]) / size[1]) ** 2)


def region_grid() -> tuple[Tensor, Tensor]:
    """u and v, each (H, W), at the texels of a region map; rows go down, so v falls."""
    height, width = REGION_SIZE
    u = REGION[0] + (torch.arange(width) + 0.5) / width * (REGION[1] - REGION[0])
    v = REGION[3] - (torch.arange(height) + 0.5) / height * (REGION[3] - REGION[2])
    return u.expand(height, width), v[:, None].expand(height, width)


def _regions() -> Tensor:
    u, v = region_grid()
    # the beard's upper edge runs from the sideburn down the cheek to the corner of the mouth
    edge = -0.60 + 0.50 * _ramp(u, 0.55, 1.15) - 0.10 * torch.exp(-(((u - 0.55) / 0.2) ** 2))
    beard = _ramp(edge - v, -0.07, 0.07) * _ramp(v, -1.28, -1.08)
    moustache = (
        _ramp(v, -0.64, -0.56) * _ramp(-v, 0.43, 0.50) * _ramp(-u, -0.36, -0.26) * (0.55 + 0.45 * _ramp(u, 0.0, 0.07))
    )
    beard = beard * _ramp(-u, -1.10, -0.96)
    beard = torch.maximum(beard * (1 - 0.85 * _bump(u, v, (0.12, -0.86), (0.09, 0.06))), moustache)
    blush = _bump(u, v, (0.52, -0.36), (0.24, 0.17)) + 0.5 * _bump(u, v, (0.0, -0.38), (0.12, 0.10))
    freckles = _bump(u, v, (0.38, -0.24), (0.32, 0.17)) + 0.8 * _bump(u, v, (0, -0.2), (0.2, 0.18)) + 0.15
    oil = _bump(u, v, (0, 0.42), (0.35, 0.2)) + 1.1 * _bump(u, v, (0, -0.25), (0.14, 0.3))
    oil = oil + 0.7 * _bump(u, v, (0.45, -0.25), (0.14, 0.08)) + 0.5 * _bump(u, v, (0, -1.0), (0.15, 0.1))
    tired = _bump(u, v, (0.33, -0.16), (0.17, 0.055)) + 0.7 * _bump(u, v, (0.24, -0.06), (0.06, 0.06))
    lid = _bump(u, v, (0.42, 0.10), (0.20, 0.045))
    red = _bump(u, v, (0, -0.40), (0.16, 0.1)) + 0.6 * _bump(u, v, (0.22, -0.4), (0.07, 0.07))
    red = red + 0.4 * _bump(u, v, (0, -1.0), (0.2, 0.1)) + 1.5 * _ramp(u, 1.05, 1.2)
    layers = [beard, blush.clamp(0, 1), freckles.clamp(0, 1), oil.clamp(0, 1), tired, lid, red]
    return torch.stack(layers, -1)


BROW_SIZE = (128, 512)


def _brows(generator: torch.Generator) -> Tensor:
    """Strands in the brow's own frame: x along it from the nose to the temple, y down across it."""
    height, width = BROW_SIZE
    layers = []
    for count in (240, 240, 300):
        along = torch.rand(count, generator=generator) ** 0.85
        across = (torch.rand(count, generator=generator) + torch.rand(count, generator=generator)) - 1  # -1 top .. 1
        # upright at the nose, then laid down to the temple; the upper ones point down, the lower ones up
        angle = (1.35 - 1.6 * along.clamp(max=0.55)) * torch.where(across > -0.25, 1.0, -0.25)
        angle = angle + 0.16 * torch.randn(count, generator=generator)
        length = (46 + 22 * torch.rand(count, generator=generator)) * (0.75 + 0.4 * along)
        t = torch.linspace(0, 1, 40)
        bend = angle[:, None] - 0.5 * t * angle[:, None].sign()
        x = 40 + along[:, None] * (width - 110) + torch.cumsum(bend.cos(), 1) * length[:, None] / 40
        y = 64 + 25 * across[:, None] - torch.cumsum(bend.sin(), 1) * length[:, None] / 40 + 6
        thick = (1 - t) ** 0.6 * (length[:, None] / 40) * 1.1
        points = torch.stack([x, y.clamp(0, height - 2)], -1).flatten(0, 1)
        image = splat(points, thick.expand(count, 40).flatten(), height, width)
        image = F.avg_pool2d(image[None, None], 3, 1, 1)[0, 0] * 1.6
        layers.append(1 - torch.exp(-1.2 * image))
    return torch.stack(layers, -1)


def _strands(generator: torch.Generator) -> Tensor:
    """Hair: x across the strands, y along them; each layer spread evenly over 0..1."""
    layers = []
    for x_period, y_period in ((2.5, 160), (11, 260), (4, 60)):
        field = noise(generator, 512, 512, x_period, y_period)
        layers.append(torch.special.ndtr(field))
    return torch.stack(layers, -1)

"""Creases and bulges that action units press into the skin, finer than the mesh can show."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from auface_diffusers.anatomy.texture import REGION, REGION_SIZE, cylinder, noise, region_grid, sample
from auface_diffusers.facs import units

Path = tuple[tuple[float, float], ...]

FINE_PIXEL = 0.009
"""Width of a pixel, dm, below which the full maps show more than halved ones."""

# name of a group: what presses it, by unit, and how strongly at E
GROUPS: dict[str, dict[str, float]] = {
    "forehead_inner": {"1": 1.0, "2": 0.35},
    "forehead_outer": {"2": 1.0, "1": 0.15},
    "glabella": {"4": 1.0, "9": 0.45, "41": 0.3, "42": 0.4},
    "crow": {"6": 1.0, "7": 0.2, "12": 0.2, "43": 0.1},
    "lower_lid": {"6": 0.8, "7": 0.8, "44": 0.7, "12": 0.2, "9": 0.3},
    "nose_root": {"9": 1.0, "4": 0.3},
    "fold_upper": {"9": 0.8, "10": 1.0, "11": 1.0, "12": 0.6, "6": 0.25, "13": 0.5},
    "fold_lower": {"12": 1.0, "10": 0.4, "14": 0.5, "20": 0.5, "13": 0.7, "6": 0.15},
    "dimple": {"14": 1.0, "12": 0.12},
    "below_corner": {"15": 1.0, "17": 0.25},
    "chin": {"17": 1.0, "15": 0.2, "24": 0.3},
    "under_lip": {"17": 1.0, "23": 0.4, "24": 0.4, "16": 0.3},
    "stretch": {"20": 1.0, "27": 0.3, "12": 0.25},
    "pucker": {"18": 1.0, "23": 0.7, "24": 0.55, "22": 0.3, "8": 0.3, "28": 0.6},
    "neck": {"21": 1.0, "20": 0.1},
}

# creases as lines in (u, v), each with a half-width and a depth in dm
_LINES: dict[str, tuple[tuple[Path, float, float], ...]] = {
    "forehead_inner": tuple(
        (((0.0, v - 0.006), (0.12, v), (0.25, v + 0.018), (0.48, v + 0.02)), 0.019, depth)
        for v, depth in ((0.335, 0.007), (0.415, 0.010), (0.50, 0.010), (0.58, 0.007))
    ),
    "forehead_outer": tuple(
        (((0.20, v + 0.005), (0.40, v + 0.022), (0.58, v + 0.012), (0.78, v - 0.06)), 0.019, depth)
        for v, depth in ((0.34, 0.009), (0.425, 0.010), (0.51, 0.007))
    ),
    "glabella": (
        (((0.085, 0.07), (0.072, 0.15), (0.076, 0.23), (0.088, 0.30)), 0.018, 0.015),
        (((0.03, 0.12), (0.028, 0.21), (0.035, 0.27)), 0.014, 0.006),
    ),
    "crow": (
        (((0.63, 0.03), (0.72, 0.065), (0.82, 0.13)), 0.013, 0.012),
        (((0.64, 0.0), (0.75, 0.005), (0.88, 0.03)), 0.013, 0.014),
        (((0.63, -0.03), (0.74, -0.06), (0.87, -0.085)), 0.013, 0.014),
        (((0.60, -0.06), (0.70, -0.11), (0.81, -0.17)), 0.013, 0.011),
    ),
    "lower_lid": (
        (((0.24, -0.09), (0.34, -0.125), (0.46, -0.13), (0.58, -0.09)), 0.016, 0.014),
        (((0.26, -0.15), (0.36, -0.195), (0.50, -0.20), (0.64, -0.14)), 0.018, 0.011),
    ),
    "nose_root": (
        (((0.0, 0.085), (0.06, 0.08), (0.10, 0.055)), 0.012, 0.012),
        (((0.0, 0.04), (0.06, 0.035), (0.11, 0.01)), 0.012, 0.013),
        (((0.06, -0.02), (0.12, -0.05), (0.17, -0.11)), 0.013, 0.013),
        (((0.05, -0.08), (0.11, -0.12), (0.16, -0.18)), 0.012, 0.011),
    ),
    "fold_upper": ((((0.215, -0.30), (0.255, -0.37), (0.295, -0.45), (0.34, -0.53)), 0.027, 0.023),),
    "fold_lower": ((((0.28, -0.42), (0.34, -0.53), (0.385, -0.62), (0.405, -0.72)), 0.027, 0.021),),
    "dimple": ((((0.385, -0.63), (0.40, -0.68), (0.385, -0.73)), 0.022, 0.028),),
    "below_corner": (
        (((0.33, -0.69), (0.365, -0.77), (0.37, -0.86)), 0.020, 0.024),
        (((0.40, -0.68), (0.44, -0.78), (0.44, -0.88)), 0.018, 0.010),
    ),
    "chin": (),
    "under_lip": ((((0.0, -0.865), (0.12, -0.87), (0.22, -0.905), (0.29, -0.96)), 0.024, 0.024),),
    "stretch": (
        (((0.43, -0.55), (0.47, -0.65), (0.47, -0.76), (0.44, -0.85)), 0.02, 0.018),
        (((0.53, -0.52), (0.57, -0.64), (0.57, -0.76), (0.53, -0.86)), 0.02, 0.012),
    ),
    "pucker": tuple((((u, -0.50 - u * 0.05), (u * 0.8, -0.59)), 0.010, 0.010) for u in (0.04, 0.10, 0.16, 0.22))
    + tuple((((u * 0.8, -0.80), (u, -0.87)), 0.010, 0.009) for u in (0.03, 0.10, 0.17)),
    "neck": (
        (((0.25, -1.10), (0.22, -1.25), (0.18, -1.29)), 0.03, 0.03),
        (((0.55, -0.95), (0.48, -1.10), (0.42, -1.29)), 0.035, 0.03),
    ),
}


def strengths(weights: Tensor, lines: Tensor) -> Tensor:
    """How deep each group is on the right and the left half: (B, 2, G) in 0..1.

    Args:
        weights: (B, C) shape weights in 0..1 of the channels; lines: (B,) what age leaves at rest, 0..1.
    """
    index = {name: i for i, name in enumerate(units.channels)}
    rest = {"chin": 0.05, "pucker": 0.1, "dimple": 0.1, "neck": 0.0, "nose_root": 0.12, "stretch": 0.05}
    halves = []
    for side in "RL":
        columns = []
        for name, pulls in GROUPS.items():
            slack = 1 - 0.5 * lines * rest.get(name, 0.45)  # what remains below 1 of a group that acts fully
            absent = torch.ones_like(lines)
            for code, share in pulls.items():
                channels = [index[c] for c in (side + code, code, code + ":T", code + ":B") if c in index]
                absent = absent * (1 - share * weights[:, channels].amax(1))
            columns.append(1 - absent * slack)
        halves.append(torch.stack(columns, 1))
    return torch.stack(halves, 1)


@lru_cache(maxsize=8)
def wrinkle_maps(device: str, shrink: int) -> Tensor:
    """Maps (2 G, H, W, 3) of a half face: slope along u, slope along v, darkening; all at full depth.

    The first G count with the strength of their own half, the others, near the midline, with that of the other
    half, so that a crease does not end at the midline by a step.
    """
    u, v = region_grid()
    if shrink > 1:
        u, v = (F.avg_pool2d(x[None, None], shrink)[0, 0] for x in (u, v))
    height = torch.stack([_height(name, u, v) for name in GROUPS])
    step_u = (REGION[1] - REGION[0]) / REGION_SIZE[1] * shrink
    step_v = (REGION[3] - REGION[2]) / REGION_SIZE[0] * shrink
    wide = F.pad(height[None], (1, 1, 1, 1), mode="replicate")[0]
    slope_u = (wide[:, 1:-1, 2:] - wide[:, 1:-1, :-2]) / (2 * step_u)
    slope_v = (wide[:, :-2, 1:-1] - wide[:, 2:, 1:-1]) / (2 * step_v)  # rows go down, v goes up
    soft = F.avg_pool2d(wide[None], 3, 1)[0]
    dark = (-soft / 0.016).clamp(-0.25, 1)
    maps = torch.stack([slope_u, slope_v, dark], -1)
    other = 0.5 * torch.exp(-((u / 0.07) ** 2))[..., None]
    return torch.cat([maps * (1 - other), maps * other]).to(device)


def compose(weights: Tensor, lines: Tensor, shrink: int) -> Tensor:
    """Maps (2 B, H, W, 3) of the right and left half of each face, both as if on the left; see `strengths`."""
    maps = wrinkle_maps(str(weights.device), shrink)
    both = strengths(weights, lines)  # (B, 2, G)
    mixed = torch.cat([both, both.flip(1)], 2).flatten(0, 1)  # (2 B, 2 G)
    return (mixed @ maps.flatten(1)).view(-1, *maps.shape[1:])


def shrink_for(pixel: float) -> int:
    """How much smaller the maps may be for pixels of a width in dm."""
    return 1 if pixel < FINE_PIXEL else 2


def pressed(rest: Tensor, inner: Tensor, face: Tensor, maps: Tensor) -> Tensor:
    """What is pressed into M places of the skin: (M, 3) slope to the person's left, slope up, darkening.

    Args:
        rest: (M, 3) places on the neutral head. inner: (M,) share of the inside of the mouth, which has no creases.
        face: (M,) numbers of faces. maps: (2 B, H, W, 3) from `compose`.
    """
    u, v = cylinder(rest)
    x, y = u.abs() / REGION[1], (REGION[3] - v) / (REGION[3] - REGION[2])
    left = u >= 0
    crease = sample(maps, x, y, layer=2 * face + left.long())
    front = ((rest[:, 2] + 0.6) / 0.2).clamp(0, 1) * (1 - inner)
    crease = crease * front[:, None]
    return torch.stack([torch.where(left, crease[:, 0], -crease[:, 0]), crease[:, 1], crease[:, 2]], 1)


def _height(name: str, u: Tensor, v: Tensor) -> Tensor:
    """Relief (H, W) in dm: a furrow along each line, with a soft ridge on both sides, fading to the ends."""
    generator = torch.Generator().manual_seed(len(name))
    wobble = [0.006 * noise(generator, u.shape[0], u.shape[1], 40, 40) for _ in range(2)]
    total = torch.zeros_like(u)
    for path, width, depth in _LINES[name]:
        distance, along = _nearest(u + wobble[0], v + wobble[1], path)
        fade = (along * (1 - along) * 5).clamp(0, 1)
        if path[0][0] == 0.0:  # crosses the midline: no fading there
            fade = torch.where(along < 0.5, 1.0, fade)
        t = distance / width
        total = total + depth * fade * (-torch.exp(-(t**2)) + 0.45 * torch.exp(-(((t - 2.2) / 1.3) ** 2)))
    if name == "chin":
        inside = torch.exp(-((u / 0.19) ** 2) - ((v + 1.0) / 0.10) ** 2)
        cells = noise(generator, u.shape[0], u.shape[1], 11, 11)
        total = total + inside * (-0.011 * cells.clamp(min=-1.0).relu() + 0.008)
    return total


def _nearest(u: Tensor, v: Tensor, path: Path) -> tuple[Tensor, Tensor]:
    """Distance from a smoothed path, and how far along it 0..1 the nearest point is. Angles count 0.85 dm."""
    points = torch.tensor(path, dtype=torch.float32).T[None]
    points = F.interpolate(points, size=11, mode="linear", align_corners=True)
    points = F.avg_pool1d(F.pad(points, (1, 1), mode="replicate"), 3, 1)[0] * torch.tensor([[0.85], [1.0]])
    best = torch.full_like(u, float("inf"))
    along = torch.zeros_like(u)
    for i in range(points.shape[1] - 1):
        (au, av), (bu, bv) = points[:, i].tolist(), points[:, i + 1].tolist()
        du, dv = bu - au, bv - av
        t = (((u * 0.85 - au) * du + (v - av) * dv) / (du * du + dv * dv)).clamp(0, 1)
        distance = (u * 0.85 - au - t * du) ** 2 + (v - av - t * dv) ** 2
        along = torch.where(distance < best, (i + t) / (points.shape[1] - 1), along)
        best = torch.minimum(best, distance)
    return best.sqrt(), along

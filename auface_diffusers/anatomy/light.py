"""Light: spherical harmonics for what comes from all around, one lamp, and what the head hides of both."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from auface_diffusers.anatomy.asset import HeadAsset, default_asset
from auface_diffusers.anatomy.vectors import unit


def harmonics(directions: Tensor) -> Tensor:
    """Real spherical harmonics up to the third order, (..., 16), of unit vectors (..., 3)."""
    x, y, z = directions.unbind(-1)
    one = torch.ones_like(x)
    rows = [
        0.282095 * one,
        0.488603 * y,
        0.488603 * z,
        0.488603 * x,
        1.092548 * x * y,
        1.092548 * y * z,
        0.315392 * (3 * z * z - 1),
        1.092548 * x * z,
        0.546274 * (x * x - y * y),
        0.590044 * y * (3 * x * x - y * y),
        2.890611 * x * y * z,
        0.457046 * y * (5 * z * z - 1),
        0.373176 * z * (5 * z * z - 3),
        0.457046 * x * (5 * z * z - 1),
        1.445306 * z * (x * x - y * y),
        0.590044 * x * (x * x - 3 * y * y),
    ]
    return torch.stack(rows, -1)


# a cosine lobe keeps these shares of the harmonics of each order (Ramamoorthi and Hanrahan 2001)
_COSINE = (1.0, 2 / 3, 2 / 3, 2 / 3, 0.25, 0.25, 0.25, 0.25, 0.25)


def irradiance(sky: Tensor, normals: Tensor) -> Tensor:
    """Light (B, V, 3) from a sky (B, 9, 3) of harmonics on surfaces with unit normals (B, V, 3)."""
    basis = harmonics(normals)[..., :9] * normals.new_tensor(_COSINE)
    return (basis @ sky).clamp(min=0)


def sky(warmth: Tensor, rim: Tensor, azimuth: Tensor) -> Tensor:
    """A room (B, 9, 3): bright above, dim below, a wash from behind opposite to the lamp. All (B,); see
    `Appearance`.
    """
    directions = fibonacci(200).to(warmth)
    top = 0.5 + 0.5 * directions[:, 1]
    front = 0.5 + 0.5 * directions[:, 2]
    radians = torch.deg2rad(azimuth)
    back = torch.stack(
        [-radians.sin() * 0.9 - 0.2 * radians.sign(), 0.25 * torch.ones_like(radians), -0.75 + 0 * radians], -1
    )
    wash = (directions @ F.normalize(back, dim=-1).T).clamp(min=0).T ** 4  # (B, 200)
    base = (0.35 + 0.55 * top + 0.35 * front)[None, :, None].expand(len(warmth), -1, 3)
    tint = torch.stack([1 + 0.08 * warmth, torch.ones_like(warmth), 1 - 0.12 * warmth], -1)[:, None]
    below = directions.new_tensor([0.10, 0.03, -0.02]) * (1 - top)[:, None]
    light = base * tint + below + 2.4 * (rim[:, None] * wash)[..., None] * (2 - tint)
    return torch.einsum("dk,bdc->bkc", harmonics(directions)[:, :9], light) * (4 * torch.pi / 200)


def lamp(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Unit vectors (B, 3) towards lamps at angles (B,) in degrees."""
    a, e = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    return torch.stack([a.sin() * e.cos(), e.sin(), a.cos() * e.cos()], -1)


def fibonacci(count: int) -> Tensor:
    """Directions (count, 3), spread evenly."""
    index = torch.arange(count) + 0.5
    y = 1 - 2 * index / count
    angle = index * 2.399963
    radius = (1 - y * y).sqrt()
    return torch.stack([angle.cos() * radius, y, angle.sin() * radius], -1)


@lru_cache(maxsize=4)
def occlusion(device: str) -> Tensor:
    """What the neutral head hides of itself (V, 17): visibility as 16 harmonics, and the open share of the sky.

    Found once from depth maps of points on the surface, as seen from 48 sides.
    """
    return _occlusion(default_asset()).to(device)


def _occlusion(asset: HeadAsset, count: int = 48, cells: int = 64) -> Tensor:
    solid = asset.part != asset.part_names.index("lashes")
    corners = asset.vertices[asset.triangles[solid]]  # (T, 3, 3)
    shares = torch.tensor([[4.0, 1, 1], [1, 4, 1], [1, 1, 4]]) / 6
    points = torch.einsum("sk,tkc->tsc", shares, corners).flatten(0, 1)
    normals = torch.zeros_like(asset.vertices)
    a, b, c = (asset.vertices[asset.triangles[:, i]] for i in range(3))
    face = torch.linalg.cross(b - a, c - a)
    for i in range(3):
        normals = normals.index_add(0, asset.triangles[:, i], face)
    normals = unit(normals)
    directions = fibonacci(count)
    visible = torch.stack([_seen(points, asset.vertices, normals, d, cells) for d in directions], 1)  # (V, D)
    facing = (normals @ directions.T).clamp(min=0)
    openness = (visible * facing).sum(1) / facing.sum(1).clamp(min=1e-6)
    # the lamp's own cosine darkens what faces away: here it counts as open, so that the harmonics stay smooth
    visible = torch.where(normals @ directions.T < -0.1, 1.0, visible)
    series = visible @ harmonics(directions) * (4 * torch.pi / count)
    return torch.cat([series, openness[:, None]], 1)


def _seen(points: Tensor, vertices: Tensor, normals: Tensor, direction: Tensor, cells: int) -> Tensor:
    """How far (V,) in 0..1 vertices are seen from a direction, by a depth map of points."""
    helper = torch.tensor([0.0, 1.0, 0.0]) if abs(float(direction[1])) < 0.9 else torch.tensor([1.0, 0.0, 0.0])
    right = F.normalize(torch.linalg.cross(helper, direction), dim=0)
    frame = torch.stack([right, torch.linalg.cross(direction, right)], 1)

    def place(x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - vertices.mean(0)) @ frame / 4.2 * cells + cells / 2, x @ direction

    cell, depth = place(points)
    index = cell.long().clamp(0, cells - 1)
    nearest = torch.full((cells * cells,), -9.0).scatter_reduce(0, index[:, 1] * cells + index[:, 0], depth, "amax")
    cell, depth = place(vertices + 0.04 * normals)
    total = torch.zeros(len(vertices))
    for dx in (-0.5, 0.5):
        for dy in (-0.5, 0.5):
            index = (cell + torch.tensor([dx, dy])).long().clamp(0, cells - 1)
            above = nearest[index[:, 1] * cells + index[:, 0]] - depth
            total += 1 - ((above - 0.05) / 0.08).clamp(0, 1)
    return total / 4


def glint(normals: Tensor, half: Tensor, view: Tensor, power: Tensor | float, base: float) -> Tensor:
    """Blinn's highlight (M,) with Schlick's reflectance for (M, 3) normals, half vectors and view vectors."""
    near = (normals * half).sum(-1).clamp(min=0)
    fresnel = base + (1 - base) * (1 - (half * view).sum(-1).clamp(0, 1)) ** 5
    return near**power * (power + 8) / 25 * fresnel

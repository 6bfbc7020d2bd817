"""Hair and clothes: sheets hung on points of the head, so that they fit everyone and follow the pose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from auface_diffusers.anatomy.appearance import Appearance
from auface_diffusers.anatomy.asset import default_asset
from auface_diffusers.anatomy.head import HeadMesh
from auface_diffusers.anatomy.texture import noise
from auface_diffusers.anatomy.vectors import unit

COLUMNS, ON_SKULL, HANGING = 97, 14, 12
ROWS = ON_SKULL + HANGING
SHOULDER_ROWS, SHOULDER_COLUMNS = 14, 65
CENTER = (0.0, 0.25, -0.6)
"""From where the hairline's elevations are seen, dm."""


@dataclass(frozen=True)
class Style:
    """A cut: thickness in dm at rest and how much ``hair_volume`` adds; length that hangs below the hairline, dm;
    where the strands part (azimuth and elevation, degrees); how far the hairline recedes; curl 0..1; density 0..1.
    """

    thickness: float
    grows: float
    hang: float = 0.0
    part: tuple[float, float] = (180.0, 70.0)
    recede: float = 0.0
    curl: float = 0.0
    density: float = 1.0


STYLES = {
    "buzz": Style(0.004, 0.006, density=0.8),
    "short": Style(0.06, 0.10, part=(170, 78)),
    "side part": Style(0.08, 0.12, part=(35, 52)),
    "receding": Style(0.03, 0.05, part=(180, 75), recede=1.0, density=0.85),
    "curly": Style(0.11, 0.13, curl=0.7),
    "afro": Style(0.22, 0.22, curl=1.0),
    "bob": Style(0.08, 0.08, hang=0.95, part=(0, 80)),
    "long": Style(0.07, 0.09, hang=2.3, part=(25, 68)),
    "bun": Style(0.035, 0.03, part=(180, 35)),
}


def grid_triangles(rows: int, columns: int) -> Tensor:
    """Triangles (T, 3) of a sheet whose points are numbered row by row."""
    corner = (torch.arange(rows - 1)[:, None] * columns + torch.arange(columns - 1)).flatten()
    first = torch.stack([corner, corner + columns, corner + 1], 1)
    second = torch.stack([corner + 1, corner + columns, corner + columns + 1], 1)
    return torch.cat([first, second])


def sheet_normals(points: Tensor) -> Tensor:
    """Unit normals (B, R, C, 3) of sheets (B, R, C, 3)."""
    wide = torch.cat([points[:, :, -2:-1], points, points[:, :, 1:2]], 2)  # round the head
    across = wide[:, :, 2:] - wide[:, :, :-2]
    down = torch.gradient(points, dim=1)[0]
    return unit(torch.cross(down, across, dim=-1))


@lru_cache(maxsize=64)
def _anchors(style: str, mirrored: bool) -> tuple[Tensor, Tensor]:
    """Vertices (N, 3) and their weights of the skull points under a style's sheet, row by row."""
    cut = STYLES[style]
    azimuth = torch.linspace(-torch.pi, torch.pi, COLUMNS)
    degrees = azimuth.abs().rad2deg()
    limit = hairline(degrees, cut.recede)
    if cut.hang:  # what hangs leaves the skull above the ears, where it is widest
        limit = _interpolate(
            degrees, ((0, 34.0), (22, 33.0), (38, 31.0), (50, 22.0), (75, 12.0), (110, 4.0), (180, -8.0))
        )
    edge = _direction(azimuth, torch.deg2rad(limit))
    at = torch.deg2rad(torch.tensor(cut.part))
    pole = _direction(-at[0] if mirrored else at[0], at[1])
    t = torch.linspace(0.03, 1, ON_SKULL)[:, None]
    angle = torch.acos((edge @ pole).clamp(-0.999, 0.999))
    ways = (((1 - t) * angle).sin()[..., None] * pole + (t * angle).sin()[..., None] * edge) / angle.sin()[:, None]
    return cast(torch.tensor(CENTER), ways.flatten(0, 1))


def cast(origin: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays (N, 3) from a point inside first meet the neutral skin: vertices (N, 3), their weights (N, 3)."""
    asset = default_asset()
    triangles = asset.triangles[asset.part == 0]
    center = asset.vertices[triangles].mean(1)
    triangles = triangles[
        (center[:, 1] > 0.15) | (center[:, 2] < -0.25) | (center[:, 1] < -0.95)
    ]  # no ray needs the face
    corners = asset.vertices[triangles]
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    found, shares = [], []
    for ray in directions.split(256):
        p = torch.cross(ray[:, None].expand(-1, len(a), -1), ac[None].expand(len(ray), -1, -1), dim=-1)
        determinant = (ab * p).sum(-1)
        scale = torch.where(determinant.abs() < 1e-9, 1e9, 1 / determinant)
        s = origin - a
        u = (s * p).sum(-1) * scale
        q = torch.cross(s, ab, dim=-1)
        v = (ray @ q.T) * scale
        distance = (ac * q).sum(-1) * scale
        # a ray along an edge may miss both of its triangles by a rounding: the least miss wins, then the nearest
        missed = (-u).relu() + (-v).relu() + (u + v - 1).relu()
        usable = (distance > 0.1) & (determinant.abs() > 1e-7)
        score = torch.where(usable, distance + 1e3 * (missed - 1e-5).relu(), torch.inf)
        best = score.argmin(1, keepdim=True)
        u, v = u.gather(1, best).clamp(0, 1), v.gather(1, best).clamp(0, 1)
        found.append(triangles[best[:, 0]])
        shares.append(torch.cat([1 - u - v, u, v], 1))
    return torch.cat(found), torch.cat(shares)


def _direction(azimuth: Tensor, elevation: Tensor) -> Tensor:
    parts = (azimuth.sin() * elevation.cos(), elevation.sin().expand_as(azimuth), azimuth.cos() * elevation.cos())
    return torch.stack(parts, -1)


def hairline(degrees: Tensor, recede: float) -> Tensor:
    """Elevation of the hairline seen from the head's centre, at an angle (N,) from the front."""
    knots = (
        (0, 34.0),
        (22, 33.0),
        (38, 31.0),
        (52, 21.0),
        (62, 8.0),
        (72, -9.0),
        (80, -8.0),
        (95, 0.0),
        (112, -12.0),
        (130, -38.0),
        (180, -46.0),
    )
    result = _interpolate(degrees, knots)
    back = _interpolate(degrees, ((0, 9.0), (22, 20.0), (42, 20.0), (60, 6.0), (75, 0.0), (180, 0.0)))
    return result + recede * back


def _interpolate(x: Tensor, knots: Sequence[tuple[float, float]]) -> Tensor:
    at, values = torch.tensor([k[0] for k in knots]) * 1.0, torch.tensor([k[1] for k in knots])
    index = (torch.searchsorted(at, x.contiguous()) - 1).clamp(0, len(at) - 2)
    t = ((x - at[index]) / (at[index + 1] - at[index])).clamp(0, 1)
    t = t * t * (3 - 2 * t)
    return values[index] + t * (values[index + 1] - values[index])


def hair_sheets(mesh: HeadMesh, looks: Sequence[Appearance]) -> tuple[Tensor, Tensor]:
    """Hair of each head: points (B, ROWS * COLUMNS, 3) in dm and attributes (B, ROWS * COLUMNS, 4).

    Attributes: turns round the head 0..1, way along the strand in dm, way from root to the sheet's end 0..1 on the
    skull, way down the hanging part 0..1. Bald heads get a sheet far behind the camera.
    """
    sheets = [_sheet(mesh, i, look) for i, look in enumerate(looks)]
    return torch.stack([points for points, _ in sheets]), torch.stack([extra for _, extra in sheets])


def _sheet(mesh: HeadMesh, index: int, look: Appearance) -> tuple[Tensor, Tensor]:
    device = mesh.vertices.device
    if look.hair_style == "bald":
        far = torch.full((ROWS * COLUMNS, 3), 1e3, device=device)
        return far, torch.zeros(ROWS * COLUMNS, 4, device=device)
    cut = STYLES[look.hair_style]
    corners, weights = (x.to(device) for x in _anchors(look.hair_style, look.texture_seed % 2 == 1))
    roots = (mesh.vertices[index, corners] * weights[..., None]).sum(1).view(ON_SKULL, COLUMNS, 3)
    # in the head's own frame, so that what hangs is easy to say; turned back at the end
    rotation = mesh.rotation[index]
    roots = roots @ rotation
    outward = F.normalize(roots - roots.mean((0, 1)) * roots.new_tensor([0.0, 0.8, 1.0]), dim=-1)
    t = torch.linspace(0.03, 1, ON_SKULL, device=device)[:, None]
    azimuth = torch.linspace(-torch.pi, torch.pi, COLUMNS, device=device)
    degrees = azimuth.abs().rad2deg()
    hangs = (degrees > 47).float() * float(cut.hang > 0)
    volume = cut.thickness + cut.grows * look.hair_volume
    clumps = _clumps(look.texture_seed, cut.curl).to(device)  # (ROWS, COLUMNS), mean 0
    front = (1 - (degrees - 40) / 30).clamp(0, 1)  # combed back: thin where it leaves the forehead
    edge = (1 - t ** ((3 if cut.curl < 0.9 else 10) * front + 4 * (1 - front))) * (1 - hangs) + hangs
    thickness = torch.full_like(t, volume)
    if not cut.hang:  # cropped at the sides
        thickness = volume * (1 - 0.55 * ((degrees - 45) / 25).clamp(0, 1) * (t > 0) * t)
    low = 0.02 * (1 - t) * float(cut.thickness > 0.01) + 0.004
    lift = thickness * edge * (1 + (0.14 - 0.02 * cut.curl) * clumps[:ON_SKULL]) + low
    top = roots + outward * lift[..., None]
    below = _hanging(top[-1], degrees, hangs, cut, look, clumps[ON_SKULL:])
    points = torch.cat([top, below])
    steps = torch.cat([points[:1] * 0, (points[1:] - points[:-1])]).norm(dim=-1).cumsum(0)
    attributes = torch.stack(
        [
            ((azimuth / (2 * torch.pi)) + 0.5).expand(ROWS, -1),
            steps,
            torch.cat([t.expand(-1, COLUMNS) * (1 - hangs), (1 - hangs).expand(HANGING, -1)]),
            torch.cat(
                [t.expand(-1, COLUMNS) * 0, torch.linspace(0, 1, HANGING, device=device)[:, None].expand(-1, COLUMNS)]
            ),
        ],
        -1,
    )
    return points.flatten(0, 1) @ rotation.T, attributes.flatten(0, 1)


def _hanging(start: Tensor, degrees: Tensor, hangs: Tensor, cut: Style, look: Appearance, clumps: Tensor) -> Tensor:
    """Rows (HANGING, C, 3) below the hairline (C, 3): none where ``hangs`` is 0."""
    s = torch.linspace(0, 1, HANGING, device=start.device)[:, None, None]
    length = cut.hang * (0.85 + 0.3 * look.hair_volume)
    side = start[:, :1]
    # in front close to the cheek, over the ear farther out: so that it shows its breadth from the front
    ease = ((degrees[:, None] - 47) / 40).clamp(0, 1)
    room = 0.70 + (0.22 + 0.14 * look.hair_volume) * ease * (2 - ease)
    out = side.sign() * torch.maximum(side.abs(), room)
    # away from the cheek and over the ear, then straight down; a bob turns in at its end
    bow = torch.where(hangs[:, None] > 0, (out - side) * ((side.abs() - 0.25) / 0.3).clamp(0, 1), 0.0)
    x = side + bow * (1 - (1 - (s * (length / 0.85)).clamp(max=1)) ** 2)
    turn = 0.20 * s**3 if cut.hang < 1.5 else -0.10 * s
    x = x * (1 - turn) + 0.05 * clumps[..., None] * s
    reach = hangs[:, None] * length
    y = start[:, 1:2] - reach * s * (1 + 0.04 * clumps[..., None])
    z = start[:, 2:] - 0.10 * s * hangs[:, None] + 0.04 * clumps[..., None] * s
    rows = torch.cat([x.expand(HANGING, -1, -1), y.expand(HANGING, -1, -1), z.expand(HANGING, -1, -1)], -1)
    return torch.where(hangs[:, None] > 0, rows, start)


@lru_cache(maxsize=256)
def _clumps(seed: int, curl: float) -> Tensor:
    """Unevenness (ROWS, COLUMNS) of a hair sheet, equal at its two ends."""
    generator = torch.Generator().manual_seed(seed)
    period = 5 if curl > 0.5 else 9
    field = noise(generator, ROWS * 2, COLUMNS - 1, period, 4 if curl > 0.5 else 30)[:ROWS]
    return torch.cat([field, field[:, :1]], 1).clamp(-2, 2)


@lru_cache(maxsize=8)
def _neck_anchors(height: float) -> tuple[Tensor, Tensor]:
    azimuth = torch.linspace(-torch.pi, torch.pi, SHOULDER_COLUMNS)
    directions = torch.stack([azimuth.sin(), torch.zeros_like(azimuth), azimuth.cos()], -1)
    return cast(torch.tensor([0.0, height, -0.95]), directions)


_HEIGHT = {"crew": -1.23, "v": -1.25, "shirt": -1.22, "turtleneck": -1.14}


def shoulder_sheets(mesh: HeadMesh, looks: Sequence[Appearance]) -> tuple[Tensor, Tensor]:
    """Shoulders from the neck down: points (B, SHOULDER_ROWS * SHOULDER_COLUMNS, 3) and attributes (B, ..., 2).

    Attributes: way down from the neck 0..1, turns round the neck 0..1 with the front at 0.5.
    """
    device = mesh.vertices.device
    azimuth = torch.linspace(-torch.pi, torch.pi, SHOULDER_COLUMNS, device=device)
    rings = []
    for i, look in enumerate(looks):
        corners, weights = (x.to(device) for x in _neck_anchors(_HEIGHT[look.neckline]))
        rings.append((mesh.vertices[i, corners] * weights[..., None]).sum(1))
    ring = torch.stack(rings)[:, None]  # (B, 1, C, 3)
    w = torch.linspace(0, 1, SHOULDER_ROWS, device=device)[None, :, None] ** 1.4
    snug = torch.tensor([0.05 if look.neckline == "shirt" else 0.02 for look in looks], device=device)[:, None, None]
    sine, cosine = azimuth.sin(), azimuth.cos()
    wide = w / 0.8
    behind = (0.7 - 0.7 * cosine).clamp(
        max=1
    )  # the collar stands higher and wider at the nape, where the neck broadens
    snug = snug + 0.09 * behind
    x = ring[..., 0] + sine * (snug + 1.35 * wide.clamp(max=1.25))
    z = ring[..., 2] + cosine * (snug + 0.42 * wide.clamp(max=1.25) ** 0.8)
    base = torch.minimum(ring[..., 1] + 0.12 * behind, ring[..., 1].new_tensor(-0.95))
    drop = 0.36 * sine.abs() ** 1.5 + 1.25 * cosine.abs() ** 2
    fall = 0.10 * (w / 0.06).clamp(max=1) + drop * wide + 2.2 * (wide - 0.85).clamp(min=0) * sine.abs()
    points = torch.stack([x, base - fall, z], -1)
    attributes = torch.stack([w.expand_as(x[:1]), (azimuth / (2 * torch.pi) + 0.5).expand_as(x[:1])], -1)
    return points.flatten(1, 2), attributes.flatten(1, 2).expand(len(looks), -1, -1)

"""Z-buffer rasterizer in plain PyTorch: batched, on CPU and CUDA, exact, with nothing to compile.

Shapes: B batch, V vertices, T triangles, H, W image. Pixel (row i, column j) has its centre at (j + 0.5, i + 0.5).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

_FAR = torch.iinfo(torch.int64).max
_CANDIDATES = 1 << 19  # pixels tested at once: bounds memory, not the result


class Fragments(NamedTuple):
    """What is seen in each pixel.

    ``triangle`` (B, H, W) int64, -1 where there is none; ``barycentric`` (B, H, W, 3), perspective-correct,
    differentiable in the points, 0 where there is no triangle; ``depth`` (B, H, W) as given, +inf where there is
    no triangle.
    """

    triangle: Tensor
    barycentric: Tensor
    depth: Tensor


def rasterize(
    points: Tensor, triangles: Tensor, size: tuple[int, int], double_sided: Tensor | None = None
) -> Fragments:
    """Find the nearest triangle in every pixel.

    A pixel belongs to a triangle if its centre lies inside or on the edge; of triangles at equal depth the one
    with the lower index wins. Triangles that reach behind the camera (depth <= 0) are left out.

    Args:
        points: (B, V, 3) float: x and y in pixels (y down), depth > 0 growing away from the camera.
        triangles: (T, 3) int64, counter-clockwise as seen from outside.
        size: (H, W).
        double_sided: (T,) bool: triangles seen from behind as well; None culls every back face.

    Raises:
        ValueError: for a wrong shape or dtype, or an index outside the points.
    """
    _check(points, triangles, size)
    height, width = size
    corners = points.detach()[:, triangles]  # (B, T, 3, 3)
    xy, depth = corners[..., :2], corners[..., 2]
    # y is down, so that triangles seen from their front have a negative area
    area = _cross(xy[..., 1, :] - xy[..., 0, :], xy[..., 2, :] - xy[..., 0, :])  # (B, T)
    low = (xy.amin(2) - 0.5).ceil().clamp(min=0)
    high = (xy.amax(2) - 0.5).floor()
    high = torch.minimum(high, high.new_tensor([width - 1, height - 1]))
    seen = (area < 0) if double_sided is None else (area < 0) | (double_sided & (area > 0))
    seen &= (high >= low).all(-1) & (depth > 0).all(-1) & torch.isfinite(corners).all(-1).all(-1)
    batch, index = seen.nonzero(as_tuple=True)
    buffer = torch.full((points.shape[0] * height * width,), _FAR, dtype=torch.int64, device=points.device)
    _fill(buffer, corners[batch, index], low[batch, index].long(), high[batch, index].long(), batch, index, size)
    buffer = buffer.view(-1, height, width)
    triangle = torch.where(buffer == _FAR, -1, buffer & 0xFFFFFFFF)
    return _interpolate(points, triangles, triangle)


def _check(points: Tensor, triangles: Tensor, size: tuple[int, int]) -> None:
    if points.ndim != 3 or points.shape[-1] != 3 or points.dtype != torch.float32:
        raise ValueError(f"points must be float32 (B, V, 3), not {points.dtype} {tuple(points.shape)}")
    if triangles.ndim != 2 or triangles.shape[-1] != 3 or triangles.dtype != torch.int64:
        raise ValueError(f"triangles must be int64 (T, 3), not {triangles.dtype} {tuple(triangles.shape)}")
    if triangles.numel() and not 0 <= int(triangles.min()) <= int(triangles.max()) < points.shape[1]:
        raise ValueError(f"triangles must be indices into {points.shape[1]} points")
    if min(size) < 1:
        raise ValueError(f"size {size} must be at least (1, 1)")


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _fill(
    buffer: Tensor, corners: Tensor, low: Tensor, high: Tensor, batch: Tensor, index: Tensor, size: tuple[int, int]
) -> None:
    """Write the smallest (depth, index) into ``buffer`` for every pixel centre of N triangles given by their corners.

    Triangles are taken in classes by the side of their bounding box, so that each tests few pixels in vain.
    """
    height, width = size
    start = low + 0.5  # pixels are counted from the box's corner: small numbers keep float32 exact enough
    planes = _planes(torch.cat([corners[..., :2] - start[:, None], corners[..., 2:]], -1))
    room = high - low
    side = room.amax(-1) + 1
    first = (batch * height + low[:, 1]) * width + low[:, 0]
    bits = 0
    while corners.numel() and (edge := 1 << bits) < 2 * int(side.max()):
        chosen = ((side <= edge) & (side > edge // 2)).nonzero().squeeze(1)
        steps = torch.arange(edge, device=buffer.device)
        for part in chosen.split(max(1, _CANDIDATES // (edge * edge))):
            across, down = _along(planes[part], steps.to(planes))  # (4, n, edge) each
            outside = steps > room[part].T[..., None]  # (2, n, edge)
            across[0].masked_fill_(outside[0], -torch.inf)
            down[0].masked_fill_(outside[1], -torch.inf)
            least = across[0, :, None] + down[0, ..., None]  # (n, edge, edge): the smallest of the barycentrics
            for i in (1, 2):
                least = torch.minimum(least, across[i, :, None] + down[i, ..., None])
            place = (least.flatten() >= 0).nonzero().squeeze(1)
            x, row = place & edge - 1, place >> bits
            y, local = row & edge - 1, row >> bits
            depth = 1 / (across[3].flatten()[(local << bits) + x] + down[3].flatten()[row])
            owner = part[local]
            # bits of a positive float grow with its value, so that (depth, index) fits one integer
            key = (depth.view(torch.int32).long() << 32) | index[owner]
            buffer.scatter_reduce_(0, first[owner] + y * width + x, key, "amin")
        bits += 1


def _planes(corners: Tensor) -> Tensor:
    """Coefficients (N, 4, 3) of x, y and 1 for the barycentrics and for 1 / depth, all linear in the image."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    rows = []
    for start, end in ((b, c), (c, a), (a, b)):
        dx, dy = (end - start)[:, :2].unbind(1)
        rows.append(torch.stack([-dy, dx, dy * start[:, 0] - dx * start[:, 1]], 1))
    weights = torch.stack(rows, 1) / _cross(b[:, :2] - a[:, :2], c[:, :2] - a[:, :2])[:, None, None]
    return torch.cat([weights, (weights / corners[:, :, 2:]).sum(1, keepdim=True)], 1)


def _along(planes: Tensor, steps: Tensor) -> tuple[Tensor, Tensor]:
    """Planes (n, k, 3) at (x, y) are ``across`` at x plus ``down`` at y: (k, n, m) each, for m steps in both."""
    across, down, middle = (planes[..., i].T[..., None] for i in range(3))
    return across * steps, down * steps + middle


def _interpolate(points: Tensor, triangles: Tensor, triangle: Tensor) -> Fragments:
    """Perspective-correct barycentrics of the chosen triangle, again from the points, so that gradients flow."""
    hit = (triangle.flatten() >= 0).nonzero().squeeze(1)
    width, area = triangle.shape[2], triangle.shape[1] * triangle.shape[2]
    chosen = triangle.flatten()[hit] + (hit // area) * len(triangles)
    # one contiguous row a number: what is computed for a million pixels reads memory in order
    corners = points[:, triangles].flatten(0, 1).flatten(1).T  # (9, B * T)
    ax, ay, az, bx, by, bz, cx, cy, cz = corners.index_select(1, chosen).unbind(0)
    x, y = hit % width + 0.5, hit % area // width + 0.5
    whole = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    over_a = ((cx - bx) * (y - by) - (cy - by) * (x - bx)) / whole / az
    over_b = ((ax - cx) * (y - cy) - (ay - cy) * (x - cx)) / whole / bz
    over_c = ((bx - ax) * (y - ay) - (by - ay) * (x - ax)) / whole / cz
    total = over_a + over_b + over_c
    weights = torch.stack([over_a / total, over_b / total, over_c / total], -1)
    barycentric = points.new_zeros((triangle.numel(), 3)).index_copy(0, hit, weights)
    depth = points.new_full((triangle.numel(),), float("inf")).index_copy(0, hit, 1 / total)
    return Fragments(triangle, barycentric.view(*triangle.shape, 3), depth.view(triangle.shape))

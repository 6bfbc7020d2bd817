"""Control images rendered from the mesh: normals, depth, parts of the face, and where action units act."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from auface_diffusers.anatomy.control_view import CameraView, PhotoView
from auface_diffusers.anatomy.head import HeadMesh, HeadModel
from auface_diffusers.anatomy.identity import neutral_code
from auface_diffusers.anatomy.raster import Fragments, rasterize
from auface_diffusers.facs import units
from auface_diffusers.facs.levels import MAX_LEVEL

View = CameraView | PhotoView
Size = tuple[int, int]

STEP = 0.03
"""Between a pixel's colour and the mean around it, from which it is on an edge; slopes make none."""
BACKDROP = 0.4
"""Distance from the rearmost point that is seen to the background, dm: keeps the head's outline in a depth map."""
PARTS = {
    "background": (0, 0, 0),
    "skin": (0, 153, 255),
    "nose": (255, 102, 255),
    "right brow": (204, 255, 0),
    "left brow": (0, 255, 51),
    "right eye": (0, 204, 153),
    "left eye": (255, 153, 0),
    "upper lip": (102, 0, 51),
    "lower lip": (255, 0, 102),
    "inner mouth": (255, 204, 255),
    "upper teeth": (255, 255, 255),
    "lower teeth": (204, 204, 204),
    "tongue": (153, 51, 51),
    "ears": (0, 102, 204),
    "neck": (0, 51, 153),
}
"""Colours (RGB) of the parts, in the order of `part_labels`. Skin, nose, eyes, lips and inner mouth have those of the
nodes that colour parts from pose keypoints, which call the eye on the image's left the left one; we name the person's.
"""
BROWS = {
    "right brow": (70, 63, 105, 66, 107, 55, 65, 52, 53, 46),
    "left brow": (300, 293, 334, 296, 336, 285, 295, 282, 283, 276),
}
NOSE = (168, 193, 245, 188, 174, 198, 49, 48, 64, 98, 97, 2, 326, 327, 294, 278, 279, 420, 399, 412, 465, 417)
MOUTH_LINE = (
    (78, 78),
    (191, 95),
    (80, 88),
    (81, 178),
    (82, 87),
    (13, 14),
    (312, 317),
    (311, 402),
    (310, 318),
    (415, 324),
    (308, 308),
)
"""Face mesh points around a part; for the mouth, pairs on the upper and the lower lip from right to left."""
EAR = ((-0.73, 0.22), (-0.21, 0.32))
"""Centre and half axis, dm, of an ellipse around the average ear as seen from the side: along z, and along y."""
HEAT = ((255, 224, 64), (255, 128, 0), (208, 0, 32))
"""Colours of an action from a trace to its full strength."""


class Seen(NamedTuple):
    """Fragments of the triangles that are drawn, and the numbers (t,) of those triangles."""

    fragments: Fragments
    triangles: Tensor


def normal(head: HeadModel, mesh: HeadMesh, view: View, size: Size) -> Tensor:
    """(B, 3, H, W): normals as BAE's estimator gives them, (n + 1) / 2: red to the image's left, green up, blue to
    the viewer; the background is a wall that faces the viewer.
    """
    seen = _look(head, mesh, view, size)
    hit = seen.fragments.triangle >= 0
    normals = nn.functional.normalize(at_pixels(view.rotate(mesh.normals), mesh, seen, hit), dim=-1)
    normals = normals * normals.new_tensor([-1.0, 1.0, 1.0])
    return _softened(_painted((normals + 1) / 2, hit, (0.5, 0.5, 1.0)))


def depth(head: HeadModel, mesh: HeadMesh, view: View, size: Size) -> Tensor:
    """(B, 3, H, W) grey: 1 at the nearest point, 0 at the background, linear in the distance, for each image."""
    distance = _look(head, mesh, view, size).fragments.depth
    hit = distance.isfinite()
    near = distance.flatten(1).amin(1)[:, None, None]
    far = torch.where(hit, distance, 0).flatten(1).amax(1)[:, None, None] + BACKDROP
    closeness = torch.where(hit, (far - distance) / (far - near), 0)
    grey = _softened(closeness[..., None])
    top = grey.flatten(1).amax(1).clamp(min=1e-6)[:, None, None, None]  # in a small image the nearest point is an edge
    return (grey / top).expand(-1, 3, -1, -1).contiguous()


def parts(head: HeadModel, mesh: HeadMesh, view: View, size: Size) -> Tensor:
    """(B, 3, H, W): the exact colours of `PARTS`, none mixed."""
    colours = torch.tensor(list(PARTS.values()), device=mesh.vertices.device, dtype=torch.float32) / 255
    return colours[part_labels(head, mesh, view, size)].permute(0, 3, 1, 2).contiguous()


def part_labels(head: HeadModel, mesh: HeadMesh, view: View, size: Size) -> Tensor:
    """(B, H, W) int64: the place in `PARTS` of what is seen in each pixel."""
    return seen_labels(head, mesh, _look(head, mesh, view, size))


def seen_labels(head: HeadModel, mesh: HeadMesh, seen: Seen) -> Tensor:
    """(B, H, W) int64: the place in `PARTS` of fragments that `look` found."""
    asset, names = head.asset, list(PARTS)
    table = [names.index(name) if name in PARTS else names.index("skin") for name in asset.part_names]
    hit = seen.fragments.triangle >= 0
    part = asset.part.to(seen.triangles.device).long()[seen.triangles]
    labels = torch.where(hit, torch.tensor(table, device=part.device)[part][seen.fragments.triangle.clamp(min=0)], 0)
    skin = labels == names.index("skin")
    masks = torch.stack([asset.masks["lips"], asset.masks["inner_mouth"]], -1).to(mesh.vertices)
    rest = head.neutral(neutral_code()[None].to(mesh.vertices))[0]
    fields = at_pixels(torch.cat([rest, masks], 1), mesh, seen, skin)
    labels[skin] = _skin_labels(head, rest, fields)
    return labels


def heatmap(head: HeadModel, mesh: HeadMesh, view: View, size: Size, levels: Tensor) -> Tensor:
    """(B, 3, H, W): the head in grey, coloured from yellow to red where the units of ``levels`` (B, C) act."""
    seen = _look(head, mesh, view, size)
    hit = seen.fragments.triangle >= 0
    acting = activation(head, levels).expand(len(mesh.vertices), -1)[..., None]
    values = at_pixels(torch.cat([acting, view.rotate(mesh.normals)], -1), mesh, seen, hit)  # (M, 4)
    heat, normals = values[:, :1], nn.functional.normalize(values[:, 1:], dim=-1)
    light = nn.functional.normalize(normals.new_tensor([0.3, 0.5, 1.0]), dim=0)
    shade = 0.15 + 0.75 * (normals @ light).clamp(min=0)[:, None]
    colours = torch.tensor(HEAT, device=heat.device, dtype=heat.dtype) / 255
    place = heat.clamp(0, 1) * (len(HEAT) - 1)
    low = place.floor().clamp(max=len(HEAT) - 2)
    index = low.long().squeeze(-1)
    colour = colours[index] + (place - low) * (colours[index + 1] - colours[index])
    share = (heat * 5).clamp(0, 1) * 0.85
    image = shade * (1 - share + share * colour)
    return _softened(_painted(image, hit, (0.0, 0.0, 0.0)))


def activation(head: HeadModel, levels: Tensor) -> Tensor:
    """(B, V) in [0, 1]: how strongly the units of ``levels`` (B, C) act on each vertex: level / 5 where a unit moves
    most, less where it moves less. Units that turn the eyes act on the eyeballs; those that turn the head, on nothing.
    """
    share = levels / MAX_LEVEL
    moving = head.shapes[: len(head.moved)].unflatten(1, (-1, 3)).norm(dim=-1)  # (N, V)
    moving = moving / moving.amax(1, keepdim=True).clamp(min=1e-6)
    of_shape = share[:, [head.channel[name] for name in head.moved]]
    heat = share.new_zeros(len(share), moving.shape[1])
    for index in of_shape.any(0).nonzero().flatten().tolist():
        heat = torch.maximum(heat, of_shape[:, index, None] * moving[index])
    turning = [index for name, index in head.channel.items() if name in units and units[name].kind == "eye position"]
    eyes = torch.cat([head.right_eye, head.left_eye])
    heat[:, eyes] = torch.maximum(heat[:, eyes], share[:, turning].amax(1, keepdim=True))
    return heat


def _look(head: HeadModel, mesh: HeadMesh, view: View, size: Size) -> Seen:
    """What a view shows."""
    return look(head, mesh, view.project(mesh.vertices), size)


def look(head: HeadModel, mesh: HeadMesh, points: Tensor, size: Size) -> Seen:
    """Rasterize all but the lashes, which are flat strips without a part of their own.

    Args:
        points: (B, V, 3): where the vertices are, x and y in pixels of an image of ``size`` (H, W), depth > 0.
    """
    keep = (head.asset.part != head.asset.part_names.index("lashes")).to(mesh.triangles.device)
    return Seen(rasterize(points, mesh.triangles[keep], size), keep.nonzero().flatten())


def at_pixels(values: Tensor, mesh: HeadMesh, seen: Seen, mask: Tensor) -> Tensor:
    """Vertex values (B, V, K), or (V, K) that all heads share, at the M pixels of a mask (B, H, W): (M, K).

    Every pixel of the mask must show a triangle.
    """
    spot = mask.nonzero(as_tuple=True)  # once: to index with a mask finds its pixels anew each time
    corners = mesh.triangles[seen.triangles[seen.fragments.triangle[spot]]]  # (M, 3)
    if values.ndim == 3:
        corners = corners + values.shape[1] * spot[0][:, None]
        values = values.flatten(0, 1)
    weights = seen.fragments.barycentric[spot]
    return nn.functional.embedding_bag(corners, values, mode="sum", per_sample_weights=weights)


def _painted(colours: Tensor, hit: Tensor, background: tuple[float, float, float]) -> Tensor:
    """(B, H, W, 3): ``colours`` (M, 3) where ``hit`` (B, H, W) is set, and the background elsewhere."""
    image = colours.new_tensor(background).repeat(*hit.shape, 1)
    image[hit] = colours
    return image


def _softened(image: Tensor) -> Tensor:
    """(B, H, W, C) to (B, C, H, W) with soft edges: pixels on one are averaged with those around them. Drawn twice as
    fine it would look much the same and take three times as long.
    """
    image = image.permute(0, 3, 1, 2).contiguous()
    around = nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
    edge = (around - image).abs().amax(1, keepdim=True) > STEP
    return torch.where(edge, around, image).clamp(0, 1)


def _skin_labels(head: HeadModel, rest: Tensor, fields: Tensor) -> Tensor:
    """Labels (n,) of skin points, given as (n, 5): place on the average head at rest, lips, inside of the mouth.

    Parts are drawn on the head at rest, so that they move with the skin.
    """
    names = list(PARTS)
    x, y, z, lips, inside = fields.unbind(1)
    corners = rest[head.landmark_corners]
    marks = (corners * head.landmark_weights[..., None]).sum(1)
    front = z > -0.3
    labels = torch.full_like(x, names.index("skin"), dtype=torch.int64)
    chin, angle = marks[152], marks[[58, 288]].mean(0)
    under = angle[1] + (chin - angle)[1] / (chin - angle)[2] * (z - angle[2]).clamp(min=0)
    labels[y < under - 0.03] = names.index("neck")
    behind, above = ((axis - centre) / radius for axis, centre, radius in ((z, *EAR[0]), (y, *EAR[1])))
    labels[(behind.square() + above.square() < 1) & (x.abs() > 0.6)] = names.index("ears")
    labels[_within(marks[list(NOSE), :2], x, y) & front] = names.index("nose")
    for name, loop in BROWS.items():
        labels[_within(marks[list(loop), :2], x, y) & front] = names.index(name)
    line = torch.stack([marks[list(pair)].mean(0) for pair in MOUTH_LINE])
    height = torch.as_tensor(np.interp(x.cpu(), line[:, 0].cpu(), line[:, 1].cpu())).to(y)
    labels[(lips > 0.5) & (y >= height)] = names.index("upper lip")
    labels[(lips > 0.5) & (y < height)] = names.index("lower lip")
    labels[(inside > 0.5) & (inside >= lips)] = names.index("inner mouth")
    return labels


def _within(polygon: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """(n,) bool: the points lie in the polygon (m, 2); even-odd rule."""
    (left, bottom), (right, top) = polygon.amin(0), polygon.amax(0)
    near = ((x >= left) & (x <= right) & (y >= bottom) & (y <= top)).nonzero().flatten()  # few: the rest costs nothing
    x, y, whole = x[near], y[near], torch.zeros_like(x, dtype=torch.bool)
    inside = torch.zeros_like(x, dtype=torch.bool)
    for (x0, y0), (x1, y1) in zip(polygon.tolist(), polygon.roll(-1, 0).tolist(), strict=True):
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < x0 + (y - y0) * (x1 - x0) / (y1 - y0))
    whole[near] = inside
    return whole

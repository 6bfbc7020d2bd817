"""`structure_map`: the anatomy of a picture as channels for a network, aligned pixel by pixel with `render`;
`region_mask`: where it changes with the expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from auface_diffusers.anatomy.appearance import Appearance, project_points
from auface_diffusers.anatomy.camera import Camera
from auface_diffusers.anatomy.control_surface import PARTS, Seen, activation, at_pixels, look, seen_labels
from auface_diffusers.anatomy.head import HeadMesh, HeadModel
from auface_diffusers.anatomy.shade import _IRIS_ANGLE as IRIS_ANGLE
from auface_diffusers.anatomy.shade import tilt
from auface_diffusers.anatomy.vectors import unit
from auface_diffusers.anatomy.wrinkles import compose, pressed, shrink_for
from auface_diffusers.facs import AUSet

_PARTS = tuple(PARTS)
RELIEF = ("relief left", "relief up", "crease")
STRUCTURE_CHANNELS = ("normal left", "normal up", "normal front", "depth", *_PARTS[1:], "iris", *RELIEF)
"""Names of the channels of `structure_map`, in order: normals, depth, the parts but the background, the irises, what
is pressed into the skin. New ones come last: a model of fewer channels takes the first ones.
"""
HARD = [_PARTS.index(name) for name in ("background", "right eye", "left eye", "upper teeth", "lower teeth", "tongue")]
"""Parts that nothing is pressed into."""
IRIS = STRUCTURE_CHANNELS.index("iris")
DEPTH_RANGE = 1.6
"""Distance behind the camera's centre, dm, that depth 1 stands for. A head at rest is seen from -0.5 to 1.2 dm, one
thrust forward and bowed (57E+54E) from -1.6, one drawn back (58E) to 1.6: hardly anything is cut off.
"""
ACTING = 0.1
"""Change of `control_surface.activation` above which `region_mask` expects other folds."""
SIZES = (8, 2048)
"""Smallest and largest ``size``."""
MAX_OVERSAMPLE = 4


@torch.no_grad()
def structure_map(
    mesh: HeadMesh,
    head: HeadModel,
    appearances: Sequence[Appearance] | None,
    size: int = 128,
    camera: Camera | None = None,
    levels: AUSet | Sequence[AUSet] | Tensor | None = None,
    *,
    oversample: int = 2,
) -> Tensor:
    """Draw the anatomy of meshes where `render` draws their faces.

    - ``normal left``, ``normal up``, ``normal front``: the unit normal as `control_image`'s ``normal`` has it (to the
      image's left, up, to the viewer) in [-1, 1]; 0 on the background.
    - ``depth``: (distance - ``camera.distance``) / `DEPTH_RANGE`, within [-1, 1], near is negative; 1 on the
      background. The same point of space has the same value in all images.
    - one channel a part of `control_surface.PARTS` but the background, in [0, 1]: the share of the pixel that it has.
    - ``iris``: the share that shows an iris with its pupil, of the angle that the renderer gives it; the pixel counts
      for its eye as well.
    - ``relief left``, ``relief up``: what the creases and bulges that the mesh is too coarse for add to the normal,
      in [-1, 1]; ``crease``: how dark they make the skin, in [-0.25, 1], negative on bulges. The renderer draws the
      same ones: those of action units, and those that age leaves at rest.

    Hair, clothes and lashes are not part of it: what hair hides is drawn, and so is the neck below a collar.

    Args:
        mesh: B heads that ``head`` made.
        head: whose triangles and parts these are.
        appearances: B of them, of which the shift, the zoom and the lines of age count; None is ``Appearance()``.
        size: height and width in pixels, in `SIZES`.
        camera: its framing is kept, its size is not; None is a portrait.
        levels: the expressions of the meshes, for the creases; see `HeadModel.levels`. None is no expression.
        oversample: 1..4: draw so many times larger and average, so that edges are soft.

    Returns:
        (B, C, size, size) float32 with C = ``len(STRUCTURE_CHANNELS)``, on the device of ``mesh``.

    Raises:
        ValueError: ``size`` or ``oversample`` is out of range, or there are not as many appearances or expressions as
            heads.
    """
    if not isinstance(oversample, int) or not 1 <= oversample <= MAX_OVERSAMPLE:
        raise ValueError(f"oversample {oversample!r}: an integer in 1..{MAX_OVERSAMPLE}")
    wide = _camera(size, camera)
    fine = replace(wide, size=size * oversample)
    points = _points(mesh.vertices, appearances, fine)
    seen = look(head, mesh, points, (fine.size, fine.size))
    labels = seen_labels(head, mesh, seen)
    hit = labels > 0
    normals = points.new_zeros(*labels.shape, 3)
    normals[hit] = unit(at_pixels(mesh.normals, mesh, seen, hit)) * points.new_tensor([-1.0, 1.0, 1.0])
    depth = ((seen.fragments.depth - fine.distance) / DEPTH_RANGE).clamp(-1, 1)
    image = points.new_zeros(len(points), len(STRUCTURE_CHANNELS), size, size)
    _add_shares(image[:, 3:IRIS], labels, oversample)  # the background falls on the depth, which comes next
    image[:, :3] = _shrink(normals, oversample).movedim(-1, 1)
    image[:, 3] = _shrink(depth[..., None], oversample)[..., 0]
    image[:, IRIS] = _shrink(_irises(head, mesh, seen, labels)[..., None], oversample)[..., 0]
    maps = _creases(head, head.levels(levels), len(points), appearances, fine)
    image[:, IRIS + 1 :] = _shrink(_relief(head, mesh, seen, labels, maps), oversample).movedim(-1, 1)
    return image


@torch.no_grad()
def region_mask(
    head: HeadModel,
    before_levels: Tensor,
    after_levels: Tensor,
    mesh_before: HeadMesh,
    mesh_after: HeadMesh,
    appearances: Sequence[Appearance] | None,
    size: int = 128,
    threshold: float | None = None,
    camera: Camera | None = None,
) -> Tensor:
    """Where a picture changes when a face changes its expression: what an edit has to draw again.

    A pixel counts if what is seen in it, before or after, moves by more than ``threshold``; if it moves by more than a
    quarter of that and the part in the pixel changes; or if the units that change act on it by more than `ACTING`,
    for folds and shades change there. No change gives no pixel. Hair that moves with the head, and shadows, lie
    outside: widen the mask for them.

    Args:
        head: that made both meshes, of the same B people.
        before_levels, after_levels: (B, C) in 0..5 in the order of ``units.channels``.
        mesh_before, mesh_after: B heads that do them.
        appearances, size, camera: as in `structure_map`.
        threshold: motion in pixels of the picture, >= 0; None is half a pixel of 128.

    Returns:
        (B, size, size) bool, on the device of the meshes.

    Raises:
        ValueError: batch sizes differ, levels lie outside 0..5, or ``size`` or ``threshold`` is out of range.
    """
    view = _camera(size, camera)
    limit = size / 256 if threshold is None else threshold
    if not 0 <= limit < float("inf"):
        raise ValueError(f"threshold {threshold!r}: pixels, a finite number >= 0, or None for size / 256")
    before, after = head.levels(before_levels), head.levels(after_levels)
    counts = [len(x) for x in (before, after, mesh_before.vertices, mesh_after.vertices)]
    if len(set(counts)) > 1:
        raise ValueError(
            "batch sizes differ: {} and {} levels, {} and {} heads; give one of each a face".format(*counts)
        )
    meshes = (mesh_before, mesh_after)
    points = [_points(mesh.vertices, appearances, view) for mesh in meshes]
    moved = (points[1] - points[0])[..., :2].norm(dim=-1)
    acting = activation(head, (after - before).abs())
    change = torch.stack([moved - limit, acting - ACTING, moved - limit / 4], -1)  # (B, V, 3): above 0 is too much
    seen = [look(head, mesh, place, (size, size)) for mesh, place in zip(meshes, points, strict=True)]
    labels = [seen_labels(head, mesh, one) for mesh, one in zip(meshes, seen, strict=True)]
    other = labels[0] != labels[1]
    mask = torch.zeros_like(other)
    for mesh, one, label in zip(meshes, seen, labels, strict=True):
        hit = label > 0
        far, acted, near = (at_pixels(change, mesh, one, hit) > 0).unbind(-1)
        mask[hit] |= far | acted | (near & other[hit])  # an outline that hardly moves must not flicker
    return mask


def _add_shares(image: Tensor, labels: Tensor, times: int) -> None:
    """Add to (B, parts, H, W) the share of each pixel that a part has, of labels (B, kH, kW)."""
    share = image.new_full((len(image), 1, *image.shape[2:]), 1 / times**2)
    for i in range(times**2):  # cheaper than a large picture of every part
        image.scatter_add_(1, labels[:, None, i // times :: times, i % times :: times], share)


def _shrink(image: Tensor, times: int) -> Tensor:
    """(B, kH, kW, C) to (B, H, W, C) by averaging k x k pixels."""
    parts = [image[:, i // times :: times, i % times :: times] for i in range(times**2)]
    return torch.stack(parts).mean(0) if times > 1 else image


def _camera(size: int, camera: Camera | None) -> Camera:
    if not isinstance(size, int) or not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"size {size!r}: pixels in {SIZES[0]}..{SIZES[1]}")
    return replace(camera or Camera(), size=size)


def _points(vertices: Tensor, appearances: Sequence[Appearance] | None, camera: Camera) -> Tensor:
    """Vertices (B, V, 3) in pixels, as `render` projects them."""
    if appearances is None:
        return camera.project(vertices)
    if len(appearances) != len(vertices):
        raise ValueError(
            f"{len(appearances)} appearances for {len(vertices)} faces: give one a face, or None for no shift and zoom"
        )
    return project_points(vertices, appearances, camera)


def _creases(
    head: HeadModel, levels: Tensor, batch: int, appearances: Sequence[Appearance] | None, camera: Camera
) -> Tensor:
    """Maps of `wrinkles.compose` for B heads."""
    if len(levels) not in (1, batch):
        raise ValueError(f"{len(levels)} expressions for {batch} faces: give one a face, or one for all")
    looks = [Appearance()] * batch if appearances is None else appearances
    lines = levels.new_tensor([look.age_lines for look in looks])
    return compose(head.weights(levels).expand(batch, -1), lines, shrink_for(camera.height / camera.size))


def _relief(head: HeadModel, mesh: HeadMesh, seen: Seen, labels: Tensor, maps: Tensor) -> Tensor:
    """(B, H, W, 3) of the channels `RELIEF`."""
    soft = torch.ones(len(_PARTS), dtype=torch.bool, device=labels.device)
    soft[HARD] = False
    skin = soft[labels]
    face = skin.nonzero()[:, 0]
    inner = head.asset.masks["inner_mouth"].to(head.vertices)
    still = at_pixels(torch.cat([head.vertices, inner[:, None]], 1), mesh, seen, skin)
    crease = pressed(still[:, :3], still[:, 3], face, maps)
    normals = unit(at_pixels(mesh.normals, mesh, seen, skin))
    tilted = tilt(normals, mesh.rotation[face, :, 1], crease[:, 0], crease[:, 1])
    change = (tilted - normals) * normals.new_tensor([-1.0, 1.0, 1.0])
    relief = maps.new_zeros(*labels.shape, len(RELIEF))
    relief[skin] = torch.cat([change[:, :2], crease[:, 2:].clamp(-0.25, 1)], 1).clamp(-1, 1)
    return relief


def _irises(head: HeadModel, mesh: HeadMesh, seen: Seen, labels: Tensor) -> Tensor:
    """(B, H, W) in {0, 1}: the iris, found on the eyeball at rest as `shade.eyes` finds it, so that they agree."""
    irises = torch.zeros(labels.shape, device=labels.device)
    for name, ball in (("right eye", head.right_eye), ("left eye", head.left_eye)):
        eye = labels == _PARTS.index(name)
        rest = at_pixels(head.vertices, mesh, seen, eye) - head.vertices[ball].mean(0)
        angle = torch.atan2(torch.hypot(rest[:, 0], rest[:, 1]), rest[:, 2])
        irises[eye] = (angle <= IRIS_ANGLE).float()
    return irises

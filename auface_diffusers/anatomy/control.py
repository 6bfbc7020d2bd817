"""Control images for other people's models: what ControlNet and its kin are to draw, from a score of action units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from auface_diffusers.anatomy import control_points, control_surface
from auface_diffusers.anatomy.camera import Camera
from auface_diffusers.anatomy.control_draw import Canvas
from auface_diffusers.anatomy.control_points import Size
from auface_diffusers.anatomy.control_surface import View
from auface_diffusers.anatomy.control_view import CameraView, PhotoView, Points
from auface_diffusers.anatomy.head import HeadMesh, HeadModel, Scores

MAX_SIZE = 8192
NECK_DEPTH = 0.15
"""The neck's point is the middle of what lies less than this above the lower end of the mesh, dm."""

Angles = Tensor | Sequence[float] | None


class _Scene(NamedTuple):
    head: HeadModel
    levels: Tensor
    mesh: HeadMesh
    rest: HeadMesh
    view: View
    size: Size

    def points(self) -> Points:
        low = self.head.vertices[:, 1] < self.head.vertices[:, 1].min() + NECK_DEPTH
        return self.view.place(self.mesh, self.rest, low.nonzero().flatten())


def _surface(draw: Callable[[HeadModel, HeadMesh, View, Size], Tensor]) -> Callable[[_Scene], Tensor]:
    return lambda scene: draw(scene.head, scene.mesh, scene.view, scene.size)


def _drawn(draw: Callable[[Points, Size], list[Canvas]]) -> Callable[[_Scene], Tensor]:
    def images(scene: _Scene) -> Tensor:
        stacked = torch.from_numpy(np.stack(draw(scene.points(), scene.size)))
        return (stacked.permute(0, 3, 1, 2).float() / 255).contiguous().to(scene.mesh.vertices.device)

    return images


_KINDS: dict[str, Callable[[_Scene], Tensor]] = {
    "openpose": _drawn(control_points.openpose),
    "openpose_face": _drawn(lambda points, size: control_points.openpose(points, size, body=False)),
    "mediapipe_face": _drawn(control_points.mediapipe_face),
    "instantid": _drawn(control_points.instantid),
    "normal": _surface(control_surface.normal),
    "depth": _surface(control_surface.depth),
    "parts": _surface(control_surface.parts),
    "heatmap": lambda scene: control_surface.heatmap(scene.head, scene.mesh, scene.view, scene.size, scene.levels),
}
KINDS = tuple(_KINDS)
"""Every ``kind`` that `control_image` draws."""


@torch.no_grad()
def control_image(
    aus: Scores,
    kind: str = "openpose",
    size: int | tuple[int, int] = 512,
    *,
    identity: int | Sequence[int] | Tensor | None = None,
    pose: Angles = None,
    gaze: Angles = None,
    camera: Camera | None = None,
    head: HeadModel | None = None,
    landmarks68: Tensor | None = None,
) -> Tensor:
    """Draw what a control model reads, for a face that does ``aus``.

        >>> control_image("12D+6C", "mediapipe_face", size=512).shape
        torch.Size([1, 3, 512, 512])

    Kinds, each with the pixels of the tool that made its model's training images:

    - ``openpose``: DWPose: the head's body points and limbs, and the 70 face points as white discs. The body points
      tell a model that the dots are one face; ``openpose_face`` leaves them out.
    - ``mediapipe_face``: the 124 lines and two pupils of CrucibleAI's ControlNet.
    - ``instantid``: five points with limbs. They carry the pose and, of all units, little but the mouth's corners.
    - ``normal``: BAE's colours: red to the image's left, green up, blue to the viewer.
    - ``depth``: grey, near is white, the background black.
    - ``parts``: one flat colour a part, see ``control_surface.PARTS``.
    - ``heatmap``: where the units act, yellow for a trace to red for the full action, on a grey head.

    Args:
        aus: one score (an `AUSet`, or codes such as "1C+L12B"), one a head, or levels (B, C) in 0..5; they are drawn
            as they are: see `facs.resolve`.
        kind: one of `KINDS`.
        size: height and width in pixels, or (H, W).
        identity, pose, gaze: as in `HeadModel.forward`.
        camera: its framing is kept, its size is not; None is a portrait.
        head: None is the default head.
        landmarks68: (68, 2) or (B, 68, 2) iBUG points of a photo, x and y in pixels of the image to be drawn. What
            the units, ``pose`` and ``gaze`` move is then added to the photo's points; with none of them the points
            stay as they are. Kinds that are rendered show the head turned, scaled and shifted to fit the photo, with
            the features of ``identity``.

    Returns:
        (B, 3, H, W) float32, RGB in [0, 1], on the device of ``head``.

    Raises:
        ValueError: for an unknown kind, a size outside 1..8192, landmarks that are no face, a camera together with
            landmarks, or whatever `HeadModel.forward` refuses.
    """
    if kind not in _KINDS:
        raise ValueError(f"kind {kind!r} is unknown; there are {', '.join(KINDS)}")
    return _KINDS[kind](_scene(aus, size, identity, pose, gaze, camera, head, landmarks68))


@torch.no_grad()
def pose_keypoints(
    aus: Scores,
    size: int | tuple[int, int] = 512,
    *,
    identity: int | Sequence[int] | Tensor | None = None,
    pose: Angles = None,
    gaze: Angles = None,
    camera: Camera | None = None,
    head: HeadModel | None = None,
    landmarks68: Tensor | None = None,
    normalized: bool = False,
) -> list[dict[str, Any]]:
    """The points of the ``openpose`` picture as ComfyUI's POSE_KEYPOINT: a list of frames, one a head.

    Each has one person with 18 body points (those of a head; the rest missing), 70 face points and no hands, as flat
    lists x, y, c. c is 1, or 0 with x = y = 0 for a point that is missing or outside the image. It can go through
    ``json.dumps`` as it is.

    Args:
        normalized: give x and y as shares of the width and height. DWPose writes pixels; some nodes, such as the one
            that colours parts, read shares only.

    The other arguments and errors are those of `control_image`.
    """
    scene = _scene(aus, size, identity, pose, gaze, camera, head, landmarks68)
    return control_points.people(scene.points(), scene.size, normalized)


def _scene(
    aus: Scores,
    size: int | tuple[int, int],
    identity: int | Sequence[int] | Tensor | None,
    pose: Angles,
    gaze: Angles,
    camera: Camera | None,
    head: HeadModel | None,
    landmarks68: Tensor | None,
) -> _Scene:
    shape = (size, size) if isinstance(size, int) else tuple(size)
    if len(shape) != 2 or not all(isinstance(side, int) and 1 <= side <= MAX_SIZE for side in shape):
        raise ValueError(f"size {size}: give pixels in 1..{MAX_SIZE}, or (H, W)")
    head = head or _default_head()
    mesh = head(identity, aus, pose=pose, gaze=gaze)
    rest = mesh if landmarks68 is None else head(identity)  # only a photo's view asks for the head at rest
    view: View
    if landmarks68 is None:
        view = CameraView.fit(camera, (shape[0], shape[1]))
    elif camera is not None:
        raise ValueError("camera and landmarks68 exclude each other: the landmarks say where the head is")
    else:
        view = PhotoView.fit(_landmarks(landmarks68, mesh), rest)
        batch = max(len(mesh.vertices), len(view.landmarks), len(rest.vertices))
        if len(mesh.vertices) < batch:
            mesh = head(identity, head.levels(aus).expand(batch, -1), pose=pose, gaze=gaze)
    return _Scene(head, head.levels(aus), mesh, rest, view, (shape[0], shape[1]))


def _landmarks(landmarks68: Tensor, mesh: HeadMesh) -> Tensor:
    landmarks = torch.as_tensor(landmarks68)
    landmarks = (landmarks if landmarks.ndim == 3 else landmarks[None]).to(mesh.vertices)
    if landmarks.ndim != 3 or landmarks.shape[1:] != (68, 2) or not landmarks.isfinite().all():
        raise ValueError(f"landmarks68 {tuple(landmarks68.shape)}: give finite x, y in pixels, (68, 2) or (B, 68, 2)")
    if len({len(landmarks), len(mesh.vertices)} - {1}) > 1:
        raise ValueError(f"batch sizes differ: {len(landmarks)} photos, {len(mesh.vertices)} heads")
    return landmarks


@lru_cache(maxsize=1)
def _default_head() -> HeadModel:
    return HeadModel.from_default()

"""Expressions to pictures: heads, control images and key points. torch is imported when something is drawn.

Shapes: N frames, H and W pixels. Pictures are (N, H, W, 3) float32, RGB in [0, 1], on the CPU, as ComfyUI has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from auface_diffusers.facs import AUSet, resolve
from comfyui_auface.expression import Expression, choose

if TYPE_CHECKING:
    from torch import Tensor

    from auface_diffusers.anatomy import HeadModel

Frames = list[dict[str, Any]]
"""ComfyUI's POSE_KEYPOINT."""

CONFLICTS = ("resolved", "as written")
SIDES = ("left", "right")
AVERAGE = -1
"""Identity number of the average head."""
CHUNK = 4
"""Frames drawn at a time: few enough to be cancelled soon, and to keep memory small."""
FACE_POINTS = 68


def shown(expression: Expression, conflicts: str = "resolved", one_side: str = "left") -> list[AUSet]:
    """Scores as a head can show them.

    Args:
        conflicts: "resolved" draws what the texts describe, see `facs.resolve`; "as written" every unit as it stands.
        one_side: where a unit goes that is scored on one side without saying which (U12), the person's.
    """
    settle = choose("conflicts", conflicts, CONFLICTS) == "resolved"
    letter: Literal["L", "R"] = "L" if choose("one_side", one_side, SIDES) == "left" else "R"
    return [(resolve(aus).effective if settle else aus).choose_side(letter) for aus in expression]


def draw_heads(
    scores: Sequence[AUSet],
    *,
    identity: int = 1,
    size: int = 512,
    scene: int = 0,
    pose: Sequence[float] = (0.0, 0.0, 0.0),
    gaze: Sequence[float] = (0.0, 0.0),
    background: str | None = None,
) -> Iterator[Tensor]:
    """Rendered heads, up to `CHUNK` at a time (n, size, size, 3). Arguments as of `anatomy.render_faces`."""
    from auface_diffusers.anatomy import render_faces

    who = None if identity == AVERAGE else identity
    for part in _chunks(scores):
        faces = render_faces(_head(), part, who, size, scene, pose=pose, gaze=gaze, background=background)
        yield faces.permute(0, 2, 3, 1).contiguous()


def draw_controls(
    scores: Sequence[AUSet],
    kind: str,
    size: tuple[int, int],
    *,
    identity: int = AVERAGE,
    pose: Sequence[float] = (0.0, 0.0, 0.0),
    gaze: Sequence[float] = (0.0, 0.0),
    photo: Tensor | None = None,
) -> Iterator[tuple[Tensor, Frames]]:
    """Control images and their key points, up to `CHUNK` at a time: (n, H, W, 3), n frames of POSE_KEYPOINT.

    Args:
        size: (H, W). photo: (68, 2) points in pixels of the image to be drawn, see `landmarks_of`.
        kind, identity, pose, gaze: as of `anatomy.control_image`.
    """
    from auface_diffusers.anatomy import control_image, pose_keypoints

    place: dict[str, Any] = {"identity": None if identity == AVERAGE else identity, "pose": pose, "gaze": gaze}
    place |= {"landmarks68": photo, "head": _head()}
    for part in _chunks(scores):
        images = control_image(part, kind, size, **place).permute(0, 2, 3, 1).contiguous()
        yield images, pose_keypoints(part, size, **place)


def landmarks_of(keypoints: Frames | Mapping[str, Any], size: tuple[int, int]) -> Tensor:
    """The 68 face points of the first person in the first frame of a POSE_KEYPOINT.

    Args:
        keypoints: as DWPose and its like write it: pixels of its canvas, or shares of it.
        size: (H, W) of the image to be drawn; the points are stretched from the canvas to it.

    Returns:
        (68, 2) float32, x and y in pixels of ``size``.

    Raises:
        ValueError: there is no person, no face, or a point of the face is missing.
    """
    import torch

    frames = [keypoints] if isinstance(keypoints, Mapping) else list(keypoints or ())
    people = list(frames[0].get("people") or ()) if frames else []
    flat = people[0].get("face_keypoints_2d") if people else None
    if not flat:
        raise ValueError("photo_points has no face: detect it with a node that finds faces (DWPose with detect_face)")
    points = torch.tensor(flat, dtype=torch.float32).reshape(-1, 3)[:FACE_POINTS]
    missing = int((points[:, 2] <= 0).sum()) + FACE_POINTS - len(points)
    if missing:
        raise ValueError(f"photo_points lacks {missing} of the {FACE_POINTS} face points: use a photo of a whole face")
    height, width = size
    canvas = (frames[0]["canvas_width"], frames[0]["canvas_height"])
    if bool((points[:, :2] <= 1).all()):  # shares of the canvas: some nodes write these
        canvas = (1, 1)
    return points[:, :2] * points.new_tensor([width / canvas[0], height / canvas[1]])


def _chunks(scores: Sequence[AUSet]) -> Iterator[list[AUSet]]:
    for start in range(0, len(scores), CHUNK):
        yield list(scores[start : start + CHUNK])


@lru_cache(maxsize=1)
def _head() -> HeadModel:
    """The head, on the CPU: it is small, its pictures are the same everywhere, and the GPU stays the sampler's."""
    from auface_diffusers.anatomy import HeadModel

    return HeadModel.from_default()

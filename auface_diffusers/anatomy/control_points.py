"""Control images drawn from points: OpenPose body and face, MediaPipe's face, InstantID's five points."""

from __future__ import annotations

import json
import pkgutil
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from auface_diffusers.anatomy.control_draw import Canvas, canvas, disc, limb, square, thick_line
from auface_diffusers.anatomy.control_view import Points

Array = NDArray[np.float32]
Size = tuple[int, int]

BODY_POINTS = 18
NOSE, NECK, RIGHT_EYE, LEFT_EYE, RIGHT_EAR, LEFT_EAR = 0, 1, 14, 15, 16, 17
"""The body points of OpenPose that a head has; the others stay missing."""
BODY_LIMBS = {
    12: (NECK, NOSE),
    13: (NOSE, RIGHT_EYE),
    14: (RIGHT_EYE, RIGHT_EAR),
    15: (NOSE, LEFT_EYE),
    16: (LEFT_EYE, LEFT_EAR),
}
"""The limbs between them, by their place in OpenPose's list, which gives the colour."""
BODY_COLOURS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0), (0, 255, 85),
    (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255), (170, 0, 255), (255, 0, 255),
    (255, 0, 170), (255, 0, 85),
)  # fmt: skip
EARS = (234, 454)
"""MediaPipe points in front of the right and the left ear."""
NOSE_TIP = 30
FACE_RADIUS, BODY_RADIUS, STICK_WIDTH = 3, 4, 4
INSTANTID_COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
INSTANTID_LIMBS = ((0, 2), (1, 2), (3, 2), (4, 2))
INSTANTID_RADIUS = 10
DIM = 0.6
"""Limbs have this share of the colour of their points."""


def openpose(points: Points, size: Size, body: bool = True) -> list[Canvas]:
    """DWPose's picture: limbs and joints of the head, then the 70 face points; without ``body`` the points alone."""
    images = []
    for joints, face in zip(body_points(points, size), face_points(points, size), strict=True):
        image = canvas(size)
        if body:
            _draw_body(image, joints)
        for x, y, _ in face[face[:, 2] > 0]:
            if int(x) > 0 and int(y) > 0:  # the first row and column count as "not found"
                disc(image, x, y, FACE_RADIUS, (255, 255, 255))
        images.append(image)
    return images


def _draw_body(image: Canvas, joints: Array) -> None:
    for place, (start, end) in BODY_LIMBS.items():
        if joints[start, 2] and joints[end, 2]:
            dim = [int(value * DIM) for value in BODY_COLOURS[place]]
            limb(image, joints[start, :2].tolist(), joints[end, :2].tolist(), STICK_WIDTH, dim)
    for (x, y, seen), colour in zip(joints, BODY_COLOURS, strict=True):
        if seen:
            disc(image, x, y, BODY_RADIUS, colour)


def face_points(points: Points, size: Size) -> Array:
    """(B, 70, 3): x, y in pixels and 1, or zeros where a point lies outside the image; 68 and 69 are the pupils."""
    return _marked(np.concatenate([_array(points.ibug68), _array(points.pupils)], 1), size)


def body_points(points: Points, size: Size) -> Array:
    """(B, 18, 3), as `face_points`, zeros for what is below the neck."""
    ibug68, mesh468, pupils = _array(points.ibug68), _array(points.mesh468), _array(points.pupils)
    joints = np.full((len(ibug68), BODY_POINTS, 2), np.nan, dtype=np.float32)
    joints[:, NOSE], joints[:, NECK] = ibug68[:, NOSE_TIP], _array(points.neck)
    joints[:, [RIGHT_EYE, LEFT_EYE]] = pupils
    joints[:, [RIGHT_EAR, LEFT_EAR]] = mesh468[:, EARS]
    return _marked(joints, size)


def people(points: Points, size: Size, normalized: bool = False) -> list[dict[str, Any]]:
    """Frames of a POSE_KEYPOINT, one a head."""
    height, width = size
    scale = np.array([1 / width, 1 / height, 1] if normalized else [1, 1, 1])
    return [
        {
            "people": [
                {
                    "pose_keypoints_2d": (joints * scale).flatten().tolist(),
                    "face_keypoints_2d": (face * scale).flatten().tolist(),
                    "hand_left_keypoints_2d": None,
                    "hand_right_keypoints_2d": None,
                }
            ],
            "canvas_height": height,
            "canvas_width": width,
        }
        for joints, face in zip(body_points(points, size), face_points(points, size), strict=True)
    ]


@lru_cache(maxsize=1)
def mediapipe_spec() -> dict[str, Any]:
    """Colours (RGB), edges and pupil points of MediaPipe's face, as CrucibleAI's ControlNet knows it."""
    data = pkgutil.get_data(__name__, "mediapipe_face.json")
    assert data is not None
    spec: dict[str, Any] = json.loads(data)
    return spec


def mediapipe_face(points: Points, size: Size) -> list[Canvas]:
    """Lines between the face mesh's points and a square on either pupil, in CrucibleAI's colours."""
    spec = mediapipe_spec()
    images = []
    for mesh, (right, left) in zip(_array(points.mesh468), _array(points.pupils), strict=True):
        image = canvas(size)
        for group in spec["lines"].values():
            for start, end in group["edges"]:
                if _inside(mesh[start], size) and _inside(mesh[end], size):
                    thick_line(image, mesh[start].tolist(), mesh[end].tolist(), group["colour"])
        for name, (x, y) in (("right", right), ("left", left)):
            if _inside(np.array([x, y]), size):
                square(image, x, y, 2, spec["pupils"][name]["colour"])
        images.append(image)
    return images


def five_points(points: Points) -> Array:
    """(B, 5, 2): the eye on the image's left, the other, nose, the mouth's corners, as insightface has them."""
    ibug68 = _array(points.ibug68)
    eyes = [ibug68[:, start : start + 6].mean(1) for start in (36, 42)]
    return np.stack([*eyes, ibug68[:, NOSE_TIP], ibug68[:, 48], ibug68[:, 54]], 1)


def instantid(points: Points, size: Size) -> list[Canvas]:
    """InstantID's picture of the five points: limbs to the nose at 60 %, then discs."""
    images = []
    for five in five_points(points):
        image = canvas(size)
        for start, end in INSTANTID_LIMBS:
            dim = [int(value * DIM) for value in INSTANTID_COLOURS[start]]
            limb(image, five[start].tolist(), five[end].tolist(), STICK_WIDTH, dim)
        for (x, y), colour in zip(five, INSTANTID_COLOURS, strict=True):
            disc(image, x, y, INSTANTID_RADIUS, colour)
        images.append(image)
    return images


def _array(tensor: Any) -> Array:  # noqa: ANN401 - tensors of any device and gradient state
    array: Array = tensor.detach().float().cpu().numpy()
    return array


def _inside(xy: Array, size: Size) -> bool:
    return bool(0 <= xy[0] < size[1] and 0 <= xy[1] < size[0])


def _marked(xy: Array, size: Size) -> Array:
    """Append 1 to points in the image; a point outside, or NaN, becomes zeros: "missing" to every reader."""
    with np.errstate(invalid="ignore"):
        inside = ((xy >= 0) & (xy < [size[1], size[0]])).all(-1, keepdims=True)
    return np.where(inside, np.concatenate([xy, np.ones_like(xy[..., :1])], -1), 0).astype(np.float32)

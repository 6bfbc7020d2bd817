"""Cropping a face as our models draw it, from its landmarks.

The average head says where a face lies in that framing, turned as this one is but upright: the crop is the similarity
(shift, scale, turn in the plane) that brings the landmarks there.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from auface_diffusers.anatomy import Camera, HeadMesh, HeadModel
from auface_diffusers.anatomy.control_view import RIGID, PhotoView
from auface_diffusers.anatomy.head import NECK_PIVOT

SIDE = 256
"""Pixels of a crop's side."""
FRAMING = "face"
"""Of the faces that our estimators were trained on, see `Camera.framed`."""
OUTSIDE = (128, 128, 128)
"""What lies outside of the picture."""


def ibug_points(mesh: np.ndarray) -> np.ndarray:
    """iBUG points (68, 2) out of MediaPipe's (468 or 478, 2)."""
    points: np.ndarray = mesh[_average()[1]]
    return points


def crop_map(landmarks: np.ndarray, side: int = SIDE) -> np.ndarray:
    """The map (2, 3) from pixels of the upright crop to pixels of the picture: ``[x, y, 1] @ map.T``.

    Args:
        landmarks: (68, 2) iBUG points in pixels of the picture.
        side: of the crop.

    Raises:
        ValueError: landmarks of another shape, not finite, or that span no area.
    """
    if landmarks.shape != (68, 2) or not np.isfinite(landmarks).all():
        raise ValueError(f"landmarks {landmarks.shape}: give finite pixels (68, 2)")
    wanted = _complex(_upright_points(landmarks) * side)
    given = _complex(landmarks[list(RIGID)])
    there, here = wanted - wanted.mean(), given - given.mean()
    turn = (np.conj(there) * here).sum() / (np.conj(there) * there).sum().real  # least squares: scale and angle
    shift = given.mean() - turn * wanted.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def crop(image: Image.Image, to_picture: np.ndarray, side: int = SIDE) -> Image.Image:
    """The square crop (side x side) of a picture that `crop_map` has found; what lies outside is grey."""
    shrink = max(1, int(np.hypot(*to_picture[:, 0])))  # large faces are shrunk first, or the crop would flicker
    small = image.convert("RGB").reduce(shrink)
    values = (to_picture / shrink).ravel().tolist()
    return small.transform((side, side), Image.Transform.AFFINE, values, Image.Resampling.BICUBIC, fillcolor=OUTSIDE)


def back(points: np.ndarray, to_picture: np.ndarray) -> np.ndarray:
    """Points (P, 2) in pixels of a crop, in pixels of its picture."""
    moved: np.ndarray = points @ to_picture[:, :2].T + to_picture[:, 2]
    return moved


def _upright_points(landmarks: np.ndarray) -> np.ndarray:
    """Where the rigid points (R, 2) of the average head lie, as shares of the crop, turned as a face but upright.

    Heads turn about the neck, so that a face in profile is not in the middle: the same as in our renders.
    """
    rest = _average()[0]
    view = PhotoView.fit(torch.from_numpy(landmarks)[None].to(rest.vertices), rest)
    rotation = view.rotation[0]
    lean = torch.atan2(rotation[1, 0], rotation[0, 0])  # of the line from ear to ear
    cos, sin = lean.cos(), lean.sin()
    upright = torch.stack([torch.stack([cos, sin]), torch.stack([-sin, cos])])
    rotation = torch.cat([upright @ rotation[:2], rotation[2:]])
    pivot = rest.vertices.new_tensor(NECK_PIVOT)
    turned = (rest.landmarks68[0, list(RIGID)] - pivot) @ rotation.T + pivot
    points: np.ndarray = Camera.framed(FRAMING, 1).project(turned)[:, :2].double().numpy()
    return points


@lru_cache(maxsize=1)
def _average() -> tuple[HeadMesh, np.ndarray]:
    """The average head at rest, and which of MediaPipe's points the iBUG ones are."""
    head = HeadModel.from_default()
    with torch.no_grad():
        return head(), head.ibug68.cpu().numpy()


def _complex(points: np.ndarray) -> np.ndarray:
    values: np.ndarray = points[:, 0] + 1j * points[:, 1]
    return values

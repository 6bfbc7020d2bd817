"""Pictures to crops as our models expect them: found and turned upright, or taken as they are."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple, Protocol

import numpy as np
from PIL import Image

from auface_diffusers.metrics.detectors.alignment import FRAMING, crop, crop_map, ibug_points
from auface_diffusers.metrics.detectors.base import DetectorError
from auface_diffusers.metrics.detectors.face_landmarker import FaceLandmarker
from train_lora.data.prepare_config import PrepareConfig
from train_lora.data.quality import Skip

__all__ = ["FRAMING", "Crop", "PointFinder", "cropper"]

SQUARE = 0.02
"""How far from square a picture that is taken as it is may be, as a share of its side."""


class Crop(NamedTuple):
    """A face: ``image`` (size x size), iBUG ``points`` (68, 2) in its pixels or None, and how many pixels of the
    original its side covers.
    """

    image: Image.Image
    points: np.ndarray | None
    side: float


class PointFinder(Protocol):
    """A picture to the iBUG points (68, 2), in its pixels, of each face in it; make one without arguments.

    ``finder = "mediapipe"`` is Google's Face Landmarker; ``"my_package.my_module:MyFinder"`` is your own.
    """

    def __call__(self, image: Image.Image) -> list[np.ndarray]:
        """Look at one RGB picture of any size."""
        ...


def cropper(config: PrepareConfig) -> Callable[[Image.Image], Crop]:
    """What crops pictures. It raises `Skip` for those without exactly one face.

    Raises:
        ValueError: the finder cannot run, or is none.
    """
    if config.faces == "cropped":
        return lambda image: _as_it_is(image, config.size)
    find = _finder(config.finder, config.task)
    return lambda image: _found(image, find, config.size)


def _as_it_is(image: Image.Image, size: int) -> Crop:
    width, height = image.size
    if abs(width - height) > SQUARE * max(width, height):
        raise Skip("not square", f'{width} x {height}: faces = "cropped" takes square crops')
    return Crop(_resized(image, size), None, float(min(width, height)))


def _resized(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    return image.resize((size, size), Image.Resampling.BICUBIC, reducing_gap=3.0)


def _found(image: Image.Image, find: PointFinder, size: int) -> Crop:
    faces = find(image)
    if len(faces) != 1:
        raise Skip("no face" if not faces else "several faces", f"{len(faces)} faces")
    points = np.asarray(faces[0], dtype=np.float64)
    try:
        to_picture = crop_map(points, size)
    except ValueError as error:
        raise Skip("no face", str(error)) from None
    side = size * float(np.hypot(*to_picture[:, 0]))
    if side < 1:
        raise Skip("no face", "its points lie in one place")
    return Crop(crop(image, to_picture, size), _into(points, to_picture), side)


def _into(points: np.ndarray, to_picture: np.ndarray) -> np.ndarray:
    """Points (P, 2) of the picture in pixels of the crop: the inverse of `alignment.back`."""
    inside: np.ndarray = (points - to_picture[:, 2]) @ np.linalg.inv(to_picture[:, :2]).T
    return inside


@lru_cache(maxsize=1)
def _finder(name: str, task: str) -> PointFinder:
    """One a process: it loads a model."""
    if name == "mediapipe":
        return _MediaPipe(task)
    module, _, attribute = name.partition(":")
    try:
        made: PointFinder = getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, TypeError) as error:
        raise ValueError(f"finder {name!r} cannot be made: {error}") from None
    return made


class _MediaPipe:
    def __init__(self, task: str) -> None:
        try:
            self._landmarker = FaceLandmarker(task or None, detector="of faces in photos")
        except DetectorError as error:
            raise ValueError(f'{error}; or faces = "cropped" if the pictures are square crops of one face') from None

    def __call__(self, image: Image.Image) -> list[np.ndarray]:
        return [ibug_points(face.points) for face in self._landmarker(image)]

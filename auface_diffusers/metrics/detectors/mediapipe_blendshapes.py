"""MediaPipe's 52 blendshapes read as action units, left and right, by the table ``blendshapes.toml``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from auface_diffusers.metrics.detectors.base import Detections, DetectorError
from auface_diffusers.metrics.detectors.face_landmarker import POINTS, SOURCE, FaceLandmarker
from auface_diffusers.metrics.detectors.foreign import digest, read_table, unseen

TABLE = Path(__file__).with_name("blendshapes.toml")


class BlendshapeTable(NamedTuple):
    """``columns``: shapes and their weights by column; ``blind``: columns whose shapes hardly move."""

    columns: dict[str, dict[str, float]]
    blind: frozenset[str]


class MediaPipeDetector:
    """MediaPipe's Face Landmarker as an `AUDetector`.

    Presence is a weighted sum of blendshapes, with weights of our own choice: not calibrated, and not a probability.
    There are no levels. Landmarks are all 478 points.

    Checked against mediapipe 1.2.3 and 0.10.14 with Google's model: names, range and sides of the shapes, and that
    they rise on our renders when the unit does, on the right side.

    Args:
        task: the model's file, see `FaceLandmarker`; None takes the one that ``auface[photos]`` installs.

    Raises:
        DetectorError: mediapipe or the model is missing, or the model has no blendshapes.
    """

    name = "mediapipe"
    sided = True
    calibrated = False

    def __init__(self, task: str | Path | None = None) -> None:
        self.table = blendshape_table()
        self.columns = tuple(self.table.columns)
        self.coverage = tuple(name for name in self.columns if name not in self.table.blind)
        self._landmarker = FaceLandmarker(task, blendshapes=True)
        self.hash = digest([self._landmarker.task, TABLE])

    def __call__(self, images: Sequence[Image.Image]) -> Detections:
        """See `AUDetector`."""
        seen = unseen(len(images), self.columns, points=POINTS)
        assert seen.landmarks is not None
        for row, image in enumerate(images):
            faces = self._landmarker(image)
            seen.faces[row] = len(faces)
            if len(faces) == 1:
                seen.found[row] = True
                seen.presence[row] = presences(faces[0].blendshapes, self.table)
                seen.landmarks[row] = faces[0].points
        return seen


def presences(shapes: Mapping[str, float], table: BlendshapeTable) -> list[float]:
    """Presence in [0, 1] of each column.

    Raises:
        DetectorError: a shape is missing: the model is another one.
    """
    missing = sorted({shape for weights in table.columns.values() for shape in weights} - set(shapes))
    if missing:
        raise DetectorError(f"detector mediapipe: the model does not give {', '.join(missing[:3])}; {SOURCE}")
    sums = [sum(weight * shapes[shape] for shape, weight in row.items()) for row in table.columns.values()]
    return [min(1.0, max(0.0, value)) for value in sums]


@lru_cache(maxsize=1)
def blendshape_table() -> BlendshapeTable:
    """The table ``blendshapes.toml``."""
    given: dict[str, Any] = read_table(TABLE)
    return BlendshapeTable(given["columns"], frozenset(given["blind"]))

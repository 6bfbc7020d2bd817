"""`AUDetector`: whatever looks at faces and says which action units it sees, behind one protocol.

Shapes: N images, C columns. A column is a channel such as ``"L12"``, or a bare code such as ``"12"`` for a detector
that sees no sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Detections:
    """What a detector sees in N images.

    Attributes:
        presence: (N, C) float64 in [0, 1]; NaN in an image without one face.
        level: (N, C) float64 in 0..5, 0 where a unit is absent; None for a detector without levels.
        found: (N,) bool, exactly one face was found.
        faces: (N,) int, how many were found; -1 where the detector does not count.
        landmarks: (N, P, 2) in pixels of the image, NaN where there are none; None for a detector without.
    """

    presence: np.ndarray
    level: np.ndarray | None
    found: np.ndarray
    faces: np.ndarray
    landmarks: np.ndarray | None = None


@runtime_checkable
class AUDetector(Protocol):
    """Images to action units.

    Attributes:
        name: such as ``"auface-patch"``. hash: 16 hexadecimal digits of its weights and calibration.
        columns: names of the C columns. coverage: those that it can tell.
        sided: whether it tells left from right.
        calibrated: whether ``presence`` is a probability at equal priors; if not, only AUC and skill against the
            control mean something (our definition, v1, section 5).
    """

    name: str
    hash: str
    columns: tuple[str, ...]
    coverage: tuple[str, ...]
    sided: bool
    calibrated: bool

    def __call__(self, images: Sequence[Image.Image]) -> Detections:
        """Look at RGB pictures of any size, which `pictures.plain_rgb` has prepared."""
        ...


class DetectorError(RuntimeError):
    """A detector that cannot run; the message says what is missing, where it comes from and where it has to be."""

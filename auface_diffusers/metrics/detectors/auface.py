"""Our own estimators as detectors: every channel of a face, left and right, with levels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from auface_diffusers.metrics.detectors.base import Detections, DetectorError
from auface_diffusers.metrics.detectors.finder import FaceFinder, crops
from auface_diffusers.metrics.detectors.foreign import rgb, unseen
from auface_diffusers.models.au_estimator import MIN_SIDE, AUEstimator
from auface_diffusers.models.point_head import POINTS

BATCH = 32
PIXELS = BATCH * 512 * 512
"""Most pixels that are looked at together, so that memory does not grow with the size of photographs."""
TILTS = ("55", "56")
"""Units that cannot be seen after a finder has turned the face upright."""


class AUFaceDetector:
    """An `AUEstimator` behind the protocol of detectors, see `AUDetector`.

        >>> detector = AUFaceDetector()  # the embedded one, which only evaluation uses
        >>> seen = detector(pictures)

    Args:
        estimator: None takes ``AUEstimator.from_default(evaluation=True)``.
        name: of the detector in reports.
        finder: finds and crops the face of a photograph. Without one every picture is taken for a crop in which one
            face fills about 70 % of the side, as our models draw it.

    Raises:
        DetectorError: the embedded estimator is missing.
    """

    sided = True
    calibrated = True

    def __init__(
        self, estimator: AUEstimator | None = None, name: str = "auface", *, finder: FaceFinder | None = None
    ) -> None:
        self.estimator = (embedded(evaluation=True) if estimator is None else estimator).float().eval()
        self.name = name
        self.finder = finder
        self.columns = tuple(self.estimator.channels)
        self.coverage = tuple(name for name in self.estimator.coverage if finder is None or name not in TILTS)
        self.hash = _hash(self.estimator, finder)

    @classmethod
    def from_folder(cls, folder: str | Path, *, finder: FaceFinder | None = None) -> AUFaceDetector:
        """An estimator that was saved, such as one of your own training.

        Raises:
            DetectorError: the folder holds no `AUEstimator`.
        """
        try:
            estimator = AUEstimator.from_pretrained(str(folder), local_files_only=True)
        except (ValueError, OSError) as error:
            raise DetectorError(f"detector {folder}: {error}") from error
        return cls(estimator, name=Path(folder).name, finder=finder)

    def __call__(self, images: Sequence[Image.Image]) -> Detections:
        """Look at RGB pictures of any size, a few at a time.

        ``level`` is the level read where the unit is likelier there than not, at equal priors (presence >= 0.5), and 0
        elsewhere: the estimator reads a level even of units that it does not see.
        """
        seen = unseen(len(images), self.columns, points=POINTS, graded=True)
        for begin in range(0, len(images), BATCH):
            some = crops(images[begin : begin + BATCH], self.finder)
            ready = {}
            for row, one in enumerate(some, begin):
                if one.image is not None and min(one.image.size) >= MIN_SIDE:  # a smaller one shows no face
                    ready[row] = one.image
                seen.faces[row] = one.faces if one.image is None or row in ready else 0
            for rows in _together(ready):
                self._read(seen, rows, [ready[row] for row in rows])
            assert seen.landmarks is not None
            for row in ready:
                seen.landmarks[row] = some[row - begin].back(seen.landmarks[row])
        return seen

    @torch.no_grad()
    def _read(self, seen: Detections, rows: list[int], pictures: list[Image.Image]) -> None:
        """Fill in the rows of crops of one size."""
        batch = torch.stack([torch.from_numpy(rgb(one)).permute(2, 0, 1).float() / 255 for one in pictures])
        out = self.estimator(batch.to(self.estimator.device))
        presence, level = (value.cpu().double().numpy() for value in (out.presence, out.level))
        assert seen.level is not None
        assert seen.landmarks is not None
        seen.presence[rows] = presence
        seen.level[rows] = np.where(presence >= 0.5, level, 0.0)
        seen.landmarks[rows] = out.landmarks.cpu().double().numpy() * pictures[0].size
        seen.found[rows] = True


def embedded(*, evaluation: bool) -> AUEstimator:
    """An estimator that comes with the package.

    Raises:
        DetectorError: it is missing.
    """
    try:
        loaded: AUEstimator = AUEstimator.from_default(evaluation=evaluation)
    except FileNotFoundError as error:
        raise DetectorError(f"detector auface: {error}") from error
    return loaded


def _together(images: dict[int, Image.Image]) -> Iterator[list[int]]:
    """Numbers of pictures that go through the network together: of one size, and not too many pixels."""
    groups: dict[tuple[int, int], list[int]] = {}
    for row, image in images.items():
        groups.setdefault(image.size, []).append(row)
    for (width, height), rows in groups.items():
        most = max(1, min(BATCH, PIXELS // (width * height)))
        for begin in range(0, len(rows), most):
            yield rows[begin : begin + most]


def _hash(estimator: AUEstimator, finder: FaceFinder | None) -> str:
    """16 hexadecimal digits of the weights, the calibration, what is covered, and how faces are cropped."""
    config = {key: value for key, value in estimator.config.items() if not key.startswith("_")}  # _: paths, versions
    digest = hashlib.sha256(json.dumps(config, default=str, sort_keys=True).encode())
    for name, value in sorted(estimator.state_dict().items()):
        digest.update(name.encode() + value.float().cpu().numpy().tobytes())
    if finder is not None:
        digest.update(finder.hash.encode())
    return digest.hexdigest()[:16]

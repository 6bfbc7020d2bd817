"""OpenFace 3.0 (PyPI: openface-test): 8 units without sides."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from auface_diffusers.facs import units
from auface_diffusers.metrics.detectors.base import Detections, DetectorError
from auface_diffusers.metrics.detectors.foreign import digest, package, quiet, unseen, weights

INSTALL = (
    "pip install --no-deps openface-test, and torchvision, timm, opencv-python; its own pins (Pillow 9.4, numpy 1.26) "
    "are too old for this package (licence: academic, non-commercial)"
)
SOURCE = (
    "download OpenFace's weights with: openface download --output FOLDER (Hugging Face nutPace/openface_weights; "
    "academic, non-commercial), and give weights_folder=FOLDER"
)
FACES, UNITS = "Alignment_RetinaFace.pth", "MTL_backbone.pth"
SURE = 0.5
"""Confidence from which OpenFace counts a face, its ``vis_threshold``."""


class OpenFace3Detector:
    """OpenFace 3.0 as an `AUDetector`.

    Presence is the output as it is, in [0, 1]: the cosine between a face's feature and the unit's, both of which have
    no negative parts. It is no probability, and no sigmoid is missing. There are no levels. The output has no names:
    the order is that of OpenFace's own evaluation, 1 2 4 6 9 12 25 26.

    Checked against openface-test 0.1.26: the real face finder and multitask model with random weights give these
    shapes and ranges. The trained weights were not at hand. OpenFace itself loads them, as pickles of tensors.

    Args:
        weights_folder: with `FACES` and `UNITS` in it; OpenFace's own default is ``./weights``.
        device: such as ``"cuda"``.

    Raises:
        DetectorError: openface or its weights are missing.
    """

    name = "openface3"
    sided = False
    calibrated = False
    columns = coverage = units.labelled_in("openface3")

    def __init__(self, weights_folder: str | Path = "weights", device: str = "cpu") -> None:
        finder_module = package("openface.face_detection", self.name, INSTALL)
        model_module = package("openface.multitask_model", self.name, INSTALL)
        files = [weights(Path(weights_folder, name), self.name, SOURCE) for name in (FACES, UNITS)]

        class Finder(finder_module.FaceDetector):  # type: ignore[name-defined] # a class of another package
            cfg: dict[str, Any]

            def _load_retinaface_model(self, model_path: str) -> Any:  # noqa: ANN401 - its network
                # the backbone's own weights, sought in ./weights, would be overwritten by those of the whole
                self.cfg = {**self.cfg, "pretrain": False}
                return super()._load_retinaface_model(model_path)

        with quiet():
            self._finder: Any = Finder(str(files[0]), device=device)
            self._model: Any = model_module.MultitaskPredictor(str(files[1]), device=device)
        self.hash = digest(files)

    def __call__(self, images: Sequence[Image.Image]) -> Detections:
        """See `AUDetector`."""
        seen = unseen(len(images), self.columns)
        with tempfile.TemporaryDirectory() as folder, quiet():
            path = Path(folder, "picture.png")
            for row, image in enumerate(images):
                image.convert("RGB").save(path, compress_level=1)  # OpenFace finds faces in files only
                found, pixels = self._finder.detect_faces(str(path))
                sure = found[found[:, 4] >= SURE]  # left, top, right, bottom, confidence, 5 points
                seen.faces[row] = len(sure)
                if len(sure) == 1 and (face := _cut(pixels, sure[0])).size:
                    seen.found[row] = True
                    seen.presence[row] = self._presence(face)
        return seen

    def _presence(self, face: np.ndarray) -> np.ndarray:
        _, _, output = self._model.predict(face)
        if tuple(output.shape) != (1, len(self.columns)):
            raise DetectorError(f"detector openface3: {tuple(output.shape)} values, {len(self.columns)} are expected")
        values: np.ndarray = output[0].double().cpu().numpy()
        return np.asarray(np.clip(values, 0, 1))  # a cosine is above 1 by rounding


def _cut(pixels: np.ndarray, box: np.ndarray) -> np.ndarray:
    """OpenFace's crop of a face (h, w, 3), BGR; a box may reach out of the picture."""
    left, top, right, bottom = (max(0, int(value)) for value in box[:4])
    return pixels[top:bottom, left:right]

"""py-feat's multitask model (`feat.Detectorv2`): 20 units without sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from auface_diffusers.metrics.detectors.base import Detections
from auface_diffusers.metrics.detectors.foreign import bare_code, digest, package, quiet, rgb, unseen, weights
from auface_diffusers.models.point_head import POINTS

INSTALL = "pip install 'auface[pyfeat]' (py-feat >= 2, Python >= 3.11; its code is MIT)"
MODELS = {
    "py-feat/face_multitask_v2": ("face_multitask_v28.safetensors",),
    "py-feat/retinaface_r34": ("model.safetensors", "retinaface_r34.safetensors"),
}
"""Files that `Detectorv2` of 2.1.5 takes from the hub, by repository; any one of each."""
SOURCE = (
    "py-feat downloads it itself: python -c 'import feat; feat.Detectorv2(identity_model=None)' (the weights are for "
    "non-commercial research; they were trained on BP4D, BP4D+ and DISFA)"
)


class PyFeatDetector:
    """py-feat's `Detectorv2` as an `AUDetector`.

    Presence is the model's probability of a unit, which is not calibrated at equal priors; there are no levels. The
    columns are those that the loaded model names, ``AU01`` .. ``AU43``; landmarks are iBUG's 68.

    Checked against py-feat 2.1.5: the real `Detectorv2` with random weights gives these names, shapes and ranges. Its
    trained weights were not at hand. When it starts, py-feat asks the hub whether its face finder is current, unless
    the environment has HF_HUB_OFFLINE=1.

    Args:
        weights_file: of the multitask model; None takes what py-feat has downloaded. The face finder's weights have
            to be downloaded either way.
        device: such as ``"cuda"``.

    Raises:
        DetectorError: py-feat or its weights are missing.
    """

    name = "pyfeat"
    sided = False
    calibrated = False

    def __init__(self, weights_file: str | Path | None = None, device: str = "cpu") -> None:
        with _gradients_kept():
            feat = package("feat", self.name, INSTALL)
            found = [Path(weights_file)] if weights_file is not None else [_downloaded(feat, next(iter(MODELS)))]
            found += [_downloaded(feat, repository) for repository in list(MODELS)[1:]]
            weights(found[0], self.name, SOURCE)
            with quiet():
                self._detector: Any = feat.Detectorv2(
                    device=device, identity_model=None, multitask_weights=str(found[0])
                )
        self._names = list(self._detector.multitask.au_names)
        self.columns = self.coverage = tuple(bare_code(name) for name in self._names)
        self.hash = digest(found)

    def __call__(self, images: Sequence[Image.Image]) -> Detections:
        """See `AUDetector`."""
        seen = unseen(len(images), self.columns, points=POINTS)
        for row, image in enumerate(images):
            self._look(seen, row, image)
        return seen

    def _look(self, seen: Detections, row: int, image: Image.Image) -> None:
        """A picture at a time: py-feat stacks a batch, and pictures have many sizes."""
        pixels = torch.from_numpy(rgb(image)).permute(2, 0, 1)[None]  # uint8
        with quiet(), _gradients_kept():
            table = self._detector.detect(pixels, data_type="tensor", progress_bar=False).to_dict("records")
        faces = [face for face in table if not np.isnan(face["FaceRectX"])]  # without a face there is one row of NaN
        seen.faces[row] = len(faces)
        if len(faces) == 1:
            assert seen.landmarks is not None
            face = faces[0]
            seen.found[row] = True
            seen.presence[row] = np.clip([float(face[name]) for name in self._names], 0, 1)
            seen.landmarks[row] = [(float(face[f"x_{i}"]), float(face[f"y_{i}"])) for i in range(POINTS)]


def _downloaded(feat: Any, repository: str) -> Path:  # noqa: ANN401 - the module
    """Where py-feat keeps a file that it has downloaded.

    Raises:
        DetectorError: it has not.
    """
    import huggingface_hub

    folder = Path(feat.__path__[0], "resources")
    for name in MODELS[repository]:
        path = huggingface_hub.try_to_load_from_cache(repository, name, cache_dir=folder)
        if isinstance(path, str):
            return Path(path)
    cache = f"models--{repository.replace('/', '--')}"
    return weights(folder / cache / "snapshots" / MODELS[repository][0], PyFeatDetector.name, SOURCE)


@contextmanager
def _gradients_kept() -> Iterator[None]:
    """py-feat's face finder switches gradients off for the whole process."""
    before = torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_grad_enabled(before)

"""LibreFace: intensities of DISFA's 12 units, or presences of BP4D's 12, without sides."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from auface_diffusers.facs import units
from auface_diffusers.facs.levels import MAX_LEVEL
from auface_diffusers.metrics.detectors.base import Detections, DetectorError
from auface_diffusers.metrics.detectors.finder import FaceFinder
from auface_diffusers.metrics.detectors.foreign import digest, package, quiet, unseen, weights

INSTALL = (
    "pip install --no-deps libreface, and mediapipe==0.10.14, torchvision, timm, gdown, pandas, opencv-python, scipy, "
    "imutils, pyyaml, tqdm; its own pins (torch 2.0) are too old for this package (licence: USC research)"
)
DRIVE = "1CbnBr8OBt8Wb73sL1ENcrtrWAFWSSRv0"
WEIGHTS = "AU_Recognition/weights/combined_repvgg.pt"
"""The name under which LibreFace's function for many pictures seeks the file that its function for one calls
combined_resnet.pt."""
BACKBONE = "resnet18-f37072fd.pth"
"""LibreFace has torchvision build its network with these weights, which those of `WEIGHTS` then replace."""
Output = Literal["intensity", "detection"]
LABELS = {"intensity": "libreface-intensity", "detection": "libreface-detection"}
BATCH = 32
SIDE = 640
"""Longest side of what LibreFace is shown: it shrinks larger faces with a filter that Pillow 10 has removed."""


class LibreFaceDetector:
    """LibreFace as an `AUDetector`.

    ``output``: "intensity" has levels 0..5, and presence is a fifth of them; "detection" has presences of 0 or 1 and
    no levels. Neither is calibrated.

    Checked against libreface 0.2.0: its real functions with random weights give these names, order and scale. The
    trained weights were not at hand. LibreFace itself loads them, as pickles of tensors. Its package is reported to be
    near its noise floor on posed faces.

    Args:
        weights_folder: with `WEIGHTS` in it; LibreFace's own default is ``./weights_libreface``.
        output: see above. device: such as ``"cuda"``.
        finder: counts faces. Without one, LibreFace's own finder says whether there is any, and takes one of several.

    Raises:
        DetectorError: libreface or its weights are missing.
        ValueError: another ``output``.
    """

    name = "libreface"
    sided = False
    calibrated = False

    def __init__(
        self,
        weights_folder: str | Path = "weights_libreface",
        output: Output = "intensity",
        device: str = "cpu",
        finder: FaceFinder | None = None,
    ) -> None:
        if output not in LABELS:
            raise ValueError(f"output {output!r}: one of {', '.join(LABELS)}")
        with quiet():
            self._tool: Any = package("libreface", self.name, INSTALL)
        self.folder, self.output, self.device, self.finder = Path(weights_folder), output, device, finder
        self.columns = self.coverage = units.labelled_in(LABELS[output])
        self.hash = digest(_files(self.folder), output, finder.hash if finder else "")

    def __call__(self, images: Sequence[Image.Image]) -> Detections:
        """See `AUDetector`."""
        seen = unseen(len(images), self.columns, graded=self.output == "intensity")
        for begin in range(0, len(images), BATCH):
            with tempfile.TemporaryDirectory() as folder, quiet():
                self._look(seen, images[begin : begin + BATCH], begin, Path(folder))
        return seen

    def _look(self, seen: Detections, images: Sequence[Image.Image], begin: int, folder: Path) -> None:
        """Fill in the rows from ``begin``."""
        counts = [one.faces for one in self.finder(images)] if self.finder else [-1] * len(images)
        faces = {}
        for row, (image, count) in enumerate(zip(images, counts, strict=True), begin):
            seen.faces[row] = count
            if count in (1, -1):
                try:
                    faces[row] = self._aligned(image, folder, row)
                except RuntimeError:  # "No face landmarks"
                    seen.faces[row] = 0
        if not faces:
            return
        both = self._tool.get_au_intensities_and_detect_aus_video(
            list(faces.values()),
            device=self.device,
            batch_size=BATCH,
            num_workers=0,
            weights_download_dir=str(self.folder),
        )
        detected, intensities = (table.to_dict("list") for table in both)
        table, suffix = (intensities, "_intensity") if self.output == "intensity" else (detected, "")
        names = [f"au_{code}{suffix}" for code in self.columns]
        if missing := [name for name in names if name not in table]:
            raise DetectorError(f"detector libreface: its table has no {', '.join(missing)}: use libreface 0.2.0")
        values = np.array([table[name] for name in names], dtype=np.float64).T
        rows = list(faces)
        seen.found[rows] = True
        if seen.level is None:
            seen.presence[rows] = values.clip(0, 1)
        else:
            seen.level[rows] = values.clip(0, MAX_LEVEL)
            seen.presence[rows] = values.clip(0, MAX_LEVEL) / MAX_LEVEL

    def _aligned(self, image: Image.Image, folder: Path, row: int) -> str:
        """The file of the aligned face."""
        path = folder / f"{row}.png"
        shown = image.convert("RGB")
        shown.thumbnail((SIDE, SIDE))
        shown.save(path, compress_level=1)
        found: str = self._tool.get_aligned_image(str(path), temp_dir=str(folder))[0]
        return found


def _files(folder: Path) -> list[Path]:
    """What LibreFace would download.

    Raises:
        DetectorError: it is not there.
    """
    import torch

    own = weights(
        folder / WEIGHTS,
        LibreFaceDetector.name,
        f"put LibreFace's file there (Google Drive id {DRIVE}; licence: USC research), and give weights_folder=FOLDER",
    )
    weights(
        Path(torch.hub.get_dir(), "checkpoints", BACKBONE),
        LibreFaceDetector.name,
        f"torchvision's ResNet-18 has to be there (https://download.pytorch.org/models/{BACKBONE}, BSD-3-Clause)",
    )
    return [own]

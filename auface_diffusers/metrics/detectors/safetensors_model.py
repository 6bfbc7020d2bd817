"""Any detector of your own out of safetensors, described by a small TOML or JSON file.

    name = "my-detector"
    licence = "CC BY-NC 4.0"                # of the weights; goes into errors and nowhere else
    architecture = "transformers"           # a folder of AutoModelForImageClassification; or "estimator"
    folder = "my-detector"                  # beside this file
    columns = ["1", "2", "4", "L12", "R12"] # what each output is, in order: channels, or bare codes
    image_size = 224
    mean = [0.485, 0.456, 0.406]
    std = [0.229, 0.224, 0.225]
    activation = "sigmoid"                  # or "none"
    output = "presence"                     # in 0..1; or "level", in 0..5
    calibrated = false                      # whether presence is a probability at equal priors

With ``architecture = "estimator"``, the folder of an `AUEstimator`, only name, folder and columns count: columns that
are named are those that are covered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from auface_diffusers.facs import units
from auface_diffusers.facs.levels import MAX_LEVEL
from auface_diffusers.metrics.detectors.auface import AUFaceDetector
from auface_diffusers.metrics.detectors.base import AUDetector, Detections, DetectorError
from auface_diffusers.metrics.detectors.finder import FaceFinder, crops
from auface_diffusers.metrics.detectors.foreign import digest, read_table, rgb, unseen
from auface_diffusers.models.checkpoints import PICKLES

CHOICES = {
    "architecture": ("transformers", "estimator"),
    "activation": ("sigmoid", "none"),
    "output": ("presence", "level"),
}
KINDS: dict[type, str] = {str: "a text", tuple: "a list", int: "a whole number", bool: "true or false"}


@dataclass(frozen=True)
class ModelFile:
    """The file's values; see the module.

    Raises:
        ValueError: a value that is not allowed.
    """

    name: str
    folder: str
    architecture: str = "transformers"
    columns: tuple[str, ...] = ()
    image_size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    activation: str = "sigmoid"
    output: str = "presence"
    calibrated: bool = False
    licence: str = ""

    def __post_init__(self) -> None:
        for field in fields(self):
            kind = str if field.default is MISSING else type(field.default)
            if type(getattr(self, field.name)) is not kind:
                raise ValueError(f"{field.name} {getattr(self, field.name)!r}: {KINDS[kind]} is needed")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r}: one of {', '.join(allowed)}")
        unknown = [name for name in self.columns if name not in units.channels and name not in units]
        if unknown or len(set(self.columns)) < len(self.columns):
            raise ValueError(f"columns {unknown or list(self.columns)}: channels such as 'L12' or codes, each once")
        if not self.columns and self.architecture != "estimator":
            raise ValueError("columns are missing: say what each output is, in order")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0 or self.image_size < 1:
            raise ValueError("mean and std have three numbers, std > 0; image_size >= 1")

    @classmethod
    def read(cls, path: Path) -> ModelFile:
        """Read it. Raises `DetectorError` naming the file and what is wrong."""
        try:
            given: Mapping[str, Any] = read_table(path)
            known = {field.name for field in fields(cls)}
            if wrong := sorted(set(given) - known):
                raise ValueError(f"unknown: {', '.join(wrong)}; known: {', '.join(sorted(known))}")
            values: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in given.items()}
            return cls(**values)
        except (OSError, ValueError, TypeError) as error:
            raise DetectorError(f"detector file {path}: {error}") from error


def load_model_file(path: str | Path, *, finder: FaceFinder | None = None) -> AUDetector:
    """The detector that a file describes; everything is read from this machine.

    Raises:
        DetectorError: the file, its folder or the weights are missing, damaged, or no safetensors.
    """
    path = Path(path)
    file = ModelFile.read(path)
    folder = path.parent / file.folder
    if not folder.is_dir():
        raise DetectorError(
            f"detector {file.name}: {folder} is missing; put the model's folder beside {path.name}"
            + (f" (licence: {file.licence})" if file.licence else "")
        )
    if file.architecture == "transformers":
        return TransformersDetector(file, folder, finder=finder)
    own = AUFaceDetector.from_folder(folder, finder=finder)
    own.name = file.name
    if file.columns:
        if wrong := [name for name in file.columns if name not in own.columns]:
            raise DetectorError(f"detector {file.name}: {folder} has no columns {', '.join(wrong)}")
        own.coverage = tuple(name for name in own.coverage if name in file.columns)
    return own


class TransformersDetector:
    """An image classifier of the transformers library, one output a column; see the module.

    Args:
        file: what it is. folder: of the model, config.json and safetensors. finder: as in `AUFaceDetector`.

    Raises:
        DetectorError: the folder holds no such model, or another number of outputs.
    """

    def __init__(self, file: ModelFile, folder: Path, *, finder: FaceFinder | None = None) -> None:
        from transformers import AutoModelForImageClassification

        found = sorted(folder.glob("*.safetensors"))
        if not found:
            pickles = [path.name for path in folder.iterdir() if path.suffix in PICKLES]
            said = f"only {pickles[0]}, a pickle, which can run code when it is opened" if pickles else "no weights"
            raise DetectorError(f"detector {file.name}: {folder} holds {said}; only safetensors are loaded")
        try:
            model = AutoModelForImageClassification.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
        except (ValueError, OSError) as error:
            raise DetectorError(f"detector {file.name}: {folder}: {error}") from error
        self.model: Any = model.float().eval()
        if self.model.config.num_labels != len(file.columns):
            raise DetectorError(
                f"detector {file.name}: {self.model.config.num_labels} outputs, but {len(file.columns)} columns"
            )
        self.file, self.finder = file, finder
        self.name, self.calibrated = file.name, file.calibrated
        self.columns = self.coverage = file.columns
        self.sided = any(name[0] in "LR" for name in file.columns)
        self.hash = digest([*found, folder / "config.json"], repr(file), finder.hash if finder else "")

    def __call__(self, images: Sequence[Image.Image]) -> Detections:
        """See `AUDetector`."""
        seen = unseen(len(images), self.columns, graded=self.file.output == "level")
        for row, image in enumerate(images):  # one at a time: pictures have many sizes
            (face,) = crops([image], self.finder)
            seen.faces[row] = face.faces
            if face.image is not None:
                seen.found[row] = True
                values = self._read(face.image)
                if seen.level is None:
                    seen.presence[row] = values.clip(0, 1)
                else:
                    seen.level[row] = values.clip(0, MAX_LEVEL)
                    seen.presence[row] = values.clip(0, MAX_LEVEL) / MAX_LEVEL
        return seen

    @torch.no_grad()
    def _read(self, image: Image.Image) -> np.ndarray:
        """Outputs (C,) of one picture, squeezed into the model's square."""
        pixels = torch.from_numpy(rgb(image)).permute(2, 0, 1)[None].float() / 255
        size = (self.file.image_size, self.file.image_size)
        pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        mean, std = (torch.tensor(value)[:, None, None] for value in (self.file.mean, self.file.std))
        logits = self.model(((pixels - mean) / std).to(self.model.device)).logits[0].double().cpu()
        values: np.ndarray = (logits.sigmoid() if self.file.activation == "sigmoid" else logits).numpy()
        return values

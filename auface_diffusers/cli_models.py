"""Models and pictures for `cli_faces`: loading, the model's hash, read-outs, sheets."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

    from auface_diffusers.models import AUEstimator
    from auface_diffusers.pipelines import VQAUFacePipeline

PRESENT = 0.5
READ_UNITS = 8
"""Units of a read-out at most."""
LABEL = 18
"""Pixels of a line of text on a sheet."""


def load_pipeline(folder: Path | None, attention: str = "auto", adapters: Sequence[str] = ()) -> VQAUFacePipeline:
    """The pipeline in a folder, or the embedded one, on CUDA where there is one; a progress bar on terminals only.

    Args:
        adapters: files, each with ``=0.8`` behind it where its weight is not 1. Their names are those of the files.
    """
    import torch

    from auface_diffusers.pipelines import VQAUFacePipeline

    if folder is not None and not folder.is_dir():
        raise ValueError(f"--model {folder} is no folder: give one that pipe.save_pretrained wrote")
    with _quiet():
        if folder is None:
            pipe = VQAUFacePipeline.from_default()
        else:
            pipe = VQAUFacePipeline.from_pretrained(folder, torch_dtype=torch.float32)
        _load_adapters(pipe, adapters)
        pipe.to("cuda" if torch.cuda.is_available() else "cpu")
        pipe.set_attention(attention)
    pipe.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    return pipe


def _load_adapters(pipe: VQAUFacePipeline, adapters: Sequence[str]) -> None:
    weights: dict[str, float] = {}
    for given in adapters:
        file, equals, said = given.rpartition("=")
        if not equals or Path(given).is_file():  # a name may have one
            file, said = given, "1"
        try:
            weight = float(said)
        except ValueError:
            raise ValueError(f"--adapter {given!r}: FILE or FILE=WEIGHT, such as anna.safetensors=0.8") from None
        name = Path(file).stem.replace(".", "_")
        weights[pipe.load_lora_weights(file, f"{name}_{len(weights)}" if name in weights else name)] = weight
    if weights:
        pipe.set_adapters(list(weights), list(weights.values()))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what diffusers says while it loads: a progress bar, and that attention backends are experimental."""
    from diffusers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def load_estimator(model: Path | None, evaluation: bool = False) -> AUEstimator | None:
    """The estimator beside a pipeline's folder, else the embedded one; None if there is neither."""
    from auface_diffusers.models.au_estimator import EMBEDDED, WEIGHTS, AUEstimator

    for place in (*([model.resolve().parent] if model else []), WEIGHTS):
        folder = place / EMBEDDED[evaluation]
        if (folder / "config.json").is_file():
            loaded: AUEstimator = AUEstimator.from_pretrained(folder, local_files_only=True)
            loaded.float().eval()
            return loaded
    return None


def model_hash(folder: Path) -> str:
    """16 hexadecimal digits that depend on every configuration and weight of a saved pipeline."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".json", ".safetensors"):
            total.update(path.relative_to(folder).as_posix().encode())
            with path.open("rb") as file:
                while block := file.read(1 << 20):
                    total.update(block)
    return total.hexdigest()[:16]


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Errors that are no news about this program as `ValueError`, which `cli.main` prints in one line."""
    import torch

    try:
        yield
    except (ModuleNotFoundError, torch.OutOfMemoryError) as error:
        raise ValueError(str(error)) from None


def read_units(images: Any, model: Path | None = None) -> list[list[dict[str, Any]]]:  # noqa: ANN401 - a Tensor
    """What the evaluation estimator sees in faces (B, 3, S, S): units that are likelier there than not, surest first.

    Raises:
        ValueError: there is no evaluation estimator, beside ``model`` or embedded.
    """
    import torch

    estimator: Any = load_estimator(model, evaluation=True)
    if estimator is None:
        raise ValueError("--readout: there is no evaluation_estimator, neither beside --model nor in the package")
    with torch.no_grad():
        seen = estimator(images)
    presence = torch.where(estimator.covered, seen.presence, 0)
    return [
        [
            {"unit": estimator.channels[column], "presence": round(p, 3), "level": round(float(level[column]), 2)}
            for p, column in zip(*(x.tolist() for x in row.topk(min(READ_UNITS, len(row)))), strict=True)
            if p >= PRESENT
        ]
        for row, level in zip(presence, seen.level, strict=True)
    ]


def draw_grid(images: Sequence[Image.Image], labels: Sequence[str], columns: int) -> Image.Image:
    """Pictures of one size in rows of ``columns``, each row under its label."""
    from PIL import Image, ImageDraw, ImageFont

    width, height = images[0].size
    sheet = Image.new("RGB", (width * columns, (height + LABEL) * len(labels)), "white")
    text, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for row, label in enumerate(labels):
        top = row * (height + LABEL)
        text.text((4, top + 3), label, fill="black", font=font)
        for column in range(columns):
            sheet.paste(images[row * columns + column], (column * width, top + LABEL))
    return sheet

"""What all adapters of other people's tools need: finding packages and weights, and saying what is missing."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from auface_diffusers.metrics.detectors.base import Detections, DetectorError


def package(module: str, detector: str, install: str) -> Any:  # noqa: ANN401 - a module of somebody else
    """Import a module of a tool when it is needed.

    Args:
        module: dotted name. detector: who needs it, for the message. install: how one gets it, and its licence.

    Raises:
        DetectorError: it cannot be imported, says why.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise DetectorError(
            f"detector {detector}: {module.split('.')[0]} cannot be imported ({error}); {install}"
        ) from error


def weights(path: Path, detector: str, source: str) -> Path:
    """The path of a file that has to be there; we download nothing.

    Raises:
        DetectorError: it is missing; ``source`` says where it comes from and under which licence.
    """
    if not path.is_file():
        raise DetectorError(f"detector {detector}: {path} is missing; {source}")
    return path


def read_table(path: Path) -> dict[str, Any]:
    """A TOML or JSON file. Raises `ValueError` if it is damaged, `OSError` if it cannot be read."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    text = path.read_text(encoding="utf-8")
    table: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    return table


def digest(files: Iterable[Path], *words: str) -> str:
    """16 hexadecimal digits of files' contents and of words that say how they are used."""
    total = hashlib.sha256("\n".join(words).encode())
    for path in files:
        with path.open("rb") as file:
            while part := file.read(1 << 20):
                total.update(part)
    return total.hexdigest()[:16]


def unseen(count: int, columns: Sequence[str], *, points: int = 0, graded: bool = False) -> Detections:
    """Detections of ``count`` pictures in which nothing has been found yet, to be filled row by row.

    Args:
        points: landmarks a face; 0 is a detector without. graded: whether it has levels.
    """
    shape = (count, len(columns))
    return Detections(
        presence=np.full(shape, np.nan),
        level=np.full(shape, np.nan) if graded else None,
        found=np.zeros(count, dtype=bool),
        faces=np.zeros(count, dtype=int),
        landmarks=np.full((count, points, 2), np.nan) if points else None,
    )


def bare_code(name: str) -> str:
    """The code of a tool's name for a unit: "AU06" or "au_6" is "6"."""
    return str(int("".join(sign for sign in name if sign.isdigit())))


def rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8, contiguous."""
    return np.array(image.convert("RGB"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """What tools print goes to stderr: stdout belongs to results."""
    with contextlib.redirect_stdout(sys.stderr):
        yield

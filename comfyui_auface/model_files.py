"""Where models lie: folders that `save_pretrained` wrote, found in ComfyUI's model folders. Needs no ComfyUI."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

EMBEDDED = "embedded"
"""The choice for the weights that come with the package."""
INDEX = "model_index.json"
CLASSES = ("VQAUFacePipeline", "VQAUFaceEditPipeline")
"""Saved pipelines whose components fit."""
KINDS = (".json", ".safetensors")
"""Files of a saved pipeline that make a difference."""
MAX_LISTED = 8


def list_models(roots: Sequence[str]) -> dict[str, Path]:
    """Saved pipelines by name, relative to their root and with forward slashes, sorted; of two roots the first counts.

    Args:
        roots: folders, which need not be there.
    """
    found: dict[str, Path] = {}
    for root in roots:
        for path, inner, files in walk(root):
            if INDEX in files and path != root:
                inner.clear()  # its components are no models of their own
                found.setdefault(os.path.relpath(path, root).replace(os.sep, "/"), Path(path))
    return dict(sorted(found.items()))


def walk(root: str) -> Iterator[tuple[str, list[str], list[str]]]:
    """As `os.walk`, through links as well, but not round in a circle of them."""
    for path, inner, files in os.walk(root, followlinks=True):
        if os.path.realpath(path) in map(os.path.realpath, _above(path, root)):
            inner.clear()  # a link that leads back
        else:
            yield path, inner, files


def find_model(name: str, roots: Sequence[str]) -> Path | None:
    """Folder of the saved pipeline that a menu calls ``name``; None is the embedded one.

    Raises:
        ValueError: there is none of this name, or it is another program's; says where to put which files.
    """
    if name == EMBEDDED:
        return None
    there = list_models(roots)
    if name not in there:
        raise ValueError(_why_missing(name, list(there), roots))
    folder = there[name]
    try:
        index = json.loads((folder / INDEX).read_text("utf-8"))
        kind = index["_class_name"]
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(
            f"model {name!r}: {folder / INDEX} is damaged ({error}): copy the whole folder again"
        ) from None
    if kind not in CLASSES:
        raise ValueError(
            f"model {name!r} in {folder} is a {kind}, which this node cannot use: choose {EMBEDDED!r}, or put a "
            f"folder with the {INDEX} of a {CLASSES[0]} into {roots[0]}"
        )
    return folder


def stamp(folder: Path) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of change of every file that makes a difference: another stamp is another model."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix in KINDS)
    stats = [(path.relative_to(folder).as_posix(), path.stat()) for path in paths]
    return tuple((name, one.st_size, one.st_mtime_ns) for name, one in stats)


def _above(path: str, root: str) -> list[str]:
    """The folders from ``root`` down to, and without, ``path``."""
    names = [] if path == root else os.path.relpath(path, root).split(os.sep)
    return [os.path.join(root, *names[:count]) for count in range(len(names))]


def _why_missing(name: str, there: Sequence[str], roots: Sequence[str]) -> str:
    listed = ", ".join([EMBEDDED, *there[:MAX_LISTED]])
    more = f" and {len(there) - MAX_LISTED} more" if len(there) > MAX_LISTED else ""
    where = f"there are {listed}{more}"
    put = (
        f"A model is a folder with {INDEX} and the folders beside it, as pipe.save_pretrained and `python -m "
        f"train_lora export` write it: put it into {roots[0]} and press R"
    )
    files = [os.path.join(root, name) for root in roots if inside(name)]
    if any(os.path.isfile(path) for path in files):
        return f"model {name!r} is a single file, which is no model of VQ-AUFace; {where}. {put}"
    if any(os.path.isdir(path) for path in files):
        return f"model {name!r} is a folder without {INDEX}; {where}. {put}"
    return f"model {name!r} is not in {' or '.join(roots)}; {where}. {put}"


def inside(name: str) -> bool:
    """Whether a name stays in its folder; nothing outside is looked at, not even whether it is there."""
    if not name or "\0" in name or os.path.isabs(name) or os.path.splitdrive(name)[0]:
        return False
    return ".." not in name.replace("\\", "/").split("/")

"""Faces as PNG files that say how they were made: one JSON object under the PNG text key ``auface``."""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image

KEY = "auface"
"""Key of the PNG text chunk (tEXt)."""
FORMAT = 1
"""Version of what is stored; a reader refuses a later one."""


def save_face(image: Image.Image, path: str | Path, info: Mapping[str, Any]) -> None:
    """Write a face as PNG with ``info`` inside; it is there complete or not at all.

    Args:
        image: any PIL image that PNG holds.
        path: of the file, which is replaced.
        info: what JSON can hold. ``format`` is added.

    Raises:
        ValueError: ``path`` is a folder, or ``info`` holds what JSON cannot. OSError: it cannot be written.
    """
    write_whole(Path(path), face_bytes(image, info))


def face_bytes(image: Image.Image, info: Mapping[str, Any]) -> bytes:
    """The PNG file of `save_face`."""
    from PIL.PngImagePlugin import PngInfo

    try:
        said = json.dumps({"format": FORMAT, **info}, allow_nan=False)  # ASCII, so that the chunk is a tEXt
    except (TypeError, ValueError) as error:
        raise ValueError(f"info of a face: {error}; give what JSON holds") from None
    texts, data = PngInfo(), io.BytesIO()
    texts.add_text(KEY, said)
    image.save(data, "PNG", pnginfo=texts)
    return data.getvalue()


def read_face(path: str | Path) -> dict[str, Any] | None:
    """What `save_face` wrote into a file; None for an image of another origin.

    Raises:
        ValueError: no image, or what stands in it cannot be understood. OSError: the file cannot be read.
    """
    with open_image(path) as image:
        said = image.info.get(KEY)
    if said is None:
        return None
    try:
        info = json.loads(said)
    except (TypeError, ValueError):
        info = None
    if not isinstance(info, dict) or not isinstance(info.get("format"), int):
        raise ValueError(f"{path}: the PNG text {KEY!r} is no JSON object with a format; save it without its metadata")
    if info["format"] > FORMAT:
        raise ValueError(f"{path}: format {info['format']} was written by a later version; {FORMAT} is known: update")
    return info


def open_image(path: str | Path) -> Image.Image:
    """Open an image file with Pillow.

    Raises:
        ValueError: it is no image, or it is cut off. OSError: the file cannot be read.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(path)
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: no image that can be read ({error}); give a PNG, JPEG or WebP") from None
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises any of them for a damaged file
        raise ValueError(f"{path}: the image is damaged or cut off ({error})") from None
    return image


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there complete or not at all."""
    write_all({path: data})


def write_all(files: Mapping[Path, bytes]) -> None:
    """Write files so that all are there complete, or, if one cannot be written, none.

    Raises:
        ValueError: a path is a folder or a device. OSError: one cannot be written.
    """
    parts: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            parts[part_of(path)] = path
            with open(list(parts)[-1], "wb") as file:
                file.write(data)
        for part, path in parts.items():
            os.replace(part, path)
    finally:  # after Ctrl-C too
        for part in parts:
            part.unlink(missing_ok=True)


def part_of(path: Path) -> Path:
    """A new empty file beside ``path``, with its ending, to be written and then renamed.

    Raises:
        ValueError: ``path`` is a folder or a device. OSError: the folder does not exist or cannot be written.
    """
    if path.exists() and not path.is_file():
        raise ValueError(f"output {path} is a folder or a device: name a file")
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.stem}.", suffix=f".part{path.suffix}")
    os.close(descriptor)
    os.chmod(name, 0o644)
    return Path(name)

"""Pictures of a data set: found in folders or zip files by name or by number, opened with every damage named."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path, PurePosixPath

from PIL import Image

from auface_diffusers.facs.readers.files import children, natural_key
from auface_diffusers.pictures import plain_rgb
from train_lora.data.quality import Skip

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError, zipfile.BadZipFile)
"""What opening a damaged picture may raise."""
_OPEN_ZIPS = 2
_LISTED = 64  # folders whose listing is kept: rows come in order


class PictureFiles:
    """The pictures below a folder.

    A reference is a path relative to the folder, such as ``F001/T1/2440.jpg``; in a zip file it goes on behind the
    name of the file: ``F001.zip/F001/T1/12.jpg``.

    Args:
        root: the folder.

    Raises:
        ValueError: it is no folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ValueError(f"images: {root} is no folder")
        self.root = root
        self._listing = lru_cache(maxsize=_LISTED)(self._list)
        self._zip = lru_cache(maxsize=_OPEN_ZIPS)(self._open_zip)

    def find(self, name: str) -> str:
        """The reference of a picture.

        Args:
            name: its path, as a label file says it. If it is not there exactly, a picture counts whose name has
                another ending, or the same number with another count of leading zeros.

        Raises:
            Skip: there is none, or more than one.
        """
        path = PurePosixPath(name.replace("\\", "/"))
        listed = self._listing(str(path.parent))
        for key in _keys(path.name):
            found = listed.get(key, ())
            if len(found) == 1:
                return found[0]
            if found:
                raise Skip("ambiguous picture", f"{name}: {', '.join(found[:3])}")
        raise Skip("no picture", f"{name} is not below {self.root}")

    def first_number(self, folder: str) -> int | None:
        """The least number that names a picture of ``folder``; None if there is none, or it cannot be read."""
        try:
            numbers = [int(key[1:]) for key in self._listing(folder) if key.startswith("#")]
        except Skip:
            return None
        return min(numbers, default=None)

    def walk(self) -> Iterator[str]:
        """References of all pictures in folders, in numeric order."""
        yield from _walk(self.root, self.root)

    def open(self, reference: str) -> Image.Image:
        """A picture as it is seen, RGB, whatever its file has.

        Raises:
            Skip: it is gone, or damaged.
        """
        try:
            with self._stream(reference) as stream, Image.open(stream) as image:
                return plain_rgb(image)
        except FileNotFoundError:
            raise Skip("no picture", f"{reference} is gone") from None
        except DAMAGE as error:
            raise Skip("damaged picture", f"{reference}: {type(error).__name__}: {error}") from None

    def _stream(self, reference: str) -> io.BufferedIOBase:
        archive, mark, member = reference.partition(".zip/")
        if mark:
            return io.BytesIO(self._zip(archive + ".zip").read(member))
        return (self.root / reference).open("rb")

    def _list(self, folder: str) -> dict[str, tuple[str, ...]]:
        """References of the pictures of a folder, by name, by name without ending, and by number."""
        place = self.root / folder
        found: dict[str, tuple[str, ...]] = {}
        references = (
            [str(PurePosixPath(folder, path.name)) for path in children(place)]
            if place.is_dir()
            else self._list_zip(folder)
        )
        for reference in references:
            name = PurePosixPath(reference).name
            if name.lower().endswith(ENDINGS):
                for key in _keys(name):
                    found[key] = (*found.get(key, ()), reference)
        return found

    def _list_zip(self, folder: str) -> list[str]:
        """References in ``<first part>.zip`` whose folder ends as ``folder`` does: BP4D+ has F001.zip/<top>/T1/12.jpg.

        The order of an archive says nothing: names are sorted by their numbers.
        """
        first, _, rest = folder.partition("/")
        archive = f"{first}.zip"
        if not (self.root / archive).is_file():
            return []
        try:
            names = self._zip(archive).namelist()
        except DAMAGE as error:
            raise Skip("damaged archive", f"{archive}: {error}") from None
        wanted = PurePosixPath(rest).parts
        inside = [name for name in names if PurePosixPath(name).parent.parts[-len(wanted) :] == wanted]
        return [f"{archive}/{name}" for name in sorted(inside, key=natural_key)]

    def _open_zip(self, archive: str) -> zipfile.ZipFile:
        return zipfile.ZipFile(self.root / archive)


def _keys(name: str) -> Iterator[str]:
    """What a picture can be asked for by, most exact first: ``012.jpg``, ``=012``, ``#12``."""
    yield name
    stem = name.rpartition(".")[0] if name.lower().endswith(ENDINGS) else name
    yield f"={stem}"
    if stem.isdecimal():
        yield f"#{int(stem)}"


def _walk(folder: Path, root: Path) -> Iterator[str]:
    for path in children(folder):
        if path.is_dir():
            yield from _walk(path, root)
        elif path.name.lower().endswith(ENDINGS):
            yield path.relative_to(root).as_posix()

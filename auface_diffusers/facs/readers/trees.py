"""Data sets as folder trees: where their labels are. `datasets` reads what is in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from auface_diffusers.facs.readers.base import ReaderError
from auface_diffusers.facs.readers.files import listing, walk
from auface_diffusers.facs.readers.sources import get_source

_DEPTH = 3  # a label file stands at most this far below its label folder: subject, sequence, file


@dataclass(frozen=True)
class Tree:
    """Shape of a data set: the folders that lead to its labels, and how the label files are called.

    ``pattern`` matches a whole file name. ``name`` is the source. ``joined``: a frame's labels stand in several files,
    so that a single one cannot be read.
    """

    name: str
    folders: tuple[str, ...]
    pattern: re.Pattern[str]
    joined: bool = False

    def find(self, path: Path) -> Place | None:
        """Where the labels are if ``path`` is this data set or a part of it, else None.

        The path may lie above the label folder, be it, or lie in it; there must be at least one label file.
        """
        place = self._place(path)
        if place is None or (place.start.is_dir() and next(walk(place.start, self.pattern), None) is None):
            return None
        return place

    def _place(self, path: Path) -> Place | None:
        if path.is_file() and (self.joined or not self.pattern.fullmatch(path.name)):
            return None
        for i in range(len(self.folders)):
            below = path.joinpath(*self.folders[i:])
            if below.is_dir():
                return Place(below, below)
        full = path.absolute()  # "." has no name and no parents
        for base in (full, *full.parents[:_DEPTH]):
            if base.name == self.folders[-1]:
                return Place(base, path)
        return None


@dataclass(frozen=True)
class Place:
    """Found labels: the label folder, and the part of it to read (a folder or a file)."""

    base: Path
    start: Path

    def parts(self, path: Path) -> tuple[str, ...]:
        """Names from the label folder down to ``path``, such as ``("S005", "001", "S005_001_00000011_facs.txt")``."""
        return path.absolute().relative_to(self.base.absolute()).parts


BP4D_FILE = re.compile(r"(?P<subject>[FM][0-9]{3})_(?P<task>T[0-9]+)\.csv", re.IGNORECASE)
"""Names of BP4D's tables: who is seen, in which task."""

_CK_FILE = re.compile(r"(?P<subject>S[0-9]+)_(?P<task>[0-9]+)_(?P<frame>[0-9]+)_facs\.txt", re.IGNORECASE)
_UNBC_FILE = re.compile(r"(?!S[0-9]+_[0-9]+_[0-9]+_)(?P<frame>.+)_facs\.txt", re.IGNORECASE)

TREES = {
    tree.name: tree
    for tree in (
        Tree("bp4d", ("AUCoding", "AU_OCC"), BP4D_FILE),
        Tree("bp4d+", ("AUCoding", "AU_OCC"), BP4D_FILE),
        Tree("disfa", ("ActionUnit_Labels",), re.compile(r".+_au(?P<code>[0-9]+)\.txt", re.IGNORECASE), joined=True),
        Tree("disfa+", ("Labels",), re.compile(r"AU(?P<code>[0-9]+)\.txt", re.IGNORECASE), joined=True),
        # both have a folder FACS: the file names tell them apart
        Tree("ck+", ("FACS",), _CK_FILE),
        Tree("unbc", ("Frame_Labels", "FACS"), _UNBC_FILE),
    )
}
"""The trees by source name."""


def find_labels(path: Path, source: str) -> Place:
    """Find the labels of a data set. Raises `ReaderError` that says what was looked for and what is there."""
    if not path.exists():
        raise ReaderError(f"{path} does not exist")
    if path.is_file() and source.startswith("bp4d"):
        return Place(path.parent, path)  # a table says itself what it is
    if path.is_file() and TREES[source].joined:
        raise ReaderError(f"{path}: the labels of a frame stand in several files of {source}: give their folder")
    place = TREES[source].find(path)
    if place is None:
        if source == "unbc":
            check_no_pspi(path)
        there = f"it has {listing(path)}" if path.is_dir() else "it is a file of another name or in another folder"
        expected = get_source(source).expected
        raise ReaderError(f"{path} is no part of {source}: looked for {expected} in it and around it; {there}")
    return place


def check_no_pspi(path: Path) -> None:
    """Raise `ReaderError` for UNBC's pain scores given without the FACS codes."""
    full = path.absolute()
    above = [folder.name for folder in (full, *full.parents[:_DEPTH])]
    if "PSPI" in above or any((path / folder).is_dir() for folder in ("PSPI", "Frame_Labels/PSPI")):
        raise ReaderError(
            f"{path}: PSPI files hold one pain score a frame and no action units; the units are in Frame_Labels/FACS"
        )

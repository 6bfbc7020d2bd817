"""Readers of action unit annotations: data sets and the output of detectors.

    >>> from auface_diffusers.facs.readers import read_annotations
    >>> for row in read_annotations("openface.csv"):                 # doctest: +SKIP
    ...     print(row.frame, row.aus, row.unknown)

`read_annotations` streams `Annotation` objects; `sources` says what can be read and when a unit counts as present. To
parse a table in several processes, take the same pieces apart: `table_reader` gives a picklable row parser, its
``lines()`` the numbered rows, its ``parse_line(text, line)`` an `Annotation`, a `Bad` or None, and its
``duplicate_filter()`` what one process must check in file order.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path

from auface_diffusers.facs.readers.base import Annotation, Bad, Quarantine, ReaderError, ReaderWarning
from auface_diffusers.facs.readers.datasets import read_tree
from auface_diffusers.facs.readers.frames import DuplicateFilter, FrameSet
from auface_diffusers.facs.readers.guess import guess_source
from auface_diffusers.facs.readers.jsonl import JsonlReader
from auface_diffusers.facs.readers.sources import LEVELS, Source, get_source, sources
from auface_diffusers.facs.readers.tables import TableReader
from auface_diffusers.facs.readers.trees import TREES, find_labels

__all__ = [
    "Annotation",
    "Bad",
    "DuplicateFilter",
    "FrameSet",
    "JsonlReader",
    "Quarantine",
    "ReaderError",
    "ReaderWarning",
    "Source",
    "TableReader",
    "get_source",
    "guess_source",
    "read_annotations",
    "sources",
    "table_reader",
]


def read_annotations(
    path: str | os.PathLike[str],
    source: str = "auto",
    *,
    threshold: float | None = None,
    quarantine: Quarantine | None = None,
) -> Iterator[Annotation]:
    """Read annotations from a file or folder, one at a time; memory does not grow with the number of rows.

    Rows that cannot be used are left out and go to ``quarantine``; without one, a single `ReaderWarning` at the end
    counts them. Nothing unknown (9, 999, NaN, empty, no face) is ever taken for absent.

    Args:
        path: a file, or the folder of a data set; `sources` says which.
        source: name from `sources`, or ``"auto"`` to tell it from folder names, file names and headers.
        threshold: from where a unit counts as present, in the source's own scale (level 0..5, probability 0..1,
            evidence); None is the source's default. See `sources`.
        quarantine: where rows go that cannot be used. It stays open: closing it is up to the caller.

    Raises:
        ReaderError: for what is wrong as a whole: a missing, empty or binary file, a folder of another shape, no AU
            columns, an unknown source, a threshold that is not allowed. Most are raised by the call itself, the rest
            (nothing in the file, a file that goes away) while reading.
    """
    path = Path(path)
    name = guess_source(path) if source == "auto" else get_source(source).name
    spec = get_source(name)
    checked = spec.checked_threshold(threshold)
    if name in TREES:
        rows = read_tree(find_labels(path, name), name, LEVELS[0] if checked is None else checked)
    else:
        rows = _read_table(table_reader(path, name, threshold))
    return _sorted_out(rows, path, name, quarantine)


def table_reader(
    path: str | os.PathLike[str], source: str = "auto", threshold: float | None = None
) -> TableReader | JsonlReader:
    """The row parser of one table: reads its header only. For several processes; `read_annotations` is built on it.

    The reader can be pickled and keeps no state between rows. Duplicates are found apart from it, in file order:

        reader = table_reader("openface.csv")
        check = reader.duplicate_filter().check
        for row in pool.map(parse, chunks_of(reader.lines())):     # parse calls reader.parse_line(text, number)
            ...                                                    # Annotation: check(row); Bad: quarantine.add(row)

    Args:
        path: the table. Of BP4D, a single file of AU_OCC; its intensities are joined by `read_annotations` only.
        source: name of a source that is a table, or ``"auto"``.
        threshold: as in `read_annotations`.

    Raises:
        ReaderError: as `read_annotations`; also for a source that is no single table.
    """
    name = guess_source(Path(path)) if source == "auto" else get_source(source).name
    if name == JsonlReader.source:
        return JsonlReader(path, threshold)
    if get_source(name).columns is None:
        raise ReaderError(f"source {name} is a folder tree, no single table: use read_annotations")
    return TableReader(path, name, threshold)


def _read_table(reader: TableReader | JsonlReader) -> Iterator[Annotation | Bad]:
    check = reader.duplicate_filter().check
    for number, text in reader.lines():
        row = reader.parse_line(text, number)
        if isinstance(row, Annotation):
            row = check(row)
        if row is not None:
            yield row


def _sorted_out(
    rows: Iterator[Annotation | Bad], path: Path, source: str, quarantine: Quarantine | None
) -> Iterator[Annotation]:
    """Yield the annotations, and put the rest into the quarantine."""
    bad = Quarantine() if quarantine is None else quarantine
    first: Bad | None = None
    found = 0
    try:
        for row in rows:
            if isinstance(row, Annotation):
                found += 1
                yield row
            else:
                bad.add(row)
                if not row.note:
                    first = first or row
                    found += row.line > 0  # a bad row is a row; a bad file is none
        if not found:
            why = "there are no rows" if first is None else f"{first.file}: {first.detail}"
            raise ReaderError(f"{path}: source {source} found no annotation in it: {why}")
    finally:
        if quarantine is None and first is not None:
            warnings.warn(
                f"{path}: {bad.summary()}; first: {first.file} line {first.line}: {first.detail}. "
                "Pass a Quarantine to get them",
                ReaderWarning,
                stacklevel=2,
            )

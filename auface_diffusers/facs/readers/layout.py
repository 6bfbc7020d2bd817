"""Headers to layouts: which columns of a table hold labels, and which say what a row is about."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from auface_diffusers.facs.notation import Key, NotationError
from auface_diffusers.facs.readers.base import ReaderError, shorten
from auface_diffusers.facs.readers.cells import Column, LevelCells, ListCell, NotationCell, ScoreCells, make_column
from auface_diffusers.facs.readers.files import Header
from auface_diffusers.facs.readers.sources import EVIDENCE, LEVELS, PROBABILITIES, Source
from auface_diffusers.facs.units import units

SCORE_LIST = "action_units"
"""The column in which openface-test writes the scores of all units as one list."""

Cells = LevelCells | ScoreCells | ListCell | NotationCell


def find_meta(source: Source, names: Sequence[str]) -> dict[str, int]:
    """Column index by role ("frame", "face", ...), for the roles that the header has."""
    lower = [name.lower() for name in names]
    found = {role: [lower.index(name) for name in wanted if name in lower] for role, wanted in source.meta.items()}
    return {role: indices[0] for role, indices in found.items() if indices}


def find_cells(source: Source, header: Header, path: Path, threshold: float | None) -> Cells:
    """The reader of the label cells; its cell numbers are column numbers.

    Args:
        threshold: as the caller gave it, already checked; None is the default of the source.

    Raises:
        ReaderError: if the header has no label columns, or contradictory ones.
    """
    columns = find_columns(source, header, path)
    level = next(x for x in (threshold, source.threshold, LEVELS[0]) if x is not None)
    aus = find_meta(source, header.names).get("aus")
    if aus is not None and columns:
        raise ReaderError(
            f"{path}: has the column {header.names[aus]!r} and columns of single units "
            f"({shorten(', '.join(column.name for column in columns), 60)}): keep one kind"
        )
    if aus is not None:
        return NotationCell(aus, level)
    if source.name == "openface3" and SCORE_LIST in header.names:
        every = [make_column(code) for code in units.labelled_in(source.coded)]
        return ListCell(header.names.index(SCORE_LIST), ScoreCells(every, level, PROBABILITIES, strict=False))
    if not columns:
        raise ReaderError(
            f"{path}: no AU columns of source {source.name}: expected {source.expected}; the header has "
            f"{shorten(', '.join(header.names), 200)} ({len(header.names)} columns)"
        )
    if threshold is not None and all(column.value < 0 for column in columns):
        raise ReaderError(f"{path}: threshold={threshold:g} has nothing to act on: the units have 0/1 columns only")
    if source.scale == "level":
        return LevelCells(columns, level, threshold is not None, source.slack, source.letters)
    limits = EVIDENCE if source.scale == "evidence" else PROBABILITIES
    return ScoreCells(columns, level, limits, strict=source.scale == "evidence")


def find_columns(source: Source, header: Header, path: Path) -> tuple[Column, ...]:
    """The label columns, one `Column` a unit, in the order of the header.

    Raises:
        ReaderError: for units that FACS does not have, and for units that stand twice.
    """
    codes = label_titles(source, header.names)
    if source.name == "openface3" and codes:
        codes = _openface3_codes(source, codes, path)
    columns: dict[str, Column] = {}
    taken: dict[Key, str] = {}
    for index, (code, kind) in codes.items():
        column = _column(code, header.names[index], path)
        if taken.keys() & column.keys and {taken.get(key) for key in column.keys} != {column.name}:
            raise ReaderError(f"{path}: column {header.names[index]!r} and another one are about the same unit")
        column = columns.get(column.name, column)
        if getattr(column, kind) >= 0:
            raise ReaderError(f"{path}: unit {column.name} stands in two columns; one is {header.names[index]!r}")
        columns[column.name] = column._replace(flag=index) if kind == "flag" else column._replace(value=index)
        taken |= dict.fromkeys(column.keys, column.name)
    return tuple(columns.values())


def label_titles(source: Source, names: Sequence[str]) -> dict[int, tuple[str, str]]:
    """Column index to (code as written, "value" or "flag") of the label columns in a header."""
    if source.columns is None:
        return {}
    coded = units.labelled_in(source.coded) if source.coded and source.name != "openface3" else ()
    found: dict[int, tuple[str, str]] = {}
    for index, name in enumerate(names):
        match = source.columns.fullmatch(name)
        # the first column of BP4D is the frame, though it is called "0" in some copies
        if match is None or (index == 0 and source.name.startswith("bp4d")):
            continue
        code = match["code"].lstrip("0")
        if code and (not coded or code in coded):
            found[index] = (code, "value" if match.groupdict().get("flag") is None else "flag")
    return found


def _openface3_codes(source: Source, codes: dict[int, tuple[str, str]], path: Path) -> dict[int, tuple[str, str]]:
    """Turn positions to codes: a header AU01..AU08 counts the outputs, and these are not AU numbers."""
    coded = units.labelled_in(source.coded)
    written = {code for code, _ in codes.values()}
    if is_counted(source, written):
        return {index: (coded[int(code) - 1], kind) for index, (code, kind) in codes.items()}
    if written == set(coded):
        return codes
    raise ReaderError(
        f"{path}: OpenFace 3 has {len(coded)} outputs; expected AU01..AU{len(coded):02d} (positions) or the units "
        f"{', '.join(coded)}; the header has {', '.join(sorted(written, key=int))}"
    )


def is_counted(source: Source, codes: set[str]) -> bool:
    """Whether ``codes`` are 1, 2, ... up to the number of units of the source, which no FACS header would have."""
    return codes == {str(number) for number in range(1, len(units.labelled_in(source.coded)) + 1)}


def _column(code: str, title: str, path: Path) -> Column:
    try:
        return make_column(code)
    except NotationError as error:
        raise ReaderError(f"{path}: column {title!r} is no unit: {error}") from None

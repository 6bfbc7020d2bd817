"""Readers of data sets that come as folder trees. They yield `Bad` for what cannot be used, and go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.levels import UNSCORED_LEVEL
from auface_diffusers.facs.notation import Key, NotationError
from auface_diffusers.facs.readers.base import Annotation, Bad, ReaderError, RowError, shorten
from auface_diffusers.facs.readers.cells import Column, make_column, read_level, read_number
from auface_diffusers.facs.readers.files import check_text, children, natural_key, numbered_lines, walk
from auface_diffusers.facs.readers.frames import MAX_DIGITS
from auface_diffusers.facs.readers.tables import TableReader
from auface_diffusers.facs.readers.trees import BP4D_FILE, TREES, Place
from auface_diffusers.facs.units import units

Rows = Iterator[Annotation | Bad]

BP4D_PLUS_TASKS = ("T1", "T6", "T7", "T8")
"""The tasks of BP4D+ that were coded."""


def read_tree(place: Place, source: str, threshold: float) -> Rows:
    """Read the labels at ``place`` in numeric order. ``threshold``: level from which a scored unit is present."""
    return _READERS[source](place, source, threshold)


# --- BP4D, BP4D+: a table of occurrences a video, and a file of intensities for each unit that has them --------------


def _read_bp4d(place: Place, source: str, threshold: float) -> Rows:
    single = place.start.is_file()
    for path in [place.start] if single else children(place.start):
        match = BP4D_FILE.fullmatch(path.name)
        if match is None and not single:
            continue
        try:
            if source == "bp4d+" and match and match["task"].upper() not in BP4D_PLUS_TASKS:
                raise ReaderError(f"{path}: BP4D+ coded the tasks {', '.join(BP4D_PLUS_TASKS)} only; is this BP4D?")
            reader = TableReader(path, source)
        except ReaderError as error:
            if single:
                raise
            yield Bad(str(path), 0, "unreadable file", str(error))
            continue
        count = 0
        for row in _read_video(reader, place.base.parent / "AU_INT"):
            count += 1
            yield row
        if not count:
            yield Bad(str(path), 0, "empty file", "no rows below the header")


def _read_video(reader: TableReader, intensity_folder: Path) -> Rows:
    intensities: list[tuple[Column, dict[int, float]]] = []
    for code in units.labelled_in(reader.source) if intensity_folder.is_dir() else ():
        name = f"AU{int(code):02d}"
        path = intensity_folder / name / f"{reader.path.stem}_{name}.csv"
        if path.is_file():
            levels: dict[int, float] = {}
            yield from _read_intensities(path, levels)
            intensities.append((make_column(code), levels))
    duplicates = reader.duplicate_filter()
    for number, text in reader.lines():
        row = reader.parse_line(text, number)
        if isinstance(row, Annotation):
            row = duplicates.check(row)
        if isinstance(row, Annotation):
            row, against = _with_levels(row, intensities)
            if against:
                detail = f"occurrence and intensity disagree about {', '.join(against)}: occurrence decides"
                yield Bad(reader.file, number, "intensity disagrees", detail, shorten(text), note=True)
        if row is not None:
            yield row


def _read_intensities(path: Path, levels: dict[int, float]) -> Iterator[Bad]:
    """Fill ``levels`` (frame to level) from lines ``frame,intensity``; invalid ones (9) are left out."""
    seen: set[int] = set()
    for number, text in numbered_lines(path):
        try:
            frame, level = _frame_and_level(text)
            if frame is None:
                continue
            index = _whole(frame)
            if index in seen:
                raise RowError("duplicate frame", f"frame {frame} was there before")
            seen.add(index)
            if level is not None:
                levels[index] = level
        except RowError as error:
            yield Bad(str(path), number, error.reason, error.detail, shorten(text))


def _with_levels(row: Annotation, intensities: list[tuple[Column, dict[int, float]]]) -> tuple[Annotation, list[str]]:
    """The row with the levels of its present units, and the units about which the intensities disagree."""
    frame = int(row.frame)
    scored: dict[Key, float] = {}
    against: list[str] = []
    for column, levels in intensities:
        level = levels.get(frame)
        if level is None or column.name in row.unknown:
            continue
        present = column.name in row.aus.codes
        if present and level > 0:
            scored |= dict.fromkeys(column.keys, level)
        elif present or (level > 0 and column.name in row.absent):
            against.append(column.name)
    if scored:
        aus = AUSet.from_keys({**row.aus.parts, **scored}, row.aus.unscored - scored.keys())
        row = replace(row, aus=aus)
    return row, against


# --- DISFA, DISFA+: a file of levels for each unit, joined by frame --------------------------------------------------


def _read_disfa(place: Place, source: str, threshold: float) -> Rows:
    pattern = TREES[source].pattern
    for folder in _folders(place.start):
        files = [(match["code"], path) for path in children(folder) if (match := pattern.fullmatch(path.name))]
        if files:
            yield from _join(place, source, threshold, folder, files)


def _folders(folder: Path) -> Iterator[Path]:
    """``folder`` and all folders below it, in numeric order."""
    yield folder
    for path in children(folder):
        if path.is_dir():
            yield from _folders(path)


def _join(place: Place, source: str, threshold: float, folder: Path, files: list[tuple[str, Path]]) -> Rows:
    """Yield one `Annotation` a frame of the files of one video; a unit without a line for a frame is unknown in it."""
    frames: dict[str, dict[str, float | None]] = {}
    columns: dict[str, Column] = {}
    for code, path in files:
        try:
            column = make_column(code)
        except NotationError as error:
            yield Bad(str(path), 0, "unknown code", str(error))
            continue
        columns[column.name] = column
        yield from _read_levels(path, column.name, frames, whole_frames=source == "disfa")
    missing = [code for code in units.labelled_in(source) if code not in columns]
    if missing:
        detail = f"no file for {', '.join(missing)}: unknown in all frames"
        yield Bad(str(folder), 0, "missing file", detail, note=True)
    subject, task = (*place.parts(folder), "", "")[:2]
    for frame in sorted(frames, key=natural_key):
        found = {name: frames[frame].get(name) for name in (*columns, *missing)}
        present = {
            key: level
            for name, level in found.items()
            if level is not None and level >= threshold
            for key in columns[name].keys
        }
        yield Annotation(
            source,
            str(folder),
            0,
            frame,
            AUSet.from_keys(present),
            frozenset(name for name, level in found.items() if level is None),
            frozenset(name for name, level in found.items() if level is not None and level < threshold),
            subject,
            task,
            image=f"{subject}/{task}/{frame}" if source == "disfa+" else "",
        )


def _read_levels(
    path: Path, name: str, frames: dict[str, dict[str, float | None]], whole_frames: bool
) -> Iterator[Bad]:
    """Put the levels of one unit into ``frames``."""
    for number, text in numbered_lines(path):
        try:
            frame, level = _frame_and_level(text)
            if frame is None:
                continue
            if whole_frames:
                frame = str(_whole(frame))  # so that files with and without leading zeros join
            levels = frames.setdefault(frame, {})
            if name in levels:
                raise RowError("duplicate frame", f"frame {frame} was there before")
            levels[name] = level
        except RowError as error:
            yield Bad(str(path), number, error.reason, error.detail, shorten(text))


def _frame_and_level(text: str) -> tuple[str | None, float | None]:
    """Frame and level of a line ``12,3`` or ``000.jpg  3``; no frame if it is blank, no level if it is unknown."""
    check_text(text)
    fields = text.replace(",", " ").split()
    if not fields:
        return None, None
    if len(fields) != 2:
        raise RowError("wrong number of fields", f"{len(fields)} fields: a frame and an intensity are expected")
    return fields[0], read_level(fields[1])


def _whole(frame: str) -> int:
    if not frame.isdecimal() or len(frame) > MAX_DIGITS:
        raise RowError("no frame number", f"frame {shorten(frame, 40)!r}: a whole number is expected")
    return int(frame)


# --- CK+, UNBC: a file for each frame, with a line for each unit that is present -------------------------------------


def _read_facs_files(place: Place, source: str, threshold: float) -> Rows:
    pattern = TREES[source].pattern
    for path in [place.start] if place.start.is_file() else walk(place.start, pattern):
        match = pattern.fullmatch(path.name)
        assert match is not None
        row = _read_facs_file(path, source, threshold)
        if isinstance(row, Annotation):
            groups = match.groupdict()
            folders = (*place.parts(path)[:-1], "", "")
            row = replace(
                row,
                frame=groups["frame"],
                subject=groups.get("subject", folders[0]),
                task=groups.get("task", folders[1]),
            )
            if source == "unbc":
                row, bad = _with_pspi(row, place.base.parent.joinpath("PSPI", *place.parts(path)))
                if bad:
                    yield bad
        yield row


def _read_facs_file(path: Path, source: str, threshold: float) -> Annotation | Bad:
    """Read lines ``unit intensity ...``. One bad line spoils the file: what it should say is not absent."""
    levels: dict[str, float | None] = {}
    columns: dict[str, Column] = {}
    number, text = 0, ""
    try:
        for number, text in numbered_lines(path):  # noqa: B007  # the number is for the error below
            if not text.strip():
                continue
            column, level = _unit_and_level(text)
            if column.name in columns:
                raise RowError("unit stands twice", f"unit {column.name} was there before")
            columns[column.name], levels[column.name] = column, level
        if source == "ck+" and not columns:
            raise RowError("empty file", "no units: CK+ codes at least one a sequence")
    except RowError as error:
        return Bad(str(path), number, error.reason, error.detail, shorten(text))
    present: dict[Key, float] = {}
    unscored: set[Key] = set()
    absent = set(units.labelled_in(source)) - levels.keys()
    for name, level in levels.items():
        column = columns[name]
        if level is None:
            continue
        if _is_unscored(column, level, source):
            present |= dict.fromkeys(column.keys, column.assumed)
            unscored |= set(column.keys)
        elif level >= threshold:
            present |= dict.fromkeys(column.keys, level)
        else:
            absent.add(name)
    unknown = frozenset(name for name, level in levels.items() if level is None)
    return Annotation(source, str(path), 0, "", AUSet.from_keys(present, unscored), unknown, frozenset(absent))


def _is_unscored(column: Column, level: float, source: str) -> bool:
    if source == "ck+":
        return level == 0
    # UNBC codes closed eyes as 0 or 1, where 1 is no trace. It is the unit whose bare score has a level of its own.
    return level == 1 and column.assumed != UNSCORED_LEVEL


def _unit_and_level(text: str) -> tuple[Column, float | None]:
    check_text(text)
    fields = text.replace(",", " ").split()
    if len(fields) < 2:
        raise RowError("wrong number of fields", f"{len(fields)} field: a unit and an intensity are expected")
    code = read_number(fields[0])
    if not code.is_integer() or code < 1:
        raise RowError("unknown code", f"unit {shorten(fields[0], 40)}: a FACS number is expected")
    try:
        return make_column(str(int(code))), read_level(fields[1])
    except NotationError as error:
        raise RowError("unknown code", str(error)) from None


def _with_pspi(row: Annotation, path: Path) -> tuple[Annotation, Bad | None]:
    """Add UNBC's pain score, if its file is there, as ``scores["PSPI"]``."""
    if not path.is_file():
        return row, None
    lines = [(number, text) for number, text in numbered_lines(path) if text.strip()]
    number, text = lines[0] if lines else (0, "")
    try:
        if len(lines) != 1:
            raise RowError("bad PSPI", f"{len(lines)} lines: one number is expected")
        return replace(row, scores={"PSPI": read_number(text)}), None
    except RowError as error:
        return row, Bad(str(path), number, "bad PSPI", error.detail, shorten(text), note=True)


_READERS: dict[str, Callable[[Place, str, float], Rows]] = {
    "bp4d": _read_bp4d,
    "bp4d+": _read_bp4d,
    "disfa": _read_disfa,
    "disfa+": _read_disfa,
    "ck+": _read_facs_files,
    "unbc": _read_facs_files,
}

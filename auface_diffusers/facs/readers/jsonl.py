"""JSON Lines: one object a line, with the same row interface as `TableReader`."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from auface_diffusers.facs import notation
from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.notation import NotationError
from auface_diffusers.facs.readers.base import Annotation, Bad, RowError, shorten
from auface_diffusers.facs.readers.cells import UNKNOWN_NUMBERS, from_threshold, make_column, read_notation
from auface_diffusers.facs.readers.files import check_text, first_line, numbered_lines
from auface_diffusers.facs.readers.frames import DuplicateFilter
from auface_diffusers.facs.readers.sources import LEVELS, get_source


class JsonlReader:
    """Parses the rows of a JSON Lines file; picklable, without state between rows.

    An object has ``aus`` (or ``codes``): FACS notation, or an object of unit or channel names to levels: a number in
    0..5, a letter A..E, or null for "present, intensity not scored"; 9, 999 and NaN are unknown. Optional are
    ``frame`` (default: row number), ``subject``, ``task``, ``face``, ``image``, ``confidence`` and the lists
    ``unknown`` and ``absent``; other keys may be there and are not read.

    Raises:
        ReaderError: for a missing, empty or binary file, for a threshold that is not allowed.
    """

    source = "jsonl"
    header_line = 0

    def __init__(self, path: str | os.PathLike[str], threshold: float | None = None) -> None:
        checked = get_source(self.source).checked_threshold(threshold)
        self.threshold = LEVELS[0] if checked is None else checked
        self.path = Path(path)
        self.file = str(path)
        first_line(self.path)

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield (1-based line number, text): what `parse_line` takes."""
        return numbered_lines(self.path)

    def duplicate_filter(self) -> DuplicateFilter:
        """A new filter; give it every `Annotation`, in file order."""
        return DuplicateFilter()

    def parse_line(self, text: str, line: int) -> Annotation | Bad | None:
        """Parse one line; None for a blank one. ``line``: its 1-based number."""
        try:
            return self._parse(text, line)
        except RowError as error:
            return Bad(self.file, line, error.reason, error.detail, shorten(text))

    def _parse(self, text: str, line: int) -> Annotation | None:
        if not text.strip():
            return None
        check_text(text)
        record = _record(text)
        aus, unknown = _read_aus(record, self.threshold)
        frame = _text(record, "frame") or _text(record, "image") or str(line - 1)
        return Annotation(
            self.source,
            self.file,
            line,
            frame,
            aus,
            unknown | _codes(record, "unknown"),
            _codes(record, "absent"),
            _text(record, "subject"),
            _text(record, "task"),
            _text(record, "face"),
            _text(record, "image"),
            _confidence(record),
        )


def _record(text: str) -> dict[str, Any]:
    try:
        record = json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise RowError("not JSON", str(error)) from None
    if not isinstance(record, dict):
        raise RowError("not JSON", f"an object is expected, not {type(record).__name__}")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON; Python would let the last of two equal keys win."""
    record = dict(pairs)
    if len(record) < len(pairs):
        raise RowError("not JSON", f"a key stands twice: {shorten(', '.join(key for key, _ in pairs), 60)}")
    return record


def _read_aus(record: dict[str, Any], threshold: float) -> tuple[AUSet, frozenset[str]]:
    value = record.get("aus", record.get("codes"))
    if value is None:
        raise RowError("no label", f"no key aus (or codes) among {shorten(', '.join(record), 60)}")
    if isinstance(value, str):
        return read_notation(value, threshold), frozenset()
    if not isinstance(value, dict):
        raise RowError("bad notation", f"aus is {type(value).__name__}: notation or an object of levels is expected")
    levels = {_name(name): _level(name, level) for name, level in value.items()}
    if len(levels) < len(value):
        raise RowError("bad notation", f"a unit stands twice in {shorten(', '.join(value), 60)}")
    unknown = frozenset(name for name, level in levels.items() if level is not None and math.isnan(level))
    try:
        aus = AUSet({name: level for name, level in levels.items() if name not in unknown})
    except ValueError as error:
        raise RowError("out of range", str(error)) from None
    return from_threshold(aus, threshold), unknown


def _name(name: str) -> str:
    """``"AU06"`` to ``"6"``. Raises `RowError` for a name that FACS does not have."""
    try:
        return make_column(name).name
    except NotationError as error:
        raise RowError("unknown code", str(error)) from None


def _level(name: str, level: object) -> float | None:
    """Level of a JSON value; None if not scored, NaN if unknown."""
    if level is None:
        return None
    if isinstance(level, str):
        try:
            return notation.parse_letter(level, name)
        except NotationError as error:
            raise RowError("not a number", str(error)) from None
    if isinstance(level, bool) or not isinstance(level, int | float):
        raise RowError("not a number", f"level {shorten(repr(level), 40)} of {name}: a number, a letter or null")
    return math.nan if level in UNKNOWN_NUMBERS else _float(level)


def _codes(record: dict[str, Any], key: str) -> frozenset[str]:
    value = record.get(key, [])
    if not isinstance(value, list):
        raise RowError("wrong type", f"{key} is {type(value).__name__}: a list of codes is expected")
    return frozenset(_name(str(name)) for name in value)


def _text(record: dict[str, Any], key: str) -> str:
    value = record.get(key, "")
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError("wrong type", f"{key} is {shorten(repr(value), 40)}: text or a whole number is expected")
    return str(value)


def _confidence(record: dict[str, Any]) -> float | None:
    value = record.get("confidence")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise RowError("wrong type", f"confidence is {shorten(repr(value), 40)}: a number is expected")
    return None if value is None or math.isnan(_float(value)) else _float(value)


def _float(number: int | float) -> float:
    try:
        return float(number)
    except OverflowError:
        raise RowError("out of range", "a whole number too large for a float") from None

"""Cells to labels: which units a row calls present, absent or unknown. One small reader for each kind of column."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.levels import LETTERS, MAX_LEVEL
from auface_diffusers.facs.notation import Key, NotationError, parse_letter, parse_name
from auface_diffusers.facs.readers.base import RowError, shorten
from auface_diffusers.facs.units import channel_name, units

UNKNOWN_NUMBERS = (9.0, 999.0)
"""Numbers that data sets write for "not coded" (BP4D: 9; label files made for training: 999)."""

_UNKNOWN_WORDS = ("", "na", "n/a", "none", "null")
_FLAGS = {f"{blank}{flag}{zeros}": flag == "1" for blank in ("", " ") for flag in "01" for zeros in ("", ".0", ".00")}
# a float32 score may overshoot 1 by rounding
_ROUNDING = 1e-6
_NEUTRAL = AUSet()
_NONE: frozenset[str] = frozenset()


class Labels(NamedTuple):
    """What one row says about the units; the fields are those of `Annotation`."""

    aus: AUSet
    unknown: frozenset[str]
    absent: frozenset[str]
    scores: dict[str, float]


class Column(NamedTuple):
    """Where the label of one unit stands. ``value`` and ``flag`` are cell positions, -1 if there is none."""

    name: str
    keys: tuple[Key, ...]
    assumed: float
    """Level of a unit that is present without an intensity."""
    value: int = -1
    flag: int = -1


def make_column(code: str) -> Column:
    """A column without cells yet. ``code``: unit or channel name as written, such as ``"01"``, ``"AU12"``, ``"L12"``.

    Raises:
        NotationError: if FACS has no such unit.
    """
    keys = parse_name(code)
    unit = units[keys[0][0]]
    name = unit.code if keys == parse_name(unit.code) else channel_name(*keys[0])
    return Column(name, keys, unit.unscored_level)


def read_number(text: str) -> float:
    """A number; NaN for an empty cell, NaN and its spellings. Raises `RowError` for anything else."""
    try:
        return float(text)
    except ValueError:
        word = text.strip().lower()
        if word in _UNKNOWN_WORDS or word.lstrip("-").startswith("nan"):  # Windows writes -nan(ind)
            return math.nan
        raise RowError("not a number", f"{shorten(text, 40)!r} where a number is expected") from None


def read_flag(text: str) -> bool | None:
    """Presence from a cell with 0 or 1; None if unknown. Raises `RowError` for other values."""
    flag = _FLAGS.get(text)
    if flag is not None:
        return flag
    number = read_number(text)
    if number in (0, 1):
        return number == 1
    if math.isnan(number) or number in UNKNOWN_NUMBERS:
        return None
    raise RowError(
        "unknown occurrence value", f"{text.strip()}: allowed are 0, 1, and 9, 999, NaN or nothing for unknown"
    )


def read_level(text: str, slack: float = 0.0, letters: bool = False) -> float | None:
    """Level from a cell with 0..5; None if unknown. Raises `RowError` for anything else.

    ``slack``: how far outside 0..5 it may be, to be cut. ``letters``: whether A..E are levels too.
    """
    try:
        level = float(text)
    except ValueError:
        letter = text.strip().upper()
        if letters and len(letter) == 1 and letter in LETTERS:
            return parse_letter(letter, "the cell")
        level = read_number(text)
    if 0.0 <= level <= MAX_LEVEL:
        return level
    if math.isnan(level) or level in UNKNOWN_NUMBERS:
        return None
    if -slack <= level <= MAX_LEVEL + slack:
        return min(MAX_LEVEL, max(0.0, level))
    raise RowError("out of range", f"level {text.strip()}: allowed is 0..{MAX_LEVEL:g}, and 9 or 999 for unknown")


def read_score(text: str, low: float, high: float) -> float:
    """Score from a cell; NaN if unknown. Raises `RowError` outside ``low``..``high``."""
    score = read_number(text)
    if low - _ROUNDING <= score <= high + _ROUNDING and not math.isinf(score) or math.isnan(score):
        return score
    if score in UNKNOWN_NUMBERS:
        return math.nan
    allowed = f"{low:g}..{high:g}" if math.isfinite(high) else "a finite number"
    raise RowError("out of range", f"score {text.strip()}: allowed is {allowed}")


class LevelCells:
    """Columns with levels, 0/1 flags, or both for a unit.

    A flag decides presence where there is one and ``override`` is false; else a level >= ``threshold`` is present.
    ``slack`` and ``letters`` are those of `read_level`.
    """

    def __init__(
        self, columns: Sequence[Column], threshold: float, override: bool, slack: float = 0.0, letters: bool = False
    ) -> None:
        self.columns = tuple(
            column._replace(flag=-1) if override and column.value >= 0 else column for column in columns
        )
        self.threshold = threshold
        self.slack = slack
        self.letters = letters

    def read(self, cells: Sequence[str]) -> Labels:
        """Labels of one row. Raises `RowError` for any cell that is no label, also of an absent unit."""
        levels: dict[Key, float] = {}
        unscored: list[Key] = []
        absent: list[str] = []
        unknown: list[str] = []
        threshold, slack, letters = self.threshold, self.slack, self.letters
        for name, keys, assumed, value, flag in self.columns:
            level = read_level(cells[value], slack, letters) if value >= 0 else None
            if flag >= 0:
                present = read_flag(cells[flag])
            else:
                present = None if level is None else level >= threshold
            if present:
                if not level:  # a flag without a level, or with level 0: present, intensity not scored
                    level = assumed
                    unscored += keys
                for key in keys:
                    levels[key] = level
            elif present is None:
                unknown.append(name)
            else:
                absent.append(name)
        return Labels(
            AUSet.from_keys(levels, unscored) if levels else _NEUTRAL,
            frozenset(unknown) if unknown else _NONE,
            frozenset(absent),
            {},
        )


class ScoreCells:
    """Columns with probabilities or evidence: present from the threshold on, without an intensity.

    ``strict``: present above the threshold only.
    """

    def __init__(self, columns: Sequence[Column], threshold: float, limits: tuple[float, float], strict: bool) -> None:
        self.columns = tuple(columns)
        self.threshold = math.nextafter(threshold, math.inf) if strict else threshold
        self.limits = limits

    def read(self, cells: Sequence[str]) -> Labels:
        """Labels of one row. Raises `RowError` for a cell that is no score."""
        return self.label([read_score(cells[column.value], *self.limits) for column in self.columns])

    def label(self, scores: Sequence[float]) -> Labels:
        """Labels from one score a column; NaN is unknown."""
        levels: dict[Key, float] = {}
        known: dict[str, float] = {}
        absent: list[str] = []
        unknown: list[str] = []
        for (name, keys, assumed, _, _), score in zip(self.columns, scores, strict=True):
            if score != score:  # NaN
                unknown.append(name)
                continue
            known[name] = score
            if score >= self.threshold:
                for key in keys:
                    levels[key] = assumed
            else:
                absent.append(name)
        return Labels(AUSet.from_keys(levels, levels), frozenset(unknown), frozenset(absent), known)


class ListCell:
    """One cell with the scores of all units as the text of a list, possibly nested: ``[[0.1, 0.7, ...]]``."""

    def __init__(self, cell: int, scores: ScoreCells) -> None:
        self.cell = cell
        self.scores = scores
        self.columns = scores.columns

    def read(self, cells: Sequence[str]) -> Labels:
        """Labels of one row. An empty cell (no face) makes all units unknown."""
        text = cells[self.cell].strip()
        if text.lower() in _UNKNOWN_WORDS or text.lower() == "nan":
            return Labels(_NEUTRAL, frozenset(column.name for column in self.columns), _NONE, {})
        parts = text.strip("[] ").split(",")
        if len(parts) != len(self.columns):
            raise RowError("wrong number of scores", f"{len(parts)} in the list, {len(self.columns)} are expected")
        return self.scores.label([read_score(part, *self.scores.limits) for part in parts])


class NotationCell:
    """One cell with FACS notation. What it does not name is neither absent nor unknown: nobody says what was coded."""

    columns: tuple[Column, ...] = ()

    def __init__(self, cell: int, threshold: float) -> None:
        self.cell = cell
        self.threshold = threshold

    def read(self, cells: Sequence[str]) -> Labels:
        """Labels of one row. Raises `RowError` for an empty cell and for text that is no notation."""
        return Labels(read_notation(cells[self.cell], self.threshold), _NONE, _NONE, {})


def read_notation(text: str, threshold: float) -> AUSet:
    """Read FACS notation. Raises `RowError` for an empty text and for anything that is no notation."""
    text = text.strip()
    if text.lower() in _UNKNOWN_WORDS or text.lower() == "nan":
        raise RowError("no label", "empty: write 0 for the neutral face")
    try:
        return from_threshold(AUSet.parse(text), threshold)
    except NotationError as error:
        raise RowError("bad notation", str(error)) from None


def from_threshold(aus: AUSet, threshold: float) -> AUSet:
    """Keep the levels >= ``threshold``, and what is present without an intensity."""
    if all(level >= threshold for level in aus.parts.values()):
        return aus
    kept = {key: level for key, level in aus.parts.items() if level >= threshold or key in aus.unscored}
    return AUSet.from_keys(kept, aus.unscored)

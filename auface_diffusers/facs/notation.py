"""FACS notation: text such as ``"1C+2C+4B+L12D+R14A"`` to levels by (code, part), and back.

    score  := unit ( ("+" | "," | ";" | space) unit )*
    unit   := [side] ["AU" | "AD"] code [level] [lip] ( "@" unit )*
    side   := "L" | "R" (the depicted person's) | "U" one side | "A" both, one stronger | "B" both (default)
    code   := FACS number, or "M" and a number
    level  := "A".."E" | "=" number in 0..5 | "_r=" number | "_c=" 0 or 1
    lip    := ":T" | ":B" | "[top]" | "[bottom]"   for the units whose lips can act alone; a bare "T" is accepted too

A trailing letter is an intensity (``23B`` is tightener at B), a leading one a side. Case and blanks around "+",
"=" and ":" do not matter. Alternates (``51@52``: the coder could not decide) are read as separate scores.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache

from auface_diffusers.facs.levels import LETTERS, MAX_LEVEL
from auface_diffusers.facs.units import ActionUnit, channel_name, units

Key = tuple[str, str]
"""(code, part): part is "" (whole unit), L, R, U or A (sides), T or B (lips)."""
Scores = tuple[dict[Key, float], set[Key]]
"""Levels by key, and the keys whose level was not scored."""

MAX_CHARS = 10_000
MAX_READINGS = 64
_PARTS = ("", "L", "R", "U", "A", "T", "B")
_OVERLAP = {"U": "LRA", "A": "LRU", "L": "UA", "R": "UA"}
OTHER_PART = {"L": "R", "T": "B"}

_SPLIT = re.compile(r"[^\s+,;]+|[+,;]")
_GLUE = re.compile(
    r"(?i)\bA[UD]\s+(?=[\dMLR])|\b(?P<side>[LRU])\s+(?=(?:A[UD]\s*)?\d)|\s{0,20}(?P<mark>[=:@])\s{0,20}"
)
_UNIT = re.compile(
    r"(?P<side>[LRUAB])?(?:A[UD])?(?P<side2>[LR])?(?P<code>M?\d{1,6})"
    r"(?:(?P<letter>[A-E])|_?(?P<column>[RC])?=(?P<value>[-+.\dEINFA]+))?"
    r"(?P<lip>T|B|:T|:B|\[TOP\]|\[BOTTOM\])?",
    re.ASCII,
)
_TRAILING_SIDE = re.compile(r"(?:A[UD])?M?\d+[A-E]?_?[LR]", re.ASCII)
_OTHER_LETTER = re.compile(r"(.*\d)_?([A-Z])")


class NotationError(ValueError):
    """Text that is not FACS notation. ``token`` is the part at fault, ``column`` where it starts (1-based)."""

    def __init__(self, message: str, token: str = "", column: int = 0) -> None:
        shown = token if len(token) <= 40 else token[:37] + "..."
        super().__init__(f"{shown!r} at column {column}: {message}" if column else message)
        self.token = token
        self.column = column


class NotationWarning(UserWarning):
    """Notation that could be read, but is likely not what was meant."""


def parse(text: str) -> Scores:
    """Read one score; of alternates the first counts, with a `NotationWarning`."""
    readings = parse_alternatives(text)
    if len(readings) > 1:
        warnings.warn(
            f"{text!r} has alternates (@): reading the first; AUSet.parse_alternatives gives all {len(readings)}",
            NotationWarning,
            stacklevel=3,
        )
    return readings[0]


def parse_alternatives(text: str, *, warn: bool = True) -> list[Scores]:
    """Read a score with alternates: one (levels, unscored) pair for each way to choose them.

    ``warn=False`` is for text that this library wrote: no doubt about what was meant.
    """
    choices: list[list[tuple[tuple[dict[Key, float], bool], str, int]]] = []
    count = 1
    for token in _tokens(text):
        options = []
        for part, column in _alternates(*token):
            if warn:
                _warn_of(part)
            options.append((_read_unit(part, column), part, column))
        choices.append(options)
        count *= len(options)
        if count > MAX_READINGS:
            raise NotationError(f"more than {MAX_READINGS} readings: write fewer alternates (@)", "@", 1)
    return [_join(reading) for reading in itertools.product(*choices)]


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    """Yield (unit token, column); blanks inside a unit are closed up first, columns stay those of ``text``."""
    if not isinstance(text, str):
        raise NotationError(f"notation is text such as '1C+2C+L12D', not {type(text).__name__}")
    if len(text) > MAX_CHARS:
        raise NotationError(f"{len(text)} characters are too long for one score: the limit is {MAX_CHARS}")
    closed: list[str] = []
    columns: list[int] = []
    position = 0
    for glue in _GLUE.finditer(text):
        kept = glue["side"] or glue["mark"] or ""
        closed += [text[position : glue.start()], kept]
        columns += [*range(position, glue.start()), *([text.index(kept, glue.start())] if kept else [])]
        position = glue.end()
    closed.append(text[position:])
    columns += range(position, len(text))

    found = False
    separator = True  # a unit may come next, and a "+" may not
    last = ("", 0)
    for match in _SPLIT.finditer("".join(closed)):
        token, column = match.group(), columns[match.start()] + 1
        if token in "+,;":
            if separator:
                raise NotationError("a unit is missing before it, such as 12 or L12D", token, column)
            separator = True
        else:
            found, separator = True, False
            yield token, column
        last = (token, column)
    if not found:
        raise NotationError("empty score: write units such as '1C+2C+L12D', or '0' for the neutral face")
    if separator:
        raise NotationError("a unit is missing after it, such as 12 or L12D", *last)


def _alternates(token: str, column: int) -> list[tuple[str, int]]:
    parts = []
    start = column
    for part in token.split("@"):
        if not part:
            raise NotationError("an alternate is missing: write 51@52", token, start)
        parts.append((part, column))
        column += len(part) + 1
    return parts


def _read_unit(token: str, column: int) -> tuple[dict[Key, float], bool]:
    """Read one unit: ({key: level}, whether the level was scored)."""
    match = _UNIT.fullmatch(token.upper())
    if match is None:
        raise NotationError(_explain(token), token, column)
    unit = _lookup(match["code"], token, column)
    part = _part(unit, match["side"] or match["side2"] or "", (match["lip"] or "").strip(":[]")[:1], token, column)
    if match["side"] and match["side2"]:
        raise NotationError("a unit has one side: L, R, U, A or B", token, column)
    level = _level(match, token, column)
    keys = [(unit.code, p) for p in (unit.part_names if part == "both" else (part,))]
    return {key: unit.unscored_level if level is None else level for key in keys}, level is not None


def _warn_of(token: str) -> None:
    """Warn of a unit that can be read, but that people write for something else."""
    match = _UNIT.fullmatch(token.upper())
    if match is None:
        return
    unit = units.get(match["code"].lstrip("0"))
    if unit is not None and unit.mistaken_for:
        right = units[unit.mistaken_for]
        warnings.warn(
            f"{token}: {unit} is what FACS calls it; if a circulating sheet gave you {unit.number} for "
            f"{right.name.lower()}, write {right.code}",
            NotationWarning,
            stacklevel=5,
        )
    if match["lip"] == "B" and match["letter"]:
        warnings.warn(f"{token}: read as bottom lip; write {token[:-1]}:B", NotationWarning, stacklevel=5)


def _lookup(code: str, token: str, column: int) -> ActionUnit:
    code = "M" + code[1:].lstrip("0") if code[0] == "M" else code.lstrip("0") or "0"
    if code in units:
        return units[code]
    if code in units.missing:
        raise NotationError(units.missing[code], token, column)
    if f"M{code}" in units:
        raise NotationError(f"FACS has it as movement code only: write M{code}", token, column)
    raise NotationError(f"FACS has no unit {code}; it has {_known_codes()}", token, column)


@lru_cache(maxsize=1)
def _known_codes() -> str:
    """All codes as ranges: ``"0-2, 4-46, ..., M55-M57"``."""
    ranges: list[list[ActionUnit]] = []
    for unit in units.values():
        if ranges and unit.code[0] == ranges[-1][-1].code[0] == "M" and unit.number == ranges[-1][-1].number + 1:
            ranges[-1].append(unit)
        elif ranges and "M" not in unit.code + ranges[-1][-1].code and unit.number == ranges[-1][-1].number + 1:
            ranges[-1].append(unit)
        else:
            ranges.append([unit])
    return ", ".join(r[0].code if len(r) == 1 else f"{r[0].code}-{r[-1].code}" for r in ranges)


def _part(unit: ActionUnit, side: str, lip: str, token: str, column: int) -> str:
    """Part of the key that side and lip mark: "", L, R, U, A, T, B, or "both"."""
    if side and unit.parts != "sides":
        raise NotationError(f"{unit} has no sides: write {unit.code} without {side}", token, column)
    if lip and unit.parts != "lips":
        lips = ", ".join(u.code for u in units.values() if u.parts == "lips")
        raise NotationError(f"{unit} has no lips: T and B go with {lips}", token, column)
    if unit.parts == "sides":
        if side == "B" and unit.one_sided:
            raise NotationError(f"{unit} is one-sided: write L{unit.code} or R{unit.code}", token, column)
        if side == "A" and unit.one_sided:
            raise NotationError(f"{unit} is one-sided: write L{unit.code} or R{unit.code}", token, column)
        return side if side in ("L", "R", "U", "A") else "U" if unit.one_sided else "both"
    return lip or ("both" if unit.parts == "lips" else "")


def _level(match: re.Match[str], token: str, column: int) -> float | None:
    if match["letter"]:
        return float(LETTERS.index(match["letter"]) + 1)
    if match["value"] is None:
        return None
    try:
        level = float(match["value"])
    except ValueError:
        raise NotationError("the level is not a number: write =2.3 or a letter A..E", token, column) from None
    if match["column"] == "C":
        if level not in (0, 1):
            raise NotationError("_c is presence: 0 or 1", token, column)
        return None if level else 0.0
    if not 0 <= level <= MAX_LEVEL:
        raise NotationError("the level is outside 0..5 (0 = absent, 1..5 = A..E)", token, column)
    return level


def _join(reading: Iterable[tuple[tuple[dict[Key, float], bool], str, int]]) -> Scores:
    levels: dict[Key, float] = {}
    unscored: set[Key] = set()
    zero: tuple[str, int] | None = None
    for (scores, scored), token, column in reading:
        for key, level in scores.items():
            if key[0] == "0":
                zero = (token, column)
                continue
            if levels.get(key, level) != level:
                raise NotationError(f"{channel_name(*key)} is scored twice, at different levels", token, column)
            if scored:
                unscored.discard(key)
            elif key not in levels:
                unscored.add(key)
            levels[key] = level
            if any((key[0], part) in levels for part in _OVERLAP.get(key[1], ())):
                raise NotationError(
                    f"{token} overlaps another score of {key[0]}: write L{key[0]} and R{key[0]}", token, column
                )
    if zero and any(levels.values()):
        raise NotationError("0 is the neutral face: it stands alone", *zero)
    return levels, unscored


def _explain(token: str) -> str:
    """Say what is wrong with a token that is no unit, and the way out."""
    upper = token.upper()
    if re.fullmatch(r"[A-E]", upper):
        return f"a letter without a unit: write the intensity next to the code, as in 12{upper}"
    if re.fullmatch(r"[A-ELRUBT]*", upper) or not any(c.isdigit() for c in upper):
        return "a unit is a FACS number such as 12 or L12D"
    if _TRAILING_SIDE.fullmatch(upper):
        return f"the side comes first: write {upper[-1]}{upper[:-1].rstrip('_')}"
    letter = _OTHER_LETTER.fullmatch(upper)
    if letter and letter[2] not in LETTERS:
        return f"{letter[2]} is no intensity: A (trace), B, C, D or E (maximum)"
    return "not a unit: [L|R|U|A|B] code [A..E or =0..5] [:T or :B], such as 12, L12D, 12=2.3, 28C:B"


def parse_letter(letter: str, name: str) -> float:
    """Level of an intensity letter. Raises `NotationError` for anything but A..E."""
    if len(letter) != 1 or letter.upper() not in LETTERS:
        raise NotationError(f"level {letter!r} of {name} is no intensity: A, B, C, D, E or a number in 0..5")
    return float(LETTERS.index(letter.upper()) + 1)


@lru_cache(maxsize=4096)
def parse_name(name: str, all_parts: bool = False) -> tuple[Key, ...]:
    """Keys of a unit or channel name without a level: ``"12"`` gives both sides, ``"L12"`` one, ``"28:T"`` one lip.

    ``all_parts``: a bare code also gives the parts that do not say which side (U, A).
    """
    match = _UNIT.fullmatch(name.strip().upper())
    if match is None or match["letter"] or match["value"] is not None:
        raise NotationError("not a unit or channel name such as 12, L12 or 28:T", name, 1)
    scores, _ = _read_unit(name.strip(), 1)
    keys = tuple(scores)
    if all_parts and not (match["side"] or match["side2"] or match["lip"]):
        code = keys[0][0]
        keys = tuple((code, part) for part in _PARTS)
    return keys


def split_name(name: str) -> Key:
    """``"L12"`` to ``("12", "L")``, ``"12"`` to ``("12", "")``."""
    keys = parse_name(name, all_parts=True)
    return keys[0] if len(keys) == 1 else (keys[0][0], "")


@lru_cache(maxsize=1024)
def sort_key(key: Key) -> tuple[int, int]:
    """Canonical order: the table's, then L, R, U, A or T, B."""
    return units[key[0]].index, _PARTS.index(key[1])


def joined(levels: Mapping[Key, float], unscored: frozenset[Key]) -> list[tuple[str, float, bool]]:
    """(name, level, scored) of every score, equal parts of a unit as one, in canonical order."""
    out: list[tuple[str, float, bool]] = []
    done: set[Key] = set()
    for key, level in levels.items():
        if key in done:
            continue
        code, part = key
        scored = key not in unscored
        other = (code, OTHER_PART.get(part, ""))
        if levels.get(other) == level and (other not in unscored) == scored and not units[code].one_sided:
            done.add(other)
            out.append((code, level, scored))
        else:
            out.append((channel_name(code, part), level, scored))
    return out


def format_scores(levels: Mapping[Key, float], unscored: frozenset[Key]) -> str:
    """Canonical notation of levels; ``"0"`` if there are none."""
    tokens = []
    for name, level, scored in joined(levels, unscored):
        mark = "" if not scored else LETTERS[int(level) - 1] if level.is_integer() else f"={level!r}"
        code, colon, lip = name.partition(":")
        tokens.append(code + mark + colon + lip)
    return "+".join(tokens) or "0"

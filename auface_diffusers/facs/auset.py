"""`AUSet`: which action units are active, on which side, at which level."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Literal

from auface_diffusers.facs import notation
from auface_diffusers.facs.levels import MAX_LEVEL, check_level, grade
from auface_diffusers.facs.notation import Key
from auface_diffusers.facs.units import channel_name, units

_SWAP = {"L": "R", "R": "L"}
_MERGE: Mapping[str, Callable[[float, float], float]] = {
    "max": max,
    "add": lambda a, b: min(MAX_LEVEL, a + b),
    "replace": lambda a, b: b or a,
}


class AUSet:
    """An immutable set of action units with levels: the currency of the whole library.

    Levels are FACS levels: 0 absent, 1..5 = A..E, floats allowed. Left and right are the depicted person's.

        >>> aus = AUSet.parse("1C+2C+4B+L12D")
        >>> aus.level("L12"), aus.level("R12")
        (4.0, 0.0)
        >>> aus.mirror().format()
        '1C+2C+4B+R12D'
        >>> AUSet({"12": 2.3, "L1": "B"}).format()
        'L1B+12=2.3'

    A unit scored without an intensity ("12") counts as C everywhere (a bare 43 as E: closed eyes); the set
    remembers that the level is assumed, so that texts do not claim it (`unscored`). Equality and hash compare
    levels only. Where sides are told (L, R), a score of the same unit that tells none (U, A) is dropped.

    Args:
        levels: channel or unit name (``"L12"``, ``"12"``, ``"28:T"``) to a level: a number in [0, 5], a letter
            A..E, or None for "present, intensity not scored". Level 0 is the same as leaving the unit out.

    Raises:
        NotationError: for a name that is no unit; `ValueError` for a level outside [0, 5].
    """

    __slots__ = ("__dict__", "_levels", "_unscored")

    _levels: dict[Key, float]
    _unscored: frozenset[Key]

    def __init__(self, levels: Mapping[str, float | str | None] | None = None) -> None:
        scores: dict[Key, float] = {}
        unscored: set[Key] = set()
        for name, level in (levels or {}).items():
            keys = notation.parse_name(str(name))
            if isinstance(level, str):
                level = notation.parse_letter(level, str(name))
            for key in keys:
                if level is None and key not in scores:
                    unscored.add(key)
                elif level is not None:
                    unscored.discard(key)
                scores[key] = units[key[0]].unscored_level if level is None else check_level(level)
        self._fill(scores, unscored)

    def _fill(self, levels: Mapping[Key, float], unscored: Iterable[Key], *, ordered: bool = False) -> None:
        if ordered:
            self._levels = dict(levels)
        else:
            kept = [key for key, level in levels.items() if level > 0 and key[0] != "0"]
            for vague, clear in (("A", "LR"), ("U", "LRA")):  # a side that is told overrides one that is not
                told = {code for code, part in kept if part and part in clear}
                kept = [key for key in kept if key[1] != vague or key[0] not in told]
            self._levels = {key: levels[key] for key in sorted(kept, key=notation.sort_key)}
        self._unscored = frozenset(key for key in unscored if self._levels.get(key) == units[key[0]].unscored_level)

    @classmethod
    def from_keys(cls, levels: Mapping[Key, float], unscored: Iterable[Key] = (), *, ordered: bool = False) -> AUSet:
        """Build a set from checked ``(code, part) -> level`` pairs, ``part`` being ``""``, L, R, U, A, T or B.

        ``ordered``: the levels are positive and in canonical order already, as in ``parts``.
        """
        made = cls.__new__(cls)
        made._fill(levels, unscored, ordered=ordered)
        return made

    @classmethod
    def parse(cls, text: str) -> AUSet:
        """Read FACS notation such as ``"1C+2C+4B+L12D+R14A"``, ``"AU12_r=2.3, AU6"`` or ``"28C:B"``.

        Of alternates (``51@52``) the first counts, with a warning; `parse_alternatives` returns every reading.

        Raises:
            NotationError: names the token, its column and what is allowed.
        """
        scores, unscored = notation.parse(text)
        return cls.from_keys(scores, unscored)

    @classmethod
    def parse_alternatives(cls, text: str) -> tuple[AUSet, ...]:
        """Read notation with alternates: ``"12C+51B@52B"`` gives two sets, in the order written."""
        return tuple(cls.from_keys(scores, unscored) for scores, unscored in notation.parse_alternatives(text))

    @classmethod
    def from_vector(cls, values: Sequence[float], channels: Sequence[str] | None = None) -> AUSet:
        """Inverse of `vector`. ``values``: one level a channel, 0..5; ``channels`` defaults to ``units.channels``."""
        channels = units.channels if channels is None else channels
        if len(values) != len(channels):
            raise ValueError(f"{len(values)} values for {len(channels)} channels: give one level a channel")
        return cls({name: float(value) for name, value in zip(channels, values, strict=True)})

    # --- reading -----------------------------------------------------------------------------------------------------

    def format(self) -> str:
        """Canonical notation, ``"0"`` for the neutral face: ``AUSet.parse(aus.format()) == aus``."""
        return notation.format_scores(self._levels, self._unscored)

    def items(self) -> tuple[tuple[str, float], ...]:
        """Pairs of name and level, equal sides and lips joined: ``(("1", 3.0), ("L12", 4.0))``."""
        return tuple((name, level) for name, level, _ in notation.joined(self._levels, self._unscored))

    @property
    def parts(self) -> Mapping[Key, float]:
        """The levels by ``(code, part)``, nothing joined; for code that works side by side."""
        return MappingProxyType(self._levels)

    @property
    def unscored(self) -> frozenset[Key]:
        """The ``(code, part)`` pairs whose level was not scored but assumed to be C."""
        return self._unscored

    @cached_property
    def codes(self) -> tuple[str, ...]:
        """Codes of the active units, in table order, each once."""
        return tuple(dict.fromkeys(code for code, _ in self._levels))

    def level(self, name: str | int) -> float:
        """Level of a unit or channel, 0 if absent. A unit name gives the strongest of its parts."""
        code, part = notation.split_name(str(name))
        return max((lv for (c, p), lv in self._levels.items() if c == code and part in ("", p)), default=0.0)

    def vector(self, channels: Sequence[str] | None = None) -> tuple[float, ...]:
        """Levels in the order of ``channels`` (default ``units.channels``), 0..5 each.

        Units that a still cannot show have no channel and are left out. Raises `ValueError` if a score does not say
        which side (U, A): see `choose_side`.
        """
        channels = units.channels if channels is None else channels
        if any(part in ("U", "A") for _, part in self._levels):
            raise ValueError(f"{self.format()}: U and A do not say which side; call choose_side('L') or ('R') first")
        by_channel = {channel_name(*key): level for key, level in self._levels.items()}
        return tuple(by_channel.get(name, 0.0) for name in channels)

    # --- arithmetic: every operation returns a new set ------------------------------------------------------

    def scale(self, factor: float) -> AUSet:
        """Multiply every level by ``factor`` >= 0; levels stop at 5. A factor of 1 changes nothing."""
        if not 0 <= factor < float("inf"):
            raise ValueError(f"scale factor {factor!r} must be a finite number >= 0")
        scaled = {key: min(MAX_LEVEL, level * factor) for key, level in self._levels.items()}
        return AUSet.from_keys(scaled, self._unscored if factor == 1 else ())

    def merge(self, other: AUSet, how: Literal["max", "add", "replace"] = "max") -> AUSet:
        """Join two sets.

        Where both have a part, ``"max"`` keeps the stronger, ``"add"`` sums up to 5, ``"replace"`` takes the other's.
        """
        if how not in _MERGE:
            raise ValueError(f"merge how={how!r}: allowed are {', '.join(_MERGE)}")
        levels = dict(self._levels)
        for key, level in other._levels.items():
            levels[key] = _MERGE[how](levels.get(key, 0.0), level)
        unscored = {
            key
            for key in self._unscored | other._unscored
            if all(key in s._unscored for s in (self, other) if key in s._levels)
        }
        return AUSet.from_keys(levels, unscored)

    def blend(self, other: AUSet, t: float) -> AUSet:
        """Go from this set (t = 0) to ``other`` (t = 1), linear in level. Raises `ValueError` outside [0, 1]."""
        if not 0 <= t <= 1:
            raise ValueError(f"blend t={t!r} is outside 0..1")
        if t in (0, 1):
            return other if t else self
        keys = self._levels.keys() | other._levels.keys()
        return AUSet.from_keys(
            {key: (1 - t) * self._levels.get(key, 0.0) + t * other._levels.get(key, 0.0) for key in keys}
        )

    def mirror(self) -> AUSet:
        """Swap left and right, head and gaze to the side included."""
        return AUSet.from_keys(
            {_mirrored(key): level for key, level in self._levels.items()}, map(_mirrored, self._unscored)
        )

    def only(self, names: str | int | Iterable[str | int]) -> AUSet:
        """Keep the named units (``12``) or channels (``"L12"``); the rest is dropped."""
        wanted = _keys_of(names)
        return self._where(lambda key: key in wanted)

    def without(self, names: str | int | Iterable[str | int]) -> AUSet:
        """Drop the named units (``12``) or channels (``"L12"``)."""
        unwanted = _keys_of(names)
        return self._where(lambda key: key not in unwanted)

    def round(self) -> AUSet:
        """Bring every level to its nearest letter A..E; a trace never becomes nothing."""
        rounded = {key: float(grade(level)) for key, level in self._levels.items()}
        return AUSet.from_keys(rounded, self._unscored, ordered=True)

    def choose_side(self, side: Literal["L", "R"]) -> AUSet:
        """Put "one side" (U) on ``side``, and for "both, one stronger" (A) make ``side`` the stronger by one level."""
        if side not in _SWAP:
            raise ValueError(f"side {side!r}: allowed are 'L' and 'R' (the depicted person's)")
        levels: dict[Key, float] = {}
        for (code, part), level in self._levels.items():
            if part == "A":
                _raise(levels, (code, _SWAP[side]), max(1.0, level - 1))
            _raise(levels, (code, side if part in ("U", "A") else part), level)
        return AUSet.from_keys(levels, self._unscored)

    def _where(self, keep: Callable[[Key], bool]) -> AUSet:
        kept = {key: level for key, level in self._levels.items() if keep(key)}
        return AUSet.from_keys(kept, self._unscored, ordered=True)

    # --- object protocol ------------------------------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return self._levels == other._levels if isinstance(other, AUSet) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self._levels.items()))

    def __bool__(self) -> bool:
        return bool(self._levels)

    def __len__(self) -> int:
        return len(self.items())

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self.items())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str | int) and self.level(name) > 0

    def __str__(self) -> str:
        return self.format()

    def __repr__(self) -> str:
        return f"AUSet.parse({self.format()!r})"


def _keys_of(names: str | int | Iterable[str | int]) -> set[Key]:
    """Keys of one name or several, a bare code standing for all of its parts."""
    listed = [names] if isinstance(names, str | int) else names
    return {key for name in listed for key in notation.parse_name(str(name), all_parts=True)}


def _mirrored(key: Key) -> Key:
    code, part = key
    return units[code].mirror or code, _SWAP.get(part, part)


def _raise(levels: dict[Key, float], key: Key, level: float) -> None:
    levels[key] = max(levels.get(key, 0.0), level)

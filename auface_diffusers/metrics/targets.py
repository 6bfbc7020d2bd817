"""What is asked of a face, unit by unit: the targets of AAAD (our definition, v1, sections 2, 7, 8 and 9).

Shapes: N items, C columns. A column is a channel of ``units.channels`` such as ``"L12"``, or, for detectors that see
no sides, the bare code of a unit such as ``"12"``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from auface_diffusers.facs import AUSet, Resolution, read_text, resolve, units
from auface_diffusers.facs.units import PARTS, channel_name

OFF, ON, UNSPECIFIED, MASKED = 0, 1, -1, -2
"""States of a column: absent, there, not spoken of, and not to be judged."""
TRACE = (0.5, 1.5)
"""A unit is on from the upper level, B, and off up to the lower one; the trace between is masked (our choice, as
DISFA's labels are made binary): whether it shows is a matter of taste."""
World = Literal["closed", "open"]
Reading = Literal["resolved", "raw"]


@dataclass(frozen=True)
class Targets:
    """What N items ask for.

    Attributes:
        columns: names of the C columns.
        states: (N, C) int8 of `ON`, `OFF`, `UNSPECIFIED` and `MASKED`.
        levels: (N, C) float64 in 0..5, the level asked for; NaN where nothing was.
    """

    columns: tuple[str, ...]
    states: np.ndarray
    levels: np.ndarray

    def __len__(self) -> int:
        return len(self.states)

    def rows(self, chosen: np.ndarray | Sequence[int]) -> Targets:
        """Some of the items, by numbers or a mask."""
        return Targets(self.columns, self.states[chosen], self.levels[chosen])


def spec_targets(
    scores: Sequence[AUSet],
    columns: Sequence[str] | None = None,
    *,
    world: World = "closed",
    reading: Reading = "resolved",
    absent: Sequence[Iterable[str]] | None = None,
    unknown: Sequence[Iterable[str]] | None = None,
    covered: Iterable[str] | None = None,
) -> Targets:
    """Targets of scores (spec mode).

    Args:
        scores: N of them, as given; they are resolved here.
        columns: names of the columns; None takes ``units.channels``.
        world: "closed": what a score does not name is off. "open": it is not spoken of.
        reading: "resolved" asks for what is left after the rules; "raw" for all that was given, which a face may be
            unable to show.
        absent: codes or channels of each item that are known to be off, for the open world.
        unknown: those of each item without a label, such as the 9 of BP4D: masked.
        covered: columns that the detector can tell; the others are masked. None is all.

    Units that cannot be seen are masked in both readings: what a visibility code (70 to 74) or a rule of class C
    hides, and a trace.

    Raises:
        ValueError: a column or code that does not exist, or lists of other lengths.
    """
    names = tuple(units.channels if columns is None else columns)
    parts = [_parts(name) for name in names]
    for name, given in (("absent", absent), ("unknown", unknown)):
        if given is not None and len(given) != len(scores):
            raise ValueError(f"{name}: {len(given)} for {len(scores)} scores: give one each")
    if world not in ("closed", "open") or reading not in ("resolved", "raw"):
        raise ValueError(f"world {world!r}, reading {reading!r}: closed or open, and resolved or raw")
    states = np.full((len(scores), len(names)), UNSPECIFIED, dtype=np.int8)
    levels = np.full((len(scores), len(names)), np.nan)
    blind = _not_covered(names, covered)
    for row, score in enumerate(scores):
        done = resolve(score)
        shown = done.effective if reading == "resolved" else done.raw
        channel = dict(zip(units.channels, shown.vector(), strict=True))
        named = _names(absent[row]) if absent is not None else set()
        hidden = _hidden(done) | (_names(unknown[row]) if unknown is not None else set())
        for column, own in enumerate(parts):
            found = [channel[part] for part in own]
            if hidden & set(own) or blind[column]:
                states[row, column] = MASKED
            elif max(found) > 0 or world == "closed" or set(own) <= named:
                states[row, column] = _state(found)
                levels[row, column] = max(found) if min(found) == max(found) or len(own) == 1 else np.nan
    return Targets(names, states, levels)


def text_targets(texts: Sequence[str], columns: Sequence[str] | None = None, *, world: World = "open") -> Targets:
    """Targets of texts (text mode), as an independent parser reads them; see `spec_targets`.

    Score `parse_accuracy` beside it: the parser's mistakes would else look like those of a generator.
    """
    readings = [read_text(text) for text in texts]
    return spec_targets([AUSet.from_keys(one.parts, one.unscored) for one in readings], columns, world=world)


def parse_accuracy(texts: Sequence[str], scores: Sequence[AUSet]) -> float:
    """Share of texts that are read as what their scores show, to the letter of each level.

    Raises:
        ValueError: no texts, or not as many as scores.
    """
    if not texts or len(texts) != len(scores):
        raise ValueError(f"{len(texts)} texts and {len(scores)} scores: give as many, at least one")
    right = [read_text(text) == resolve(score).effective.round() for text, score in zip(texts, scores, strict=True)]
    return float(np.mean(right))


def _state(levels: Sequence[float]) -> int:
    """Of all parts of a column alike; one side of two is no answer for a column without sides."""
    if min(levels) >= TRACE[1]:
        return ON
    return OFF if max(levels) <= TRACE[0] else MASKED


def _hidden(done: Resolution) -> set[str]:
    """Channels that a face cannot show beside the rest of its score."""
    found: set[str] = set()
    for code in done.raw.codes:  # a visibility code hides what it does not drop as well
        found.update(*map(_region, units[code].hides))
    for hit in done.trace:
        if hit.action == "hidden" or (hit.rule.rule_class == "C" and hit.action == "dropped"):
            found |= {channel_name(code, part) for code, part in hit.dropped_keys}
        if hit.action == "noted":
            for said in hit.detail:
                kind, _, what = said.partition(" ")
                if kind == "hides":
                    found |= _region(what)
    return found


@lru_cache(maxsize=64)
def _region(name: str) -> frozenset[str]:
    """Channels of a region of the face, or of its "left side" or "right side"."""
    if name in ("left side", "right side"):
        return frozenset(channel for channel in units.channels if channel[0] == name[0].upper())
    codes = {unit.code for unit in units.values() if unit.region == name}
    return frozenset(channel for channel in units.channels if channel.lstrip("LR").split(":")[0] in codes)


def _names(given: Iterable[str]) -> set[str]:
    return {channel for name in given for channel in _parts(name)}


@lru_cache(maxsize=512)
def _parts(name: str) -> tuple[str, ...]:
    """Channels of a column. Raises `ValueError` for a name that is none."""
    if name in units.channels:
        return (name,)
    if name in units and units[name].parts in PARTS:
        found = [channel_name(name, part) for part in PARTS[units[name].parts]]
        if all(channel in units.channels for channel in found):
            return tuple(found)
    raise ValueError(f"column {name!r}: give a channel such as 'L12', or a code such as '12' for both sides")


def _not_covered(names: Sequence[str], covered: Iterable[str] | None) -> list[bool]:
    if covered is None:
        return [False] * len(names)
    seen = set(covered)
    if unknown := seen - set(names):
        raise ValueError(f"covered: {', '.join(sorted(unknown))} are no columns; there are {', '.join(names)}")
    return [name not in seen for name in names]


def implied(score: AUSet) -> set[str]:
    """Channels that a detector may report without their unit, by rules that say "mimics": 12D looks like 6."""
    found: set[str] = set()
    for hit in resolve(score).trace:
        found |= _names(said.removeprefix("mimics ") for said in hit.detail if said.startswith("mimics "))
    return found


def conflict_rules(score: AUSet) -> tuple[str, ...]:
    """Ids of the rules of class S and F that the score fires, each once; a conflict is one that fires any."""
    return tuple(dict.fromkeys(hit.id for hit in resolve(score).conflicts()))


def conflict_units(score: AUSet) -> dict[str, list[tuple[frozenset[str], ...]]]:
    """For each of `conflict_rules`, and each time it fires: the channels of every unit involved."""
    found: dict[str, list[tuple[frozenset[str], ...]]] = {}
    for hit in resolve(score).conflicts():
        own: dict[str, set[str]] = {}
        for code, part in hit.keys:
            own.setdefault(code, set()).add(channel_name(code, part))
        found.setdefault(hit.id, []).append(tuple(frozenset(names) for names in own.values()))
    return found

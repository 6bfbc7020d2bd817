"""From a resolution to statements: what is said in one clause, about which units, on which part, at which levels."""

from __future__ import annotations

from typing import NamedTuple

from auface_diffusers.facs.lexicon import Lexicon, level_word
from auface_diffusers.facs.notation import OTHER_PART, Key
from auface_diffusers.facs.resolution import Resolution

_NOTHING: frozenset[str] = frozenset()


class Statement(NamedTuple):
    """One clause to be.

    ``kind``: "unit" (one action), "combo" (a distinctive combination) or "tension" (an action whose movement an
    opposed one hides). ``part``: both, L, R, U, A, T, B or "". ``words``: the level word of each code (A..E or
    "unscored").
    ``rule``: id of the rule behind a combination. ``muted``: kinds of claim not to make.
    """

    kind: str
    codes: tuple[str, ...]
    part: str
    words: tuple[str, ...]
    keys: tuple[Key, ...]
    rule: str
    muted: frozenset[str]


def statements(resolution: Resolution, lexicon: Lexicon) -> list[Statement]:
    """Everything to be said about the effective score, from the top of the face down, each part of a unit once."""
    levels = resolution.effective.parts
    unscored = resolution.effective.unscored
    neutral, muted = resolution.neutral, resolution.muted
    found: list[Statement] = []
    done: set[Key] = set()
    for merge in resolution.merges:
        first = {key[0]: key for key in reversed(merge.keys)}
        words = tuple(level_word(levels[first[code]], first[code] not in unscored) for code in merge.codes)
        found.append(Statement("combo", merge.codes, merge.side or "both", words, merge.keys, merge.rule.id, _NOTHING))
        done.update(merge.keys)
    for key, level in levels.items():
        if key in done:
            continue
        code, part = key
        scored, hidden, silent = key not in unscored, key in neutral, muted.get(key, _NOTHING)
        keys: tuple[Key, ...] = (key,)
        other = (code, OTHER_PART.get(part, ""))
        if (
            other[1]
            and other not in done
            and levels.get(other) == level
            and (other not in unscored, other in neutral, muted.get(other, _NOTHING)) == (scored, hidden, silent)
        ):
            keys, part = (key, other), "both"  # two sides that are alike in everything are said as one
            done.add(other)
        kind = "tension" if hidden else "unit"
        found.append(Statement(kind, (code,), part, (level_word(level, scored),), keys, "", silent))
    place = lexicon.place_of
    if len(found) > 1:
        found.sort(key=lambda s: (place[s.codes[0]][:2], s.kind == "tension", place[s.codes[0]][2]))
    return found

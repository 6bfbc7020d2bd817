"""The lexicon: phrases by unit and combination, and the words of the levels, read once from ``lexicon/en.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from auface_diffusers.facs.levels import LETTERS, grade
from auface_diffusers.facs.units import load_table, units

UNSCORED = "unscored"


class Sign(NamedTuple):
    """What follows from an action: said from ``level`` on unless its kind of ``claim`` is muted."""

    level: int
    claim: str
    text: str


@dataclass(frozen=True, eq=False)
class Entry:
    """Phrases of one unit or combination; the fields are explained in the lexicon file."""

    codes: tuple[str, ...]
    say: str = ""
    by_level: tuple[str, ...] = ()  # A..E, for a unit said differently at each level
    compact_by_level: tuple[str, ...] = ()
    signs: tuple[Sign, ...] = ()
    noun: str = ""
    muscle: str = ""
    compact: str = ""
    tense: str = ""
    short: str = ""
    tags: str = ""
    tags_below: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, eq=False)
class Lexicon:
    """All phrases. ``levels`` has the words of the levels, ``frame`` those around the clauses.

    ``place_of`` gives a code's place in a text: its zone, its region there, its number; ``clip_tokens`` the words
    that CLIP spells with several tokens.
    """

    units: Mapping[str, Entry]
    combos: Mapping[tuple[str, ...], Entry]
    levels: Mapping[str, Any]
    frame: Mapping[str, Any]
    clip_tokens: Mapping[str, int]
    place_of: Mapping[str, tuple[int, int, int]]

    def adverbs(self, level: str) -> tuple[str, ...]:
        """Adverbs of a level letter, the canonical one first; an unscored level has none."""
        return tuple(self.levels["adverbs"].get(level, ("",)))


@lru_cache(maxsize=1)
def lexicon() -> Lexicon:
    """Load the English lexicon. Raises `ValueError` if a unit has no entry or an entry names an unknown unit."""
    table = load_table("lexicon/en.toml")
    entries = {code: _entry((code,), row) for code, row in table["unit"].items()}
    missing = [code for code in units if code not in entries and code != "0"]
    unknown = [code for code in entries if code not in units]
    if missing or unknown:
        raise ValueError(f"lexicon/en.toml: no entry for {missing}, unknown {unknown}")
    combos = {codes: _entry(codes, row) for name, row in table["combo"].items() for codes in [tuple(name.split("+"))]}
    zones = table["frame"]["zones"]
    regions = {region: (zone, at) for zone, names in enumerate(zones) for at, region in enumerate(names)}
    return Lexicon(
        units=entries,
        combos=combos,
        levels=table["levels"],
        frame=table["frame"],
        clip_tokens=table["clip_tokens"],
        place_of={code: (*regions[units[code].region], units[code].index) for code in entries},
    )


def _entry(codes: tuple[str, ...], row: dict[str, Any]) -> Entry:
    by_level = tuple(row.pop(letter) for letter in LETTERS if letter in row)
    compact = tuple(row.pop(f"compact_{letter}") for letter in LETTERS if f"compact_{letter}" in row)
    below = tuple((level, text) for level, text in row.pop("tags_below", ()))
    signs = tuple(Sign(*sign) for sign in row.pop("signs", ()))
    return Entry(codes=codes, by_level=by_level, compact_by_level=compact, signs=signs, tags_below=below, **row)


def level_word(level: float, scored: bool) -> str:
    """Letter that the level's words are filed under; ``"unscored"`` if the intensity was not scored."""
    return LETTERS[grade(level) - 1] if scored else UNSCORED

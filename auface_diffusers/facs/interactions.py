"""The interaction rules, read once from ``interactions.toml`` and sorted into the cases that `resolve` runs over."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from auface_diffusers.facs import notation
from auface_diffusers.facs.notation import Key
from auface_diffusers.facs.units import load_table, units

CLASSES = {
    "X": "exclusive",
    "S": "same muscle, opposed",
    "F": "same feature, opposed",
    "C": "subsumes or hides",
    "N": "new look",
}
_RULE_FIELDS = {"id", "class", "title", "why", "grade", "sources", "reading"}
_CASE_FIELDS = {
    "hide", "contest", "tie", "beats", "min", "both_eyes", "oppose", "steady", "allow", "merge", "merge_min",
    "mute", "note", "absent", "mimics", "hides", "corrective", "unless",
}  # fmt: skip


@dataclass(frozen=True, eq=False)  # eq=False here and elsewhere: there is one object a row, and the import is cheaper
class Rule:
    """One rule of ``interactions.toml`` (an id can have several cases); the file explains the fields."""

    id: str
    rule_class: str
    title: str
    why: str
    grade: str
    sources: tuple[str, ...]
    reading: str
    order: int


class Case(NamedTuple):
    """One thing a rule says about a few codes. ``mask`` has the bits of the codes that must all be active."""

    rule: Rule
    mask: int
    members: tuple[Key, ...]
    unless: int = 0
    minimum: int = 0
    option: Any = None


class Spots(NamedTuple):
    """Where a combination can stand: on both sides (or in the middle) and, if all its units have sides, on one.

    ``twins`` are the keys of one unit that must be scored alike for ``both``; ``minimum`` is a level (1..5) by code.
    """

    both: tuple[Key, ...]
    left: tuple[Key, ...]
    right: tuple[Key, ...]
    twins: tuple[tuple[Key, Key], ...]
    minimum: Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Rules:
    """All cases, by what they do, in the order of the file."""

    by_id: Mapping[str, tuple[Rule, ...]]
    hide: Rule
    hiders: int  # mask of the visibility codes
    contests: tuple[tuple[Case, ...], ...]  # one tuple a pass: X, lid states, S, F
    beats: tuple[tuple[Case, ...], ...]  # the same passes
    oppose: tuple[Case, ...]
    allow: tuple[Case, ...]
    merge: tuple[Case, ...]  # longest first, then class N
    mute: tuple[Case, ...]
    note: tuple[Case, ...]
    corrective: tuple[Case, ...]
    closure: Mapping[str, float]


class Active(NamedTuple):
    """The cases of `Rules` whose codes are all active."""

    contests: tuple[list[Case], ...]
    beats: tuple[list[Case], ...]
    oppose: list[Case]
    allow: list[Case]
    merge: list[Case]
    mute: list[Case]
    note: list[Case]
    corrective: list[Case]


@lru_cache(maxsize=4096)
def active(mask: int) -> Active:
    """Cases that the active codes (bits of ``mask``) bring into play, in the order of the rules."""
    table = rules()

    def pick(cases: tuple[Case, ...]) -> list[Case]:
        return [case for case in cases if case.mask & mask == case.mask and not case.unless & mask]

    def pick_beats(cases: tuple[Case, ...]) -> list[Case]:
        return [c for c in cases if c.mask & mask and c.option[0] & mask and not c.unless & mask]

    return Active(
        contests=tuple(map(pick, table.contests)),
        beats=tuple(map(pick_beats, table.beats)),
        oppose=pick(table.oppose),
        allow=pick(table.allow),
        merge=pick(table.merge),
        mute=pick(table.mute),
        note=[case for case in pick(table.note) if not case.option["absent"] & mask],
        corrective=pick(table.corrective),
    )


PASSES = ("exclusive", "subsume", "strict", "functional")
"""The passes that drop units, after visibility and before the distinctive combinations."""
_PASS_OF = {"S": 2, "F": 3, "C": 1}


def bit(code: str) -> int:
    """Bit of a code in a mask of active codes."""
    return 1 << units[code].index


def mask_of(codes: Iterable[str]) -> int:
    """Mask with the bits of all ``codes``."""
    mask = 0
    for code in codes:
        mask |= bit(code)
    return mask


@lru_cache(maxsize=1)
def rules() -> Rules:
    """Load the rules. Raises `ValueError` for an unknown field or code: the file is part of the program."""
    table = load_table("interactions.toml")
    closure = table["closure"]
    by_id: dict[str, tuple[Rule, ...]] = {}
    cases: dict[str, list[Case]] = {}
    contests: list[list[Case]] = [[] for _ in PASSES]
    beats: list[list[Case]] = [[] for _ in PASSES]
    hide: Rule | None = None
    for order, row in enumerate(table["rule"]):
        unknown = set(row) - _RULE_FIELDS - _CASE_FIELDS
        if unknown or row["class"] not in CLASSES:
            raise ValueError(f"interactions.toml: rule {row['id']}: unknown {sorted(unknown) or row['class']}")
        rule = Rule(
            row["id"], row["class"], row["title"], row["why"], row["grade"], tuple(row["sources"]),
            row.get("reading", ""), order,
        )  # fmt: skip
        by_id[rule.id] = (*by_id.get(rule.id, ()), rule)
        lids = any(code in closure for pair in row.get("contest", ()) for code in pair)
        number = 1 if lids or (rule.rule_class == "X" and "beats" in row) else _PASS_OF.get(rule.rule_class, 0)
        contests[number] += [_case(rule, row, pair, row.get("tie", "first")) for pair in row.get("contest", ())]
        beats[number] += [_beat(rule, row, winners, losers) for winners, losers in row.get("beats", ())]
        cases.setdefault("merge", []).extend(_merge(rule, row, codes) for codes in row.get("merge", ()))
        # a conflict that is allowed and has a phrase of its own is said by it, not by one that takes half of it
        said = {frozenset(codes) for codes in row.get("merge", ())} if rule.reading else set()
        cases.setdefault("allow", []).extend(_case(rule, row, p, frozenset(p) in said) for p in row.get("allow", ()))
        cases.setdefault("corrective", []).extend(_case(rule, row, pair) for pair in row.get("corrective", ()))
        steady = frozenset(row.get("steady", ()))
        cases.setdefault("oppose", []).extend(_case(rule, row, pair, steady) for pair in row.get("oppose", ()))
        cases.setdefault("note", []).extend(_note(rule, row, code) for code in row.get("note", ()))
        cases.setdefault("mute", []).extend(_mutes(rule, row))
        hide = rule if row.get("hide") else hide
    assert hide is not None
    return Rules(
        by_id=by_id,
        hide=hide,
        hiders=mask_of(unit.code for unit in units.values() if unit.hides),
        contests=tuple(map(tuple, contests)),
        beats=tuple(map(tuple, beats)),
        oppose=tuple(cases["oppose"]),
        allow=tuple(cases["allow"]),
        merge=tuple(sorted(cases["merge"], key=lambda case: (-len(case.members), case.rule.rule_class != "N"))),
        mute=tuple(cases["mute"]),
        note=tuple(cases["note"]),
        corrective=tuple(cases["corrective"]),
        closure=closure,
    )


def _case(rule: Rule, row: Mapping[str, Any], names: Iterable[str], option: object = None) -> Case:
    """A case whose members must all be active; ``option`` is kept for the pass that runs it."""
    members = tuple(_member(name) for name in names)
    return Case(rule, mask_of(c for c, _ in members), members, mask_of(row.get("unless", ())), 0, option)


def _merge(rule: Rule, row: Mapping[str, Any], codes: list[str]) -> Case:
    """A combination, with the keys that it needs in each place that it can stand in."""
    parts = {code: units[code].part_names for code in codes}
    sided = all(names == ("L", "R") for names in parts.values())
    spots = Spots(
        both=tuple((code, part) for code, names in parts.items() for part in names),
        left=tuple((code, "L") for code in codes) if sided else (),
        right=tuple((code, "R") for code in codes) if sided else (),
        twins=tuple(((code, names[0]), (code, names[1])) for code, names in parts.items() if len(names) == 2),
        minimum=row.get("merge_min", {}),
    )
    return _case(rule, row, codes, spots)


def _member(name: str) -> Key:
    """A named part ("L30", "24:T") as its key, a bare code as (code, "")."""
    return notation.split_name(name)


def _beat(rule: Rule, row: Mapping[str, Any], winners: list[str], losers: list[str]) -> Case:
    both_eyes = bool(row.get("both_eyes"))
    option = (mask_of(winners), tuple(winners), tuple(losers), both_eyes)
    return Case(rule, mask_of(losers), (), mask_of(row.get("unless", ())), row.get("min", 0), option)


def _note(rule: Rule, row: Mapping[str, Any], code: str) -> Case:
    option = {
        "absent": mask_of(row.get("absent", ())),
        "mimics": tuple(row.get("mimics", ())),
        "hides": tuple(row.get("hides", {}).get(code, ())),
    }
    return Case(rule, bit(code), ((code, ""),), 0, row.get("min", 0), option)


def _mutes(rule: Rule, row: Mapping[str, Any]) -> list[Case]:
    mute = row.get("mute")
    if not mute:
        return []
    claims = frozenset(mute["claims"])
    pairs = [(when, on) for when in mute["when"] for on in mute["on"]]
    return [Case(rule, mask_of(pair), tuple((code, "") for code in pair), 0, 0, claims) for pair in pairs]

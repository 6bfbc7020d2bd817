"""Random scores for training faces: each unit at each level, sides, natural co-occurrence, combinations, conflicts."""

from __future__ import annotations

import random
import sys
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from auface_diffusers.facs import AUSet, units
from auface_diffusers.facs.interactions import rules

KINDS = ("neutral", "single", "sided", "natural", "combination", "conflict")
SHARES = {"neutral": 0.04, "single": 0.22, "sided": 0.14, "natural": 0.35, "combination": 0.13, "conflict": 0.12}
"""Share of each kind of score. Singles and sides are over-represented on purpose: rare units must be learnt too."""


@lru_cache(maxsize=1)
def table() -> dict[str, Any]:
    """How often units occur, from ``configs/aus.toml``."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads((Path(__file__).parents[1] / "configs" / "aus.toml").read_text(encoding="utf-8"))


HELD_OUT = 10
"""One in so many combinations of units and sides is kept for evaluation: training never draws it, at any levels."""
MAX_DRAWS = 10_000
"""Far more than it takes to meet one in ten."""


def held_out(aus: AUSet) -> bool:
    """Whether a score of two or more units is one that training never draws: a matter of its units and sides alone."""
    return (
        len(aus.codes) > 1
        and zlib.crc32("+".join(f"{part}{code}" for code, part in aus.parts).encode()) % HELD_OUT == 0
    )


def sample_aus(
    rng: random.Random, shares: Mapping[str, float] = SHARES, *, evaluation: bool = False
) -> tuple[str, AUSet]:
    """Draw a kind and a score of that kind. Levels are floats, spread evenly over A..E, and never whole.

    Args:
        rng: of the draws. shares: share of each kind.
        evaluation: draw what is kept for evaluation, see `held_out`; single units, which have to be trained, are
            still drawn: round their levels, and they are new.

    Raises:
        ValueError: ``shares`` names an unknown kind, or is negative or all zero; or nothing of a kind is held out.
    """
    unknown = set(shares) - set(KINDS)
    if unknown or min(shares.values(), default=0) < 0 or not sum(shares.values()):
        raise ValueError(f"shares {dict(shares)}: non-negative numbers for {', '.join(KINDS)} are needed")
    kinds = [kind for kind in KINDS if shares.get(kind)]
    kind = rng.choices(kinds, [shares[kind] for kind in kinds])[0]
    for _ in range(MAX_DRAWS):
        aus = _DRAW[kind](rng)
        if len(aus.codes) < 2 or held_out(aus) == evaluation:
            return kind, aus
    raise ValueError(f"no {kind} is kept for evaluation")


def _level(rng: random.Random) -> float:
    level = round(rng.uniform(0.5, 4.99), 2)
    return level + 0.01 if level == int(level) else level


def _shown() -> list[str]:
    """Codes that a rendered face can show by its skin: all of a still picture but head and gaze."""
    return [unit.code for unit in units.values() if unit.still and unit.kind.startswith("action")]


def _whole(rng: random.Random, code: str) -> dict[str, float]:
    """A unit on both sides, or on one if it always has one."""
    side = rng.choice("LR") if units[code].one_sided else ""
    return {f"{side}{code}": _level(rng)}


def _neutral(rng: random.Random) -> AUSet:
    return AUSet()


def _single(rng: random.Random) -> AUSet:
    return AUSet(_whole(rng, rng.choice(_shown())))


def _sided(rng: random.Random) -> AUSet:
    """One or two units on one side, or on both at different levels; or on one lip."""
    levels: dict[str, float] = {}
    for code in rng.sample([c for c in _shown() if units[c].parts != "whole"], rng.choice((1, 1, 2))):
        unit = units[code]
        one, other = rng.sample(unit.part_names, 2)
        write = (lambda part, c=code: f"{c}:{part}") if unit.parts == "lips" else (lambda part, c=code: f"{part}{c}")
        levels[write(one)] = _level(rng)
        if rng.random() < 0.3 and not unit.one_sided:
            levels[write(other)] = _level(rng)
    return AUSet(levels)


def _natural(rng: random.Random) -> AUSet:
    """Two to seven units as they occur, with companions; slightly unequal sides, as in real faces."""
    natural = table()["natural"]
    coded = {*units.labelled_in("bp4d"), *units.labelled_in("disfa")}
    rates = {code: natural["rates"].get(code, natural["other_rate"]) for code in coded}
    codes = sorted(rates, key=lambda code: units[code].index)
    chosen: dict[str, None] = {}
    while len(chosen) < rng.randint(2, 5):
        code = rng.choices(codes, [rates[code] for code in codes])[0]
        chosen[code] = None
        for friend, chance in natural["companions"].get(code, {}).items():
            if rng.random() < chance:
                chosen[friend] = None
    levels: dict[str, float] = {}
    for code in chosen:
        levels |= _uneven(rng, _whole(rng, code))
    return AUSet(levels)


def _uneven(rng: random.Random, levels: dict[str, float]) -> dict[str, float]:
    """Let the sides of a unit differ by up to half a level, one time in three."""
    ((name, level),) = levels.items()
    if name not in units or units[name].parts != "sides" or rng.random() > 1 / 3:
        return levels
    other = round(min(5.0, max(0.5, level + rng.uniform(-0.5, 0.5))), 2)
    first, second = rng.sample(("L", "R"), 2)
    return {f"{first}{name}": level, f"{second}{name}": other}


def _combination(rng: random.Random) -> AUSet:
    """A set with one look of its own, at any levels."""
    case = rng.choice(rules().merge)
    return AUSet({code: _level(rng) for code, _ in case.members})


def _conflict(rng: random.Random) -> AUSet:
    """A pair that a rule S or F speaks of, sometimes with a bystander."""
    table = rules()
    cases = [case for case in (*table.oppose, *table.allow, *sum(table.contests[2:], ())) if case.rule.reading]
    case = rng.choice(cases)
    levels = {f"{code}:{part}" if part else code: _level(rng) for code, part in case.members}
    if rng.random() < 0.4:
        levels |= {name: level for name, level in _whole(rng, rng.choice(_shown())).items() if name not in levels}
    return AUSet(levels)


_DRAW = {
    "neutral": _neutral,
    "single": _single,
    "sided": _sided,
    "natural": _natural,
    "combination": _combination,
    "conflict": _conflict,
}

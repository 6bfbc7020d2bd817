"""Texts that are wrong in a known way, and how well a metric tells them from the right one (section 13).

Scales of metrics do not compare, so behaviour does: shown a face with its own text and with a wrong one, which of the
two does the metric prefer? Chance is 0.5 for every metric.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from auface_diffusers.facs import AUSet, resolve, units
from auface_diffusers.metrics.levels import spearman

STEP = 2.0
"""Levels by which "level" changes a unit."""
PAIRS = (("12", "15"), ("1", "4"), ("5", "43"), ("18", "20"), ("16", "17"), ("13", "15"), ("22", "20"))
"""Units that pull one feature in opposite ways: "opposite" puts one in the other's place."""
TRIES = 50
KINDS = ("other", "unit", "level", "opposite", "side")


def negative(kind: str, score: AUSet, rng: random.Random, others: Sequence[AUSet] = ()) -> AUSet | None:
    """A score that looks different from ``score`` in one way; None where there is no such thing.

    Args:
        kind: "other", a whole other score out of ``others``; "unit", one unit more or less; "level", one unit two
            levels up or down; "opposite", one unit replaced by the one that pulls the other way; "side", left and
            right exchanged.
        score: resolved here. rng: of the choice. others: scores to choose from.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: one of {', '.join(KINDS)}")
    own = resolve(score).effective
    for _ in range(TRIES):
        made = _CHANGES[kind](own, rng, others)
        if made is None:
            return None
        shown = resolve(made).effective
        if shown.round() != own.round():
            return shown
    return None


def _other(own: AUSet, rng: random.Random, others: Sequence[AUSet]) -> AUSet | None:
    return rng.choice(list(others)) if others else None


def _unit(own: AUSet, rng: random.Random, others: Sequence[AUSet]) -> AUSet | None:
    shown = [unit.code for unit in units.values() if unit.still and unit.kind.startswith("action")]
    if own.codes and rng.random() < 0.5:
        return own.without(rng.choice(own.codes))
    code = rng.choice([code for code in shown if code not in own.codes and not units[code].one_sided])
    return own.merge(AUSet({code: 3.0}))


def _level(own: AUSet, rng: random.Random, others: Sequence[AUSet]) -> AUSet | None:
    if not own.codes:
        return None
    code = rng.choice(own.codes)
    ways = [step for step in (STEP, -STEP) if all(1 <= v + step <= 5 for (c, _), v in own.parts.items() if c == code)]
    if not ways:
        return None
    step = rng.choice(ways)
    return AUSet.from_keys({key: v + step if key[0] == code else v for key, v in own.parts.items()})


def _opposite(own: AUSet, rng: random.Random, others: Sequence[AUSet]) -> AUSet | None:
    swaps = [(a, b) for pair in PAIRS for a, b in (pair, pair[::-1]) if a in own.codes and b not in own.codes]
    if not swaps:
        return None
    away, instead = rng.choice(swaps)
    level = max(v for (code, _), v in own.parts.items() if code == away)
    return own.without(away).merge(AUSet({instead: level}))


def _side(own: AUSet, rng: random.Random, others: Sequence[AUSet]) -> AUSet | None:
    mirrored = own.mirror()
    return mirrored if mirrored != own else None


_CHANGES: Mapping[str, Callable[[AUSet, random.Random, Sequence[AUSet]], AUSet | None]] = {
    "other": _other,
    "unit": _unit,
    "level": _level,
    "opposite": _opposite,
    "side": _side,
}


def preferred(right: np.ndarray, wrong: np.ndarray) -> float:
    """How often the right text scores higher, (N,) each; ties count half. NaN for none."""
    if not len(right):
        return float("nan")
    return float(np.mean((right > wrong) + 0.5 * (right == wrong)))


def dose_response(scores: np.ndarray, distances: np.ndarray) -> float:
    """Rank correlation (Spearman) of a metric's scores (N,) with how many columns the text's spec differs in from what
    the face shows, (N,): -1 is best.
    """
    return float(spearman(distances[:, None].astype(np.float64), scores[:, None], least=2)[0])


def spec_distance(one: AUSet, other: AUSet) -> int:
    """Channels that are there in one resolved score and not in the other."""
    first, second = (np.array(resolve(score).effective.vector()) >= 0.5 for score in (one, other))
    return int((first != second).sum())

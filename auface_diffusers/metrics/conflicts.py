"""Faces asked to do two opposed things: the subset that AAAD was made for (our definition, v1, section 8).

Shapes: N items, C columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from auface_diffusers.facs import AUSet, resolve
from auface_diffusers.metrics.targets import ON, conflict_rules, conflict_units


@dataclass(frozen=True)
class Collapse:
    """Of one rule: how often both units of a conflicting pair could be there together.

    Attributes:
        items: with this conflict, both units covered. collapsed: share of them with exactly one unit likelier there
            than not. together: mean of the lowest chance that both are there (Frechet's bound max(0, p + q - 1)): a
            detector gives each by itself.
    """

    items: int
    collapsed: float
    together: float


def conflict_rows(scores: Sequence[AUSet]) -> dict[str, np.ndarray]:
    """Numbers of the items whose raw score fires each rule of class S or F, by rule id; "" has all of them."""
    found: dict[str, list[int]] = {"": []}
    for row, score in enumerate(scores):
        rules = conflict_rules(score)
        for rule in rules:
            found.setdefault(rule, []).append(row)
        if rules:
            found[""].append(row)
    return {rule: np.array(rows, dtype=int) for rule, rows in found.items()}


def matched_control(scores: Sequence[AUSet], conflicts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of items with and without a conflict that ask for as many units and for much the same ones.

    A low score on conflicts may only mean that their units are harder to see. Each conflict gets the item without one,
    used once, that has as many units in effect (or the nearest number) and shares most of them.

    Args:
        scores: N of them. conflicts: numbers of those with a conflict.

    Returns:
        Numbers of conflicts and of their partners, as many; conflicts that find nobody are left out.
    """
    units = [frozenset(resolve(score).effective.codes) for score in scores]
    taken = set(conflicts.tolist())
    free = [row for row in range(len(scores)) if row not in taken and units[row]]
    pairs = []
    for row in conflicts.tolist():
        if not free:
            break
        best = min(free, key=lambda one: (*_distance(units[row], units[one]), one))
        free.remove(best)
        pairs.append((row, best))
    first, second = (np.array(side, dtype=int) for side in (zip(*pairs, strict=True) if pairs else ((), ())))
    return first, second


def collapse(scores: Sequence[AUSet], presence: np.ndarray, columns: Sequence[str]) -> dict[str, Collapse]:
    """`Collapse` of each rule that fires, of presence (N, C); a unit of two sides counts by the mean of both."""
    place = {name: column for column, name in enumerate(columns)}
    found: dict[str, list[tuple[float, float]]] = {}
    for row, score in enumerate(scores):
        for rule, hits in conflict_units(score).items():
            for sides in hits:
                seen = [_mean(presence[row], place, names) for names in sides]
                if len(seen) == 2 and not np.isnan(seen).any():
                    found.setdefault(rule, []).append((seen[0], seen[1]))
    return {rule: _collapse(np.array(pairs)) for rule, pairs in found.items()}


def marginals(states: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How often each column (C,) is asked for among some items: to compare a subset with its control."""
    counts: np.ndarray = (states[rows] == ON).sum(0)
    return counts


def _distance(one: frozenset[str], other: frozenset[str]) -> tuple[int, int]:
    """Difference in number, then units that only one of them has."""
    return abs(len(one) - len(other)), len(one ^ other)


def _mean(presence: np.ndarray, place: dict[str, int], names: frozenset[str]) -> float:
    """Of the channels, or of the column of both sides if the detector has only that."""
    known = {name if name in place else name.lstrip("LR").split(":")[0] for name in names}
    if not known <= place.keys():
        return float("nan")
    return float(np.mean([presence[place[name]] for name in known]))


def _collapse(pairs: np.ndarray) -> Collapse:
    exactly_one = (pairs > 0.5).sum(1) == 1
    both = np.maximum(0.0, pairs.sum(1) - 1)
    return Collapse(len(pairs), float(exactly_one.mean()), float(both.mean()))

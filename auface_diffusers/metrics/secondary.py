"""Other ways to compare what is asked for with what is seen (AAAD, our definition, v1, section 3, secondary).

They stand beside AAAD, never in its place: what each one rewards is said with it. Shapes: N items, C columns. An item
without a face counts as the worst there is, as in AAAD.
"""

from __future__ import annotations

import numpy as np

from auface_diffusers.metrics.tally import LEAST, macro, overlap, per_column, tally
from auface_diffusers.metrics.targets import OFF, ON

THRESHOLD = 0.5
"""Probability from which a unit counts as seen, for F1."""


def secondary(states: np.ndarray, presence: np.ndarray, least: int = LEAST) -> dict[str, float]:
    """All of them.

    Args:
        states: (N, C), see `targets.Targets`. presence: (N, C) in [0, 1]; NaN in a row without a face.
        least: items of either polarity that a column needs.

    Returns:
        ``item_mean``: mean overlap of each item's units, not balanced: faces that show nothing do well in it.
        ``jsd``: as AAAD, with one minus the Jensen-Shannon divergence (base 2) in place of the overlap.
        ``brier``: mean squared error of the probabilities, balanced as AAAD; 0 is best, 0.25 is p = 0.5 throughout.
        ``f1``: mean over columns of F1 at p >= 0.5, which rises with how often a unit is asked for.
        NaN where nothing counts.
    """
    there = ~np.isnan(presence).all(1, keepdims=True)
    asked = (states == ON) | (states == OFF)
    q = (states == ON).astype(np.float64)
    p = np.where(there, np.nan_to_num(presence), 1 - q)  # without a face: the opposite of what was asked for
    return {
        "item_mean": _item_mean(overlap(states, p), asked),
        "jsd": _balanced(states, 1 - jensen_shannon(q, p), least),
        "brier": 1 - _balanced(states, 1 - np.square(q - p), least),
        "f1": f1(states, p, least),
    }


def jensen_shannon(q: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Jensen-Shannon divergence in bits, in [0, 1], of Bernoulli distributions with these probabilities."""
    divergence: np.ndarray = _entropy((q + p) / 2) - (_entropy(q) + _entropy(p)) / 2
    return divergence


def f1(states: np.ndarray, presence: np.ndarray, least: int = LEAST) -> float:
    """2 TP / (2 TP + FP + FN), a unit being seen from `THRESHOLD` on; the mean over the columns with enough items."""
    on, off, seen = states == ON, states == OFF, presence >= THRESHOLD
    hit, wrong = (on & seen).sum(0), (off & seen).sum(0) + (on & ~seen).sum(0)
    enough = np.minimum(on.sum(0), off.sum(0)) >= max(least, 1)
    values = 2 * hit[enough] / (2 * hit[enough] + wrong[enough])
    return float(values.mean()) if len(values) else float("nan")


def _balanced(states: np.ndarray, fits: np.ndarray, least: int) -> float:
    return float(macro(per_column(tally(states, fits), least))[0])


def _item_mean(overlaps: np.ndarray, asked: np.ndarray) -> float:
    counts = asked.sum(1)
    items = np.where(asked, np.nan_to_num(overlaps), 0).sum(1)[counts > 0] / counts[counts > 0]
    return float(items.mean()) if len(items) else float("nan")


def _entropy(p: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.stack([p, 1 - p])
        found: np.ndarray = -np.where(parts > 0, parts * np.log2(parts), 0).sum(0)
    return found

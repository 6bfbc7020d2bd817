"""Two models on the same items: the difference of their scores, and whether it could be chance (section 11).

Shapes: N items, C columns, R = 1 + B rows of a tally.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from auface_diffusers.metrics.tally import LEAST, cluster_weights, interval, macro, overlap, per_column, tally


@dataclass(frozen=True)
class Comparison:
    """The first model minus the second.

    Attributes:
        difference: of AAAD, over the columns in which both have a value. interval: 95 %. p: two-sided.
        columns: names with a value. per_column: their differences. intervals: (C, 2), each by itself.
        p_values: (C,) two-sided, corrected by Holm over the columns.
    """

    difference: float
    interval: tuple[float, float]
    p: float
    columns: tuple[str, ...]
    per_column: np.ndarray
    intervals: np.ndarray
    p_values: np.ndarray


def compare(
    states: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    columns: Sequence[str],
    *,
    clusters: Sequence[Hashable] | None = None,
    resamplings: int = 2000,
    seed: int = 0,
    least: int = LEAST,
) -> Comparison:
    """Paired comparison: each resampling draws the same items of both.

    Args:
        states: (N, C), what both were asked. first, second: presence (N, C), NaN where there was no face.
        columns: C names. clusters: N names of what comes and goes together. resamplings, seed: of the bootstrap.
        least: items of either polarity that a column needs.

    Raises:
        ValueError: shapes that do not fit.
    """
    if not states.shape == first.shape == second.shape or states.shape[1] != len(columns):
        raise ValueError(
            f"states {states.shape}, first {first.shape} and second {second.shape}: one item each of both"
        )
    weights = cluster_weights(range(len(states)) if clusters is None else clusters, resamplings, seed)
    values = []
    for presence in (first, second):
        overlaps = np.where(np.isnan(presence), 0.0, overlap(states, presence))
        values.append(per_column(tally(states, overlaps, weights), least))
    apart = values[0] - values[1]
    total = macro(apart)
    known = [column for column in range(len(columns)) if not np.isnan(apart[0, column])]
    return Comparison(
        difference=float(total[0]),
        interval=interval(total),
        p=two_sided(total),
        columns=tuple(columns[column] for column in known),
        per_column=apart[0, known],
        intervals=np.array([interval(apart[:, column]) for column in known]).reshape(-1, 2),
        p_values=holm(np.array([two_sided(apart[:, column]) for column in known])),
    )


def two_sided(values: np.ndarray) -> float:
    """How likely a difference as large is by chance: twice the share of resamplings, rows 1 to B of (R,), on the other
    side of 0, at least 2 / (B + 1), at most 1.
    """
    resampled = values[1:][~np.isnan(values[1:])]
    if not len(resampled):
        return float("nan")
    low, high = ((resampled <= 0).sum(), (resampled >= 0).sum())
    return float(min(1.0, 2 * (min(low, high) + 1) / (len(resampled) + 1)))


def holm(p_values: np.ndarray) -> np.ndarray:
    """Corrected p values of as many tests (Holm 1979): sorted, the k-th of m times m - k + 1, never falling."""
    order = np.argsort(p_values, kind="stable")
    count = len(p_values)
    stepped = np.maximum.accumulate(p_values[order] * (count - np.arange(count))) if count else p_values
    found = np.empty(count)
    found[order] = np.minimum(stepped, 1.0)
    return found


def ranks_agree(scores: np.ndarray) -> float:
    """Kendall's tau-a of model rankings by several detectors, (D, M): the mean over pairs of detectors; NaN for one.

    If detectors rank models differently, claim nothing.
    """
    found = []
    for one in range(len(scores)):
        for other in range(one + 1, len(scores)):
            a, b = (np.sign(row[:, None] - row[None, :])[np.triu_indices(len(row), 1)] for row in scores[[one, other]])
            found.append(float((a * b).mean()) if len(a) else float("nan"))
    return float(np.mean(found)) if found else float("nan")

"""The sums that AAAD is made of, plain and resampled: the pure functions of the metric.

Shapes: N items, C columns, R rows of a tally: row 0 is the data, the other B are resamplings of it.

Every sum is exact. What is summed are whole multiples of 2**-32 in float64, which hold integers up to 2**53: so order,
batches and processes do not matter, and two processes give what one gives, bit for bit (up to two million items).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, fields

import numpy as np

from auface_diffusers.metrics.targets import OFF, ON

GRAIN = 2.0**32
"""Values are rounded to multiples of its inverse, 2.3e-10."""
LEAST = 20
"""Fewer items that ask for a unit, or for its absence, give its column no value."""


@dataclass
class Tally:
    """Sums of overlaps and counts, (R, C) float64, by polarity."""

    on_sum: np.ndarray
    on_count: np.ndarray
    off_sum: np.ndarray
    off_count: np.ndarray

    @classmethod
    def empty(cls, columns: int, resamplings: int = 0) -> Tally:
        """Nothing seen yet."""
        return cls(*(np.zeros((1 + resamplings, columns)) for _ in fields(cls)))

    def __add__(self, other: Tally) -> Tally:
        """Of both data sets."""
        return Tally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


def overlap(states: np.ndarray, presence: np.ndarray) -> np.ndarray:
    """Overlap of two Bernoulli distributions, 1 - |q - p|: p where a unit is asked for, 1 - p where its absence is.

    Args:
        states: (N, C), see `targets.Targets`. presence: (N, C) in [0, 1]; what is not asked for may be anything.

    Returns:
        (N, C) float64; NaN where nothing is asked for.
    """
    return np.where(states == ON, presence, np.where(states == OFF, 1 - presence, np.nan)).astype(np.float64)


def agreement(states: np.ndarray, overlaps: np.ndarray) -> np.ndarray:
    """How well each item fits by itself, which is not AAAD: the mean of its two polarities, each the mean overlap of
    its columns. So the many units that are not asked for weigh no more than the few that are: 0.5 is a face that shows
    nothing, and one that shows everything.

    Args:
        states: (N, C). overlaps: (N, C), see `overlap`.

    Returns:
        (N,) float64. Where an item asks for one polarity only, as the neutral face and the open world do, that one;
        NaN where it asks for nothing.
    """
    halves = [_mean_where(overlaps, states == polarity) for polarity in (ON, OFF)]
    return _mean_where(np.stack(halves, 1), ~np.isnan(np.stack(halves, 1)))


def _mean_where(values: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(N,) of (N, C): mean of the chosen values; NaN where none is."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(chosen, values, 0.0).sum(1) / chosen.sum(1))


def tally(states: np.ndarray, overlaps: np.ndarray, weights: np.ndarray | None = None) -> Tally:
    """Sum overlaps.

    Args:
        states: (N, C). overlaps: (N, C) in [0, 1] where a unit or its absence is asked for.
        weights: (R, N) whole numbers, how often an item counts in each row of the tally; None is one row of ones.
    """
    weights = np.ones((1, len(states))) if weights is None else weights.astype(np.float64)
    on, off = states == ON, states == OFF
    values = np.where(on | off, np.round(np.nan_to_num(overlaps) * GRAIN), 0.0)
    # products and sums of whole numbers below 2**53: exact in any order
    return Tally(
        on_sum=weights @ (values * on) / GRAIN,
        on_count=weights @ on.astype(np.float64),
        off_sum=weights @ (values * off) / GRAIN,
        off_count=weights @ off.astype(np.float64),
    )


def per_column(sums: Tally, least: int = LEAST) -> np.ndarray:
    """AAAD of each column, (R, C): the mean of its two polarities; NaN where the data has fewer than ``least`` items
    of one, or a resampling has none.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        values: np.ndarray = (sums.on_sum / sums.on_count + sums.off_sum / sums.off_count) / 2
    values[:, np.minimum(sums.on_count[0], sums.off_count[0]) < max(least, 1)] = np.nan
    return values


def macro(values: np.ndarray) -> np.ndarray:
    """Mean (R,) over the columns that have a value; NaN if none has."""
    there = ~np.isnan(values)
    count = there.sum(1)
    return np.where(count > 0, np.where(there, values, 0).sum(1) / np.maximum(count, 1), np.nan)


def interval(values: np.ndarray, share: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the resamplings, rows 1 to B of (R,); NaN without any."""
    resampled = values[1:][~np.isnan(values[1:])]
    if not len(resampled):
        return (float("nan"), float("nan"))
    low, high = np.quantile(resampled, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def cluster_weights(clusters: Sequence[Hashable], resamplings: int, seed: int = 0) -> np.ndarray:
    """Weights (1 + B, N) of a cluster bootstrap: ones, and B Poisson(1) counts of each item's cluster.

    Items of one cluster come and go together. The count of a cluster depends on its name, the seed and the resampling
    alone (Hanley and MacGibbon 2006; Chamandy et al. 2012), so a data set may be seen in any order, in batches and on
    several machines. Names are compared by ``repr``.
    """
    drawn: dict[str, np.ndarray] = {}
    for name in clusters:
        key = repr(name)
        if key not in drawn:
            digest = hashlib.blake2b(f"{seed} {key}".encode(), digest_size=16).digest()
            generator = np.random.Generator(np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64)))
            drawn[key] = generator.poisson(1.0, resamplings)
    rows = np.stack([drawn[repr(name)] for name in clusters], 1) if len(clusters) else np.zeros((resamplings, 0))
    return np.concatenate([np.ones((1, len(clusters))), rows])

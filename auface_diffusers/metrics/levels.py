"""Levels: how near the intensity that is read comes to the one asked for (AAAD, our definition, v1, section 4).

Shapes: N items, C columns, L = 6 levels, 0 (absent) and A to E.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from auface_diffusers.facs.levels import MAX_LEVEL
from auface_diffusers.metrics.tally import GRAIN, LEAST

LEVELS = int(MAX_LEVEL) + 1


def point_distribution(read: np.ndarray) -> np.ndarray:
    """Probabilities (..., L) of the levels 0..5 whose mean is ``read`` (...) in 0..5: the two neighbours share it."""
    places = np.arange(LEVELS)
    shares: np.ndarray = np.maximum(0.0, 1 - np.abs(np.asarray(read, dtype=np.float64)[..., None] - places))
    return shares


def with_residuals(read: np.ndarray, residuals: np.ndarray) -> np.ndarray:
    """Probabilities (N, C, L) of levels read (N, C), spread by the detector's own errors, (C, 2 L - 1).

    ``residuals[c, L - 1 + d]`` is how often the truth lies d levels above what is read in column c; see
    `fit_residuals`. What would fall outside 0..5 counts as the nearest level.
    """
    plain = point_distribution(read)
    spread = np.zeros_like(plain)
    for shift in range(1 - LEVELS, LEVELS):
        share = residuals[:, LEVELS - 1 + shift][None, :, None] * plain
        for level in range(LEVELS):
            spread[..., min(max(level + shift, 0), LEVELS - 1)] += share[..., level]
    return spread


def fit_residuals(read: np.ndarray, true: np.ndarray, smoothing: float = 1.0) -> np.ndarray:
    """How far the truth (N, C) lies from what is read (N, C), as shares (C, 2 L - 1); NaN in ``true`` is no label.

    ``smoothing``: virtual items without any error.
    """
    counts = np.zeros((read.shape[1], 2 * LEVELS - 1))
    counts[:, LEVELS - 1] = smoothing
    rows, columns = np.nonzero(~np.isnan(true))
    error = np.clip(np.round(true[rows, columns] - read[rows, columns]), 1 - LEVELS, LEVELS - 1).astype(int)
    np.add.at(counts, (columns, error + LEVELS - 1), 1)
    shares: np.ndarray = counts / counts.sum(1, keepdims=True)
    return shares


def level_overlap(asked: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """1 - W1 / (L - 1) of what is read and what is asked for; with two levels this is `tally.overlap`.

    Args:
        asked: (N, C) in 0..5; floats are shared by their two neighbours. NaN is nothing.
        probabilities: (N, C, L), or (N, C, 2) for a unit without levels, asked 0 or 1.

    Returns:
        (N, C) in [0, 1]; NaN where nothing is asked for.
    """
    top = probabilities.shape[-1] - 1
    target = np.maximum(0.0, 1 - np.abs(asked[..., None] - np.arange(top + 1)))
    distance = np.abs(np.cumsum(probabilities - target, -1))[..., :-1].sum(-1)
    return np.where(np.isnan(asked), np.nan, 1 - distance / top)


@dataclass
class LevelTally:
    """Sums over images, (C, L) float64 by the level that was asked for, rounded: overlaps and their number, and, of
    images with a face, levels read and their number.
    """

    overlap_sum: np.ndarray
    count: np.ndarray
    read_sum: np.ndarray
    read_count: np.ndarray

    @classmethod
    def empty(cls, columns: int) -> LevelTally:
        """Nothing seen yet."""
        return cls(*(np.zeros((columns, LEVELS)) for _ in fields(cls)))

    def __add__(self, other: LevelTally) -> LevelTally:
        """Of both data sets."""
        return LevelTally(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    @property
    def means(self) -> np.ndarray:
        """Mean level read (C, L) for each level asked for; NaN where none was."""
        with np.errstate(invalid="ignore"):
            return np.asarray(self.read_sum / self.read_count)


def level_tally(
    asked: np.ndarray, read: np.ndarray, overlaps: np.ndarray, found: np.ndarray | None = None
) -> LevelTally:
    """Sum by the level asked for (N, C; NaN is nothing), exactly as `tally` does.

    Args:
        read, overlaps: (N, C), levels read and how well they fit.
        found: (N,) bool, False where there is no face: the overlap of such an image is 0, whatever was asked for, and
            no level is read. None: all have one.
    """
    there = np.ones(len(asked), dtype=bool) if found is None else found
    overlaps, read = (np.where(there[:, None], np.nan_to_num(values), 0) for values in (overlaps, read))
    sums = LevelTally.empty(asked.shape[1])
    place = np.nan_to_num(np.round(asked), nan=-1)
    for level in range(LEVELS):
        at = place == level
        sums.overlap_sum[:, level] = np.where(at, np.round(overlaps * GRAIN), 0).sum(0) / GRAIN
        sums.count[:, level] = at.sum(0)
        sums.read_sum[:, level] = np.round(np.where(at, read, 0) * GRAIN).sum(0) / GRAIN
        sums.read_count[:, level] = (at & there[:, None]).sum(0)
    return sums


def per_column(sums: LevelTally, least: int = LEAST) -> np.ndarray:
    """Alignment of levels (C,): the mean over the levels that were asked for, each with the same weight; NaN for a
    column with fewer than two levels of at least ``least`` items.
    """
    enough = sums.count >= max(least, 1)
    means = np.where(enough, sums.overlap_sum / np.maximum(sums.count, 1), 0)
    return np.where(enough.sum(1) >= 2, means.sum(1) / np.maximum(enough.sum(1), 1), np.nan)


def spearman(asked: np.ndarray, read: np.ndarray, least: int = LEAST) -> np.ndarray:
    """Rank correlation (C,) of levels asked for and read, (N, C), ties by mean ranks; NaN for fewer items, or without
    any variation.
    """
    found = np.full(asked.shape[1], np.nan)
    for column in range(asked.shape[1]):
        there = ~np.isnan(asked[:, column]) & ~np.isnan(read[:, column])
        if there.sum() >= max(least, 2):
            a, b = _ranks(asked[there, column]), _ranks(read[there, column])
            if a.std() > 0 and b.std() > 0:
                found[column] = np.corrcoef(a, b)[0, 1]
    return found


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: np.ndarray = (ends - (counts - 1) / 2)[place]
    return ranks

"""Probabilities counted in bins by polarity: areas under ROC curves and reliability without keeping the items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from auface_diffusers.metrics.tally import LEAST
from auface_diffusers.metrics.targets import OFF, ON

BINS = 4096
"""Probabilities nearer to each other than its inverse count as equal."""


@dataclass
class Histogram:
    """Images by column and bin of probability, (C, BINS) int64, of items that ask for the unit and for its absence."""

    on: np.ndarray
    off: np.ndarray

    @classmethod
    def empty(cls, columns: int) -> Histogram:
        """Nothing seen yet."""
        return cls(*(np.zeros((columns, BINS), dtype=np.int64) for _ in range(2)))

    @classmethod
    def of(cls, states: np.ndarray, presence: np.ndarray) -> Histogram:
        """Of states and probabilities (N, C)."""
        made = cls.empty(states.shape[1])
        places = np.clip(np.nan_to_num(presence, posinf=0, neginf=0) * BINS, 0, BINS - 1).astype(np.int64)
        for counts, polarity in ((made.on, ON), (made.off, OFF)):
            rows, columns = np.nonzero(states == polarity)
            np.add.at(counts, (columns, places[rows, columns]), 1)
        return made

    def __add__(self, other: Histogram) -> Histogram:
        """Of both data sets."""
        return Histogram(self.on + other.on, self.off + other.off)


def area_under_curve(counts: Histogram, least: int = LEAST) -> np.ndarray:
    """How often an image with the unit gets a higher probability than one without, (C,); ties count half; NaN for
    fewer than ``least`` of either.
    """
    below = np.cumsum(counts.off, 1) - counts.off
    wins = (counts.on * (below + counts.off / 2)).sum(1)
    on, off = counts.on.sum(1), counts.off.sum(1)
    return np.where(np.minimum(on, off) >= max(least, 1), wins / np.maximum(on * off, 1), np.nan)


def reliability(counts: Histogram, bins: int = 15) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean probability, share of images with the unit at equal priors, and weight, each (C, bins); NaN where empty."""
    edges = np.linspace(0, BINS, bins + 1).round().astype(int)
    middle = (np.arange(BINS) + 0.5) / BINS
    with np.errstate(invalid="ignore", divide="ignore"):
        on = counts.on / counts.on.sum(1, keepdims=True)
        off = counts.off / counts.off.sum(1, keepdims=True)
        both = (on + off) / 2
        weight = np.add.reduceat(both, edges[:-1], axis=1)
        mean = np.add.reduceat(both * middle, edges[:-1], axis=1) / weight
        share = np.add.reduceat(on / 2, edges[:-1], axis=1) / weight
    return mean, share, weight


def calibration_error(counts: Histogram, bins: int = 15, least: int = LEAST) -> np.ndarray:
    """Expected calibration error (C,) at equal priors; NaN for fewer than ``least`` of either."""
    mean, share, weight = reliability(counts, bins)
    error = np.nansum(np.abs(mean - share) * weight, 1)
    return np.where(np.minimum(counts.on.sum(1), counts.off.sum(1)) >= max(least, 1), error, np.nan)

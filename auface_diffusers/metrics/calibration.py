"""From a detector's raw scores to probabilities at equal priors: Platt's line or an isotonic step function a column.

AAAD is not the same at another temperature (our definition, v1, section 5), so calibrations are fitted on labelled
images of other people, frozen, and named by a hash. Shapes: N images, C columns.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from auface_diffusers.metrics.histogram import Histogram, area_under_curve, calibration_error
from auface_diffusers.metrics.tally import LEAST
from auface_diffusers.metrics.targets import OFF, ON

METHODS = ("platt", "isotonic")
MIN_AUC, MAX_ERROR = 0.75, 0.10
"""A column below the one or above the other on real images is dropped from the headline (section 5)."""
STEPS = 100


@dataclass(frozen=True)
class Calibration:
    """Frozen: `apply` maps raw scores (N, C) to probabilities in [0, 1].

    Attributes:
        method: one of `METHODS`. columns: names.
        knots: one (2, K) a column: raw scores, rising, and their probabilities; between knots the line through them.
            Platt's has scale and bias, (2, 1), of ``sigmoid(scale * raw + bias)``. A column that could not be fitted
            has (2, 0), and its probabilities are NaN.
        note: what it was fitted on.
    """

    method: str
    columns: tuple[str, ...]
    knots: tuple[np.ndarray, ...]
    note: str = ""

    def apply(self, raw: np.ndarray) -> np.ndarray:
        """Probabilities (N, C) of raw scores. Raises `ValueError` for another number of columns."""
        raw = np.asarray(raw, dtype=np.float64)
        if raw.ndim != 2 or raw.shape[1] != len(self.columns):
            raise ValueError(
                f"raw {raw.shape}: give (N, {len(self.columns)}), one column each of {self.columns[:3]}..."
            )
        found = np.full(raw.shape, np.nan)
        for column, (x, y) in enumerate(self.knots):
            if len(x) and self.method == "platt":
                found[:, column] = 1 / (1 + np.exp(-np.clip(x[0] * raw[:, column] + y[0], -500, 500)))
            elif len(x):
                found[:, column] = np.interp(raw[:, column], x, y)
        return found

    @property
    def hash(self) -> str:
        """16 hexadecimal digits of everything that decides what `apply` gives."""
        text = json.dumps([self.method, self.columns, [knot.tolist() for knot in self.knots]])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        knots = [knot.tolist() for knot in self.knots]
        return {"method": self.method, "columns": list(self.columns), "knots": knots, "note": self.note}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Calibration:
        """Of `to_dict`. Raises `ValueError` for an unknown method or columns without knots."""
        knots = tuple(np.array(knot, dtype=np.float64).reshape(2, -1) for knot in values["knots"])
        if values["method"] not in METHODS or len(knots) != len(values["columns"]):
            raise ValueError(f"calibration {values['method']!r}: {' or '.join(METHODS)}, with knots for each column")
        return cls(values["method"], tuple(values["columns"]), knots, values.get("note", ""))


def fit_calibration(
    raw: np.ndarray,
    states: np.ndarray,
    columns: Sequence[str],
    method: str = "platt",
    *,
    least: int = LEAST,
    note: str = "",
) -> Calibration:
    """Fit a calibration at equal priors: all images with a unit weigh as much as all without.

    Args:
        raw: (N, C) scores, such as logits; larger is likelier. states: (N, C), see `targets.Targets`.
        columns: C names. method: one of `METHODS`. least: images of either kind that a column needs.
        note: what the images were; stored, not hashed.

    Raises:
        ValueError: shapes that do not fit, a method that is unknown, or scores that are not finite where they count.
    """
    if method not in METHODS:
        raise ValueError(f"method {method!r}: one of {', '.join(METHODS)}")
    raw = np.asarray(raw, dtype=np.float64)
    if raw.shape != states.shape or raw.ndim != 2 or raw.shape[1] != len(columns):
        raise ValueError(f"raw {raw.shape}, states {states.shape} and {len(columns)} columns do not fit")
    knots = []
    for column in range(raw.shape[1]):
        counted = states[:, column] >= OFF
        x, y = raw[counted, column], states[counted, column] == ON
        if not np.isfinite(x).all():
            raise ValueError(
                f"raw scores of {columns[column]} hold NaN or infinity where they count: mask these images"
            )
        if min(y.sum(), (~y).sum()) < max(least, 1):
            knots.append(np.zeros((2, 0)))
        else:
            knots.append(_platt(x, y) if method == "platt" else _isotonic(x, y))
    return Calibration(method, tuple(columns), tuple(knots), note)


def gate(presence: np.ndarray, states: np.ndarray, columns: Sequence[str], least: int = LEAST) -> dict[str, str]:
    """Columns that do not belong in a headline, and why: of probabilities (N, C) on real, labelled images."""
    counts = Histogram.of(states, presence)
    areas, errors = area_under_curve(counts, least), calibration_error(counts, least=least)
    found = {}
    for name, area, error in zip(columns, areas, errors, strict=True):
        if np.isnan(area):
            found[name] = f"fewer than {least} images with or without it"
        elif area < MIN_AUC:
            found[name] = f"AUC {area:.3f} is below {MIN_AUC}"
        elif error > MAX_ERROR:
            found[name] = f"calibration error {error:.3f} is above {MAX_ERROR}"
    return found


def _equal(y: np.ndarray) -> np.ndarray:
    """Weights that give both answers a half."""
    return np.asarray(np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum()))


def _platt(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Scale and bias (2, 1) by damped Newton steps on the log loss, with Platt's targets (1999, section 2.2)."""
    weight = _equal(y)
    target = np.where(y, (y.sum() + 1) / (y.sum() + 2), 1 / ((~y).sum() + 2))
    mean, spread = x.mean(), max(x.std(), 1e-9)
    design = np.stack([(x - mean) / spread, np.ones_like(x)], 1)

    def loss(a: np.ndarray) -> float:
        z = design @ a
        return float((weight * (np.logaddexp(0, z) - target * z)).sum())

    found, damping = np.zeros(2), 1e-6
    now = loss(found)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-(design @ found)))
        gradient = design.T @ (weight * (p - target))
        if np.abs(gradient).max() < 1e-10:
            break
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design
        step = np.linalg.solve(hessian + damping * np.eye(2), gradient)
        after = loss(found - step)
        if after <= now:
            found, now, damping = found - step, after, damping / 10
        else:
            damping *= 10
    scale = found[0] / spread
    return np.array([[scale], [found[1] - scale * mean]])


def _isotonic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Knots (2, K) of the rising step function nearest to the answers, by pooling adjacent violators."""
    order = np.argsort(x, kind="stable")
    places, inverse = np.unique(x[order], return_inverse=True)
    weight = np.bincount(inverse, _equal(y)[order])
    value = np.bincount(inverse, (_equal(y) * y)[order]) / weight
    blocks: list[list[float]] = []  # value, weight, first place, last place
    for index in range(len(places)):
        blocks.append([value[index], weight[index], index, index])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            last, before = blocks.pop(), blocks.pop()
            total = last[1] + before[1]
            blocks.append([(last[0] * last[1] + before[0] * before[1]) / total, total, before[2], last[3]])
    ends = [(places[int(place)], block[0]) for block in blocks for place in dict.fromkeys((block[2], block[3]))]
    return np.array(ends).T

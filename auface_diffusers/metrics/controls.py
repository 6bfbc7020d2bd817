"""What a score has to be seen beside: shuffled texts, a ceiling, leakage (AAAD, our definition, v1, sections 6 and 7).

Shapes: N items, C columns.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from auface_diffusers.metrics.tally import LEAST, macro, overlap, per_column, tally
from auface_diffusers.metrics.targets import MASKED, OFF, ON, UNSPECIFIED

PERMUTATIONS = 200
NEAR = 2
"""Items whose specs differ in at most so many columns are the hard control's partners."""
LEAST_ROOM = 0.1
"""A ceiling nearer to chance than this says nothing about what lies below it."""
CHUNK = 1024


@dataclass(frozen=True)
class Control:
    """AAAD of texts that were dealt to other faces: ``mean`` and ``sd`` of the permutations; ``p``, the share of them
    that reach the real score (at least 1 / (permutations + 1)); ``items`` that took part.
    """

    mean: float
    sd: float
    p: float
    items: int


def shuffled(
    states: np.ndarray, presence: np.ndarray, permutations: int = PERMUTATIONS, seed: int = 0, least: int = LEAST
) -> Control:
    """Texts dealt anew: within each column, which items ask for the unit is permuted. Its expectation is 0.5.

    Args:
        states: (N, C), see `targets.Targets`.
        presence: (N, C) in [0, 1], the mean presence of each item's images; NaN is no face.
        permutations: how many. seed: of them. least: items of either polarity that a column needs.
    """
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(permutations):
        dealt = states.copy()
        for column in range(states.shape[1]):
            counted = np.nonzero(states[:, column] >= OFF)[0]
            dealt[counted, column] = states[generator.permutation(counted), column]
        values.append(_score(dealt, presence, least))
    return _control(values, _score(states, presence, least), len(states))


def hard_shuffled(
    states: np.ndarray, presence: np.ndarray, permutations: int = PERMUTATIONS, seed: int = 0, least: int = LEAST
) -> Control:
    """Each face is scored against the text of another item whose spec is near: it differs in 1 to `NEAR` columns.

    Items without such a neighbour do not take part, in the control as in the score that it is compared with.
    """
    near = neighbours(states)
    rows = np.array([row for row, others in enumerate(near) if len(others)], dtype=int)
    if not len(rows):
        return Control(float("nan"), float("nan"), float("nan"), 0)
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(permutations):
        chosen = [near[row][generator.integers(len(near[row]))] for row in rows]
        values.append(_score(states[chosen], presence[rows], least))
    return _control(values, _score(states[rows], presence[rows], least), len(rows))


def neighbours(states: np.ndarray, most: int = NEAR) -> list[np.ndarray]:
    """For each item, those whose states differ from its own in 1 to ``most`` columns that both ask about."""
    unique, place = np.unique(states, axis=0, return_inverse=True)
    on, off = (unique == ON).astype(np.float32), (unique == OFF).astype(np.float32)
    members = [np.nonzero(place == one)[0] for one in range(len(unique))]
    found: list[np.ndarray] = []
    for begin in range(0, len(unique), CHUNK):
        rows = slice(begin, begin + CHUNK)
        distance = on[rows] @ off.T + off[rows] @ on.T
        for row in distance:
            close = np.nonzero((row >= 1) & (row <= most))[0]
            found.append(np.concatenate([members[one] for one in close]) if len(close) else np.array([], dtype=int))
    return [found[one] for one in place.ravel()]


def relative(score: np.ndarray, ceiling: np.ndarray) -> np.ndarray:
    """(score - 0.5) / (ceiling - 0.5), elementwise: the share of what the detector can see that is there.

    NaN where the ceiling is within `LEAST_ROOM` of chance. Above 1 points to exaggerated faces, not to better ones.
    """
    room = np.asarray(ceiling, dtype=np.float64) - 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(room >= LEAST_ROOM, (np.asarray(score) - 0.5) / room, np.nan)


def leakage(
    states: np.ndarray,
    presence: np.ndarray,
    neutral: np.ndarray,
    columns: Sequence[str],
    excused: Sequence[Collection[str]] | None = None,
) -> np.ndarray:
    """How much likelier units that nobody asked for are than on neutral faces, (C,): a difference of mean presence.

    Args:
        states: (N, C); what is off or not spoken of counts. presence: (N, C), NaN is no face and does not count.
        neutral: (M, C), of neutral faces.
        columns: C names. excused: names of each item that look like what it asks for, see `targets.implied`.

    Returns:
        (C,) in -1..1; NaN where nothing counts.
    """
    counted = ((states == OFF) | (states == UNSPECIFIED)) & ~np.isnan(presence)
    for row, names in enumerate(excused or ()):
        bare = (name.lstrip("LR").split(":")[0] for name in names)  # for detectors without sides
        counted[row] &= ~np.isin(columns, [*names, *bare])
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(counted, np.nan_to_num(presence), 0).sum(0) / counted.sum(0)
    return np.asarray(mean - np.nanmean(neutral, 0))


def same_columns(states: np.ndarray, usable: Collection[str], columns: Sequence[str]) -> np.ndarray:
    """States in which only usable columns count, the others masked."""
    return np.where(np.isin(columns, list(usable)), states, MASKED).astype(np.int8)


def _score(states: np.ndarray, presence: np.ndarray, least: int) -> float:
    values = np.where(np.isnan(presence), 0.0, overlap(states, presence))  # no face is no overlap, whatever is asked
    return float(macro(per_column(tally(states, values), least))[0])


def _control(values: Sequence[float], real: float, items: int) -> Control:
    known = np.array([value for value in values if not np.isnan(value)])
    if not len(known):
        return Control(float("nan"), float("nan"), float("nan"), items)
    reached = int((known >= real).sum())
    return Control(float(known.mean()), float(known.std()), (reached + 1) / (len(known) + 1), items)

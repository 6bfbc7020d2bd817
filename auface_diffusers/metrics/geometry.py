"""A second witness that needs no trained detector: how far landmarks have moved, unit by unit, and which way.

Shapes: N faces; points (N, P, 2) in pixels or shares, x to the right of the picture and y down; P is 68 (iBUG), or 468
or 478 (MediaPipe). Lengths are in distances between the outer corners of the eyes.

What cannot be seen in iBUG's points is left out: 6, 11, 14, 23, 24 and all that only folds the skin or moves in depth.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from auface_diffusers.anatomy import HeadModel
from auface_diffusers.facs import AUSet, resolve, units

EYES = {"R": (36, 39), "L": (42, 45)}
"""Outer and inner corners; R is the person's right, at the left of the picture."""


class Term(NamedTuple):
    """A length that a unit changes: ``up``, the height of points over the line of the eyes; ``out``, how far they lie
    from the middle of the face; ``gap``, the distance of each of ``points`` from its partner in ``others``. ``way``: 1
    if the unit makes it larger, -1 if smaller.
    """

    kind: str
    points: tuple[int, ...]
    way: int
    others: tuple[int, ...] = ()


LIPS_IN = Term("gap", (61, 62, 63), 1, (67, 66, 65))
SIDED: dict[str, tuple[Term, ...]] = {  # points of the person's right side; the left ones follow by mirroring
    "1": (Term("up", (20, 21), 1),),
    "2": (Term("up", (17, 18), 1),),
    "4": (Term("up", (19, 20, 21), -1),),
    "5": (Term("gap", (37, 38), 1, (41, 40)),),
    "7": (Term("gap", (37, 38), -1, (41, 40)),),
    "9": (Term("up", (31, 32), 1), Term("up", (20, 21), -1)),
    "10": (Term("up", (49, 50), 1),),
    "12": (Term("up", (48,), 1), Term("out", (48,), 1)),
    "13": (Term("up", (48,), 1),),
    "15": (Term("up", (48,), -1),),
    "16": (Term("up", (59, 58), -1),),
    "20": (Term("out", (48,), 1),),
    "43": (Term("gap", (37, 38), -1, (41, 40)),),
}
WHOLE: dict[str, tuple[Term, ...]] = {
    "17": (Term("up", (56, 57, 58), 1), Term("up", (7, 8, 9), 1)),
    "18": (Term("out", (48, 54), -1),),
    "25": (LIPS_IN,),
    "26": (LIPS_IN, Term("up", (7, 8, 9), -1)),
    "27": (LIPS_IN, Term("up", (7, 8, 9), -1)),
    "28": (Term("gap", (50, 51, 52), -1, (58, 57, 56)),),
}
"""Lengths by unit, from the columns ``landmarks`` and ``motion`` of the table of units."""
_MIRROR = {
    **{a: b for a, b in zip(range(17), range(16, -1, -1), strict=True)},
    **{a: b for a, b in zip(range(17, 27), range(26, 16, -1), strict=True)},
    **{a: a for a in (27, 28, 29, 30, 33, 51, 57, 62, 66)},
    **{31: 35, 32: 34, 34: 32, 35: 31, 36: 45, 37: 44, 38: 43, 39: 42, 40: 47, 41: 46},
    **{42: 39, 43: 38, 44: 37, 45: 36, 46: 41, 47: 40, 48: 54, 49: 53, 50: 52, 52: 50, 53: 49, 54: 48},
    **{55: 59, 56: 58, 58: 56, 59: 55, 60: 64, 61: 63, 63: 61, 64: 60, 65: 67, 67: 65},
}


def columns() -> tuple[str, ...]:
    """Names of what `movements` measures, in the order of ``units.channels``; units on both lips have a bare code."""
    names = {f"{side}{code}" for code in SIDED for side in "LR"} | set(WHOLE)
    ordered = [name for name in units.channels if name in names]
    return (*ordered, *(code for code in WHOLE if code not in units.channels))


def movements(points: np.ndarray, neutral: np.ndarray | None = None) -> np.ndarray:
    """How far each unit's landmarks have moved its way, (N, M) for the M `columns`; below 0 is the other way.

    Args:
        points: (N, P, 2). neutral: (N, P, 2), the same people at rest before the same camera, or (P, 2) for all; None
            takes the mean head, whose lids and lips are not those of a person: fit for means over many people only.

    Raises:
        ValueError: other shapes.
    """
    if neutral is None:
        neutral = _mean_head()
    moved: np.ndarray = measure(points) - measure(neutral[None] if neutral.ndim == 2 else neutral)
    return moved


def measure(points: np.ndarray) -> np.ndarray:
    """The lengths themselves (N, M), larger is more of the unit; NaN where a point is missing."""
    flat = in_face_frame(points)
    found = []
    for name in columns():
        side, code = (name[0], name[1:]) if name[0] in "LR" else ("", name)
        terms = SIDED[code] if side else WHOLE[code]
        found.append(np.mean([term.way * _length(flat, term, side == "L") for term in terms], 0))
    return np.stack(found, 1)


def in_face_frame(points: np.ndarray) -> np.ndarray:
    """iBUG's points (N, 68, 2), y up, the middle of the eyes at 0 and the outer corners level and 1 apart."""
    flat = ibug68(points)
    corners = [flat[:, list(EYES[side])].mean(1) for side in "RL"]
    across = flat[:, 45] - flat[:, 36]
    scale = np.linalg.norm(across, axis=1)[:, None, None]
    cos, sin = (across / scale[:, :, 0]).T[:, :, None]
    x, y = np.moveaxis((flat - np.mean(corners, 0)[:, None]) / scale, 2, 0)
    return np.stack([cos * x + sin * y, sin * x - cos * y], 2)


def ibug68(points: np.ndarray) -> np.ndarray:
    """iBUG's points (N, 68, 2) of these or of MediaPipe's 468 or 478."""
    points = np.asarray(points, dtype=np.float64)
    if points.ndim != 3 or points.shape[1] not in (68, 468, 478) or points.shape[2] != 2:
        raise ValueError(f"points {points.shape}: give (N, 68, 2) of iBUG, or (N, 468 or 478, 2) of MediaPipe")
    return points if points.shape[1] == 68 else points[:, _nearest_of_468()]


def confirmed(scores: list[AUSet], moved: np.ndarray, least: float = 0.0) -> dict[str, float]:
    """Share of faces that were asked for a unit and whose landmarks moved its way by more than ``least``, by column.

    Only scores of one unit count: in others, one unit may move the landmarks of another.
    """
    names = columns()
    hits: dict[str, list[bool]] = {}
    for row, score in enumerate(scores):
        effective = resolve(score).effective
        if len(effective.codes) != 1:
            continue
        for column, name in enumerate(names):
            if effective.level(name) >= 1 and not np.isnan(moved[row, column]):
                hits.setdefault(name, []).append(bool(moved[row, column] > least))
    return {name: float(np.mean(found)) for name, found in hits.items()}


def _length(flat: np.ndarray, term: Term, left: bool) -> np.ndarray:
    places, others = (tuple(_MIRROR[p] for p in side) if left else side for side in (term.points, term.others))
    if term.kind == "up":
        return np.asarray(flat[:, list(places), 1].mean(1))
    if term.kind == "out":
        return np.asarray(np.abs(flat[:, list(places), 0]).mean(1))
    return np.asarray(np.linalg.norm(flat[:, list(places)] - flat[:, list(others)], axis=2).mean(1))


@lru_cache(maxsize=1)
def _mean_head() -> np.ndarray:
    """iBUG's points (68, 2) of the average head at rest, seen from the front, y down."""
    points = HeadModel.from_default()().landmarks68[0, :, :2].numpy()
    return np.asarray(points * [1, -1], dtype=np.float64)


@lru_cache(maxsize=1)
def _nearest_of_468() -> list[int]:
    """Which of MediaPipe's points lies nearest to each of iBUG's on the average head."""
    mesh = HeadModel.from_default()()
    distance = (mesh.landmarks68[0][:, None] - mesh.landmarks468[0][None]).norm(dim=-1)
    return [int(place) for place in distance.argmin(1)]

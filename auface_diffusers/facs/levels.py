"""FACS levels: 0 (absent) and 1..5 for the intensities A..E, as floats."""

from __future__ import annotations

import math

MAX_LEVEL = 5.0
LETTERS = "ABCDE"
UNSCORED_LEVEL = 3.0
"""Level used for an action scored present without an intensity: C, the middle of the scale."""

# FACS intensities are not steps of equal size: A and E cover little of an action's range, C and D most of it
# (K: common knowledge of FACS coders; no published curve exists). The weights are our choice (O): a trace is a
# tenth of the full action, the step from C to D is the widest, and E is the full action.
LEVEL_WEIGHTS = (0.0, 0.10, 0.25, 0.50, 0.80, 1.0)


def check_level(level: float) -> float:
    """Return ``level`` as float. Raises `ValueError` unless it lies in [0, 5]."""
    level = float(level)
    if not 0.0 <= level <= MAX_LEVEL:  # also catches NaN
        raise ValueError(f"level {level:g} is outside 0..5 (0 = absent, 1..5 = A..E)")
    return level


def grade(level: float) -> int:
    """Nearest whole level of a positive ``level``, 1..5: a trace below 0.5 is still an A, never nothing."""
    return min(5, max(1, math.floor(level + 0.5)))


def level_letter(level: float) -> str:
    """``"A"``..``"E"`` for a positive level, ``""`` for 0. Raises `ValueError` outside [0, 5]."""
    return LETTERS[grade(level) - 1] if check_level(level) > 0 else ""


def level_to_weight(level: float) -> float:
    """Map a FACS level in [0, 5] to the weight in [0, 1] of a shape that shows the full action at 1.

    Piecewise linear through 0, A 0.10, B 0.25, C 0.50, D 0.80, E 1.0 (see the note at the top of the file).
    """
    low = min(4, int(check_level(level)))
    return LEVEL_WEIGHTS[low] + (level - low) * (LEVEL_WEIGHTS[low + 1] - LEVEL_WEIGHTS[low])


def weight_to_level(weight: float) -> float:
    """Inverse of `level_to_weight`. Raises `ValueError` unless ``weight`` lies in [0, 1]."""
    if not 0.0 <= weight <= 1.0:
        raise ValueError(f"weight {weight:g} is outside 0..1")
    low = next(i for i in range(5) if weight <= LEVEL_WEIGHTS[i + 1])
    return low + (weight - LEVEL_WEIGHTS[low]) / (LEVEL_WEIGHTS[low + 1] - LEVEL_WEIGHTS[low])

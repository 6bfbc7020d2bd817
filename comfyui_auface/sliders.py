"""The sliders of the node AUFace Sliders: which units there are, in which order, and what they say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from auface_diffusers.facs import AUSet, units

CODES = (
    *("1", "2", "4"),  # brows
    *("5", "6", "7", "43"),  # eyes
    *("9", "10", "11"),  # nose and upper lip
    *("12", "13", "14", "15", "16", "20"),  # corners of the mouth and lower lip
    *("18", "22", "23", "24", "28"),  # lips
    *("17", "25", "26", "27"),  # chin and jaw
)
"""Saved workflows hold the values by position: new units go to the end of `sliders`, never in between."""
SIDES = {"L": "left", "R": "right"}


@dataclass(frozen=True)
class Slider:
    """One slider: ``id`` is the input's, ``names`` the channels it sets while the sides are not linked."""

    id: str
    label: str
    tooltip: str
    names: tuple[str, ...]


def sliders() -> tuple[Slider, ...]:
    """All of them, from brow to jaw, the left side before the right."""
    made = []
    for code in CODES:
        unit = units[code]
        if unit.parts == "sides":
            for letter, side in SIDES.items():
                made.append(
                    Slider(
                        f"AU{code}_{side}",
                        f"AU{code} {letter} · {unit.name}",
                        f"AU {code} on the person's {side}: {unit.appearance}. 0 is nothing, 1 to 5 are A to E.",
                        (letter + code,),
                    )
                )
        else:
            tip = f"AU {code}: {unit.appearance}. 0 is nothing, 1 to 5 are A to E."
            made.append(Slider(f"AU{code}", f"AU{code} · {unit.name}", tip, (code,)))
    return tuple(made)


def read(levels: Mapping[str, float], link_sides: bool) -> AUSet:
    """The score of slider values 0..5 by slider id.

    Args:
        link_sides: a left slider sets both sides, and a right one nothing.
    """
    found: dict[str, float] = {}
    for one in sliders():
        level = round(float(levels[one.id]), 2)  # what a slider sends for 0.3 is 0.30000000000000004
        if link_sides and one.id.endswith("_left"):
            found[one.names[0]] = found["R" + one.names[0][1:]] = level
        elif not (link_sides and one.id.endswith("_right")):
            found |= {name: level for name in one.names}
    return AUSet(found)

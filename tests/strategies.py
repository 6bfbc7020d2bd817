"""Random scores for the property tests: any unit, side, lip, level, scored or not."""

from hypothesis import strategies as st

from auface_diffusers.facs import AUSet, units
from auface_diffusers.facs.notation import Key

CODES = [code for code in units if code != "0"]
# The units that the rules speak of, so that conflicts are not rare among 86 codes.
BUSY = [unit.code for unit in units.values() if unit.still and unit.group != "neutral" and unit.number < 47]


def _keys(code: str, part: str) -> list[Key]:
    unit = units[code]
    if part == "both":
        return [(code, name) for name in unit.part_names]
    return [(code, part)]


@st.composite
def _score(draw, codes, levels):
    code = draw(st.sampled_from(codes))
    unit = units[code]
    parts = [*unit.part_names, *(["both", "both"] if unit.parts != "whole" else [])]
    if unit.parts == "sides":
        parts += ["U"] if unit.one_sided else ["U", "A"]
    part = draw(st.sampled_from(parts))
    level = draw(st.one_of(levels, st.none()) if levels is not None else st.none())
    return _keys(code, part), level


def scores(max_size: int = 15, *, floats: bool = False):
    """Sets of 0 to ``max_size`` scores; levels are letters, or floats in (0, 5], or not scored."""
    levels = st.floats(0.01, 5, allow_nan=False).map(lambda x: round(x, 3)) if floats else st.integers(1, 5).map(float)
    one = st.one_of(_score(BUSY, levels), _score(BUSY, levels), _score(CODES, levels))

    def build(parts: list) -> AUSet:
        found: dict[Key, float] = {}
        unscored: set[Key] = set()
        for keys, level in parts:
            for key in keys:
                found[key] = units[key[0]].unscored_level if level is None else level
                (unscored.add if level is None else unscored.discard)(key)
        return AUSet.from_keys(found, unscored)

    return st.lists(one, max_size=max_size).map(build)

"""The table of units: complete, consistent, and the only list of AUs."""

import re

import pytest

from auface_diffusers.facs import AUSet, level_letter, level_to_weight, units, weight_to_level
from auface_diffusers.facs.lexicon import lexicon


def test_it_has_every_facs_code():
    assert len(units) == 86
    assert [u.number for u in units.values() if u.kind == "action unit"][:7] == [0, 1, 2, 4, 5, 6, 7]
    assert "3" not in units
    assert units[12] is units["12"]
    assert [u.code for u in units.values() if u.code.startswith("M")] == [
        "M55", "M56", "M57", "M59", "M60", "M83", "M61", "M62", "M68", "M69",
    ]  # fmt: skip


@pytest.mark.parametrize("code", [c for c in units])
def test_a_unit_is_complete(code):
    unit = units[code]
    assert unit.name
    assert unit.appearance
    assert unit.sources
    assert set(unit.sources) <= set(units.sources)
    assert re.search(r"\b[VDKO]\b", unit.evidence), unit.evidence
    assert unit.parts in ("whole", "sides", "lips")
    assert set(unit.levels) in (set(), set("ABCDE"))
    if unit.kind == "action unit" and unit.graded:
        assert unit.levels, "a graded action unit says what each level looks like"
    if unit.mirror:
        assert units[unit.mirror].mirror == code
    if unit.mistaken_for:
        assert unit.mistaken_for in units


def test_channels_are_scores_and_round_trip():
    assert len(set(units.channels)) == len(units.channels)
    aus = AUSet({name: 1 + index % 5 for index, name in enumerate(units.channels)})
    assert aus.vector() == tuple(1 + index % 5 for index in range(len(units.channels)))
    assert AUSet.from_vector(aus.vector()) == aus
    assert not {"0", "70", "80", "M55"} & set(units.channels)
    assert {"L12", "R12", "17", "28:T", "51"} <= set(units.channels)


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("disfa", 12),
        ("disfa+", 12),
        ("bp4d", 27),
        ("bp4d-eval", 12),
        ("bp4d-intensity", 5),
        ("bp4d+", 34),
        ("pyfeat", 20),
    ]
    + [
        ("openface-r", 17),
        ("openface-c", 18),
        ("openface3", 8),
        ("libreface-detection", 12),
        ("unbc", 11),
        ("ck+", 30),
    ],
)
def test_sources_cover_as_many_units_as_published(source, count):
    assert len(units.labelled_in(source)) == count


def test_an_unknown_source_names_the_known():
    with pytest.raises(ValueError, match="'bp5d'.*disfa"):
        units.labelled_in("bp5d")


def test_every_unit_has_phrases():
    lex = lexicon()
    for code in units:
        if code != "0":
            entry = lex.units[code]
            assert entry.say or len(entry.by_level) == 5
            assert entry.compact or len(entry.compact_by_level) == 5
            assert entry.tags


def test_levels_and_weights():
    assert [level_letter(x) for x in (0, 0.2, 1, 2.4, 2.5, 5)] == ["", "A", "A", "B", "C", "E"]
    weights = [level_to_weight(x) for x in range(6)]
    steps = [b - a for a, b in zip(weights, weights[1:], strict=False)]
    assert weights[0] == 0
    assert weights[5] == 1
    assert len({round(step, 6) for step in steps}) > 1, "FACS levels are not steps of equal size"
    for level in (0, 0.3, 1, 2.75, 4.99, 5):
        assert weight_to_level(level_to_weight(level)) == pytest.approx(level)
    for bad in (-0.1, 5.1, float("nan")):
        with pytest.raises(ValueError, match=r"0\.\.5"):
            level_to_weight(bad)
    with pytest.raises(ValueError, match=r"0\.\.1"):
        weight_to_level(1.2)

"""Targets of every kind of score: sides, traces, worlds, readings, what nobody can see, lists beside a score."""

import warnings

import numpy as np
import pytest
import strategies
from hypothesis import given, settings
from hypothesis import strategies as st

from auface_diffusers.facs import AUSet, describe, read_text, resolve, units
from auface_diffusers.metrics import Targets, spec_targets, text_targets
from auface_diffusers.metrics.controls import leakage
from auface_diffusers.metrics.targets import (
    MASKED,
    OFF,
    ON,
    UNSPECIFIED,
    conflict_rules,
    conflict_units,
    implied,
    parse_accuracy,
)

NAMES = {ON: "on", OFF: "off", UNSPECIFIED: "-", MASKED: "masked"}
REGIONS = {unit.code: unit.region for unit in units.values()}


def code_of(channel):
    return channel.lstrip("LR").split(":")[0]


def asked(text, *columns, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # 70 to 74 were other units on some sheets: said on reading
        score = AUSet.parse(text)
    return [NAMES[state] for state in spec_targets([score], columns, **options).states[0]]


def regions(text, state, **options):
    """Regions of the face of which every channel, or none, has a state; "some of" where it is neither."""
    states = asked(text, *units.channels, **options)
    found = {}
    for name, one in zip(units.channels, states, strict=True):
        found.setdefault(REGIONS[code_of(name)], []).append(one == state)
    return {region if all(same) else f"some of {region}" for region, same in found.items() if any(same)}


@given(strategies.scores(floats=True), st.sampled_from(["closed", "open"]), st.sampled_from(["raw", "resolved"]))
@settings(max_examples=60)
def test_any_score_has_targets_that_follow_its_levels(score, world, reading):
    score = score.choose_side("L")
    targets = spec_targets([score], world=world, reading=reading)
    done = resolve(score)
    shown = (done.raw if reading == "raw" else done.effective).vector()
    for state, level, given_level in zip(targets.states[0], targets.levels[0], shown, strict=True):
        if state == ON:
            assert given_level >= 1.5
        if state == OFF:
            assert given_level <= 0.5
        if state == UNSPECIFIED:
            assert world == "open"
            assert given_level == 0
        assert np.isnan(level) if state == UNSPECIFIED else np.isnan(level) or level == given_level
        if state >= 0:
            assert level == given_level


@pytest.mark.parametrize("code", [code for code in units if code != "0"])
def test_every_unit_by_itself_has_targets(code):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        score = AUSet.parse(code).choose_side("L")
    for world in ("closed", "open"):
        states = spec_targets([score], world=world).states[0]
        own = [state for name, state in zip(units.channels, states, strict=True) if code_of(name) == code]
        assert not own or ON in own
        assert MASKED not in own


@pytest.mark.parametrize(
    ("text", "columns", "states"),
    [
        ("L12D", ("L12", "R12", "12"), ["on", "off", "masked"]),
        ("L12D+R12A", ("L12", "R12", "12"), ["on", "masked", "masked"]),
        ("L12D+R12B", ("L12", "R12", "12"), ["on", "on", "on"]),
        ("24C:T", ("24:T", "24:B", "24"), ["on", "off", "masked"]),
        ("17A", ("17",), ["masked"]),
        ("17=1.4", ("17",), ["masked"]),
        ("17=1.5", ("17",), ["on"]),
        ("17=0.5", ("17",), ["off"]),
        ("17=0.6", ("17",), ["masked"]),
    ],
)
def test_one_side_and_a_trace_are_no_answer(text, columns, states):
    assert asked(text, *columns) == states
    opened = ["-" if state == "off" and "=" not in text else state for state in states]
    assert asked(text, *columns, world="open") == opened


def test_worlds_differ_only_in_what_is_not_named():
    for text in ("12D+L4B", "24C+25D", "0", "43E+61C", "17A"):
        closed, opened = (asked(text, *units.channels, world=world) for world in ("closed", "open"))
        assert all(a == b or (a, b) == ("off", "-") for a, b in zip(closed, opened, strict=True))
    assert set(asked("0", *units.channels, world="open")) == {"-"}


@pytest.mark.parametrize(
    ("text", "column", "raw", "resolved"),
    [
        ("24C+25D", "24:T", "on", "off"),
        ("24C+25D", "25", "on", "on"),
        ("41C+43D", "L41", "on", "off"),
        ("12C+15C", "L15", "on", "on"),
        ("43E+61C", "61", "masked", "masked"),
        ("34C+11C", "L11", "masked", "masked"),
        ("73+12C", "L12", "masked", "masked"),
    ],
)
def test_readings_differ_in_what_the_rules_took_away(text, column, raw, resolved):
    assert asked(text, column, reading="raw") == [raw]
    assert asked(text, column, reading="resolved") == [resolved]


@pytest.mark.parametrize("reading", ["raw", "resolved"])
@pytest.mark.parametrize("world", ["closed", "open"])
@pytest.mark.parametrize(
    ("code", "hidden"),
    [
        ("70", {"1"}),
        ("71", {"43", "61"}),
        ("72", {"9", "12", "17", "26"}),
        ("73", {"1", "43", "61", "9", "12", "17", "26"}),
        ("74", {"1", "43", "61", "9", "12", "17", "26"}),
    ],
)
def test_units_of_a_score_that_a_visibility_code_hides_are_masked(code, hidden, world, reading):
    named = ("1", "9", "12", "17", "26", "43", "61")
    states = asked(f"{code}+1C+9C+12C+17C+26C+43C+61C", *named, world=world, reading=reading)
    assert {name for name, state in zip(named, states, strict=True) if state == "masked"} == hidden


@pytest.mark.parametrize("code", [unit.code for unit in units.values() if unit.kind == "visibility"])
def test_what_a_visibility_code_hides_is_masked_though_nobody_named_it(code):
    for world in ("closed", "open"):
        assert regions(code, "masked", world=world) == set(units[code].hides)


@pytest.mark.parametrize("reading", ["raw", "resolved"])
@pytest.mark.parametrize("extra", ["", "+1C+43C+12C+17C+26C+9C+61C"])
@pytest.mark.parametrize(("code", "hidden"), [("53D", {"brow", "eye"}), ("54D", {"mouth", "chin"})])
def test_regions_that_a_tilted_head_hides_are_masked_whether_named_or_not(code, hidden, extra, reading):
    assert regions(code + extra, "masked", reading=reading, world="closed") == hidden
    assert regions(code + extra, "masked", reading=reading, world="open") == hidden


@pytest.mark.parametrize(("code", "side"), [("51D", "L"), ("52E", "R"), ("51C", ""), ("52C", "")])
def test_a_head_turned_far_hides_its_far_side(code, side):
    states = asked(code + "+12C+1C", *units.channels)
    masked = {name for name, state in zip(units.channels, states, strict=True) if state == "masked"}
    assert masked == {name for name in units.channels if side and name[0] == side}
    assert asked(code + "+12C", "12") == ["masked" if side else "on"]


@pytest.mark.parametrize(
    ("text", "state"),
    [("43E+61C", "masked"), ("43D+61C", "on"), ("45+61C", "masked"), ("L46E+61C", "on"), ("L46E+R43E+61C", "masked")],
)
def test_two_closed_eyes_hide_the_gaze(text, state):
    assert asked(text, "61") == [state]


# --- lists beside the scores -----------------------------------------------------------------------------------------


def test_lists_are_of_one_item_each_and_may_name_codes_or_channels():
    scores = [AUSet.parse("12D"), AUSet.parse("12D"), AUSet()]
    lists = {"absent": [["4"], ["L4"], []], "unknown": [[], ["12"], ["R12"]]}
    targets = spec_targets(scores, ["L4", "R4", "4", "L12", "R12", "12"], world="open", **lists)
    assert [[NAMES[state] for state in row] for row in targets.states.tolist()] == [
        ["off", "off", "off", "on", "on", "on"],
        ["off", "-", "-", "masked", "masked", "masked"],
        ["-", "-", "-", "-", "masked", "masked"],
    ]


def test_what_is_there_is_on_though_a_list_says_it_is_absent_and_no_label_beats_both():
    assert asked("12D", "12", world="open", absent=[["12"]]) == ["on"]
    assert asked("12D", "12", world="open", absent=[["12"]], unknown=[["12"]]) == ["masked"]


@pytest.mark.parametrize("world", ["closed", "open"])
def test_what_is_not_covered_is_masked_in_every_world(world):
    columns = ("L12", "R12", "17", "25")
    states = asked("12D", *columns, world=world, covered=["L12", "25"])
    assert states == ["on", "masked", "masked", "off" if world == "closed" else "-"]
    assert asked("12D", *columns, world=world, covered=[]) == ["masked"] * 4


def test_levels_go_with_states():
    targets = spec_targets([AUSet.parse("L12D+R12B+9A+25=2.5+73"), AUSet.parse("L12D+R12B+9A+25=2.5")], world="open")
    place = {name: column for column, name in enumerate(units.channels)}
    assert np.isnan(targets.levels[0, place["L12"]])
    row = targets.levels[1]
    assert [row[place[name]] for name in ("L12", "R12", "L9", "25")] == [4, 2, 1, 2.5]
    assert np.isnan(row[place["L4"]])


def test_rows_are_chosen_by_number_or_mask():
    targets = spec_targets([AUSet.parse(text) for text in ("12D", "17C", "0")], ["12", "17"])
    assert len(targets) == 3
    for chosen in ([2, 0], np.array([True, False, True])):
        some = targets.rows(chosen)
        assert isinstance(some, Targets)
        assert some.columns == targets.columns
        np.testing.assert_array_equal(some.states, targets.states[chosen])
        np.testing.assert_array_equal(some.levels, targets.levels[chosen])


# --- texts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", ["open", "closed"])
@pytest.mark.parametrize("code", ["6C+12D", "1C+2C+5B+25C+26D", "L12B", "4E+7C", "24C+25D"])
def test_texts_are_asked_for_as_their_scores(code, world):
    score = AUSet.parse(code)
    by_text = text_targets([describe(score, seed=3).text], world=world)
    by_score = spec_targets([resolve(score).effective], world=world)
    np.testing.assert_array_equal(by_text.states, by_score.states)
    np.testing.assert_array_equal(by_text.levels, by_score.levels)


def test_texts_are_read_open_unless_told_otherwise():
    assert text_targets(["a face"], ["12"]).states.tolist() == [[UNSPECIFIED]]
    assert text_targets(["a face"], ["12"], world="closed").states.tolist() == [[OFF]]


def test_parse_accuracy_is_the_share_read_to_the_letter():
    scores = [AUSet.parse(code) for code in ("12D", "12B", "4C", "24C+25D")]
    texts = [describe(score).text for score in scores]
    assert parse_accuracy(texts, scores) == 1
    texts[1] = texts[0]
    assert read_text(texts[1]) != scores[1], "another level is a mistake"
    assert parse_accuracy(texts, scores) == 0.75
    assert parse_accuracy(["a face"] * 4, scores) == 0


# --- rules -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("12D", {"L6", "R6"}), ("12C", set()), ("12D+6B", set()), ("9C", {"L10", "R10", "L4", "R4"}), ("0", set())],
)
def test_what_detectors_see_as_well(text, expected):
    assert implied(AUSet.parse(text)) == expected


@pytest.mark.parametrize(
    ("columns", "unit"), [(("L6", "L12"), "L6"), (("6", "12"), "6")], ids=["with sides", "without sides"]
)
def test_what_detectors_see_as_well_is_no_leakage(columns, unit):
    scores = [AUSet.parse("12E"), AUSet.parse("12B")]
    states = spec_targets(scores, columns).states
    presence = np.array([[0.9, 0.9], [0.3, 0.9]])
    found = leakage(states, presence, np.zeros((1, 2)), columns, [implied(score) for score in scores])
    assert found[columns.index(unit)] == 0.3


def test_conflicts_are_rules_of_class_s_and_f_each_once():
    assert conflict_rules(AUSet.parse("0")) == ()
    assert conflict_rules(AUSet.parse("24C+25D")) == ("S3",)
    assert conflict_rules(AUSet.parse("43E+61C")) == (), "hiding is no conflict"
    assert sorted(conflict_rules(AUSet.parse("12C+15C+24C+25D"))) == ["F5", "S3"]


@given(strategies.scores())
@settings(max_examples=60)
def test_units_of_conflicts_are_those_of_the_score(score):
    score = score.choose_side("R")
    found = conflict_units(score)
    assert tuple(found) == conflict_rules(score)
    assert all(hit.rule.rule_class in "SF" for hit in resolve(score).conflicts())
    there = {name for name, level in zip(units.channels, score.vector(), strict=True) if level > 0}
    for hits in found.values():
        assert hits
        for members in hits:
            assert len(members) >= 2
            assert all(len({code_of(name) for name in names}) == 1 for names in members)
            assert {name for names in members for name in names if name in units.channels} <= there


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: spec_targets([AUSet()], ["L17"]),
            "column 'L17': give a channel such as 'L12', or a code such as '12'",
        ),
        (lambda: spec_targets([AUSet()], ["73"]), "column '73'"),
        (lambda: spec_targets([AUSet()], absent=[[], []]), "absent: 2 for 1 scores: give one each"),
        (lambda: spec_targets([AUSet()], unknown=[["99"]]), "column '99'"),
        (lambda: spec_targets([AUSet()], ["12"], covered=["L12"]), "covered: L12 are no columns; there are 12"),
        (lambda: text_targets(["a face"], world="round"), "world 'round'"),
        (lambda: parse_accuracy(["a face"], []), "1 texts and 0 scores"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

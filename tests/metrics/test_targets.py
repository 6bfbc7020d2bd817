"""What scores and texts ask for: sides, worlds, readings, and what cannot be judged."""

import pytest

from auface_diffusers.facs import AUSet, describe
from auface_diffusers.metrics import spec_targets, text_targets
from auface_diffusers.metrics.targets import (
    MASKED,
    OFF,
    ON,
    UNSPECIFIED,
    conflict_rules,
    conflict_units,
    parse_accuracy,
)

NAMES = {ON: "on", OFF: "off", UNSPECIFIED: "-", MASKED: "masked"}


def asked(text, *columns, **options):
    targets = spec_targets([AUSet.parse(text)], columns, **options)
    return [NAMES[state] for state in targets.states[0]]


@pytest.mark.parametrize(
    ("text", "columns", "states"),
    [
        ("12D", ("L12", "R12", "12"), ["on", "on", "on"]),
        ("L12D", ("L12", "R12", "12"), ["on", "off", "masked"]),
        ("L12D+R12B", ("12",), ["on"]),
        ("12A", ("L12", "12"), ["masked", "masked"]),
        ("28C:B", ("28:T", "28:B", "28"), ["off", "on", "masked"]),
        ("0", ("L12", "17"), ["off", "off"]),
        ("24C+25D", ("24:T", "25"), ["off", "on"]),
        ("73+12C", ("L12", "L1"), ["masked", "masked"]),
        ("43E+61C", ("61", "L43"), ["masked", "on"]),
        ("53D+12C", ("L1", "L5", "L12", "53"), ["masked", "masked", "on", "on"]),
        ("51E+12C", ("L12", "R12"), ["masked", "on"]),
    ],
)
def test_states_of_a_closed_world(text, columns, states):
    assert asked(text, *columns) == states


def test_raw_asks_for_what_the_rules_took_away():
    assert asked("24C+25D", "24:T", "25", reading="raw") == ["on", "on"]
    assert asked("73+12C", "L12", reading="raw") == ["masked"], "what is not visible is judged in neither"


def test_an_open_world_does_not_speak_of_what_it_does_not_name():
    assert asked("12D", "L12", "L4", world="open") == ["on", "-"]
    assert asked("12D", "L12", "L4", "R4", world="open", absent=[["L4"]]) == ["on", "off", "-"]
    assert asked("12D", "12", "4", world="open", absent=[["4"]]) == ["on", "off"]


def test_what_is_not_labelled_or_not_covered_is_masked():
    assert asked("12D", "L12", "L4", "R4", unknown=[["4"]]) == ["on", "masked", "masked"]
    assert asked("12D", "L12", "L4", covered=["L4"]) == ["masked", "off"]


def test_levels_are_those_that_were_asked_for():
    targets = spec_targets([AUSet.parse("12D+L4B"), AUSet.parse("12=2.5")], ["L12", "4", "17"])
    assert targets.levels[0, 0] == 4
    assert targets.levels[0, 1] != targets.levels[0, 1], "two sides with different levels have no level"
    assert targets.levels[:, 2].tolist() == [0, 0]
    assert targets.levels[1, 0] == 2.5


def test_texts_ask_for_what_a_parser_reads():
    text = describe("6C+12D").text
    targets = text_targets([text], ["L6", "L12", "L4"])
    assert targets.states[0].tolist() == [ON, ON, UNSPECIFIED]
    scores = [AUSet.parse("6C+12D"), AUSet.parse("4B")]
    assert parse_accuracy([text, "She frowns slightly"], scores) in (0.5, 1.0)
    assert parse_accuracy([text, text], scores) == 0.5


def test_conflicts_name_rules_and_units():
    assert conflict_rules(AUSet.parse("12C+15C")) == ("F5",)
    assert conflict_rules(AUSet.parse("6C+12C")) == ()
    ((first, second),) = conflict_units(AUSet.parse("L12C+L15C"))["F5"]
    assert {first, second} == {frozenset({"L12"}), frozenset({"L15"})}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: spec_targets([], ["AU12"]), "column 'AU12': give a channel such as 'L12'"),
        (lambda: spec_targets([AUSet()], unknown=[]), "unknown: 0 for 1 scores"),
        (lambda: spec_targets([], world="flat"), "world 'flat'"),
        (lambda: spec_targets([], reading="wild"), "reading 'wild'"),
        (lambda: spec_targets([AUSet()], ["25"], absent=[["99"]]), "column '99'"),
        (lambda: parse_accuracy([], []), "0 texts and 0 scores"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

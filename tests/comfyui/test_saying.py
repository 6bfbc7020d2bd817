"""Reports and opposite texts, without ComfyUI."""

import pytest

from auface_diffusers.facs import AUSet, describe, read_text, units
from auface_diffusers.facs.presets import presets
from auface_diffusers.metrics.negatives import PAIRS
from comfyui_auface.expression import Expression
from comfyui_auface.saying import JOINERS, negative, opposites, preset_choices, reading_report, recipe, report


def test_opposites_go_both_ways_and_are_graded():
    for code, others in opposites().items():
        assert code not in others
        for other in others:
            assert code in opposites()[other]
            assert units[other].graded


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_what_pulls_the_other_way_is_an_opposite(one, other):
    assert other in opposites()[one]


@pytest.mark.parametrize("style", JOINERS)
def test_the_negative_text_says_the_opposite_at_its_level_and_side(style):
    said = negative(AUSet.parse("L12D"), style)
    assert said
    if style == "coder":
        assert said == "L15D (lip corner depressor, left) + 18D (lip pucker) + L20D (lip stretcher, left)"
    if style != "tags":
        assert read_text(said).level("L15") == 4
        assert read_text(said).level("R15") == 0


def test_what_is_asked_for_is_not_in_the_negative_text():
    assert "15" not in negative(AUSet.parse("12D+15B"), "coder")
    assert negative(AUSet.parse("1C+4C"), "coder").startswith("2C")


def test_the_neutral_face_has_no_opposite():
    assert negative(AUSet()) == ""


def test_the_report_names_rules_and_what_was_left_out():
    said = report([describe("24C+25B")])
    assert said.splitlines()[0] == "24C+25B -> 24C"
    assert "  S3 [O] 24C with 25B: dropped (25B left out): orbicularis oris" in said
    assert report([describe("12B")]) == "12B -> 12B\n  no rule fired"
    assert report([describe("12B"), describe("0")]).splitlines()[2] == "frame 2: 0 -> 0"


def test_the_report_of_a_reading_names_what_was_not_understood():
    said = reading_report(read_text("She smirks. Blubb"))
    assert said.splitlines()[0].startswith("U12, confidence 0.")
    assert "AU 12 Lip corner puller" in said
    assert "not understood: Blubb" in said


def test_presets_can_be_told_apart_and_say_where_they_come_from():
    choices = preset_choices()
    assert len(choices) == len(presets())
    said = recipe("sad (Du 2014)", Expression.parse("4+15"))
    assert said.startswith("4+15\nsad = 4+15; also seen: 1 60%")
    assert "PNAS" in said


def test_a_text_about_nothing_has_no_confidence():  # the help page says so
    assert read_text("Blubb").confidence == 0

"""Free text: a best effort with a confidence. (The exact inverse is in test_laws.py and test_golden.py.)"""

import pytest

from auface_diffusers.facs import AUSet, describe, read_text

FREE = [
    ("She raises one brow and smirks", "U1+U2+U12"),
    ("She raises one eyebrow.", "U1+U2"),
    ("He raised his left eyebrow slightly", "L1B+L2B"),
    ("raised eyebrows, eyes wide open, jaw dropped", "1+2+5+26"),
    ("a big smile with crow's feet", "6+12D"),
    ("smiling slightly", "12B"),
    ("a crooked smile", "U12"),
    ("eyes closed, lips parted", "25+43E"),
    ("His left eye is closed", "L43E"),
    ("winking with the right eye", "R46"),
    ("furrowed brows, pursed lips, flared nostrils", "4+18+38"),
    ("she wrinkles her nose and sticks her tongue out", "9+19"),
    ("the corners of the mouth turned down, chin bunched", "15+17"),
    ("biting her lip, looking down to the floor", "32+64"),
    ("head tilted to the left, gaze turned up", "55+63"),
    ("puffed cheeks and a clenched jaw", "31+34"),
    ("inner brows drawn together", "4"),
    ("brows lowered over the upper lids", "4"),
    ("a tight smile", "12"),
    ("upper lip curled, lower lip pulled down, lips rolled inward", "10+16+28"),
    ("drooping eyelids, mouth turned down, jaw thrust forward, head tilted back", "15+29+43B+53"),
    ("AU12 with AU 6C, and AU4", "4+6C+12"),
    ("A portrait of a man with a broad smile and raised brows", "1+2+12D"),
    ("A portrait of a woman smiling. Her brows are raised.", "1+2+12"),
    ("not smiling, brows raised", "1+2"),
    ("without raising the eyebrows", "0"),
    ("a photo of a city at night", "0"),
]


@pytest.mark.parametrize(("text", "expected"), FREE)
def test_free_text(text, expected):
    read = read_text(text)
    assert read == AUSet.parse(expected)
    assert read.confidence < 1
    assert set(read.by_unit) == set(read)
    assert all(0 < sure <= 1 for sure in read.by_unit.values())


def test_confidence_falls_with_what_is_not_understood():
    known = read_text("The lip corners are pulled up and back.")
    assert (known.confidence, known.unread) == (1.0, ())
    half = read_text("The lip corners are pulled up and back. The city sleeps under a cover of thick grey snow.")
    assert half == known
    assert half.unread == ("The city sleeps under a cover of thick grey snow",)
    assert 0 < half.confidence < 0.6
    assert read_text("a city at night").confidence == 0
    assert read_text("").confidence == 0
    assert read_text(describe("0").text).confidence == 1


def test_white_space_does_not_matter():
    text = describe("1C+L12D").text
    assert read_text(text.replace(" ", "\n  ")) == read_text(text)
    assert read_text(text.replace(" ", "\n  ")).confidence == 1


def test_mixed_text_keeps_the_exact_parts():
    read = read_text(f"Cinematic photo. {describe('1C+4D+R15B').text} She grins.")
    assert {"1", "4", "R15"} <= set(read)
    assert read.level("4") == 4
    assert read.by_unit["R15"] == 1.0
    assert read.by_unit["12"] == 0.6


def test_codes_with_a_wrong_name_are_not_taken_for_coder_style():
    assert read_text("12C (lip corner puller)").confidence == 1
    assert read_text("12C (inner brow raiser)").confidence < 1


@pytest.mark.parametrize(
    "text", ["", " \n", "...", "(", "12", "{}", "\x00", "ẞ" * 50, "İ" * 9 + " smile", "and and and"]
)
def test_odd_text_is_no_error(text):
    assert isinstance(read_text(text), AUSet)


def test_too_long():
    with pytest.raises(ValueError, match="20001 characters.*limit is 20000"):
        read_text("x" * 20_001)

"""`AUSet`: a value with arithmetic."""

import pytest

from auface_diffusers.facs import AUSet, NotationError

P = AUSet.parse


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (P("1C+L12D").scale(0.5), "1=1.5+L12B"),
        (P("12D").scale(2), "12E"),
        (P("12D").scale(0), "0"),
        (P("12").scale(1), "12"),
        (P("12").scale(0.5), "12=1.5"),
        (P("1C+12B").merge(P("12D+6A")), "1C+6A+12D"),
        (P("12D").merge(P("12B"), how="max"), "12D"),
        (P("12D").merge(P("12B"), how="replace"), "12B"),
        (P("12D").merge(P("12B"), how="add"), "12E"),
        (P("L12D").merge(P("R12D")), "12D"),
        (P("12").merge(P("6")), "6+12"),
        (P("12").merge(P("12C")), "12C"),
        (P("12D").blend(P("15B"), 0.5), "12B+15A"),
        (P("12D").blend(P("15B"), 0), "12D"),
        (P("12D").blend(P("15B"), 1), "15B"),
        (P("L12D+R14A+51B+61+M55+28:T").mirror(), "R12D+L14A+28:T+52B+M56+62"),
        (P("1C+2C+L12D+R12B").only([1, "L12"]), "1C+L12D"),
        (P("1C+U2C+L12D").only([2]), "U2C"),
        (P("1C+2C+L12D+R12B").without([1, "L12"]), "2C+R12B"),
        (P("12=2.5+1=0.1").round(), "1A+12C"),
        (P("U12B+A1D").choose_side("L"), "L1D+R1C+L12B"),
        (P("U12B+A1A").choose_side("R"), "1A+R12B"),
        (AUSet({"12": 2.3, "L1": "B", "6": None, "28:T": 4, 17: 1.0}), "L1B+6+12=2.3+17A+28D:T"),
        (AUSet(), "0"),
        (AUSet({"0": 3}), "0"),
        (AUSet({"12": None, "L12": 3}), "L12C+R12"),
        (P("A12C").merge(P("L12B")), "L12B"),
        (P("1C+12D").only("12"), "12D"),
        (P("1C+12D").without(12), "1C"),
    ],
)
def test_arithmetic(made, expected):
    assert made.format() == expected


def test_reading():
    aus = P("1C+L12D+R12B+28C:T")
    assert aus.items() == (("1", 3.0), ("L12", 4.0), ("R12", 2.0), ("28:T", 3.0))
    assert aus.codes == ("1", "12", "28")
    assert [aus.level(name) for name in (12, "L12", "R12", "28:B", 28, "17")] == [4, 4, 2, 0, 3, 0]
    assert list(aus) == ["1", "L12", "R12", "28:T"]
    assert len(aus) == 4
    assert "12" in aus
    assert "L12" in aus
    assert 17 not in aus
    assert aus
    assert not AUSet()
    assert hash(P("L12C+R12C")) == hash(P("12C"))
    assert len({P("12C"), P("12"), P("L12C+R12C")}) == 1
    assert repr(aus) == "AUSet.parse('1C+L12D+R12B+28C:T')"
    assert P("12C") != "12C"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AUSet({"12": 7}), r"level 7 is outside 0\.\.5"),
        (lambda: AUSet({"12": float("nan")}), r"outside 0\.\.5"),
        (lambda: AUSet({"12": "F"}), "level 'F' of 12"),
        (lambda: P("12C").scale(-1), "must be a finite number"),
        (lambda: P("12C").scale(float("inf")), "must be a finite number"),
        (lambda: P("12C").blend(P("1C"), 1.5), r"outside 0\.\.1"),
        (lambda: P("12C").merge(P("1C"), how="mean"), "max, add, replace"),
        (lambda: P("12C").choose_side("B"), "'L' and 'R'"),
        (lambda: P("U12C").vector(), "choose_side"),
        (lambda: AUSet.from_vector([1.0]), "one level a channel"),
    ],
)
def test_bad_numbers_name_the_value_and_the_range(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("name", ["3", "L17", "12C", "nose", "12=3", ""])
def test_bad_names(name):
    with pytest.raises(NotationError):
        AUSet({name: 1.0})


def test_vector_takes_other_channel_lists():
    aus = P("L12D+17B+M55")
    assert aus.vector(("17", "L12", "R12")) == (2.0, 4.0, 0.0)
    assert AUSet.from_vector((2.0, 4.0, 0.0), ("17", "L12", "R12")) == P("L12D+17B")

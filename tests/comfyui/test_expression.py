"""`Expression`, keyframes and sliders: what the expression nodes do, without ComfyUI."""

import pytest

from auface_diffusers.facs import AUSet, NotationError, units
from comfyui_auface import sliders
from comfyui_auface.expression import MAX_FRAMES, Expression, blend, choose, pair, read_codes
from comfyui_auface.keyframes import animate, parse_keys


def lines(text):
    return str(text).splitlines()


def test_an_expression_is_lines_of_codes():
    expression = Expression.parse("12d + 6\n\n L4B \n0")
    assert lines(expression) == ["6+12D", "L4B", "0"]
    assert Expression.parse(str(expression)) == expression
    assert len(expression) == 3


def test_an_expression_keeps_what_was_not_scored():
    assert Expression.parse("12").frames[0].unscored == AUSet.parse("12").unscored != frozenset()


@pytest.mark.parametrize(
    ("text", "said", "column"),
    [
        ("12D+99", "'99' at column 5: FACS has no unit 99", 5),
        ("12D\n6C+12F", "line 2: '12F' at column 4: F is no intensity", 4),
        ("", "empty score: write units", 0),
        (" \n ", "empty score: write units", 0),
    ],
)
def test_a_mistake_names_line_token_and_column(text, said, column):
    with pytest.raises(NotationError) as error:
        Expression.parse(text)
    assert said in str(error.value)
    assert error.value.column == column


def test_an_expression_has_a_limit():
    with pytest.raises(ValueError, match=f"1..{MAX_FRAMES} frames, not {MAX_FRAMES + 1}"):
        Expression.parse("0\n" * (MAX_FRAMES + 1))


def test_notes_of_the_notation_are_passed_on_once():
    expression, notes = read_codes("12+71\n71")
    assert len(expression) == 2
    assert len(notes) == 1
    assert "write 4" in notes[0]
    assert read_codes("12D")[1] == ()


def test_pairs_go_frame_by_frame():
    one, three = Expression.parse("1C"), Expression.parse("12A\n12B\n12C")
    joined = pair(one, three, AUSet.merge, ("first", "second"))
    assert lines(joined) == ["1C+12A", "1C+12B", "1C+12C"]
    assert pair(three, one, AUSet.merge, ("first", "second")) == joined
    with pytest.raises(ValueError, match="first has 3 frames and second has 2: give both the same number"):
        pair(three, Expression.parse("1\n2"), AUSet.merge, ("first", "second"))


def test_blending_writes_short_numbers_and_keeps_equal_levels():
    start, end = AUSet.parse("1C+12A"), AUSet.parse("1C+12B")
    assert blend(start, end, 1 / 3).format() == "1C+12=1.3333"
    assert blend(start, end, 0) == start
    assert blend(start, end, 1) == end


def test_choices_are_checked():
    assert choose("how", "max", ("max", "add")) == "max"
    with pytest.raises(ValueError, match="how 'min' is unknown; choose max, add"):
        choose("how", "min", ("max", "add"))


# --- keyframes -------------------------------------------------------------------------------------------------------


def test_frames_go_from_zero_to_the_last_key():
    film = animate("1: 0\n3: 12E", "linear")
    assert lines(film) == ["0", "0", "12=2.5", "12E"]


def test_easings_differ_between_the_keys_and_not_at_them():
    films = {name: lines(animate("0: 0\n4: 12E", name)) for name in ("smooth", "linear", "hold")}
    assert films["linear"] == ["0", "12=1.25", "12=2.5", "12=3.75", "12E"]
    assert films["smooth"] == ["0", "12=0.7812", "12=2.5", "12=4.2188", "12E"]
    assert films["hold"] == ["0", "0", "0", "0", "12E"]


def test_a_film_can_go_back():
    there = lines(animate("0: 0\n3: 12E", "linear"))
    back = lines(animate("0: 0\n3: 12E", "linear", bounce=True))
    assert back == [*there, *there[-2:0:-1]]


def test_input_stands_for_the_given_expression():
    given = Expression.parse("1C\n2C")
    assert lines(animate("0: input\n1: Input 2", given=given)) == ["1C", "2C"]
    with pytest.raises(ValueError, match="'input 3' in the keyframes is not there: the expression has frames 1..2"):
        animate("0: input 3", given=given)
    with pytest.raises(ValueError, match="needs an expression: connect one"):
        animate("0: input")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0: 12F", "line 1: '12F' at column 4"),
        ("0: 0\n\n 12 : 6C+99", "line 3: '99' at column 10"),
        ("0: 0\n12", "line 2: '12' is no key; write FRAME: CODES"),
        ("0: 0\n0: 12", "line 2: frame 0 has a key already"),
        (f"{MAX_FRAMES}: 0", f"frame {MAX_FRAMES} is too late; the last possible one is {MAX_FRAMES - 1}"),
        (" ", "there are no keys"),
    ],
)
def test_a_mistake_in_the_keys_is_named(text, said):
    with pytest.raises(ValueError, match="keys?|line") as error:
        parse_keys(text)
    assert said in str(error.value)


def test_an_unknown_easing_is_refused():
    with pytest.raises(ValueError, match="choose smooth, linear, hold"):
        animate("0: 0", "bouncy")


# --- sliders ---------------------------------------------------------------------------------------------------------


def values(**set_to):
    return {one.id: 0.0 for one in sliders.sliders()} | set_to


def test_all_sliders_at_zero_are_the_neutral_face():
    assert sliders.read(values(), True) == sliders.read(values(), False) == AUSet()


@pytest.mark.parametrize("one", sliders.sliders(), ids=lambda one: one.id)
def test_a_slider_moves_one_unit(one):
    (name,) = one.names
    assert sliders.read(values(**{one.id: 2.0}), False) == AUSet({name: 2.0})
    assert units[one.id.removeprefix("AU").partition("_")[0]].graded


def test_linked_sides_follow_the_left():
    moved = values(AU12_left=4.0, AU12_right=1.0, AU26=0.30000000000000004)
    assert sliders.read(moved, True).format() == "12D+26=0.3"
    assert sliders.read(moved, False).format() == "L12D+R12A+26=0.3"

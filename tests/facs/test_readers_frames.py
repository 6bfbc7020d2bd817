"""Duplicate detection: merged intervals, streams of frames, faces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.readers import Annotation, Bad, DuplicateFilter, FrameSet
from auface_diffusers.facs.readers.frames import MAX_STREAMS


@given(st.lists(st.integers(-20, 60) | st.integers(-(2**62), 2**62)))
def test_frame_set_is_a_set(numbers):
    frames, reference = FrameSet(), set()
    for number in numbers:
        assert (number in frames) == (number in reference)
        assert frames.add(number) == (number not in reference)
        reference.add(number)
    assert list(frames) == sorted(reference)
    assert len(frames) == len(reference)


@given(st.permutations(range(12)))
def test_frames_in_a_row_are_one_interval_whatever_their_order(numbers):
    frames = FrameSet()
    assert all(frames.add(number) for number in numbers)
    assert list(frames.intervals()) == [(0, 11)]


def row(frame, **fields):
    return Annotation("csv", "a.csv", 2, frame, AUSet(), **fields)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        (row("1"), row("1"), True),
        (row("1"), row("001"), True),
        (row("1"), row("2"), False),
        (row("a1.jpg"), row("a1.jpg"), True),
        (row("a1.jpg"), row("a01.jpg"), False),
        (row("a1.jpg"), row("b1.jpg"), False),
        (row("a1.jpg"), row("a1.png"), False),
        (row("0.jpg"), row("1.jpg"), False),
        (row("neutral"), row("neutral"), True),
        (row("neutral"), row("smile"), False),
        (row("9" * 30), row("9" * 30), True),
        (row("9" * 30), row("8" * 12 + "9" * 18), False),
        (row("1", face="0"), row("1", face="1"), False),
        (row("1", subject="F001"), row("1", subject="F002"), False),
        (row("1", task="T1"), row("1", task="T2"), False),
        (row("1", image="a.mp4"), row("1", image="b.mp4"), False),
        (row("1", image="a.mp4"), row("1", image="a.mp4"), True),
        (row("a.png", image="a.png"), row("b.png", image="b.png"), False),
    ],
)
def test_what_counts_as_the_same_frame(first, second, same):
    check = DuplicateFilter().check
    assert check(first) is first
    answer = check(second)
    assert isinstance(answer, Bad) == same
    if same:
        assert (answer.file, answer.line, answer.reason) == ("a.csv", 2, "duplicate frame")


def test_image_can_be_left_out_of_account():
    check = DuplicateFilter(by_image=False).check
    check(row("1", image="1.jpg"))
    assert isinstance(check(row("1", image="2.jpg")), Bad)


def test_faces_are_counted_within_a_frame():
    check = DuplicateFilter(count_faces=True).check
    boxes = [(1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0)]
    assert [check(row("0", box=box)).face for box in boxes] == ["0", "1"]
    assert isinstance(check(row("0", box=boxes[0])), Bad)
    assert check(row("1", box=boxes[0])).face == "0"
    assert isinstance(check(row("0", box=(9.0, 9.0, 9.0, 9.0))), Bad)  # frame 0 is over


def test_number_of_streams_is_bounded():
    duplicates = DuplicateFilter()
    for i in range(MAX_STREAMS):
        duplicates.check(row("0", face="kept"))
        duplicates.check(row("0", face=f"x{i}y"))
    assert len(duplicates._streams) == MAX_STREAMS
    assert isinstance(duplicates.check(row("0", face="kept")), Bad)  # used all the time, so not forgotten
    assert not isinstance(duplicates.check(row("0", face="x0y")), Bad)  # forgotten

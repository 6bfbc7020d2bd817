"""Which frames were seen: duplicate detection in flat memory."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace

from auface_diffusers.facs.readers.base import Annotation, Bad

MAX_STREAMS = 4096
"""Sequences of frames that are remembered at once; the one unused for longest is forgotten first."""

MAX_DIGITS = 18
"""Digits of a frame number: as many as surely fit 64 bits."""

_NUMBERED = re.compile(rf"(.*?)([0-9]{{1,{MAX_DIGITS}}})([^0-9]*)", re.DOTALL)


class FrameSet:
    """A set of whole numbers kept as merged intervals: a million frames in a row take the room of one.

    Numbers must fit 64 bits. Adding the next frame takes constant time, any other one O(intervals).
    """

    __slots__ = ("_ends", "_starts")

    def __init__(self) -> None:
        self._starts = array("q")
        self._ends = array("q")  # inclusive

    def add(self, number: int) -> bool:
        """Add ``number``; False if it was there already."""
        starts, ends = self._starts, self._ends
        if ends and number == ends[-1] + 1:  # the usual case
            ends[-1] = number
            return True
        i = bisect_right(starts, number) - 1  # the interval that starts at or before the number
        if i >= 0 and number <= ends[i]:
            return False
        joins_left = i >= 0 and ends[i] == number - 1
        joins_right = i + 1 < len(starts) and starts[i + 1] == number + 1
        if joins_left and joins_right:
            ends[i] = ends[i + 1]
            del starts[i + 1], ends[i + 1]
        elif joins_left:
            ends[i] = number
        elif joins_right:
            starts[i + 1] = number
        else:
            starts.insert(i + 1, number)
            ends.insert(i + 1, number)
        return True

    def __contains__(self, number: int) -> bool:
        i = bisect_right(self._starts, number) - 1
        return i >= 0 and number <= self._ends[i]

    def __len__(self) -> int:
        return sum(end - start + 1 for start, end in self.intervals())

    def __iter__(self) -> Iterator[int]:
        return (number for start, end in self.intervals() for number in range(start, end + 1))

    def intervals(self) -> Iterator[tuple[int, int]]:
        """(first, last) of every run of numbers, ascending."""
        return zip(self._starts, self._ends, strict=True)


class DuplicateFilter:
    """Finds rows that repeat a (frame, face) of the same subject, task and image. Sees rows in file order, one by one.

    It is apart from the row parser so that workers can parse and one process can check. Frames that are numbers, or
    names that end in numbers, cost no memory while they come in order; other names are remembered for the last
    `MAX_STREAMS` of them.

    Args:
        by_image: whether rows of different images are apart: false where the image follows from the frame.
        count_faces: whether several rows of one frame are several faces (py-feat writes no face number). They must
            stand together; they are numbered 0, 1, ..., and a row with the box of another one is a duplicate.
    """

    def __init__(self, by_image: bool = True, count_faces: bool = False) -> None:
        self.by_image = by_image
        self.count_faces = count_faces
        self._streams: dict[tuple[str, ...], FrameSet] = {}
        self._last: tuple[tuple[str, ...], FrameSet] = ((), FrameSet())
        self._run: tuple[str, ...] = ()
        self._boxes: list[tuple[float, ...] | None] = []

    def check(self, row: Annotation) -> Annotation | Bad:
        """Return the row (with its face number, if faces are counted), or why it is a duplicate."""
        image = row.image if self.by_image and row.image != row.frame else ""
        if self.count_faces:
            return self._check_face(row, image)
        if self._is_new((row.subject, row.task, row.face, image), row.frame):
            return row
        return _duplicate(row, f"frame {row.frame} was there before" + (f" with face {row.face}" if row.face else ""))

    def _check_face(self, row: Annotation, image: str) -> Annotation | Bad:
        run = (row.subject, row.task, image, row.frame)
        if run != self._run:
            if not self._is_new(run[:-1], row.frame):
                return _duplicate(row, f"frame {row.frame} was there before, and other frames since")
            self._run, self._boxes = run, []
        if row.box in self._boxes:
            return _duplicate(row, f"frame {row.frame} has this face box twice: {row.box}")
        self._boxes.append(row.box)
        return replace(row, face=str(len(self._boxes) - 1))

    def _is_new(self, stream: tuple[str, ...], frame: str) -> bool:
        if frame.isdecimal() and len(frame) <= MAX_DIGITS:
            number, key = int(frame), stream
        elif match := _NUMBERED.fullmatch(frame):
            # "9.jpg" and "10.jpg" belong together, "1.jpg" and "01.jpg" are different names
            before, digits, after = match.groups()
            padded = str(len(digits)) if digits[0] == "0" else ""
            number, key = int(digits), (*stream, before, padded, after)
        else:
            number, key = 0, (*stream, frame)
        last, seen = self._last
        if key != last:
            found = self._streams.pop(key, None)
            seen = FrameSet() if found is None else found
            self._streams[key] = seen  # put back as the youngest
            self._last = (key, seen)
            if len(self._streams) > MAX_STREAMS:
                del self._streams[next(iter(self._streams))]
        return seen.add(number)


def _duplicate(row: Annotation, detail: str) -> Bad:
    return Bad(row.file, row.line, "duplicate frame", detail, f"frame {row.frame}")

"""Tables (CSV, TSV): a picklable row parser made from the header. The way of a row is `TableReader.parse_line`."""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.readers.base import Annotation, Bad, RowError, shorten
from auface_diffusers.facs.readers.cells import Labels, read_flag, read_number
from auface_diffusers.facs.readers.files import Header, check_text, numbered_lines, read_header
from auface_diffusers.facs.readers.frames import MAX_DIGITS, DuplicateFilter
from auface_diffusers.facs.readers.layout import SCORE_LIST, find_cells, find_meta, label_titles
from auface_diffusers.facs.readers.sources import BOX, Source, get_source
from auface_diffusers.facs.readers.trees import BP4D_FILE

_MIN_GAP = 8  # columns: below that, splitting twice costs more than it saves


class TableReader:
    """Parses the rows of one table. Knows the header, keeps no state between rows, and can be pickled.

    A row is one line: cells with line breaks in them are not supported.

    Args:
        path: the table.
        source: name of a source with columns, such as ``"openface"``.
        threshold: presence threshold; None is the source's default.

    Attributes:
        header_line: 1-based line number of the header; the rows stand below it.

    Raises:
        ReaderError: for a missing, empty or binary file, for no AU columns, for a threshold that is not allowed.
    """

    def __init__(self, path: str | os.PathLike[str], source: str, threshold: float | None = None) -> None:
        spec = get_source(source)
        spec.checked_threshold(threshold)
        self.path = Path(path)
        self.file = str(path)
        self.source = spec.name
        header = read_header(self.path)
        self.header_line = header.line
        self.delimiter = header.delimiter
        self.width = len(header.names)
        self._whole_frames = spec.whole_frames
        self._is_bp4d = spec.name.startswith("bp4d")
        self._head, self._tail = _cut(spec, header)
        # all cell numbers below count in what `_split` returns
        kept = header.names[: self._head] + header.names[self.width - self._tail :]
        short = Header(kept, header.delimiter, header.line)
        self._cells = find_cells(spec, short, self.path, threshold)
        self._meta = find_meta(spec, kept) | ({"frame": 0} if self._is_bp4d else {})
        self._box = tuple(self._meta[role] for role in BOX) if self._meta.keys() >= set(BOX) else ()
        match = BP4D_FILE.fullmatch(self.path.name) if self._is_bp4d else None
        self._subject, self._task = (match["subject"].upper(), match["task"].upper()) if match else ("", "")
        codes = frozenset(column.name for column in self._cells.columns)
        self._no_face = Labels(AUSet(), codes, frozenset(), {})

    def lines(self) -> Iterator[tuple[int, str]]:
        """Yield (1-based line number, text) of the lines below the header: what `parse_line` takes."""
        return numbered_lines(self.path, after=self.header_line)

    def duplicate_filter(self) -> DuplicateFilter:
        """A new filter that knows how this source numbers faces; give it every `Annotation`, in file order."""
        return DuplicateFilter(by_image=not self._is_bp4d, count_faces=self.source == "pyfeat")

    def parse_line(self, text: str, line: int) -> Annotation | Bad | None:
        """Parse one row; None for a line that has no annotation (blank, or another sensor's).

        Args:
            text: the line, with or without its line end.
            line: its 1-based number.
        """
        try:
            return self._parse(text, line)
        except RowError as error:
            return Bad(self.file, line, error.reason, error.detail, shorten(text))

    def _parse(self, text: str, line: int) -> Annotation | None:
        if not text or text.isspace():
            return None
        cells = self._split(text.rstrip("\r\n"))
        if self._is_other_sensor(cells):
            return None
        aus, unknown, absent, scores = self._cells.read(cells) if self._has_face(cells) else self._no_face
        frame = self._frame(cells, line)
        return Annotation(
            self.source,
            self.file,
            line,
            frame,
            aus,
            unknown,
            absent,
            self._text("subject", cells) or self._subject,
            self._text("task", cells) or self._task,
            self._text("face", cells).removesuffix(".0"),  # pandas turns whole numbers with gaps into floats
            self._bp4d_image(frame) if self._is_bp4d else self._text("image", cells),
            self._confidence(cells),
            self._face_box(cells),
            scores,
        )

    def _split(self, text: str) -> list[str]:
        """The first and the last cells of a row, those between left out. Raises `RowError` for a torn row."""
        if not text.isascii() or "\0" in text:
            check_text(text)
        head, tail = self._head, self._tail
        if '"' in text:
            try:
                fields = next(csv.reader([text], delimiter=self.delimiter, skipinitialspace=True, strict=True))
            except csv.Error as error:
                raise RowError("bad quotes", str(error)) from None
            self._check_count(len(fields))
            return fields[:head] + fields[self.width - tail :]
        self._check_count(text.count(self.delimiter) + 1)
        if head == self.width:
            return text.split(self.delimiter)
        cells = text.split(self.delimiter, head)
        cells[head:] = text.rsplit(self.delimiter, tail)[1:]
        return cells

    def _check_count(self, count: int) -> None:
        if count != self.width:
            raise RowError("wrong number of fields", f"{count} fields, the header has {self.width}")

    def _text(self, role: str, cells: Sequence[str]) -> str:
        """The cell of a role, stripped; "" if the table has none, or if it is empty or NaN."""
        at = self._meta.get(role)
        if at is None:
            return ""
        text = cells[at].strip()
        return "" if text.lower() == "nan" else text

    def _is_other_sensor(self, cells: Sequence[str]) -> bool:
        # iMotions writes a row for each sample of each sensor, and repeats FACET's last values in them. One row can be
        # of two sensors: "ET|Emotient FACET"
        return "sensor" in self._meta and "facet" not in cells[self._meta["sensor"]].lower()

    def _has_face(self, cells: Sequence[str]) -> bool:
        meta = self._meta
        if "success" in meta:
            return read_flag(cells[meta["success"]]) is True
        return "faces" not in meta or read_number(cells[meta["faces"]]) > 0  # FACET: 0 or -1; NaN is not > 0

    def _frame(self, cells: Sequence[str], line: int) -> str:
        if "frame" not in self._meta:
            if "image" in self._meta:
                return self._text("image", cells)
            # OpenFace's output for a single image has no frames, but a row for each face
            return "0" if "face" in self._meta else str(line - self.header_line - 1)
        frame = cells[self._meta["frame"]].strip()
        if frame.isdecimal() and len(frame) <= MAX_DIGITS:
            return frame
        frame = frame or self._text("image", cells)
        if not frame:
            raise RowError("no frame number", "the frame cell is empty")
        if not self._whole_frames:
            return frame
        number = read_number(frame)
        if not number.is_integer() or abs(number) >= 10**MAX_DIGITS:
            raise RowError("no frame number", f"frame {shorten(frame, 40)!r}: a whole number is expected")
        if number < 0:
            raise RowError("no frame number", f"frame {frame}: outside the video (frames count from 0)")
        return str(int(number))

    def _bp4d_image(self, frame: str) -> str:
        """Image of a coded frame, such as ``"F001/T1/2440.jpg"``; BP4D+ counts images from 0, its codes from 1."""
        number = int(frame) - (self.source == "bp4d+")
        if number < 0:
            raise RowError("no frame number", f"frame {frame}: BP4D+ counts coded frames from 1")
        # the width of the index differs between copies: it follows the table's
        index = str(number).zfill(len(frame) if frame.startswith("0") else 0)
        return f"{self._subject}/{self._task}/{index}.jpg" if self._subject else ""

    def _confidence(self, cells: Sequence[str]) -> float | None:
        at = self._meta.get("confidence")
        number = math.nan if at is None else read_number(cells[at])
        return None if math.isnan(number) else number

    def _face_box(self, cells: Sequence[str]) -> tuple[float, float, float, float] | None:
        if not self._box:
            return None
        x, y, width, height = (read_number(cells[at]) for at in self._box)
        return None if math.isnan(x + y + width + height) else (x, y, width, height)


def _cut(source: Source, header: Header) -> tuple[int, int]:
    """How many of the first and of the last columns to keep: all but the widest gap between wanted columns.

    A row has hundreds of landmark columns; splitting only what is needed is several times faster.
    """
    names = header.names
    labels = label_titles(source, names)
    if not labels:  # a list of scores, notation, or nothing
        return len(names), 0  # also keeps the whole header for the error message
    score_list = {index for index, name in enumerate(names) if name == SCORE_LIST}
    wanted = sorted({0, *labels, *find_meta(source, names).values(), *score_list})
    gap, before, after = max((b - a, a, b) for a, b in zip(wanted, [*wanted[1:], len(names)], strict=True))
    return (len(names), 0) if gap < _MIN_GAP else (before + 1, len(names) - after)

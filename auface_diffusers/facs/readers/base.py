"""What every reader yields, and where the rows go that cannot be used."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

from auface_diffusers.facs.auset import AUSet

MAX_EXCERPT = 120
"""Characters of a bad row that the quarantine keeps."""


class ReaderError(ValueError):
    """A file, folder or argument that cannot be read as a whole. A single bad row never raises; see `Quarantine`."""


class ReaderWarning(UserWarning):
    """Rows were left out, and nobody gave a `Quarantine` to collect them."""


class RowError(Exception):
    """Why one row cannot be used. Used inside the readers; callers get a `Bad`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Annotation:
    """The action units of one face in one frame.

    A unit that the source covers is in exactly one of ``aus`` (present), ``absent`` and ``unknown``. A unit in none of
    them was never looked at: it is neither present nor absent.

    Args:
        source: name of the source, such as ``"bp4d"``.
        file: where it was read; a folder if it was joined from several files.
        line: 1-based line in ``file``; 0 if it was joined from several lines or files.
        frame: frame number or name, as written. Row number from 0 where the file has no frames.
        aus: units that are present, levels 0..5. ``AUSet.unscored`` tells which were present without an intensity.
        unknown: codes labelled unknown (9, 999, NaN, empty, no face found). Never to be taken for absent.
        absent: codes that were coded, and are absent.
        subject: who is seen, if the source says so.
        task: task, sequence or stimulus, if the source says so.
        face: which face of the frame, if there can be several.
        image: path of the image relative to the data set's image folder (or of the video), where the format fixes it.
        confidence: the detector's confidence in the face, as written (usually 0..1).
        box: (x, y, width, height) of the face in pixels.
        scores: raw numbers by code, for sources that give probabilities or evidence instead of levels.
    """

    source: str
    file: str
    line: int
    frame: str
    aus: AUSet
    unknown: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    subject: str = ""
    task: str = ""
    face: str = ""
    image: str = ""
    confidence: float | None = None
    box: tuple[float, float, float, float] | None = None
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Bad:
    """A row that was left out, or (``note``) one that was read although something about it is odd.

    ``reason`` is one of a few fixed phrases to count by; ``detail`` says what came and what is allowed. ``line`` is
    1-based, 0 for a whole file.
    """

    file: str
    line: int
    reason: str
    detail: str
    excerpt: str = ""
    note: bool = False


def shorten(text: str, limit: int = MAX_EXCERPT) -> str:
    """Cut ``text`` to ``limit`` characters, with "..." at the end if something is missing."""
    text = text.strip()
    return text if len(text) <= limit else text[: limit - 3] + "..."


class Quarantine:
    """Collects the rows that a reader left out: counts of all, the first ones in full, all in a file if wanted.

    Memory stays flat: ``rows`` holds at most ``keep`` of them. The file has one JSON object a line: file, line,
    reason, detail, excerpt, note. It is written as the rows come, and appears under its name, complete, on `close`.

        >>> with Quarantine("bad.jsonl") as quarantine:            # doctest: +SKIP
        ...     for annotation in read_annotations("of.csv", quarantine=quarantine): ...
        >>> quarantine.counts                                      # doctest: +SKIP
        Counter({'wrong number of fields': 1})

    Args:
        path: JSON Lines file to write; None keeps the rows in memory only.
        keep: how many rows to keep in memory, >= 0.

    Raises:
        ReaderError: if the file cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None, keep: int = 1000) -> None:
        if keep < 0:
            raise ReaderError(f"keep={keep} must be >= 0")
        self.counts: Counter[str] = Counter()
        """Rows left out, by reason."""
        self.notes: Counter[str] = Counter()
        """Rows read although something is odd, by reason."""
        self.rows: list[Bad] = []
        self.keep = keep
        self.path = None if path is None else Path(path)
        self._file = None if self.path is None else _open_beside(self.path)

    def add(self, bad: Bad) -> None:
        """Count one row and keep or write it."""
        (self.notes if bad.note else self.counts)[bad.reason] += 1
        if len(self.rows) < self.keep:
            self.rows.append(bad)
        if self._file is not None:
            # surrogates stand for bytes that are no UTF-8: ASCII-only JSON can write them
            self._file.write(json.dumps(asdict(bad)) + "\n")

    @property
    def total(self) -> int:
        """How many rows were left out; notes do not count."""
        return sum(self.counts.values())

    def summary(self) -> str:
        """One line, such as ``"3 rows left out: duplicate frame 2, out of range 1"``."""
        parts = [f"{self.total} rows left out"] if not self.counts else []
        for rows, title in ((self.counts, "left out"), (self.notes, "read, but odd")):
            if rows:
                counts = ", ".join(f"{reason} {count}" for reason, count in rows.most_common())
                parts.append(f"{sum(rows.values())} rows {title}: {counts}")
        return "; ".join(parts)

    def close(self) -> None:
        """Put the file in its place. Closing twice does nothing."""
        if self._file is not None and self.path is not None:
            self._file.close()
            os.replace(self._file.name, self.path)
            self._file = None

    def discard(self) -> None:
        """Close without a file: whatever stood under its name before stays."""
        if self._file is not None:
            self._file.close()
            os.unlink(self._file.name)
            self._file = None

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # also after an error: the rows found so far are what one wants to see then
        self.close()

    def __repr__(self) -> str:
        return f"Quarantine({self.summary()})"


def _open_beside(path: Path) -> IO[str]:
    """Open a file beside ``path`` that can be renamed into place; what a killed run left there is written over."""
    try:
        return open(f"{path}.part", "w", encoding="utf-8")
    except OSError as error:
        raise ReaderError(f"quarantine file {path} cannot be written: {error.strerror}") from None

"""Annotation files to texts: streamed, in several processes, resumable, and never half-written."""

from __future__ import annotations

import hashlib
import json
import os
import pkgutil
import signal
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, TypeVar

from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.describe import STYLES, Style, describe
from auface_diffusers.facs.locks import lock_file
from auface_diffusers.facs.notation import Key
from auface_diffusers.facs.readers import (
    Annotation,
    Bad,
    JsonlReader,
    Quarantine,
    ReaderError,
    TableReader,
    get_source,
    guess_source,
    read_annotations,
    table_reader,
)
from auface_diffusers.facs.readers.trees import TREES

CHUNK = 500
"""Rows that a worker takes at once."""

Item = TypeVar("Item")
Result = TypeVar("Result")
Row = tuple[Annotation, str]
"""An annotation (without its units, which are in the text already) and the JSON of what was said about it."""


@dataclass(frozen=True)
class CaptionOptions:
    """What decides the output: a finished part is only continued with the same options.

    ``seed`` varies the wording from row to row; None is the canonical text.
    """

    source: str = "auto"
    style: Style = "anatomical"
    seed: int | None = None
    threshold: float | None = None


@dataclass(frozen=True)
class CaptionReport:
    """What `caption_file` did: rows written, rows of them about which nothing is known, rows left out."""

    rows: int
    without_text: int
    quarantined: int
    resumed_at: int
    summary: str


def quarantine_path(out: str | os.PathLike[str]) -> Path:
    """Where `caption_file` puts the rows that it leaves out."""
    return Path(f"{os.fspath(out)}.quarantine.jsonl")


def caption_file(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    options: CaptionOptions = CaptionOptions(),  # noqa: B008 - frozen
    *,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> CaptionReport:
    """Describe every row of an annotation file or data set.

    ``out`` gets one JSON object a row, in the order of the file: frame, line, subject, task, face, image (where
    there are any), ``aus`` (notation), ``text``, ``rules`` (ids that fired) and ``unknown`` (codes). A row about
    which nothing is known (no face) has ``"text": null``. Bad rows go to `quarantine_path` with line and reason.

    The output is written beside its place and moved there when it is complete. A run that was stopped goes on where
    it was, if files, options and version are the same. A second run to the same output is refused while one is on.

    Args:
        path: file or folder, see `readers.sources`.
        out: JSON Lines file to write.
        options: source, style, seed and presence threshold.
        workers: processes. They are started afresh (spawn): a script that uses them needs an
            ``if __name__ == "__main__":`` guard.
        progress: called with the number of rows written so far.

    Raises:
        ReaderError: the input cannot be read as a whole, or the output cannot be written; ``out`` is as before then.
        ValueError: an unknown style, or workers < 1.
    """
    if options.style not in STYLES:
        raise ValueError(f"style {options.style!r}: allowed are {', '.join(STYLES)}")
    if workers < 1:
        raise ValueError(f"workers={workers} must be >= 1")
    _check_output(Path(path), out)
    path, out = Path(path), Path(out)
    known = guess_source(path) if options.source == "auto" else get_source(options.source).name
    options = replace(options, source=known)
    part = _Part(out, {**asdict(options), "input": _fingerprint(path), "version": _version()})
    with part:
        quarantine = Quarantine(quarantine_path(out))
        resumed_at = part.rows
        try:
            for row, said in _rows(path, options, workers, quarantine, skip=part.rows):
                part.write(row, said)
                if progress and part.rows % CHUNK == 0:
                    progress(part.rows)
        except ReaderError:
            quarantine.discard()
            if not part.rows:
                part.discard()
            raise
        if quarantine.counts or quarantine.notes:
            quarantine.close()
        else:
            quarantine.discard()
            quarantine_path(out).unlink(missing_ok=True)  # of an earlier run
        part.finish()
    if progress:
        progress(part.rows)
    return CaptionReport(part.rows, part.without_text, quarantine.total, resumed_at, quarantine.summary())


def _check_output(path: Path, out: str | os.PathLike[str]) -> None:
    """Refuse an output that would destroy something, or cannot be written, before anything is read."""
    place = Path(out)
    if os.fspath(out) in ("", "-"):
        raise ReaderError(f"output {os.fspath(out)!r}: name a file; it is moved into place when it is complete")
    if place.exists() and not place.is_file():
        raise ReaderError(f"output {place} is a folder or a device: name a file")
    if not place.parent.is_dir():
        raise ReaderError(f"output {place} cannot be written: there is no folder {place.parent}")
    if place.resolve() == path.resolve():
        raise ReaderError(f"output {place} is the input itself: name another file")


def _fingerprint(path: Path) -> str:
    """Changes with the names, sizes and times of the input's files."""
    try:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        facts = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError as error:
        raise ReaderError(f"{error.filename or path} cannot be read: {error.strerror}") from None
    return hashlib.sha256(repr((str(path.resolve()), facts)).encode()).hexdigest()


@lru_cache(maxsize=1)
def _version() -> str:
    """Changes with the tables that decide the texts."""
    tables = ("units.toml", "interactions.toml", "lexicon/en.toml")
    return hashlib.sha256(b"".join(pkgutil.get_data(__package__, name) or b"" for name in tables)).hexdigest()


# --- reading and describing ---------------------------------------------------------------------------------


def _rows(path: Path, options: CaptionOptions, workers: int, quarantine: Quarantine, skip: int) -> Iterator[Row]:
    """Rows that are not written yet, described. Skipped ones are only read: duplicates are found as in a full run."""
    if options.source in TREES:  # rows are joined from several files: read here, described by the workers
        rows = read_annotations(path, options.source, threshold=options.threshold, quarantine=quarantine)
        for _ in range(skip):
            next(rows, None)
        yield from _spread(partial(_describe_rows, options), _chunks(rows), workers)
        return
    reader = table_reader(path, options.source, options.threshold)
    check = reader.duplicate_filter().check
    lines = reader.lines()
    found = 0
    while found < skip:
        number, text = next(lines)
        row = reader.parse_line(text, number)
        row = check(row) if isinstance(row, Annotation) else row
        found += isinstance(row, Annotation)
        if isinstance(row, Bad):
            quarantine.add(row)
    for result in _spread(partial(_describe_lines, reader, options), _chunks(lines), workers):
        if isinstance(result, Bad):
            quarantine.add(result)
            found += 1
            continue
        checked = check(result[0])
        found += 1
        if isinstance(checked, Bad):
            quarantine.add(checked)
        else:
            yield checked, result[1]
    if not found:
        raise ReaderError(f"{path}: the table has a header, but no rows")


def _describe_lines(
    reader: TableReader | JsonlReader, options: CaptionOptions, lines: list[tuple[int, str]]
) -> list[Row | Bad]:
    out: list[Row | Bad] = []
    for number, text in lines:
        row = reader.parse_line(text, number)
        if row is not None:
            out.append(row if isinstance(row, Bad) else _describe_row(row, options))
    return out


def _describe_rows(options: CaptionOptions, rows: list[Annotation]) -> list[Row]:
    return [_describe_row(row, options) for row in rows]


_NO_UNITS = AUSet()
Said = tuple[str | None, list[str]]


@lru_cache(maxsize=20_000)
def _canonical(parts: tuple[tuple[Key, float], ...], unscored: frozenset[Key], style: Style) -> Said:
    """Text and rules of a score in letters: in a video most rows say what an earlier one said."""
    return _say(AUSet.from_keys(dict(parts), unscored, ordered=True), style, None)


def _say(aus: AUSet, style: Style, seed: int | None) -> Said:
    said = describe(aus, style, seed)
    return said.text, list(dict.fromkeys(said.resolution.rule_ids))


def _describe_row(row: Annotation, options: CaptionOptions) -> Row:
    text: str | None = None
    rules: list[str] = []
    if not row.aus and not row.absent and row.unknown:
        pass  # no face, or nothing but unknown units: there is nothing to say
    elif options.seed is not None:
        # The row's place goes into the seed, so that a long run of equal rows does not repeat itself.
        place = f"{options.seed} {row.subject} {row.task} {row.frame} {row.face} {row.line}"
        text, rules = _say(row.aus, options.style, zlib.crc32(place.encode("utf-8", "replace")))
    elif options.style == "coder":  # the one style that keeps levels between letters
        text, rules = _say(row.aus, options.style, None)
    else:
        rounded = row.aus.round()
        text, rules = _canonical(tuple(rounded.parts.items()), rounded.unscored, options.style)
    content = {"aus": row.aus.format(), "text": text, "rules": rules, "unknown": sorted(row.unknown)}
    light = replace(row, aus=_NO_UNITS, unknown=frozenset(), absent=frozenset(), scores={})
    return light, json.dumps(content, ensure_ascii=False)[1:]


def _chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, CHUNK)):
        yield chunk


def _spread(
    work: Callable[[list[Item]], list[Result]], chunks: Iterator[list[Item]], workers: int
) -> Iterator[Result]:
    """Apply ``work`` to chunks, in order, in ``workers`` processes; few are under way at once, so memory is flat."""
    if workers == 1:
        for chunk in chunks:
            yield from work(chunk)
        return
    # spawn: a forked worker would keep the parent's pipes open, and outlive a parent that is killed
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_take, initargs=(work,))
    waiting: deque[Future[list[Result]]] = deque()
    try:
        for chunk in chunks:
            waiting.append(pool.submit(_run, chunk))
            if len(waiting) > 4 * workers:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


_work: Callable[[list[Any]], list[Any]] | None = None


def _take(work: Callable[[list[Any]], list[Any]]) -> None:
    """Give a worker process its work once, so that chunks travel alone."""
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that writes
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    """End with the process that writes, also if that was killed."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(chunk: list[Any]) -> list[Any]:
    assert _work is not None
    return _work(chunk)


# --- output -------------------------------------------------------------------------------------------------


class _Part:
    """The output under way: ``OUT.part`` and, beside it, what it is made from. One run holds it at a time."""

    def __init__(self, out: Path, key: dict[str, Any]) -> None:
        self.out = out
        self.part = Path(f"{out}.part")
        self.made_from = Path(f"{out}.part.json")
        self.key = key
        self.rows = 0
        self.without_text = 0

    def __enter__(self) -> _Part:
        try:
            self.file = self.part.open("a+b")
            self._lock()
            self._continue_or_start()
        except OSError as error:
            raise ReaderError(f"output {self.part} cannot be written: {error.strerror}") from None
        return self

    def _lock(self) -> None:
        try:
            lock_file(self.file.fileno())
        except OSError:
            self.file.close()
            raise ReaderError(f"another run is writing {self.out}: wait for it, or name another output") from None

    def _continue_or_start(self) -> None:
        same = self.made_from.exists() and _loads(self.made_from.read_text(encoding="utf-8")) == self.key
        end = 0
        if same:
            self.file.seek(0)
            for line in self.file:
                if not line.endswith(b"\n"):
                    break  # the run was stopped within this line
                end += len(line)
                self.rows += 1
                self.without_text += b', "text": null' in line
        else:
            self.made_from.write_text(json.dumps(self.key), encoding="utf-8")
        self.file.truncate(end)
        self.file.seek(end)

    def write(self, row: Annotation, said: str) -> None:
        names = ("frame", "subject", "task", "face", "image")
        where: dict[str, Any] = {name: value for name in names if (value := getattr(row, name))}
        if row.line:
            where["line"] = row.line
        if row.confidence is not None:
            where["confidence"] = row.confidence
        self.file.write((json.dumps(where, ensure_ascii=False)[:-1] + ", " + said + "\n").encode())
        self.rows += 1
        self.without_text += ', "text": null' in said

    def finish(self) -> None:
        """Move the complete output into its place."""
        self.file.flush()
        os.fsync(self.file.fileno())
        if os.name == "nt":  # Windows moves closed files only
            self.file.close()
        try:
            os.replace(self.part, self.out)
        except OSError as error:
            raise ReaderError(f"output {self.out} cannot be written: {error.strerror}; it is in {self.part}") from None
        self.made_from.unlink()

    def discard(self) -> None:
        """Leave nothing behind."""
        self.file.close()
        self.part.unlink(missing_ok=True)
        self.made_from.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _loads(text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None

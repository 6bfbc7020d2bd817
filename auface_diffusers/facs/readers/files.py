"""Text files read line by line, and folders read in numeric order."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from auface_diffusers.facs.readers.base import ReaderError, RowError, shorten

MAX_HEADER = 1 << 20
"""Characters that the lines up to the header may have; a table has fewer."""

_DELIMITERS = ("\t", ",", ";")
_UTF16 = ("\udcff\udcfe", "\udcfe\udcff")  # its byte order marks, as `open_text` reads them
_NUMBER = re.compile(r"([0-9]+)")


@dataclass(frozen=True)
class Header:
    """The header of a table: its stripped column names, the delimiter, and its 1-based line."""

    names: tuple[str, ...]
    delimiter: str
    line: int


def read_header(path: Path) -> Header:
    """Read the first line that is neither blank nor a ``#`` comment.

    Raises:
        ReaderError: for a missing, empty or binary file, or a header that is no UTF-8.
    """
    line, number = first_line(path)
    delimiter = max(_DELIMITERS, key=line.count)
    try:
        names = next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:
        raise ReaderError(f"{path}: line {number} is no header: {error}") from None
    return Header(tuple(name.strip() for name in names), delimiter, number)


def first_line(path: Path) -> tuple[str, int]:
    """The first line that is neither blank nor a comment, and its number. Raises `ReaderError` as `read_header`."""
    text, number, left = "", 0, MAX_HEADER
    with open_text(path) as file:
        while text := file.readline(left):
            number, left = number + 1, left - len(text)
            if left <= 0:
                raise ReaderError(f"{path}: no header within the first {MAX_HEADER:,} characters")
            if text.startswith(_UTF16):
                raise ReaderError(f"{path}: this is UTF-16 text; save it as UTF-8")
            if text.strip() and not text.startswith("#"):
                break
    if not text:
        raise ReaderError(f"{path} is empty" if not number else f"{path}: there are blank lines or comments only")
    try:
        check_text(text)
    except RowError as error:
        raise ReaderError(
            f"{path}: {error.reason} in line {number}: {error.detail}. Latin-1 and other encodings are not guessed"
        ) from None
    return text.rstrip("\n"), number


def open_text(path: Path) -> TextIO:
    """Open a file as UTF-8; other bytes become surrogates, so that one bad line does not end the file: `check_text`.

    Raises:
        ReaderError: if it is missing, a folder, or not readable.
    """
    try:
        return open(path, encoding="utf-8-sig", errors="surrogateescape")
    except FileNotFoundError:
        raise ReaderError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise ReaderError(f"{path} is a folder: give one file") from None
    except OSError as error:
        raise ReaderError(f"{path} cannot be read: {error.strerror}") from None


def numbered_lines(path: Path, after: int = 0) -> Iterator[tuple[int, str]]:
    """Yield (1-based number, text without its line end) of the lines below line ``after``."""
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if number > after:
                yield number, line.rstrip("\n")


def check_text(text: str) -> None:
    """Raise `RowError` for a line that held NUL bytes or was no UTF-8."""
    if "\0" in text:
        raise RowError("binary data", "NUL bytes")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        byte = ord(text[error.start]) - 0xDC00
        raise RowError("not UTF-8", f"byte 0x{byte:02x} at {error.start}; save the file as UTF-8") from None


def natural_key(name: str) -> list[str | int]:
    """Sort key by which ``"9.jpg"`` comes before ``"10.jpg"``."""
    return [int(part) if part.isdecimal() else part for part in _NUMBER.split(name)]


def children(folder: Path) -> list[Path]:
    """What is in ``folder``, in numeric order, hidden files left out. Raises `ReaderError` if it cannot be read."""
    try:
        names = [name for name in os.listdir(folder) if not name.startswith(".")]
    except OSError as error:
        raise ReaderError(f"{folder} cannot be read: {error.strerror}") from None
    return [folder / name for name in sorted(names, key=natural_key)]


def walk(folder: Path, pattern: re.Pattern[str]) -> Iterator[Path]:
    """Yield the files below ``folder`` whose whole name matches, in numeric order. Memory holds one folder a level."""
    for path in children(folder):
        if path.is_dir():
            yield from walk(path, pattern)
        elif pattern.fullmatch(path.name):
            yield path


def listing(folder: Path, limit: int = 8) -> str:
    """What is in ``folder``, for an error message."""
    names = [path.name + "/" * path.is_dir() for path in children(folder)]
    more = f", ... ({len(names)})" if len(names) > limit else ""
    return shorten(", ".join(names[:limit]), 300) + more if names else "nothing"

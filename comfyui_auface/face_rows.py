"""Rows of annotation files (OpenFace, py-feat and others) in ComfyUI's input folder. Needs no ComfyUI and no torch."""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass
from pathlib import Path

from auface_diffusers.facs.readers import Annotation, Quarantine, read_annotations, sources
from comfyui_auface.expression import MAX_FRAMES, Expression

ENDINGS = (".csv", ".tsv", ".txt", ".jsonl")
NO_FILE = "no annotation file yet"
"""The only choice while the input folder has no file: a menu must not be empty."""
MAX_LISTED = 8
SOURCES = ("auto", *(name for name, one in sources().items() if one.columns is not None or name == "jsonl"))
"""What a single file can be; data sets that are folder trees are read by the library, not by a node."""


@dataclass(frozen=True)
class Rows:
    """What was read: the expression, and a report with file, frames, and rows that were passed over."""

    expression: Expression
    report: str


def list_files(folder: str) -> list[str]:
    """Names, relative to ``folder`` and with forward slashes, of the files in it that may be annotations, sorted."""
    found = []
    for path, _, names in os.walk(folder):
        found += [
            os.path.relpath(os.path.join(path, name), folder).replace(os.sep, "/")
            for name in names
            if name.lower().endswith(ENDINGS)
        ]
    return sorted(found)


def find_file(folder: str, name: str) -> Path:
    """Path of a file in ``folder``, which is ComfyUI's input folder.

    Raises:
        ValueError: the name leads out of the folder, or there is no such file; the message lists what there is.
    """
    root = os.path.abspath(folder)
    path = os.path.abspath(os.path.join(root, name))
    # abspath, not realpath: a link that the user put into the folder is the user's business
    if os.path.isabs(name) or "\0" in name or os.path.splitdrive(name)[0] or not path.startswith(root + os.sep):
        raise ValueError(f"file {name!r} is outside ComfyUI's input folder {root}: copy the file into it")
    if not os.path.isfile(path):
        there = list_files(root)
        more = f" and {len(there) - MAX_LISTED} more" if len(there) > MAX_LISTED else ""
        listed = f"in it: {', '.join(there[:MAX_LISTED])}{more}" if there else f"it has no {' or '.join(ENDINGS)} file"
        raise ValueError(f"file {name!r} is not in ComfyUI's input folder {root}; {listed}. Copy it there, press R")
    if not name.lower().endswith(ENDINGS):
        raise ValueError(f"file {name!r}: annotations end with {', '.join(ENDINGS)}")
    return Path(path)


def read_rows(path: Path, source: str, first: int, count: int, every: int) -> Rows:
    """Read rows of one file.

    Args:
        path: see `find_file`.
        source: one of `SOURCES`.
        first: number of the first row to use, from 1; rows that cannot be read have none.
        count: rows to use, 0 for all.
        every: use each so-manieth row from ``first`` on.

    Raises:
        ValueError: the file is not what ``source`` says, has no row ``first``, or no face in any row of the range.
    """
    with Quarantine() as bad:
        rows = read_annotations(path, source, quarantine=bad)
        end = None if count == 0 else first - 1 + (count - 1) * every + 1
        wanted = list(itertools.islice(rows, first - 1, end, every))
        if not wanted:
            total = sum(1 for _ in read_annotations(path, source, quarantine=Quarantine()))
            raise ValueError(f"first_row {first}: {path.name} has rows 1..{total}")
    # a row about which nothing is known (no face was found) is no neutral face
    known = [row for row in wanted if row.aus or row.absent]
    if not known:
        raise ValueError(f"{path.name}: no face was found in {_frames(wanted)}; choose another first_row or more rows")
    if len(known) > MAX_FRAMES:
        raise ValueError(f"{path.name}: {len(known)} rows are too many for one batch; at most {MAX_FRAMES}: set rows")
    lines = [f"{path.name} ({known[0].source}): {_frames(known)}"]
    lost = [row for row in wanted if row not in known]
    if lost:
        lines.append(f"no face was found in {_frames(lost)}: left out")
    if bad.total:
        lines.append(f"{bad.summary()}")
    return Rows(Expression(tuple(row.aus for row in known)), "\n".join(lines))


def _frames(rows: list[Annotation]) -> str:
    names = [row.frame for row in rows]
    shown = ", ".join(names) if len(names) <= MAX_LISTED else f"{names[0]} .. {names[-1]}"
    return f"frame {shown}" if len(names) == 1 else f"{len(names)} frames ({shown})"

"""``source="auto"``: tell the source from folder names, file names and headers. Refuses where it cannot be sure."""

from __future__ import annotations

import re
from pathlib import Path

from auface_diffusers.facs.readers.base import ReaderError, shorten
from auface_diffusers.facs.readers.files import Header, first_line, listing, read_header, walk
from auface_diffusers.facs.readers.layout import SCORE_LIST, find_meta, is_counted, label_titles
from auface_diffusers.facs.readers.sources import get_source, sources
from auface_diffusers.facs.readers.trees import BP4D_FILE, TREES, check_no_pspi
from auface_diffusers.facs.units import units


def guess_source(path: Path) -> str:
    """Name of the source of a file or folder.

    Raises:
        ReaderError: if nothing fits, or more than one source does; it lists what was looked for.
    """
    if not path.exists():
        raise ReaderError(f"{path} does not exist")
    places = {name: place for name, tree in TREES.items() if (place := tree.find(path)) is not None}
    names = [name for name in places if not name.startswith("bp4d")]
    if "bp4d" in places:  # BP4D+ has the same folders and file names
        start = places["bp4d"].start
        names.append(_which_bp4d(read_header(start if start.is_file() else next(walk(start, BP4D_FILE)))))
    if len(names) > 1:
        raise ReaderError(f"{path} looks like {' and '.join(names)}: pass source, or the folder of one of them")
    if names:
        return names[0]
    if path.is_file():
        return _guess_table(path)
    check_no_pspi(path)
    looked_for = "; ".join(f"{name}: {get_source(name).expected}" for name in TREES)
    raise ReaderError(f"{path}: no known data set. Looked for {looked_for}. It has {listing(path)}")


_AU_FILE = re.compile(r"(?i)SN\d+_au\d+\.txt|[FM]\d+_T\d+_AU\d+\.csv|AU\d+\.txt")


def _is_headless(header: Header) -> bool:
    """Whether what should be the header is a row of numbers: not all of them are different units."""
    codes = [name.lstrip("0") for name in header.names]
    numbers = all(name.replace(".", "", 1).isdecimal() for name in header.names)
    return numbers and (len(set(codes)) < len(codes) or any(code not in units or code == "0" for code in codes))


def _which_bp4d(header: Header) -> str:
    """BP4D+ coded more units than BP4D, but some copies of BP4D have a column for every number."""
    plus, plain = (set(units.labelled_in(name)) for name in ("bp4d+", "bp4d"))
    titles = {name.lstrip("0") for name in header.names[1:]}
    return "bp4d+" if titles & plus - plain and titles <= plus else "bp4d"


def _guess_table(path: Path) -> str:
    if path.suffix.lower() in (".jsonl", ".ndjson") or first_line(path)[0].lstrip().startswith("{"):
        return "jsonl"
    header = read_header(path)
    if BP4D_FILE.fullmatch(path.name) and len(label_titles(get_source("bp4d"), header.names)) > 1:
        return _which_bp4d(header)
    if _AU_FILE.fullmatch(path.name) or _is_headless(header):
        raise ReaderError(
            f"{path}: a table of numbers without a header, as DISFA and BP4D keep one unit a file: "
            "give the folder of the data set, whose files belong together, or the source"
        )
    titles = {name: label_titles(source, header.names) for name, source in sources().items()}
    meta = {name: find_meta(source, header.names) for name, source in sources().items()}
    counted = is_counted(get_source("openface3"), {code for code, _ in titles["openface3"].values()})
    if titles["imotions"]:
        return "imotions"
    if SCORE_LIST in header.names or counted:
        return "openface3"
    has_flags = any(kind == "flag" for _, kind in titles["openface"].values())
    if titles["openface"] and (has_flags or meta["openface"].keys() & {"success", "confidence"}):
        return "openface"
    if titles["libreface"]:
        return "libreface"
    if titles["pyfeat"]:
        if meta["pyfeat"].keys() & {"confidence", "x"}:
            return "pyfeat"
        raise ReaderError(
            f"{path}: columns such as {header.names[min(titles['pyfeat'])]} may hold probabilities or levels: "
            "pass source='pyfeat' or source='csv'"
        )
    if titles["csv"] or "aus" in meta["csv"]:
        return "csv"
    looked_for = "; ".join(f"{name}: {source.expected}" for name, source in sources().items() if source.columns)
    raise ReaderError(
        f"{path}: no AU columns. Looked for {looked_for}. The header has "
        f"{shorten(', '.join(header.names), 200)} ({len(header.names)} columns)"
    )

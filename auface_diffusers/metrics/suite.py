"""Suites: fixed lists of what a generator is asked to draw, one JSON object a line, with everything that is random."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from auface_diffusers.facs import AUSet, NotationError

FOLDER = Path(__file__).parent / "suites"
SUITES = {"standard": "standard-1.jsonl", "demo": "demo-1.jsonl"}
"""Files by name. A suite never changes: a new version gets a new file, for scores of two suites do not compare."""
KINDS = ("single", "sided", "natural", "conflict", "combination")


@dataclass(frozen=True)
class SuiteItem:
    """One score to draw, K times.

    Attributes:
        id: its name in the suite, and its cluster in the bootstrap. kind: one of `KINDS`.
        aus: the score. identities: K seeds of persons. seeds: K seeds of scene and noise.
        new: whether training data of this project never shows these units together, at any levels; single units cannot
            be kept from training.
    """

    id: str
    kind: str
    aus: AUSet
    identities: tuple[int, ...]
    seeds: tuple[int, ...]
    new: bool

    def line(self) -> str:
        """As one line of a suite's file."""
        values = {"id": self.id, "kind": self.kind, "aus": self.aus.format(), "new": self.new}
        return json.dumps(values | {"identities": self.identities, "seeds": self.seeds})


@dataclass(frozen=True)
class Suite:
    """Items, and the file that they are from: ``path`` is what `load_suite` finds it by."""

    name: str
    path: str
    hash: str
    items: tuple[SuiteItem, ...]


def load_suite(name: str | Path) -> Suite:
    """A suite by name, or from a file of one's own.

    Raises:
        ValueError: no suite of this name, or a line that cannot be read.
    """
    path = FOLDER / SUITES[str(name)] if str(name) in SUITES else Path(name)
    if not path.is_file():
        raise ValueError(f"suite {str(name)!r}: one of {', '.join(SUITES)}, or a JSONL file; {path} is none")
    data = path.read_bytes()
    items = []
    for number, line in enumerate(data.decode("utf-8").splitlines(), 1):
        try:
            items.append(_item(json.loads(line)))
        except (ValueError, KeyError, TypeError, NotationError) as error:
            raise ValueError(
                f"{path}:{number}: {error!r} in {line[:80]!r}: see the lines of {SUITES['standard']}"
            ) from None
    if len({item.id for item in items}) < len(items) or not items:
        raise ValueError(f"{path}: no items, or an id that stands twice")
    if len({len(item.seeds) for item in items}) > 1:
        raise ValueError(f"{path}: all items need as many images")
    return Suite(path.stem, str(name), hashlib.sha256(data).hexdigest()[:16], tuple(items))


def _item(values: dict[str, object]) -> SuiteItem:
    people, seeds = (tuple(_whole(values[name])) for name in ("identities", "seeds"))
    if len(people) != len(seeds) or not people:
        raise ValueError("as many identities as seeds are needed, at least one")
    return SuiteItem(
        id=str(values["id"]),
        kind=str(values["kind"]),
        aus=AUSet.parse(str(values["aus"])),
        identities=people,
        seeds=seeds,
        new=bool(values.get("new", False)),
    )


def _whole(values: object) -> Sequence[int]:
    if not isinstance(values, list) or not all(type(one) is int for one in values):
        raise ValueError(f"{values!r}: a list of integers is needed")
    return values

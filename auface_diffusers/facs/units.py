"""The table of FACS units, read once from ``units.toml``. No other place in the project lists AUs."""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from auface_diffusers.facs.levels import UNSCORED_LEVEL

PARTS = {"whole": ("",), "sides": ("L", "R"), "lips": ("T", "B")}
"""Parts that can act alone, by a unit's ``parts``: left and right of the depicted person, top and bottom lip."""


def load_table(name: str) -> dict[str, Any]:
    """Read one of the TOML tables of this package, such as ``"units.toml"``."""
    if sys.version_info >= (3, 11):  # imported here: whoever only imports the package needs no table
        import tomllib
    else:
        import tomli as tomllib
    data = pkgutil.get_data(__name__, name)
    assert data is not None
    return tomllib.loads(data.decode("utf-8"))


@dataclass(frozen=True, eq=False)
class ActionUnit:
    """One FACS code. The fields are explained at the top of ``units.toml``.

    ``landmarks`` are iBUG-68 points, 0-based; left and right are the depicted person's. ``levels`` maps
    ``"A"``..``"E"`` to what can be seen at that level; it is empty for units that FACS does not grade.
    """

    code: str
    number: int
    kind: str
    name: str
    region: str
    group: str
    muscles: str
    direction: str
    parts: str
    appearance: str
    evidence: str
    sources: tuple[str, ...]
    index: int
    levels: Mapping[str, str]
    one_sided: bool = False
    mirror: str = ""
    mistaken_for: str = ""
    still: bool = True
    graded: bool = False
    unscored_level: float = UNSCORED_LEVEL
    hides: tuple[str, ...] = ()
    landmarks: str = ""
    motion: str = ""
    labels: tuple[str, ...] = ()

    @property
    def part_names(self) -> tuple[str, ...]:
        """``("L", "R")``, ``("T", "B")`` or ``("",)``."""
        return PARTS[self.parts]

    def __str__(self) -> str:
        prefix = "" if self.code.startswith("M") else {"action descriptor": "AD "}.get(self.kind, "AU ")
        return f"{prefix}{self.code} {self.name}"


class UnitTable(Mapping[str, ActionUnit]):
    """All units by code, in the order of the file: ``units["12"]``, ``units[12]``, ``units["M55"]``.

    The file is read at the first look-up, so importing the package costs nothing.
    """

    @cached_property
    def _table(self) -> dict[str, Any]:
        return load_table("units.toml")

    @cached_property
    def sources(self) -> dict[str, str]:
        """Titles of the sources by their id ("S8"), which units and interaction rules refer to."""
        return dict(self._table["sources"])

    @cached_property
    def missing(self) -> dict[str, str]:
        """Numbers that people write although FACS has no such unit, with a hint what to write instead."""
        return {row["code"]: row["hint"] for row in self._table["missing"]}

    @cached_property
    def _by_code(self) -> dict[str, ActionUnit]:
        known = {field.name for field in fields(ActionUnit)}
        table: dict[str, ActionUnit] = {}
        for index, row in enumerate(self._table["unit"]):
            levels = {letter: row.pop(letter) for letter in "ABCDE" if letter in row}
            unknown = set(row) - known
            if unknown:
                raise ValueError(f"units.toml: unit {row.get('code')} has unknown fields {sorted(unknown)}")
            values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
            unit = ActionUnit(**values, index=index, levels=levels)
            if unit.code in table:
                raise ValueError(f"units.toml: unit {unit.code} stands twice")
            table[unit.code] = unit
        return table

    def __getitem__(self, code: str | int) -> ActionUnit:
        """Return the unit of ``code``. Raises `KeyError` for a code that FACS does not have."""
        return self._by_code[str(code)]

    def __contains__(self, code: object) -> bool:
        return str(code) in self._by_code

    def __iter__(self) -> Iterator[str]:
        return iter(self._by_code)

    def __len__(self) -> int:
        return len(self._by_code)

    def __repr__(self) -> str:
        return f"UnitTable({len(self)} FACS units)"

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """Names of the AU vector's channels: one a (code, part) of every unit that a still picture can show.

        A name is a legal score: ``"L12"``, ``"R12"``, ``"17"``, ``"28:T"``. The order is the table's.
        """
        return tuple(channel_name(unit.code, part) for unit in self.values() if unit.still for part in unit.part_names)

    def labelled_in(self, source: str) -> tuple[str, ...]:
        """Codes that a data set or detector covers, such as ``labelled_in("disfa")``, in table order.

        Raises `ValueError` for a name that no unit carries.
        """
        codes = tuple(unit.code for unit in self.values() if source in unit.labels)
        if not codes:
            known = sorted({label for unit in self.values() for label in unit.labels})
            raise ValueError(f"no unit is labelled in {source!r}; known: {', '.join(known)}")
        return codes


def channel_name(code: str, part: str) -> str:
    """Write one (code, part) as notation: ``"L12"``, ``"28:T"``, ``"17"``."""
    return f"{code}:{part}" if part in ("T", "B") else f"{part}{code}"


units = UnitTable()
"""The table of all FACS units."""

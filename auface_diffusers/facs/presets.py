"""Emotion prototypes, each with its source: a convenience for users, never a label. The table is ``presets.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.units import load_table

DEFAULT_STRENGTH = 0.6
"""Strength at which a prototype has the levels of its source, C where that gives none."""
MIN_OVERLAP = 0.6


@dataclass(frozen=True, eq=False)
class Preset:
    """One prototype: its core units, and the share of people (0..1) who added further ones."""

    name: str
    source: str
    aus: AUSet
    often: Mapping[str, float]
    aliases: tuple[str, ...] = ()


@lru_cache(maxsize=1)
def presets() -> tuple[Preset, ...]:
    """All prototypes, in the order of the file."""
    return tuple(
        Preset(
            name=row["name"],
            source=row["source"],
            aus=AUSet.parse(row["aus"]),
            often={code: share / 100 for code, share in row.get("often", {}).items()},
            aliases=tuple(row.get("alias", ())),
        )
        for row in load_table("presets.toml")["preset"]
    )


def sources() -> dict[str, str]:
    """Names of the sources with their titles."""
    return {name: row["title"] for name, row in load_table("presets.toml")["sources"].items()}


def labels() -> dict[str, str]:
    """Short names of the sources, for texts."""
    return {name: row["label"] for name, row in load_table("presets.toml")["sources"].items()}


def preset(
    name: str, strength: float = DEFAULT_STRENGTH, *, source: str | None = None, min_share: float | None = None
) -> AUSet:
    """Score of an emotion prototype.

        >>> preset("sad").format()
        '1+4+15'
        >>> preset("sad", 1.0).format()
        '1E+4E+15E'

    Args:
        name: such as "sad", "fear" or "happily surprised".
        strength: 0 (neutral) to 1 (a unit that the source gives no level is at E); 0.6 is C.
        source: "emfacs" or "du2014"; None takes the first that has the name or an alias of it, in this order.
        min_share: also take the units that at least this share (0..1) of people added; None takes the core only.

    Raises:
        ValueError: unknown name or source, or a number outside [0, 1].
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"strength {strength!r} is outside 0..1")
    if min_share is not None and not 0 <= min_share <= 1:
        raise ValueError(f"min_share {min_share!r} is outside 0..1")
    if source is not None and source not in sources():
        raise ValueError(f"source {source!r}: allowed are {', '.join(sources())}")
    key = name.strip().lower()
    for candidate in presets():
        if key in (candidate.name, *candidate.aliases) and source in (None, candidate.source):
            aus = candidate.aus
            if min_share is not None:
                aus = aus.merge(AUSet({code: None for code, share in candidate.often.items() if share >= min_share}))
            return aus if strength == DEFAULT_STRENGTH else aus.scale(strength / DEFAULT_STRENGTH)
    known = [p.name for p in presets() if source in (None, p.source)]
    raise ValueError(f"no preset {name!r}; there are {', '.join(dict.fromkeys(known))}")


def closest(aus: AUSet) -> Preset | None:
    """The prototype whose core units are all in ``aus`` and make up most of it (0.6 of the units), if there is one."""
    present = set(aus.parts)
    best: tuple[float, Preset] | None = None
    for candidate in presets():
        cores = [set(candidate.aus.parts), set(candidate.aus.mirror().parts)]  # an expression has no handedness
        share = max(len(core) / len(present) if core <= present else 0.0 for core in cores)
        if share >= MIN_OVERLAP and (best is None or share > best[0]):
            best = (share, candidate)
    return best[1] if best else None

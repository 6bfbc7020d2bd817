"""What `resolve` returns: the score that can be seen, the combinations in it, and the trace of the rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.interactions import Rule
from auface_diffusers.facs.notation import Key


@dataclass(frozen=True)
class RuleHit:
    """One rule that fired.

    ``action`` is one of hidden, dropped, cancelled (these take units away), allowed, balanced, dominated (the last of
    ``keys`` is the weaker), merged, muted, noted. ``keys`` are the (code, part) pairs involved, ``levels`` their
    levels.
    """

    rule: Rule
    action: str
    keys: tuple[Key, ...]
    levels: tuple[float, ...]
    dropped_keys: tuple[Key, ...] = ()
    detail: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Id of the rule, such as ``"F5"``."""
        return self.rule.id

    @property
    def why(self) -> str:
        """Reason of the rule, one sentence."""
        return self.rule.why

    @property
    def grade(self) -> str:
        """Evidence grade of the rule: V, D, K or O (see ``interactions.toml``)."""
        return self.rule.grade

    @property
    def reading(self) -> str:
        """``"muscle"`` or ``"feature"``: in which sense the units conflict; ``""`` if they do not."""
        return self.rule.reading

    @cached_property
    def aus(self) -> tuple[str, ...]:
        """Scores involved, in notation: ``("12C", "15B")``."""
        return _names(self.keys, self.levels)

    @cached_property
    def dropped(self) -> tuple[str, ...]:
        """Scores that the rule took away, in notation."""
        return _names(self.dropped_keys, [self.levels[self.keys.index(key)] for key in self.dropped_keys])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON: id, class, action, aus, dropped, detail, why, grade, reading."""
        return {
            "id": self.id, "class": self.rule.rule_class, "action": self.action, "aus": list(self.aus),
            "dropped": list(self.dropped), "detail": list(self.detail), "why": self.why, "grade": self.grade,
            "reading": self.reading,
        }  # fmt: skip


Fired = tuple[Rule, str, tuple[Key, ...], tuple[Key, ...], tuple[str, ...]]
"""Rule, action, keys, dropped keys, detail: what a pass notes; `RuleHit` is made of it when somebody looks."""


@dataclass(frozen=True, eq=False)
class Merge:
    """A distinctive combination: ``codes`` with one look; ``side`` is L, R, or "" for both sides or the middle."""

    rule: Rule
    codes: tuple[str, ...]
    side: str
    keys: tuple[Key, ...]


@dataclass(frozen=True, eq=False)
class Resolution:
    """What is left of a score, and why.

    Attributes:
        raw: the score as given.
        effective: the score that can be seen; resolving it again changes nothing.
        merges: combinations that have one appearance of their own.
        neutral: (code, part) pairs that stay, but whose movement an opposed action hides: tension without direction.
        muted: kinds of claim that a pair does not make.
        log: what fired, as it came; `trace` sorts it.
    """

    raw: AUSet
    effective: AUSet
    merges: tuple[Merge, ...]
    neutral: frozenset[Key]
    muted: Mapping[Key, frozenset[str]]
    log: tuple[Fired, ...]

    @cached_property
    def trace(self) -> tuple[RuleHit, ...]:
        """Every rule that fired, in the order of the passes."""
        return sorted_trace(self.log, self.raw.parts)

    @property
    def rule_ids(self) -> tuple[str, ...]:
        """Ids of the rules that fired, each once, in the order of the passes; cheaper than the trace."""
        return tuple(rule.id for rule in sorted({fired[0] for fired in self.log}, key=lambda rule: rule.order))

    @property
    def dropped(self) -> AUSet:
        """Units of ``raw`` that are not in ``effective``."""
        kept = self.effective.parts
        return AUSet.from_keys({k: v for k, v in self.raw.parts.items() if k not in kept}, self.raw.unscored)

    def conflicts(self, reading: Literal["muscle", "feature"] = "feature") -> tuple[RuleHit, ...]:
        """Hits on conflicting units: ``"muscle"`` = one muscle asked to do opposite things, ``"feature"`` = that, and
        different muscles that move one feature in opposite ways."""
        if reading not in ("muscle", "feature"):
            raise ValueError(f"reading {reading!r}: allowed are 'muscle' and 'feature'")
        return tuple(hit for hit in self.trace if hit.reading and reading in ("feature", hit.reading))


class ConflictError(ValueError):
    """Units that exclude each other, under ``strict=True``. ``hits`` are the rules that say so."""

    def __init__(self, hits: tuple[RuleHit, ...]) -> None:
        said = "; ".join(f"{hit.id}: {' with '.join(hit.aus)}: {hit.why}" for hit in hits)
        super().__init__(f"{said}. Remove one, or resolve without strict to keep the stronger")
        self.hits = hits


def sorted_trace(log: tuple[Fired, ...], levels: Mapping[Key, float]) -> tuple[RuleHit, ...]:
    """The hits in the order of the rules; those of one rule on the same codes, left and right, become one."""
    groups: dict[tuple[int, str, tuple[str, ...], tuple[str, ...]], tuple[Rule, dict[Key, None], dict[Key, None]]] = {}
    for rule, action, keys, dropped, detail in log:
        group = (rule.order, action, tuple(dict.fromkeys(code for code, _ in keys)), detail)
        _, all_keys, all_dropped = groups.setdefault(group, (rule, {}, {}))
        all_keys.update(dict.fromkeys(keys))
        all_dropped.update(dict.fromkeys(dropped))
    return tuple(
        RuleHit(rule, action, tuple(keys), tuple(levels[key] for key in keys), tuple(dropped), detail)
        for (_, action, _, detail), (rule, keys, dropped) in sorted(groups.items(), key=lambda item: item[0][0])
    )


def _names(keys: Iterable[Key], levels: Iterable[float]) -> tuple[str, ...]:
    """Notation of keys with their levels, order kept by code."""
    by_key = dict(zip(keys, levels, strict=True))
    out = []
    for code in dict.fromkeys(code for code, _ in by_key):
        part = {key: level for key, level in by_key.items() if key[0] == code}
        out += AUSet.from_keys(part).format().split("+")
    return tuple(out)

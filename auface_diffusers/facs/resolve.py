"""Resolution: which units stay when some cannot be seen together, what each combination looks like, and why.

Passes, in order: visibility, exclusive, subsume, strict (same muscle), functional (same feature); these drop units and
are repeated until nothing changes, so that resolving twice is resolving once. Then the units that stay are looked
at for opposition, distinctive combinations (longest first), muted claims and notes. The rules are data:
``interactions.toml``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.interactions import PASSES, Case, Rule, Rules, Spots, active, bit, rules
from auface_diffusers.facs.levels import grade
from auface_diffusers.facs.notation import Key
from auface_diffusers.facs.resolution import ConflictError, Fired, Merge, Resolution, sorted_trace
from auface_diffusers.facs.units import units

DOMINANCE = 2
"""Difference in letters from which the stronger of two opposed actions is the outcome (O)."""
_NONE: frozenset[Key] = frozenset()


def resolve(aus: AUSet | str, *, strict: bool = False) -> Resolution:
    """Apply the interaction rules to a score.

    Deterministic, independent of the order of units, idempotent, mirror-symmetric, and monotone: raising a unit's
    level never lowers what is left of it. Every unit of ``aus`` is in ``effective`` or in a hit of the trace.

    Args:
        aus: the score, levels 0..5, or codes such as "1C+L12B".
        strict: raise instead of keeping the stronger of units that exclude each other (class X).

    Raises:
        ConflictError: with ``strict``, naming the rules and units.
        NotationError: codes that are none.
    """
    aus = AUSet.parse(aus) if isinstance(aus, str) else aus
    table = rules()
    work = _Work(aus, table)
    while work.drop_once():
        pass
    if strict:
        wrong = tuple(
            h
            for h in sorted_trace(tuple(work.log), aus.parts)
            if h.rule.rule_class == "X" and h.action in ("dropped", "cancelled")
        )
        if wrong:
            raise ConflictError(wrong)
    balanced, residual = work.oppose()
    merges = work.merge(balanced, residual)
    neutral = residual | _left_over(balanced, merges, residual) - work.steady
    muted = work.mute()
    work.note()
    effective = aus if len(work.levels) == len(aus.parts) else AUSet.from_keys(work.levels, aus.unscored, ordered=True)
    return Resolution(aus, effective, merges, frozenset(neutral), muted, tuple(work.log))


class _Work:
    """The levels still standing while the passes run, and the hits so far."""

    def __init__(self, aus: AUSet, table: Rules) -> None:
        self.table = table
        self.levels = dict(aus.parts)
        self.unscored = aus.unscored
        # Levels are compared as letters, so that a score and the text about it, which speaks letters, agree.
        self.grades = {key: grade(level) for key, level in aus.parts.items()}
        self.steady: set[Key] = set()
        self.apart: list[set[Key]] = []  # pairs too unequal to balance, neither of which hides the other
        self.together: set[tuple[Key, Key]] = set()  # pairs that only a phrase of their own can say
        self.mask = 0
        self.by_code: dict[str, list[Key]] = {}
        self.log: list[Fired] = []
        self._index()

    def _index(self) -> None:
        self.by_code = {}
        self.mask = 0
        for key in self.levels:
            self.by_code.setdefault(key[0], []).append(key)
        for code in self.by_code:
            self.mask |= bit(code)

    def pairs(self, case: Case) -> Iterator[tuple[Key, Key]]:
        """Pairs of keys of a two-member case that act on the same place."""
        (code_a, part_a), (code_b, part_b) = case.members
        for a in self.by_code.get(code_a, ()):
            if part_a in ("", a[1]):
                for b in self.by_code.get(code_b, ()):
                    if part_b in ("", b[1]) and a != b and (overlap(a[1], b[1]) or code_a == code_b):
                        yield a, b

    def measure(self, key: Key) -> float:
        return self.table.closure.get(key[0], self.grades[key])

    # --- passes that drop ------------------------------------------------------------------------------------------

    def drop_once(self) -> bool:
        """Run the dropping passes once; say whether anything fell."""
        before = len(self.levels)
        self._hide()
        for number in range(len(PASSES)):
            for case in active(self.mask).beats[number]:
                self._beat(case)
            contests = active(self.mask).contests[number]
            if contests:
                self._contest(contests)
        return len(self.levels) != before

    def _drop(self, rule: Rule, action: str, losers: Iterable[Key], others: Iterable[Key]) -> None:
        losers = [key for key in losers if key in self.levels]
        if losers:
            self._hit(rule, action, [*others, *losers], dropped=losers)
            for key in losers:
                del self.levels[key]
            self._index()

    def _hide(self) -> None:
        for key in [key for key in self.levels if self.mask & self.table.hiders and units[key[0]].hides]:
            hidden = [k for k in self.levels if units[k[0]].region in units[key[0]].hides]
            self._drop(self.table.hide, "hidden", hidden, [key])

    def _beat(self, case: Case) -> None:
        _, winner_codes, loser_codes, both_eyes = case.option
        winners = [
            key
            for code in winner_codes
            for key in self.by_code.get(code, ())
            if not case.minimum or self.measure(key) >= case.minimum
        ]
        if both_eyes and not all(any(part in ("", "A", side) for _, part in winners) for side in "LR"):
            return
        for code in loser_codes:
            for loser in self.by_code.get(code, ()):
                over = [winner for winner in winners if overlap(winner[1], loser[1])]
                if over:
                    self._drop(case.rule, "dropped", [loser], over)

    def _contest(self, cases: list[Case]) -> None:
        """Keep the strongest of rival keys: greedy from the top, so that a key falls only to one that stays."""
        rivals: dict[Key, list[tuple[Key, Rule]]] = {}
        cancelled: list[tuple[Rule, Key, Key]] = []
        rank: dict[str, int] = {}  # by code, so that a tie falls the same way on both sides
        for case in cases:
            for code, _ in case.members:
                rank.setdefault(code, len(rank))
            for a, b in self.pairs(case):
                rivals.setdefault(a, []).append((b, case.rule))
                rivals.setdefault(b, []).append((a, case.rule))
                if case.option == "cancel" and self.measure(a) == self.measure(b):
                    cancelled.append((case.rule, a, b))
        for rule, a, b in cancelled:
            self._drop(rule, "cancelled", [a, b], [])
        kept: set[Key] = set()
        for key in sorted((k for k in rivals if k in self.levels), key=lambda k: (-self.measure(k), rank[k[0]])):
            beaten_by = [(rival, rule) for rival, rule in rivals[key] if rival in kept]
            if beaten_by:
                rule = beaten_by[0][1]
                self._drop(rule, "dropped", [key], [rival for rival, its_rule in beaten_by if its_rule is rule])
            else:
                kept.add(key)

    # --- passes that look ------------------------------------------------------------------------------------------

    def oppose(self) -> tuple[set[tuple[Key, Key]], set[Key]]:
        """Opposed pairs that balance, and the weaker keys of those that do not."""
        for case in active(self.mask).allow:
            for a, b in self.pairs(case):
                self._hit(case.rule, "allowed", [a, b])
                if case.option:
                    self.together.add((a, b))
        balanced: set[tuple[Key, Key]] = set()
        residual: set[Key] = set()
        for case in active(self.mask).oppose:
            for a, b in self.pairs(case):
                self.steady.update(key for key in (a, b) if key[0] in case.option)
                if abs(self.grades[a] - self.grades[b]) < DOMINANCE:
                    balanced.add((a, b))
                    self._hit(case.rule, "balanced", [a, b])
                    continue
                strong, weak = (a, b) if self.grades[a] > self.grades[b] else (b, a)
                if weak[0] in case.option:
                    self.apart.append({a, b})
                else:
                    residual.add(weak)
                self._hit(case.rule, "dominated", [strong, weak])
        return balanced, residual

    def merge(self, balanced: set[tuple[Key, Key]], residual: set[Key]) -> tuple[Merge, ...]:
        """Distinctive combinations, longest first; a balanced pair is never torn apart by a longer one."""
        found = [(case, *spot) for case in active(self.mask).merge for spot in self._spots(case.option, residual)]
        partners: dict[Key, set[Key]] = {}
        for a, b in balanced | self.together:
            partners.setdefault(a, set()).add(b)
            partners.setdefault(b, set()).add(a)
        if partners:  # of combinations of one length, those that settle a balance come first
            found.sort(
                key=lambda spot: (-len(spot[0].members), not any(partners.get(k, _NONE) & {*spot[1]} for k in spot[1]))
            )
        free = set(self.levels)
        merges: list[Merge] = []
        for whole in (True, False) if partners else (True,):  # first the combinations that take every partner along
            for case, keys, side in found:
                inside = set(keys)
                if not inside <= free or any(pair <= inside for pair in self.apart):
                    continue
                theirs: set[Key] = set().union(*(partners.get(key, _NONE) for key in keys)) if partners else set()
                if (theirs <= inside) if whole else (theirs & inside):
                    free -= inside
                    merges.append(Merge(case.rule, tuple(code for code, _ in case.members), side, keys))
        for merge in merges:
            self._hit(merge.rule, "merged", merge.keys)
        return tuple(merges)

    def _spots(self, spots: Spots, residual: set[Key]) -> list[tuple[tuple[Key, ...], str]]:
        """Where a combination can stand: each side, or once if it has a unit in the middle or is the same on both."""
        levels, grades, unscored = self.levels, self.grades, self.unscored
        for code, level in spots.minimum.items():
            if any(grades[key] < level for key in self.by_code.get(code, ())):
                return []
        for a, b in spots.twins:
            if (a in levels) != (b in levels) or grades.get(a) != grades.get(b) or (a in unscored) != (b in unscored):
                break
        else:
            here = all(key in levels and key not in residual for key in spots.both)
            return [(spots.both, "")] if here else []
        sides = ((spots.left, "L"), (spots.right, "R"))
        return [
            (keys, side) for keys, side in sides if keys and all(key in levels and key not in residual for key in keys)
        ]

    def mute(self) -> dict[Key, frozenset[str]]:
        """Kinds of claim that a key does not make beside another."""
        muted: dict[Key, frozenset[str]] = {}
        for case in active(self.mask).mute:
            for when, on in self.pairs(case):
                muted[on] = muted.get(on, frozenset()) | case.option
                self._hit(case.rule, "muted", [when, on], detail=sorted(case.option))
        return muted

    def note(self) -> None:
        """Things to know that change nothing: what detectors may see as well, what a pose hides, mesh collisions."""
        for case in active(self.mask).note:
            keys = [key for key in self.by_code[case.members[0][0]] if self.grades[key] >= case.minimum]
            if keys:
                detail = [f"mimics {code}" for code in case.option["mimics"]]
                detail += [f"hides {region}" for region in case.option["hides"]]
                self._hit(case.rule, "noted", keys, detail=detail)
        for case in active(self.mask).corrective:
            for pair in self.pairs(case):
                self._hit(case.rule, "noted", pair, detail=["corrective shape"])

    def _hit(
        self, rule: Rule, action: str, keys: Iterable[Key], dropped: Iterable[Key] = (), detail: Iterable[str] = ()
    ) -> None:
        self.log.append((rule, action, tuple(keys), tuple(dropped), tuple(detail)))


def overlap(a: str, b: str) -> bool:
    """Whether two parts act on a common place: left and right do not, nor do top and bottom lip."""
    return a == b or {a, b} not in ({"L", "R"}, {"T", "B"})


def _left_over(balanced: set[tuple[Key, Key]], merges: tuple[Merge, ...], residual: set[Key]) -> set[Key]:
    """Of a balanced pair that no combination says, the one whose direction goes unsaid."""
    where = {key: index for index, merge in enumerate(merges) for key in merge.keys}
    neutral: set[Key] = set()
    for a, b in sorted(balanced, key=lambda pair: (units[pair[0][0]].index, units[pair[1][0]].index, pair)):
        if a in where and b in where or {a, b} & (residual | neutral):
            continue
        neutral.add(a if b in where else b)
    return neutral

"""The standard suite of `auface_diffusers.metrics.suite`: ``python -m train_lora.data.build_suite OUT.jsonl``.

It was made once; the file is what counts. Combinations are those that training never draws, as far as there are any;
levels are whole, which training never draws either.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from auface_diffusers.facs import AUSet, resolve, units
from auface_diffusers.facs.interactions import rules
from auface_diffusers.metrics.suite import SuiteItem
from train_lora.data.sample_aus import held_out, sample_aus

SEED = 77
IMAGES = 4
PEOPLE = 90_000_000
"""First person: training data ends far below."""
SIDED, NATURAL, CONFLICTS = 80, 120, 40
"""Numbers of drawn scores; conflicts come on top of every case of every rule."""


def build() -> list[SuiteItem]:
    """All items, in the order of the file."""
    seen: set[str] = set()
    found: list[SuiteItem] = []
    for kind, aus in _scores():
        text = aus.format()
        if text in seen or not resolve(aus).effective.codes:
            continue
        seen.add(text)
        number = len(found)
        found.append(
            SuiteItem(
                id=f"{number:04d}",
                kind=kind,
                aus=aus,
                identities=tuple(PEOPLE + IMAGES * number + image for image in range(IMAGES)),
                seeds=tuple(SEED + IMAGES * number + image for image in range(IMAGES)),
                new=held_out(aus),
            )
        )
    return found


def _scores() -> Iterator[tuple[str, AUSet]]:
    for unit in units.values():
        if unit.still and unit.kind.startswith("action"):
            for level in (2, 4):
                yield "single", AUSet({("L" if unit.one_sided else "") + unit.code: level})
    yield from _drawn("sided", SIDED)
    yield from _drawn("natural", NATURAL)
    for case in _conflicts():
        for levels in ((4, 4), (4, 2)):
            yield "conflict", AUSet(dict(zip(case, levels, strict=True)))
    yield from _drawn("conflict", CONFLICTS)
    rng = random.Random(f"{SEED} combination")
    for case in rules().merge:
        yield "combination", AUSet({code: rng.choice((3, 4)) for code, _ in case.members})


def _conflicts() -> Iterator[tuple[str, ...]]:
    """Both units of every case of class S and F, as notation without levels."""
    table = rules()
    cases = [case for case in (*table.oppose, *table.allow, *sum(table.contests[2:], ())) if case.rule.reading]
    yield from dict.fromkeys(
        tuple(f"{code}:{part}" if part else code for code, part in case.members) for case in cases
    )


def _drawn(kind: str, count: int) -> Iterator[tuple[str, AUSet]]:
    """Scores whose combination training never shows, at whole levels from B on."""
    rng = random.Random(f"{SEED} {kind}")
    seen: set[str] = set()
    while len(seen) < count:
        _, drawn = sample_aus(rng, {kind: 1.0}, evaluation=True)
        aus = AUSet({name: min(5, max(2, round(level))) for name, level in drawn.items()})
        if aus.format() not in seen and resolve(aus).effective.codes:
            seen.add(aus.format())
            yield kind, aus


def main() -> int:
    """Write the file."""
    if len(sys.argv) != 2:
        sys.stderr.write("python -m train_lora.data.build_suite OUT.jsonl\n")
        return 2
    Path(sys.argv[1]).write_text("".join(item.line() + "\n" for item in build()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

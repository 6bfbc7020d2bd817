"""Pairs of texts that say the same, with the levels they say: what the alignment of text and action units learns from.

A row depends on the seed and its number alone. Rows go in fours: the last is a near miss of the one before it, so that
a batch of consecutive numbers holds hard negatives.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from auface_diffusers.facs import AUSet, preset, resolve, units
from auface_diffusers.facs.presets import presets
from auface_diffusers.facs.units import channel_name
from train_lora.data.sample_aus import sample_aus
from train_lora.data.wordings import wordings

GROUP = 4
"""Every fourth row is a hard negative of the row before."""
PRESETS, POSED = 0.08, 0.15
"""Share of scores that are an emotion prototype, and of those with a head position or gaze added."""
LEVEL_STEP = 2.0
"""By how much a level changes in a near miss."""


def alignment_batch(seed: int, numbers: Sequence[int]) -> tuple[list[str], list[str], Tensor]:
    """Make rows of training data.

    Args:
        seed: of the data set.
        numbers: which rows, each at least 0.

    Returns:
        Texts, other texts for the same scores, and the effective levels (B, C) in 0..5, C as in ``units.channels``.
    """
    ones, others, levels = [], [], []
    for number in numbers:
        aus = row_score(seed, number)
        rng = random.Random(f"words {seed} {number}")
        one, other = wordings(rng, aus), wordings(rng, aus)
        for _ in range(8):  # a short score in codes may come out the same
            if other != one:
                break
            other = wordings(rng, aus)
        ones.append(one)
        others.append(other)
        levels.append(aus.vector())
    return ones, others, torch.tensor(levels, dtype=torch.float32)


def row_score(seed: int, number: int) -> AUSet:
    """The effective score of one row."""
    if number < 0:
        raise ValueError(f"row {number}: rows count from 0")
    rng = random.Random(f"score {seed} {number}")
    if number % GROUP == GROUP - 1:
        return _near_miss(rng, row_score(seed, number - 1))
    return resolve(_draw(rng)).effective


def _draw(rng: random.Random) -> AUSet:
    """A score: natural, systematic, or a prototype; now and then with a pose, which rendered faces leave out."""
    if rng.random() < PRESETS:
        case = rng.choice(presets())
        aus = preset(case.name, round(rng.uniform(0.15, 1.0), 2), source=case.source)
    else:
        _, aus = sample_aus(rng)
    if rng.random() < POSED:
        pose = rng.choice([unit.code for unit in units.values() if unit.still and "position" in unit.kind])
        aus = aus.merge(AUSet({pose: round(rng.uniform(0.5, 5.0), 2)}))
    return aus


def _near_miss(rng: random.Random, aus: AUSet) -> AUSet:
    """A score that differs in one thing: another unit, the other side, or a level two steps away."""
    changes = [_other_level, _other_unit, _other_side]
    rng.shuffle(changes)
    for change in changes:
        changed = resolve(change(rng, aus)).effective
        if changed != aus:
            return changed
    return resolve(_draw(rng)).effective  # nothing can be changed in a neutral face


def _other_level(rng: random.Random, aus: AUSet) -> AUSet:
    if not aus:
        return aus
    code = rng.choice(aus.codes)
    by = LEVEL_STEP if aus.level(code) < 2.5 else -LEVEL_STEP
    moved = {key: min(5.0, max(0.5, level + by)) for key, level in aus.only([code]).parts.items()}
    return AUSet.from_keys({**aus.parts, **moved})


def _other_unit(rng: random.Random, aus: AUSet) -> AUSet:
    """Swap a unit for a new one of the same kind, or add one to a neutral face."""
    if not aus:
        return sample_aus(rng, {"single": 1.0})[1]
    code = rng.choice(aus.codes)
    old = units[code]
    new = rng.choice(
        [
            unit.code
            for unit in units.values()
            if unit.still and (unit.kind, unit.parts, unit.one_sided) == (old.kind, old.parts, old.one_sided)
        ]
    )
    moved = {(new, part): level for (_, part), level in aus.only([code]).parts.items()}
    return AUSet.from_keys({**aus.without([code]).parts, **moved})


def _other_side(rng: random.Random, aus: AUSet) -> AUSet:
    """Move a unit to the other side or lip; one that is on both loses one."""
    able = [code for code in aus.codes if units[code].parts != "whole"]
    if not able:
        return aus.mirror()
    code = rng.choice(able)
    parts = aus.only([code]).parts
    one, other = units[code].part_names
    if len(parts) == 2:
        return aus.without([channel_name(code, rng.choice((one, other)))])
    ((_, part), level) = next(iter(parts.items()))
    return AUSet.from_keys({**aus.without([code]).parts, (code, other if part == one else one): level})

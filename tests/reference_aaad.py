"""AAAD read from its definition, sections 2 to 4, 6, 7 and 10, slowly: one face, one unit and one image at a time.

Nothing of the package is used here, and nothing is shared with it but the definition: `test_against_reference.py`
asserts that both give the same numbers.
"""

import itertools
import math
from dataclasses import dataclass, field

ON, OFF, UNSPECIFIED, MASKED = "on", "off", "unspecified", "masked"
TOP_LEVEL = 5


@dataclass
class Image:
    """What a detector says of one image: the probability of each unit, and its level; `face` is False without one."""

    presence: dict
    level: dict = field(default_factory=dict)
    face: bool = True


@dataclass
class Item:
    """A text's demands, the state and level of each unit, and the images that were made for it."""

    states: dict
    images: list
    levels: dict = field(default_factory=dict)


def not_a_number(value):
    return isinstance(value, float) and math.isnan(value)


def mean(values):
    values = list(values)
    return math.fsum(values) / len(values) if values else math.nan


# --- section 2 and 7: states ---------------------------------------------------------------------------------------


def state(unit, asked, world, absent=(), unlabelled=(), covered=None):
    """Of a unit, given the levels that are asked for: B to E is on, 0 is off, A is a matter of taste."""
    if unit in unlabelled or (covered is not None and unit not in covered):
        return MASKED
    if unit not in asked and unit not in absent and world == "open":
        return UNSPECIFIED
    level = asked.get(unit, 0)
    if level == 0:
        return OFF
    return ON if level >= 2 else MASKED


# --- section 3: overlap of two Bernoulli distributions, balanced ---------------------------------------------------


def total_variation(one, other):
    """Of two distributions over the same outcomes."""
    return sum(abs(a - b) for a, b in zip(one, other, strict=True)) / 2


def overlap(wanted, p):
    q = 1.0 if wanted == ON else 0.0
    return 1 - total_variation((1 - q, q), (1 - p, p))


def item_value(item, unit, only_faces=False):
    """Mean overlap over an item's images; without a face it is 0, whatever was asked for (section 10)."""
    values = []
    for image in item.images:
        if image.face:
            values.append(overlap(item.states[unit], image.presence[unit]))
        elif not only_faces:
            values.append(0.0)
    return mean(values)


def unit_value(items, unit, n_min, only_faces=False):
    """AAAD_a, or NaN for "n/a"."""
    halves = []
    for polarity in (ON, OFF):
        values = [item_value(item, unit, only_faces) for item in items if item.states[unit] == polarity]
        values = [value for value in values if not not_a_number(value)]
        if len(values) < n_min:
            return math.nan
        halves.append(mean(values))
    return (halves[0] + halves[1]) / 2


def aaad(items, units, n_min, only_faces=False):
    """The macro mean over the units that have a value."""
    values = [unit_value(items, unit, n_min, only_faces) for unit in units]
    return mean(value for value in values if not not_a_number(value))


def tjur(items, unit):
    """Mean probability where the unit is on minus that where it is off, images without a face left out."""
    seen = {ON: [], OFF: []}
    for item in items:
        here = [image.presence[unit] for image in item.images if image.face]
        if item.states[unit] in seen and here:
            seen[item.states[unit]].append(mean(here))
    return mean(seen[ON]) - mean(seen[OFF])


def area_under_curve(items, unit, n_min):
    """Share of pairs of images, one with the unit and one without, that stand in the right order; ties are half."""
    seen = {ON: [], OFF: []}
    for item in items:
        for image in item.images:
            if image.face and item.states[unit] in seen:
                seen[item.states[unit]].append(image.presence[unit])
    if min(len(seen[ON]), len(seen[OFF])) < n_min:
        return math.nan
    return mean((a > b) + (a == b) / 2 for a in seen[ON] for b in seen[OFF])


# --- section 4: intensity ------------------------------------------------------------------------------------------


def point_mass(level, top=TOP_LEVEL):
    return [1.0 if place == level else 0.0 for place in range(top + 1)]


def between(value, top=TOP_LEVEL):
    """A level that is read, 2.25 say, as a distribution with this mean: three quarters of level 2, a quarter of 3."""
    shares = [0.0] * (top + 1)
    low = min(int(value), top - 1)
    shares[low], shares[low + 1] = low + 1 - value, value - low
    return shares


def spread(value, residuals, top=TOP_LEVEL):
    """The same with the detector's errors added: residuals[d] is how often the truth lies d levels higher."""
    shares = [0.0] * (top + 1)
    for level, mass in enumerate(between(value, top)):
        for step, share in residuals.items():
            shares[max(0, min(top, level + step))] += mass * share
    return shares


def wasserstein(one, other):
    total, below, below_other = 0.0, 0.0, 0.0
    for a, b in zip(one, other, strict=True):
        below, below_other = below + a, below_other + b
        total += abs(below - below_other)
    return total


def level_overlap(read, asked):
    """Of two distributions over L levels."""
    return 1 - wasserstein(read, asked) / (len(read) - 1)


def unit_level_value(items, unit, n_min=1):
    """Every level that at least ``n_min`` images were asked for weighs the same; NaN for fewer than two levels."""
    by_level = {}
    for item in items:
        level = item.levels.get(unit)
        if level is not None:
            for image in item.images:
                by_level.setdefault(level, []).append(level_overlap(between(image.level[unit]), point_mass(level)))
    means = [mean(values) for values in by_level.values() if len(values) >= n_min]
    return mean(means) if len(means) > 1 else math.nan


def rank(values, value):
    """From 1; equal values share the mean of their ranks."""
    below = sum(other < value for other in values)
    return below + (sum(other == value for other in values) + 1) / 2


def spearman(one, other):
    a, b = ([rank(values, value) for value in values] for values in (one, other))
    a, b = ([value - mean(ranks) for value in ranks] for ranks in (a, b))
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


# --- section 6: reference points -----------------------------------------------------------------------------------


def relative(value, ceiling):
    return math.nan if ceiling - 0.5 < 0.1 else (value - 0.5) / (ceiling - 0.5)


def expected_when_shuffled(items, unit):
    """Mean of AAAD_a over every way to deal the unit's states among the items that have one."""
    counted = [item for item in items if item.states[unit] in (ON, OFF)]
    values = []
    for dealt in itertools.permutations([item.states[unit] for item in counted]):
        again = [Item({unit: new}, item.images) for new, item in zip(dealt, counted, strict=True)]
        values.append(unit_value(again, unit, 1))
    return mean(values)


# --- sections 7 and 10: leakage and failures -----------------------------------------------------------------------


def leakage(items, unit, neutral, excused):
    """Mean probability of a unit that nobody asked for minus that on neutral faces; ``excused`` units do not count."""
    seen = []
    for item, names in zip(items, excused, strict=True):
        here = [image.presence[unit] for image in item.images if image.face]
        if item.states[unit] in (UNSPECIFIED, OFF) and unit not in names and here:
            seen.append(mean(here))
    return mean(seen) - mean(neutral)


def fail_rate(items):
    images = [image for item in items for image in item.images]
    return mean(0.0 if image.face else 1.0 for image in images)


def chance(items):
    return 0.5 * (1 - fail_rate(items))

"""AAAD against `reference_aaad`, a second implementation that was written from the text of the definition."""

import math

import numpy as np
import pytest
import reference_aaad as book
from hypothesis import given
from hypothesis import strategies as st

from auface_diffusers.facs import AUSet
from auface_diffusers.metrics import AAAD, Targets, aaad, spec_targets
from auface_diffusers.metrics.controls import leakage, relative, shuffled
from auface_diffusers.metrics.histogram import BINS
from auface_diffusers.metrics.levels import level_overlap, point_distribution, spearman, with_residuals
from auface_diffusers.metrics.tally import overlap
from auface_diffusers.metrics.targets import MASKED, OFF, ON, UNSPECIFIED

COLUMNS = ("17", "25", "26", "L12", "R12")
WORDS = {ON: book.ON, OFF: book.OFF, UNSPECIFIED: book.UNSPECIFIED, MASKED: book.MASKED}


def made_up(seed, items=90, images=1, fails=0.0):
    """Targets, presence (N, K, C), levels read (N, K, C) and found (N, K), with every state among the targets."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet([4, 4, 1, 1], len(COLUMNS))
    states = np.stack([rng.choice([ON, OFF, UNSPECIFIED, MASKED], items, p=p) for p in chances], 1).astype(np.int8)
    levels = np.where(states == ON, rng.integers(2, 6, states.shape), np.where(states == OFF, 0.0, np.nan))
    shape = (items, images, len(COLUMNS))
    presence = (rng.integers(1, BINS - 1, shape) + 0.5) / BINS  # mid-bin: areas under curves are then exact
    presence[rng.random(shape) < 0.1] = rng.choice([0.0, 1.0])
    found = rng.random(shape[:2]) >= fails
    return Targets(COLUMNS, states, levels), presence, rng.random(shape) * 5, found


def as_items(targets, presence, level, found):
    """The same for the book."""
    made = []
    for row in range(len(targets)):
        images = []
        for image in range(presence.shape[1]):
            said, read = (dict(zip(COLUMNS, v[row, image].tolist(), strict=True)) for v in (presence, level))
            images.append(book.Image(said, read, bool(found[row, image])))
        states = {name: WORDS[state] for name, state in zip(COLUMNS, targets.states[row].tolist(), strict=True)}
        asked = {n: int(v) for n, v in zip(COLUMNS, targets.levels[row], strict=True) if not np.isnan(v)}
        made.append(book.Item(states, images, asked))
    return made


def near(value, expected):
    np.testing.assert_allclose(value, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n_min", [1, 20, 33])
@pytest.mark.parametrize(
    ("seed", "images", "fails"), [(0, 1, 0.0), (1, 1, 0.2), (2, 3, 0.0), (3, 3, 0.3), (4, 2, 0.8)]
)
def test_scores_agree(seed, images, fails, n_min):
    data = made_up(seed, images=images, fails=fails)
    targets, presence, _, found = data
    items = as_items(*data)
    score = aaad(presence, targets, found=found, least=n_min, resamplings=0)
    values = [book.unit_value(items, unit, n_min) for unit in COLUMNS]
    near(score.per_column, values)
    near(score.aaad, book.aaad(items, COLUMNS, n_min))
    near(score.skill, 2 * book.aaad(items, COLUMNS, n_min) - 1)
    near(score.detected, book.aaad(items, COLUMNS, n_min, only_faces=True))
    near(score.auc, [book.area_under_curve(items, unit, n_min) for unit in COLUMNS])
    near(score.failed, book.fail_rate(items))
    near(score.chance, book.chance(items))
    assert score.skipped == tuple(unit for unit, v in zip(COLUMNS, values, strict=True) if math.isnan(v))
    for counts, state in ((score.on_count, book.ON), (score.off_count, book.OFF)):
        assert counts.tolist() == [sum(item.states[unit] == state for item in items) for unit in COLUMNS]
    assert (score.items, score.images) == (len(items), len(items) * images)
    if n_min == 33:
        assert score.skipped, "the data have units with too few items"


@given(seed=st.integers(0, 10**9), items=st.integers(1, 12), images=st.integers(1, 3), fails=st.sampled_from([0, 0.4]))
def test_scores_of_a_handful_of_items_agree(seed, items, images, fails):
    data = made_up(seed, items, images, fails)
    targets, presence, _, found = data
    score = aaad(presence, targets, found=found, least=1, resamplings=0)
    rows = as_items(*data)
    near(score.per_column, [book.unit_value(rows, unit, 1) for unit in COLUMNS])
    near(score.aaad, book.aaad(rows, COLUMNS, 1))
    near(score.detected, book.aaad(rows, COLUMNS, 1, only_faces=True))


def test_skill_is_the_coefficient_of_discrimination():
    data = made_up(5, images=2)
    score = aaad(data[1], data[0], least=1, resamplings=0)
    near(2 * score.per_column - 1, [book.tjur(as_items(*data), unit) for unit in COLUMNS])


@pytest.mark.parametrize("n_min", [1, 12])
@pytest.mark.parametrize(("seed", "images"), [(6, 1), (7, 2)])
def test_levels_agree(seed, images, n_min):
    data = made_up(seed, images=images)
    targets, presence, level, _ = data
    items = as_items(*data)
    score = aaad(presence, targets, level=level, least=n_min, resamplings=0)
    near(score.level, [book.unit_level_value(items, unit, n_min) for unit in COLUMNS])
    for column, unit in enumerate(COLUMNS):
        for wanted in range(6):
            read = [im.level[unit] for item in items if item.levels.get(unit) == wanted for im in item.images]
            near(score.level_means[column, wanted], book.mean(read))


@given(values=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 20).map(lambda x: x / 4)), min_size=3, max_size=12))
def test_rank_correlations_agree(values):
    asked, read = (np.array(column, dtype=float)[:, None] for column in zip(*values, strict=True))
    found = spearman(asked, read, least=3)[0]
    if len(np.unique(asked)) == 1 or len(np.unique(read)) == 1:
        assert np.isnan(found)
    else:
        near(found, book.spearman(asked[:, 0].tolist(), read[:, 0].tolist()))


@given(asked=st.integers(0, 5), read=st.floats(0, 5))
def test_overlaps_of_levels_agree(asked, read):
    ours = level_overlap(np.array([[float(asked)]]), point_distribution(np.array([[read]])))[0, 0]
    near(ours, book.level_overlap(book.between(read), book.point_mass(asked)))
    near(ours, 1 - abs(read - asked) / 5)


@given(asked=st.integers(0, 5), weights=st.lists(st.integers(0, 9), min_size=6, max_size=6).filter(any))
def test_overlaps_of_ordinal_probabilities_agree(asked, weights):
    shares = [weight / sum(weights) for weight in weights]
    ours = level_overlap(np.array([[float(asked)]]), np.array([[shares]]))[0, 0]
    near(ours, book.level_overlap(shares, book.point_mass(asked)))


@given(read=st.floats(0, 5), weights=st.lists(st.integers(0, 9), min_size=11, max_size=11).filter(any))
def test_levels_with_the_errors_of_a_detector_agree(read, weights):
    shares = [weight / sum(weights) for weight in weights]
    ours = with_residuals(np.array([[read]]), np.array([shares]))[0, 0]
    near(ours, book.spread(read, dict(zip(range(-5, 6), shares, strict=True))))


@given(p=st.floats(0, 1))
def test_two_levels_are_presence_and_absence(p):
    for asked, state, word in ((1, ON, book.ON), (0, OFF, book.OFF)):
        ours = overlap(np.array([[state]]), np.array([[p]]))[0, 0]
        near(ours, book.overlap(word, p))
        near(ours, book.level_overlap([1 - p, p], book.point_mass(asked, 1)))
        near(ours, level_overlap(np.array([[float(asked)]]), np.array([[[1 - p, p]]]))[0, 0])


@pytest.mark.parametrize("seed", range(3))
def test_shuffled_texts_are_chance_for_every_unit(seed):
    items = as_items(*made_up(seed + 20, items=6))
    units = [unit for unit in COLUMNS if not math.isnan(book.unit_value(items, unit, 1))]
    assert units
    for unit in units:
        near(book.expected_when_shuffled(items, unit), 0.5)
    targets, presence, *_ = made_up(seed + 20, items=300)
    found = shuffled(targets.states, presence[:, 0], 200, seed=seed)
    assert abs(found.mean - 0.5) < 4 * found.sd / math.sqrt(200)


@given(value=st.floats(0, 1), ceiling=st.floats(0, 1))
def test_shares_of_the_ceiling_agree(value, ceiling):
    near(relative(np.array([value]), np.array([ceiling]))[0], book.relative(value, ceiling))


@pytest.mark.parametrize("fails", [0.0, 0.3])
def test_leakage_agrees(fails):
    data = made_up(30, fails=fails)
    targets, presence, _, found = data
    rng = np.random.default_rng(0)
    neutral = rng.random((25, len(COLUMNS)))
    excused = [[name for name in COLUMNS if rng.random() < 0.2] for _ in range(len(targets))]
    items = as_items(*data)
    seen = np.where(found[..., None], presence, np.nan)[:, 0]
    expected = [book.leakage(items, unit, neutral[:, c].tolist(), excused) for c, unit in enumerate(COLUMNS)]
    near(leakage(targets.states, seen, neutral, COLUMNS, excused), expected)


asked_levels = st.dictionaries(st.sampled_from(["1", "2", "L12", "R12", "17"]), st.sampled_from("ABCDE"))
some = st.sets(st.sampled_from(["L1", "R1", "L2", "R2", "L12", "R12", "17", "25"]))


@given(asked=asked_levels, world=st.sampled_from(["open", "closed"]), absent=some, unlabelled=some, covered=some)
def test_states_agree(asked, world, absent, unlabelled, covered):
    columns = ("L1", "R1", "L2", "R2", "L12", "R12", "17", "25")
    score = AUSet.parse("+".join(unit + level for unit, level in asked.items()) or "0")
    levels = {}
    for unit, letter in asked.items():
        for name in (unit,) if unit in columns else ("L" + unit, "R" + unit):
            levels[name] = " ABCDE".index(letter)
    ours = spec_targets([score], columns, world=world, absent=[absent], unknown=[unlabelled], covered=covered).states[
        0
    ]
    expected = [book.state(unit, levels, world, absent, unlabelled, covered) for unit in columns]
    assert [WORDS[state] for state in ours.tolist()] == expected


def test_what_is_counted_up_in_batches_agrees():
    data = made_up(31, items=150, images=2, fails=0.1)
    targets, presence, _, found = data
    metric = AAAD(COLUMNS, resamplings=0)
    for begin in range(0, 150, 40):
        rows = np.arange(begin, min(begin + 40, 150))
        metric.update(presence[rows], targets.rows(rows), found=found[rows])
    near(metric.compute().aaad, book.aaad(as_items(*data), COLUMNS, 20))

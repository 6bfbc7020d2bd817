"""AAAD: the properties of its definition, a second implementation of it, and streams that add up exactly."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from auface_diffusers.facs import AUSet, describe
from auface_diffusers.metrics import AAAD, MetricError, Targets, aaad, spec_targets, text_targets
from auface_diffusers.metrics.levels import fit_residuals, level_overlap, point_distribution, with_residuals
from auface_diffusers.metrics.tally import cluster_weights, interval, macro, overlap, per_column, tally
from auface_diffusers.metrics.targets import MASKED, OFF, ON, UNSPECIFIED, parse_accuracy

COLUMNS = ("17", "25", "26", "L12", "R12", "L4")


def random_data(seed, items=120, images=1, masked=0.2):
    """Targets with masks, and presence (N, K, C)."""
    rng = np.random.default_rng(seed)
    states = rng.choice([OFF, ON], (items, len(COLUMNS)), p=[0.6, 0.4]).astype(np.int8)
    states[rng.random(states.shape) < masked] = rng.choice([MASKED, UNSPECIFIED])
    levels = np.where(states == ON, rng.integers(2, 6, states.shape), np.where(states == OFF, 0.0, np.nan))
    return Targets(COLUMNS, states, levels), rng.random((items, images, len(COLUMNS)))


def by_the_book(states, presence, found, least):
    """Sections 3 and 10 of the definition in plain loops: AAAD of each column, and their mean."""
    values = []
    for column in range(states.shape[1]):
        halves = []
        for wanted in (1, 0):
            scores = []
            for item in range(len(states)):
                if states[item, column] != wanted:
                    continue
                each = []
                for image in range(presence.shape[1]):
                    p = presence[item, image, column]
                    each.append(1 - abs(wanted - p) if found[item, image] else 0.0)
                scores.append(sum(each) / len(each))
            halves.append(math.nan if len(scores) < least else sum(scores) / len(scores))
        values.append(sum(halves) / 2)
    known = [value for value in values if not math.isnan(value)]
    return values, sum(known) / len(known) if known else math.nan


@pytest.mark.parametrize("seed", range(8))
def test_a_second_implementation_agrees(seed):
    targets, presence = random_data(seed, images=1 + seed % 3)
    found = np.random.default_rng(seed).random(presence.shape[:2]) < 0.9
    least = 20 if seed % 2 else 45
    wanted, mean = by_the_book(targets.states, presence, found, least)
    score = aaad(presence, targets, found=found, least=least, resamplings=0)
    np.testing.assert_allclose(score.per_column, wanted, atol=1e-9)
    np.testing.assert_allclose(score.aaad, mean, atol=1e-9)
    assert score.skipped == tuple(name for name, value in zip(COLUMNS, wanted, strict=True) if math.isnan(value))
    assert score.failed == pytest.approx(1 - found.mean())


def scored(targets, presence, **options):
    return aaad(presence, targets, **{"resamplings": 0, "least": 5, **options})


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_scores_and_skill_stay_in_range(seed):  # property 1, and 6: skill is mean p|on - mean p|off
    targets, presence = random_data(seed)
    score = scored(targets, presence)
    assert 0 <= score.aaad <= 1
    assert -1 <= score.skill <= 1
    on, off = (
        np.array([presence[targets.states[:, c] == s, 0, c].mean() for c in range(len(COLUMNS))]) for s in (ON, OFF)
    )
    np.testing.assert_allclose(2 * score.per_column - 1, on - off, atol=1e-8)


def test_perfect_inverted_and_constant_detectors():  # properties 2 and 3
    targets, presence = random_data(1)
    truth = (targets.states == ON).astype(float)
    assert scored(targets, truth).aaad == 1
    assert scored(targets, 1 - truth).aaad == 0
    for p in (0.0, 0.137, 1.0):
        np.testing.assert_allclose(scored(targets, np.full_like(truth, p)).per_column, 0.5, atol=1e-9)


def test_permuted_texts_are_chance():  # property 4
    targets, presence = random_data(2, items=400, masked=0)
    good = np.clip(targets.states * 0.5 + presence[:, 0] * 0.3, 0, 1)
    rng = np.random.default_rng(0)
    values = [scored(targets.rows(rng.permutation(400)), good).aaad for _ in range(100)]
    assert abs(np.mean(values) - 0.5) < 4 * np.std(values) / 10


def test_moving_towards_the_target_never_lowers_the_score():  # property 5
    targets, presence = random_data(3)
    before = scored(targets, presence[:, 0]).aaad
    rng = np.random.default_rng(0)
    for _ in range(20):
        row, column = rng.integers(len(targets)), rng.integers(len(COLUMNS))
        moved = presence[:, 0].copy()
        moved[row, column] += 0.5 * ((targets.states[row, column] == ON) - moved[row, column])
        assert scored(targets, moved).aaad >= before - 1e-12


def test_prevalence_order_and_copies_change_nothing():  # properties 7 and 8
    targets, presence = random_data(4, masked=0)
    whole = scored(targets, presence[:, 0])
    only = targets.states[:, 0] == OFF
    rows = np.concatenate([np.arange(len(targets)), *[np.nonzero(only)[0]] * 3])
    assert scored(targets.rows(rows), presence[rows, 0]).per_column[0] == pytest.approx(whole.per_column[0], abs=1e-12)
    order = np.random.default_rng(0).permutation(len(targets))
    assert scored(targets.rows(order), presence[order, 0]).aaad == whole.aaad
    twice = np.tile(np.arange(len(targets)), 2)
    assert scored(targets.rows(twice), presence[twice, 0]).aaad == pytest.approx(whole.aaad, abs=1e-15)
    flipped = Targets(COLUMNS[::-1], targets.states[:, ::-1], targets.levels[:, ::-1])
    assert scored(flipped, presence[:, 0, ::-1]).aaad == pytest.approx(whole.aaad, abs=1e-15)


def test_what_is_masked_may_be_anything():  # properties 8 and 12
    targets, presence = random_data(5)
    odd = presence[:, 0].copy()
    odd[targets.states < 0] = np.nan
    assert scored(targets, odd).aaad == scored(targets, presence[:, 0]).aaad
    nines = spec_targets([AUSet.parse("12D")] * 3, ["4", "12"], unknown=[["4"]] * 3)
    assert nines.states.tolist() == [[MASKED, ON]] * 3


def test_swapping_on_and_off_changes_nothing():  # property 9
    targets, presence = random_data(6)
    swapped = np.where(targets.states == ON, OFF, np.where(targets.states == OFF, ON, targets.states)).astype(np.int8)
    other = scored(Targets(COLUMNS, swapped, targets.levels), 1 - presence[:, 0])
    assert other.aaad == pytest.approx(scored(targets, presence[:, 0]).aaad, abs=1e-9)


def test_two_levels_are_the_overlap():  # property 10
    targets, presence = random_data(7, masked=0)
    p = presence[:, 0]
    two = np.stack([1 - p, p], -1)
    asked = (targets.states == ON).astype(float)
    np.testing.assert_allclose(level_overlap(asked, two), overlap(targets.states, p), atol=1e-12)


def test_too_few_items_give_no_value():  # property 11
    targets, presence = random_data(8, masked=0)
    targets.states[:, 0] = OFF
    targets.states[:19, 0] = ON
    score = scored(targets, presence[:, 0], least=20)
    assert np.isnan(score.per_column[0])
    assert score.skipped == (COLUMNS[0],)
    assert score.aaad == pytest.approx(np.mean(score.per_column[1:]))


def test_the_interval_holds_the_score_and_narrows_with_the_root_of_n():  # property 13
    widths = []
    for items in (200, 800):
        targets, presence = random_data(9, items=items, masked=0)
        score = scored(targets, presence[:, 0], resamplings=1000)
        low, high = score.interval
        assert low < score.aaad < high
        assert (score.intervals[:, 0] < score.per_column).all()
        widths.append(high - low)
    assert 1.6 < widths[0] / widths[1] < 2.5


def test_temperature_changes_the_score_but_not_the_auc():  # property 15
    targets, presence = random_data(10, items=300, masked=0)
    logit = 3 * (targets.states - 0.5) + np.random.default_rng(0).normal(0, 1.5, targets.states.shape)
    scores = [scored(targets, 1 / (1 + np.exp(-logit / t))) for t in (0.5, 1, 4)]
    assert scores[0].aaad > scores[1].aaad > scores[2].aaad
    np.testing.assert_allclose(scores[0].auc, scores[2].auc, atol=2e-3)


def test_no_faces_score_nothing():  # property 16
    targets, presence = random_data(11)
    score = scored(targets, np.full_like(presence[:, 0], np.nan), found=np.zeros(len(targets), bool))
    assert score.aaad == 0
    assert score.chance == 0
    assert np.isnan(score.detected)


def test_paraphrases_score_the_same_in_spec_mode():  # property 18
    scores = [AUSet.parse(code) for code in ("12D+6C", "1C+4C", "25C", "0")] * 10
    presence = np.random.default_rng(0).random((40, len(COLUMNS)))
    spec = aaad(presence, scores, COLUMNS, least=5, resamplings=0)
    for seed in (1, 2):
        texts = [describe(score, seed=seed).text for score in scores]
        assert parse_accuracy(texts, scores) == 1.0
        read = text_targets(texts, COLUMNS, world="closed")
        assert aaad(presence, read, least=5, resamplings=0).aaad == spec.aaad


# --- streams ---------------------------------------------------------------------------------------------------------


def test_batches_in_any_order_give_the_same_bits():
    targets, presence = random_data(12, items=300)
    level = np.nan_to_num(targets.levels)
    names = [f"person {row // 3}" for row in range(300)]
    whole = AAAD(COLUMNS, resamplings=200)
    whole.update(presence, targets, level=level, clusters=names)
    parts = []
    for rows in np.array_split(np.random.default_rng(0).permutation(300), 7):
        part = AAAD(COLUMNS, resamplings=200)
        part.update(presence[rows], targets.rows(rows), level=level[rows], clusters=[names[row] for row in rows])
        parts.append(part)
    total = sum(parts[1:], parts[0])
    for one, other in zip(vars(total.compute()).values(), vars(whole.compute()).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    sizes = [array.nbytes for array in whole._arrays()]
    whole.update(presence, targets, clusters=names)
    assert [array.nbytes for array in whole._arrays()] == sizes, "memory does not grow with the items"


def _half(rank, path, results):
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=2)
    targets, presence = random_data(13, items=100)
    rows = np.arange(rank, 100, 2)
    metric = AAAD(COLUMNS, resamplings=50)
    metric.update(presence[rows], targets.rows(rows), clusters=[f"item {row}" for row in rows])
    results[rank] = metric.sync().compute().interval + (metric.sync().compute().aaad,)
    dist.destroy_process_group()


def test_two_processes_give_the_bits_of_one(tmp_path):
    manager = torch.multiprocessing.get_context("spawn").Manager()
    results = manager.dict()
    script = torch.multiprocessing.get_context("fork")
    workers = [script.Process(target=_half, args=(rank, tmp_path / "meet", results)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    targets, presence = random_data(13, items=100)
    metric = AAAD(COLUMNS, resamplings=50)
    metric.update(presence, targets, clusters=[f"item {row}" for row in range(100)])
    alone = metric.compute()
    assert dict(results) == {rank: (*alone.interval, alone.aaad) for rank in range(2)}


@pytest.mark.parametrize("per_cluster", [1, 4])
def test_the_interval_covers_the_truth_as_often_as_it_says(per_cluster):
    """Presence of a unit depends on the person as well: the truth is 0.7."""
    rng = np.random.default_rng(per_cluster)
    hits, runs = 0, 800
    people = 240 // per_cluster
    for _ in range(runs):
        person = np.repeat(rng.normal(0, 0.1 if per_cluster > 1 else 0, people), per_cluster)
        states = (rng.random((240, 1)) < 0.5).astype(np.int8)
        values = np.where(states == ON, 0.7, 0.7) + (person + rng.normal(0, 0.08, 240))[:, None]
        weights = cluster_weights([int(x) for x in rng.integers(0, 2**40, people).repeat(per_cluster)], 400)
        low, high = interval(macro(per_column(tally(states, values, weights))))
        hits += low <= 0.7 <= high
    assert 0.93 <= hits / runs <= 0.97


# --- levels ----------------------------------------------------------------------------------------------------------


def test_levels_are_aligned_by_their_distance():
    asked = np.array([[0.0], [3.0], [5.0], [np.nan]])
    read = np.array([[0.0], [4.0], [0.0], [1.0]])
    found = level_overlap(asked, point_distribution(read))
    np.testing.assert_allclose(found[:3, 0], [1.0, 0.8, 0.0])
    assert np.isnan(found[3, 0])


def test_residuals_spread_what_is_read():
    rng = np.random.default_rng(0)
    true = rng.integers(0, 6, (4000, 1)).astype(float)
    read = np.clip(true + rng.choice([-1, 0, 1], true.shape, p=[0.1, 0.7, 0.2]), 0, 5)
    residuals = fit_residuals(read, true)
    assert residuals.sum() == pytest.approx(1)
    spread = with_residuals(np.array([[3.0]]), residuals)[0, 0]
    np.testing.assert_allclose(spread[2:5], [0.2, 0.7, 0.1], atol=0.05)
    assert spread.sum() == pytest.approx(1)


def test_each_level_weighs_the_same():
    targets, _ = random_data(14, items=400, masked=0)
    level = np.where(targets.levels >= 2, 2.0, 0.0)
    score = scored(targets, np.full(targets.states.shape, 0.5), level=level)
    np.testing.assert_allclose(score.level, (1 + 1 + 0.8 + 0.6 + 0.4) / 5, atol=1e-9)
    np.testing.assert_allclose(score.level_means[:, [0, 2, 5]], [[0, 2, 2]] * len(COLUMNS))


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("presence", "options", "message"),
    [
        (np.full((2, 6), np.nan), {}, "presence of item 0, image 0, column"),
        (np.full((2, 6), 1.5), {}, "is 1.5: numbers in 0..1"),
        (np.zeros((3, 6)), {}, r"presence \(3, 6\) for 2 items"),
        (np.zeros((2, 5)), {}, r"give \(N, 6\)"),
        (np.zeros((2, 6)), {"found": np.ones(3, bool)}, r"found \(3, 1\)"),
        (np.zeros((2, 6)), {"clusters": ["a"]}, "1 clusters"),
    ],
    ids=str,
)
def test_bad_input_is_named(presence, options, message):
    with pytest.raises(MetricError, match=message):
        AAAD(COLUMNS, resamplings=0).update(presence, ["12D+25C+17C+26C+4C", "0"], **options)


def test_bad_settings_are_refused():
    with pytest.raises(MetricError, match="least 0"):
        AAAD(least=0)
    with pytest.raises(ValueError, match="column 'AU12'"):
        AAAD(["AU12"])
    with pytest.raises(ValueError, match="covered: 99 are no columns"):
        AAAD(COLUMNS, covered=["99"])
    with pytest.raises(MetricError, match="nothing was scored"):
        AAAD().compute()
    with pytest.raises(MetricError, match="these metrics differ"):
        AAAD(COLUMNS) + AAAD(COLUMNS, least=3)

"""The properties that the definition of AAAD asks for (section 12), by their numbers; 17 and 19 need a detector."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from auface_diffusers.facs import AUSet, describe, read_text
from auface_diffusers.metrics import Targets, aaad, spec_targets, text_targets
from auface_diffusers.metrics.conflicts import conflict_rows
from auface_diffusers.metrics.controls import shuffled
from auface_diffusers.metrics.evaluate import ScoredFaces, Setting, evaluate
from auface_diffusers.metrics.levels import level_overlap
from auface_diffusers.metrics.tally import overlap
from auface_diffusers.metrics.targets import MASKED, OFF, ON, UNSPECIFIED, parse_accuracy

COLUMNS = ("17", "25", "L12", "R12")


def asking(states):
    """Targets that ask for C in the units that are on."""
    states = np.asarray(states, dtype=np.int8)
    levels = np.where(states == ON, 3.0, np.where(states == OFF, 0.0, np.nan))
    return Targets(COLUMNS[: states.shape[1]], states, levels)


def scored(states, presence, **options):
    return aaad(np.asarray(presence), asking(states), **{"least": 1, "resamplings": 0, **options})


def random_faces(seed, items=200, skill=0.4, masked=0.0):
    """States and presence, which is ``skill`` higher where a unit is asked for."""
    rng = np.random.default_rng(seed)
    states = (rng.random((items, len(COLUMNS))) < 0.35).astype(np.int8)
    presence = np.clip(0.3 + skill * states + rng.normal(0, 0.15, states.shape), 0, 1)
    states[rng.random(states.shape) < masked] = MASKED
    return states, presence


@st.composite
def faces(draw, kinds=(ON, OFF, UNSPECIFIED, MASKED)):
    """A few states and presences in which at least one unit has a value."""
    shape = (draw(st.integers(2, 12)), draw(st.integers(1, 4)))
    states = draw(arrays(np.int8, shape, elements=st.sampled_from(kinds)))
    assume(((states == ON).any(0) & (states == OFF).any(0)).any())
    return states, draw(arrays(np.float64, shape, elements=st.floats(0, 1)))


@given(faces(), st.floats(0, 1))
def test_scores_stay_within_0_and_1_and_skill_within_minus_1_and_1(data, failed):  # property 1
    states, presence = data
    values = overlap(states, presence)
    assert ((values[states >= 0] >= 0) & (values[states >= 0] <= 1)).all()
    found = np.random.default_rng(0).random(len(states)) >= failed
    score = scored(states, presence, found=found)
    assert 0 <= score.aaad <= 1
    assert -1 <= score.skill <= 1
    there = score.per_column[~np.isnan(score.per_column)]
    assert ((there >= 0) & (there <= 1)).all()


@given(faces())
def test_what_was_asked_for_scores_1_and_its_opposite_0(data):  # property 2
    states, _ = data
    truth = (states == ON).astype(float)
    assert scored(states, truth).aaad == 1
    assert scored(states, 1 - truth).aaad == 0


@given(faces(), st.floats(0, 1))
def test_a_constant_detector_scores_one_half_in_every_unit(data, p):  # property 3
    states, presence = data
    score = scored(states, np.full_like(presence, p))
    known = score.per_column[~np.isnan(score.per_column)]
    np.testing.assert_allclose(known, 0.5, rtol=0, atol=1e-12)
    assert score.aaad == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_texts_dealt_to_other_faces_score_one_half(seed):  # property 4
    states, presence = random_faces(seed)
    found = shuffled(states, presence, 200, seed=seed)
    assert abs(found.mean - 0.5) < 4 * found.sd / np.sqrt(200)
    order = np.random.default_rng(seed).permutation(len(states))
    assert abs(scored(states[order], presence).aaad - 0.5) < 4 * found.sd
    assert scored(states, presence).aaad > 0.65


@given(faces(), st.data(), st.floats(0, 1))
def test_moving_a_probability_towards_what_is_asked_for_never_lowers_the_score(data, choose, share):  # property 5
    states, presence = data
    row, column = (choose.draw(st.integers(0, size - 1)) for size in states.shape)
    moved = presence.copy()
    moved[row, column] += share * ((states[row, column] == ON) - moved[row, column])
    assert scored(states, moved).aaad >= scored(states, presence).aaad


@given(faces())
def test_skill_is_the_mean_where_asked_for_minus_the_mean_where_not(data):  # property 6
    states, presence = data
    score = scored(states, presence)
    for column in range(states.shape[1]):
        on, off = (presence[states[:, column] == state, column] for state in (ON, OFF))
        if len(on) and len(off):
            assert 2 * score.per_column[column] - 1 == pytest.approx(on.mean() - off.mean(), abs=1e-9)
        else:
            assert np.isnan(score.per_column[column])


@given(faces(kinds=(ON, OFF)), st.sampled_from([ON, OFF]), st.integers(2, 5))
def test_how_rare_a_unit_is_changes_nothing(data, polarity, times):  # property 7
    states, presence = data
    whole = scored(states, presence).per_column
    for column in range(states.shape[1]):
        again = np.nonzero(states[:, column] == polarity)[0]
        rows = np.concatenate([np.arange(len(states)), *[again] * (times - 1)])
        value = scored(states[rows], presence[rows]).per_column[column]
        np.testing.assert_allclose(value, whole[column], rtol=0, atol=1e-12)


@given(faces(), st.randoms(use_true_random=False), st.integers(2, 4))
def test_order_copies_and_what_is_not_asked_about_change_nothing(data, random, times):  # property 8
    states, presence = data
    whole = scored(states, presence).aaad
    rows, columns = (random.sample(range(size), size) for size in states.shape)
    assert scored(states[rows], presence[rows]).aaad == whole
    assert scored(states[:, columns], presence[:, columns]).aaad == pytest.approx(whole, abs=1e-15)
    assert scored(np.tile(states, (times, 1)), np.tile(presence, (times, 1))).aaad == pytest.approx(whole, abs=1e-15)
    for anything in (0.0, 1.0, -7.0, 1e300, np.nan):
        assert scored(states, np.where(states < 0, anything, presence)).aaad == whole


@given(faces())
def test_the_opposite_of_everything_scores_the_same(data):  # property 9
    states, presence = data
    swapped = np.where(states >= 0, 1 - states, states)
    assert scored(swapped, 1 - presence).aaad == pytest.approx(scored(states, presence).aaad, abs=1e-9)


@given(faces())
def test_two_levels_are_the_overlap_of_presence(data):  # property 10
    states, presence = data
    asked = np.where(states >= 0, states, np.nan).astype(float)
    both = level_overlap(asked, np.stack([1 - presence, presence], -1))
    np.testing.assert_allclose(both, overlap(states, presence), rtol=0, atol=1e-12)


@pytest.mark.parametrize("rare", [ON, OFF])
def test_a_unit_with_too_few_items_has_no_value_and_does_not_count(rare):  # property 11
    states, presence = random_faces(11)
    states[:, 1] = 1 - rare
    states[:20, 1] = rare
    assert scored(states, presence, least=20).skipped == ()
    states[0, 1] = MASKED
    score = scored(states, presence, least=20)
    assert score.skipped == ("25",)
    assert np.isnan(score.intervals[1]).all()
    assert score.aaad == pytest.approx(score.per_column[[0, 2, 3]].mean(), abs=1e-15)
    assert np.isnan(scored(states, presence, least=201).aaad), "no unit has a value: no score, not 0"


@given(st.sets(st.sampled_from(["1", "4", "12", "17", "25"])), st.sampled_from(["closed", "open"]))
def test_what_has_no_label_never_counts_as_off(unlabelled, world):  # property 12
    columns = ("L1", "R1", "L4", "R4", "L12", "R12", "17", "25")
    targets = spec_targets([AUSet.parse("12D")], columns, world=world, unknown=[unlabelled], absent=[["1", "4"]])
    for name, state in zip(columns, targets.states[0], strict=True):
        assert (state == MASKED) == (name.lstrip("LR") in unlabelled)
    nines = np.where(np.arange(8)[:, None] < 4, 9, [[ON], [OFF]] * 4)
    assert scored(nines, np.full((8, 1), 0.8)).off_count.tolist() == [2], "nor does a raw 9"


def test_the_interval_holds_the_score_and_narrows_with_the_root_of_n():  # property 13
    widths = []
    for items in (100, 400, 1600):
        states, presence = random_faces(13, items)
        score = scored(states, presence, resamplings=800)
        assert score.interval[0] < score.aaad < score.interval[1]
        assert (score.intervals[:, 0] < score.per_column).all()
        assert (score.per_column < score.intervals[:, 1]).all()
        widths.append(score.interval[1] - score.interval[0])
    for wide, narrow in zip(widths, widths[1:], strict=False):
        assert 1.6 < wide / narrow < 2.5


def test_the_score_of_conflicts_is_that_of_the_conflicting_rows_alone():  # property 14
    codes = ["12C+15C", "12D+6C", "1C+4C", "24C+25D", "0", "15D+17C", "12B", "25C", "17C+25B"] * 6
    scores = [AUSet.parse(code) for code in codes]
    rng = np.random.default_rng(14)
    targets = spec_targets(scores, COLUMNS)
    presence = np.clip(0.5 * np.maximum(targets.states, 0) + rng.random(targets.states.shape) / 2, 0, 1)
    rows = conflict_rows(scores)[""]
    assert len(rows) == 24
    alone = aaad(presence[rows], [scores[row] for row in rows], COLUMNS, least=2, resamplings=0)
    assert aaad(presence[rows], targets.rows(rows), least=2, resamplings=0).aaad == alone.aaad
    raw = aaad(presence[rows], [scores[row] for row in rows], COLUMNS, least=2, resamplings=0, reading="raw")
    seen = ScoredFaces(scores, presence[:, None], np.ones((len(codes), 1), dtype=bool), range(len(codes)))
    report = evaluate(seen, Setting(COLUMNS, COLUMNS, least=2, resamplings=20, permutations=2))
    assert report["conflict"]["n"] == 24
    assert report["conflict"]["res"] == alone.aaad
    assert report["conflict"]["raw"] == raw.aaad
    assert report["aaad"] != alone.aaad


def test_temperature_changes_the_score_but_not_the_area_under_the_curve():  # property 15
    states, _ = random_faces(15, items=400)
    logits = 2 * (states - 0.5) + np.random.default_rng(15).normal(0, 1.2, states.shape)
    found = [scored(states, 1 / (1 + np.exp(-logits / t))) for t in (0.5, 1, 2, 4)]
    values = [score.aaad for score in found]
    assert values == sorted(values, reverse=True)
    assert values[0] - values[-1] > 0.1
    for score in found[1:]:
        np.testing.assert_allclose(score.auc, found[0].auc, atol=2e-3)  # near values share a bin


@pytest.mark.parametrize("images", [1, 3])
def test_images_without_a_face_score_0_whatever_was_asked_for(images):  # property 16
    states, presence = random_faces(16, masked=0.2)
    many = np.repeat(presence[:, None], images, 1)
    nothing = np.zeros(many.shape[:2], dtype=bool)
    score = scored(states, np.full_like(many, np.nan), found=nothing)
    assert score.aaad == 0
    assert (score.per_column == 0).all()
    assert (score.failed, score.chance) == (1, 0)
    assert np.isnan(score.detected)
    half = np.arange(len(states)) % 2 == 0
    flat = scored(states, np.full_like(many, 0.3), found=np.repeat(half[:, None], images, 1))
    assert flat.chance == 0.25
    assert flat.detected == pytest.approx(0.5, abs=1e-12)
    assert flat.aaad == pytest.approx(0.25, abs=0.03), "0.25 if as many fail among those with a unit"


def test_wordings_of_one_spec_score_the_same_unless_the_parser_misreads_them():  # property 18
    scores = [AUSet.parse(code) for code in ("12D+6C", "1C+4C", "25C", "0", "17D")] * 8
    presence = np.random.default_rng(18).random((len(scores), len(COLUMNS)))
    options = {"least": 5, "resamplings": 0}
    spec = aaad(presence, scores, COLUMNS, **options).aaad
    wordings = [[describe(score, seed=seed).text for score in scores] for seed in (1, 2, 3)]
    assert wordings[0] != wordings[1] != wordings[2]
    for texts in wordings:
        assert parse_accuracy(texts, scores) == 1
        assert aaad(presence, text_targets(texts, COLUMNS, world="closed"), **options).aaad == spec
    texts = [describe(AUSet.parse("12D")).text, *wordings[0][1:]]  # it tells only a part of the first one
    texts[1] = "a face"
    assert parse_accuracy(texts, scores) == 1 - 2 / len(scores)
    read = [AUSet.from_keys(one.parts, one.unscored) for one in map(read_text, texts)]
    for world in ("open", "closed"):
        by_text, by_spec = text_targets(texts, COLUMNS, world=world), spec_targets(read, COLUMNS, world=world)
        np.testing.assert_array_equal(by_text.states, by_spec.states)
        np.testing.assert_array_equal(by_text.levels, by_spec.levels)

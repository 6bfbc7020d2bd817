"""Controls, conflicts and comparisons: what a score has to be seen beside."""

import itertools

import numpy as np
import pytest

from auface_diffusers.facs import AUSet
from auface_diffusers.metrics import aaad, spec_targets
from auface_diffusers.metrics.compare import compare, holm, ranks_agree, two_sided
from auface_diffusers.metrics.conflicts import collapse, conflict_rows, marginals, matched_control
from auface_diffusers.metrics.controls import hard_shuffled, leakage, neighbours, relative, same_columns, shuffled
from auface_diffusers.metrics.targets import MASKED, OFF, ON, implied

COLUMNS = ("17", "25", "26", "L12", "R12")


def data(count=400, skill=0.4, seed=0):
    """States (N, C), and presence that is ``skill`` higher where a unit is on."""
    rng = np.random.default_rng(seed)
    states = (rng.random((count, len(COLUMNS))) < 0.3).astype(np.int8)
    presence = np.clip(0.3 + skill * states + rng.normal(0, 0.1, states.shape), 0, 1)
    return states, presence


def test_shuffled_texts_are_chance_and_the_real_ones_are_not():
    states, presence = data()
    found = shuffled(states, presence, 100)
    assert abs(found.mean - 0.5) < 4 * found.sd / 10
    assert found.p == pytest.approx(1 / 101)
    nothing = shuffled(states, np.full_like(presence, 0.3), 20)
    assert nothing.mean == pytest.approx(0.5, abs=1e-9)
    assert nothing.p == 1.0


def test_shuffling_leaves_masked_entries_and_the_rate_of_each_unit_alone():
    states, presence = data()
    states[:, 0] = MASKED
    hidden = presence.copy()
    hidden[:, 0] = np.nan
    assert shuffled(states, hidden, 20) == shuffled(states, np.where(np.isnan(hidden), 0.9, hidden), 20)


@pytest.mark.parametrize("change", [{"permutations": 30}, {"seed": 5}, {"least": 500}])
def test_options_of_the_control(change):
    states, presence = data()
    assert shuffled(states, presence, **{"permutations": 20, **change}) != shuffled(states, presence, 20)


def test_neighbours_by_brute_force():
    states, _ = data(60)
    states[:5, 2] = MASKED
    for row, found in enumerate(neighbours(states)):
        apart = [sum({a, b} == {ON, OFF} for a, b in zip(states[row], other, strict=True)) for other in states]
        assert sorted(found) == [other for other, n in enumerate(apart) if 1 <= n <= 2]


def test_near_texts_are_harder_to_tell_apart():
    states, presence = data(skill=0.2)
    easy, hard = shuffled(states, presence, 50), hard_shuffled(states, presence, 50)
    assert hard.items == len(states)
    assert hard.mean > easy.mean + 0.02
    assert hard.p == pytest.approx(1 / 51)


def test_an_item_without_neighbours_takes_no_part():
    states = np.zeros((40, 5), dtype=np.int8)
    found = hard_shuffled(states, np.full(states.shape, 0.5), 5)
    assert found.items == 0
    assert np.isnan(found.mean)


def test_relative_is_the_way_from_chance_to_the_ceiling():
    found = relative(np.array([0.5, 0.7, 0.9, 0.7]), np.array([0.9, 0.9, 0.9, 0.58]))
    np.testing.assert_allclose(found[:3], [0, 0.5, 1.0])
    assert np.isnan(found[3]), "a ceiling so near to chance says nothing"


def test_leakage_is_the_difference_to_neutral_faces_without_what_is_excused():
    states = np.array([[ON, OFF], [OFF, OFF]], dtype=np.int8)
    presence = np.array([[0.9, 0.6], [0.4, 0.2]])
    neutral = np.array([[0.1, 0.1], [0.3, 0.1]])
    np.testing.assert_allclose(leakage(states, presence, neutral, ["17", "25"]), [0.4 - 0.2, 0.4 - 0.1])
    np.testing.assert_allclose(leakage(states, presence, neutral, ["17", "25"], [{"25"}, ()]), [0.2, 0.1])
    assert implied(AUSet.parse("12E")) == {"L6", "R6"}


def test_columns_that_are_not_usable_are_masked():
    states, _ = data(3)
    found = same_columns(states, ["25"], COLUMNS)
    assert (found[:, [0, 2, 3, 4]] == MASKED).all()
    assert (found[:, 1] == states[:, 1]).all()


# --- conflicts -------------------------------------------------------------------------------------------------------

SCORES = [AUSet.parse(text) for text in ("12C+15C", "12D+6C", "1C+4C", "24C+25D", "0", "15D+17C", "12B", "1C+2C")]


def test_conflicts_are_those_of_class_s_and_f():
    found = conflict_rows(SCORES)
    assert found[""].tolist() == [0, 2, 3]
    assert {rule: rows.tolist() for rule, rows in found.items() if rule} == {"F5": [0], "F1": [2], "S3": [3]}


def test_the_control_asks_for_as_many_units_and_much_the_same():
    rows = conflict_rows(SCORES)[""]
    conflicts, control = matched_control(SCORES, rows)
    assert conflicts.tolist() == [0, 2, 3]
    assert control[0] in (1, 5), "both have two units and one of 12 and 15"
    assert control[1] == 7
    assert control[2] == 6, "of 24C+25D one unit is left"
    assert len(set(control)) == 3
    states = spec_targets(SCORES).states
    assert marginals(states, control).sum() >= 5


def test_a_control_runs_out():
    rows = np.array([0, 1, 2, 3])
    conflicts, control = matched_control(SCORES[:5], rows)
    assert len(conflicts) == len(control) == 0, "the only one without a conflict is neutral"


def test_collapse_by_hand():
    columns = ("L12", "R12", "L15", "R15")
    scores = [AUSet.parse("12C+15C")] * 3
    presence = np.array([[0.9, 0.7, 0.8, 0.8], [0.9, 0.9, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2]])
    found = collapse(scores, presence, columns)["F5"]
    assert found.items == 3
    assert found.collapsed == pytest.approx(1 / 3)
    assert found.together == pytest.approx((0.6 + 0.0 + 0.0) / 3)
    unsided = collapse(scores, presence[:, ::2], ("12", "15"))["F5"]
    assert unsided.together == pytest.approx((0.7 + 0.0 + 0.0) / 3)
    assert collapse(scores, presence[:, :2], ("L12", "R12")) == {}


# --- two models ------------------------------------------------------------------------------------------------------


def test_the_better_model_is_found_and_equal_ones_are_not_told_apart():
    states, good = data(skill=0.4)
    _, poor = data(skill=0.3, seed=1)
    found = compare(states, good, poor, COLUMNS, resamplings=500)
    assert found.difference == pytest.approx(aaad(good, targets(states)).aaad - aaad(poor, targets(states)).aaad)
    assert 0 < found.interval[0] < found.difference < found.interval[1]
    assert found.p < 0.01
    assert found.columns == COLUMNS
    same = compare(states, good, good, COLUMNS, resamplings=200)
    assert same.difference == 0
    assert same.p == 1.0
    assert (same.p_values == 1).all()


def targets(states):
    from auface_diffusers.metrics import Targets

    return Targets(COLUMNS, states, states * 3.0)


def test_pairing_makes_the_interval_narrow():
    states, one = data(skill=0.3)
    other = np.clip(one + 0.02 * states, 0, 1)
    found = compare(states, other, one, COLUMNS, resamplings=500)
    assert found.interval[1] - found.interval[0] < 0.01
    assert found.interval[0] > 0


def test_a_face_that_is_not_found_counts_against_its_model():
    states, one = data()
    lost = one.copy()
    lost[:100] = np.nan
    assert compare(states, one, lost, COLUMNS, resamplings=50).difference > 0.1


def test_clusters_widen_the_interval():
    states, one = data(80)
    _, other = data(80, skill=0.3, seed=2)
    many = [np.repeat(part, 5, 0) for part in (states, one, other)]
    names = list(itertools.chain.from_iterable([name] * 5 for name in range(80)))
    free = compare(*many, COLUMNS, resamplings=500)
    tied = compare(*many, COLUMNS, clusters=names, resamplings=500)
    assert np.diff(tied.interval) > 1.5 * np.diff(free.interval)


def test_holm_by_hand():
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]
    assert len(holm(np.array([]))) == 0


def test_two_sided_p_values_never_reach_zero():
    assert two_sided(np.array([1.0, *[0.5] * 99])) == pytest.approx(2 / 100)
    assert two_sided(np.array([0.0, -1.0, 1.0])) == 1.0
    assert np.isnan(two_sided(np.array([1.0])))


def test_rankings_of_detectors():
    assert ranks_agree(np.array([[1, 2, 3], [4, 5, 6]])) == 1
    assert ranks_agree(np.array([[1, 2, 3], [3, 2, 1]])) == -1
    assert np.isnan(ranks_agree(np.array([[1, 2, 3]])))


def test_shapes_are_checked():
    states, one = data(20)
    with pytest.raises(ValueError, match=r"states \(20, 5\), first \(20, 5\) and second \(19, 5\)"):
        compare(states, one, one[:19], COLUMNS)

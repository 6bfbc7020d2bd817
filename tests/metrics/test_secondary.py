"""The scores beside AAAD, against scikit-free sums by hand and against what each is said to reward."""

import math

import numpy as np
import pytest

from auface_diffusers.metrics.aaad import MetricError, aaad
from auface_diffusers.metrics.levels import fit_residuals
from auface_diffusers.metrics.secondary import f1, jensen_shannon, secondary
from auface_diffusers.metrics.targets import MASKED, OFF, ON, Targets

RNG = np.random.default_rng(7)


def draw(items=300, columns=5, rate=0.3):
    states = np.where(RNG.random((items, columns)) < rate, ON, OFF).astype(np.int8)
    states[RNG.random(states.shape) < 0.1] = MASKED
    return states, RNG.random(states.shape)


def by_hand(states, p, worth):
    """Mean over columns of the mean of both polarities, one number at a time."""
    columns = []
    for column in range(states.shape[1]):
        halves = []
        for polarity in (ON, OFF):
            rows = [row for row in range(len(states)) if states[row, column] == polarity]
            halves.append(math.fsum(worth(float(polarity == ON), float(p[row, column])) for row in rows) / len(rows))
        columns.append(sum(halves) / 2)
    return sum(columns) / len(columns)


def test_all_are_what_they_are_by_hand():
    states, p = draw()

    def entropy(x):
        return -sum(v * math.log2(v) for v in (x, 1 - x) if v > 0)

    found = secondary(states, p)
    assert found["jsd"] == pytest.approx(
        by_hand(states, p, lambda q, x: 1 - entropy((q + x) / 2) + (entropy(q) + entropy(x)) / 2), abs=1e-8
    )
    assert found["brier"] == pytest.approx(by_hand(states, p, lambda q, x: (q - x) ** 2), abs=1e-8)
    means = []
    for row in range(len(states)):
        values = [
            p[row, c] if states[row, c] == ON else 1 - p[row, c] for c in range(5) if states[row, c] in (ON, OFF)
        ]
        means += [sum(values) / len(values)] if values else []
    assert found["item_mean"] == pytest.approx(sum(means) / len(means), abs=1e-9)


def test_f1_counts_hits_and_both_kinds_of_error():
    states = np.array([[ON]] * 6 + [[OFF]] * 4, dtype=np.int8)
    p = np.array([[0.9], [0.5], [0.6], [0.7], [0.2], [0.4], [0.8], [0.1], [0.1], [0.3]])
    assert f1(states, p, least=1) == pytest.approx(2 * 4 / (2 * 4 + 1 + 2))
    assert math.isnan(f1(states, p, least=5))


def test_perfect_and_worst():
    states, _ = draw()
    best = secondary(states, (states == ON).astype(float))
    worst = secondary(states, (states != ON).astype(float))
    assert [round(best[name], 9) for name in ("item_mean", "jsd", "brier", "f1")] == [1, 1, 0, 1]
    assert [round(worst[name], 9) for name in ("item_mean", "jsd", "brier", "f1")] == [0, 0, 1, 0]


def test_faces_that_show_nothing_win_only_where_it_is_said():
    states, _ = draw(rate=0.1)
    found = secondary(states, np.zeros(states.shape))
    assert found["item_mean"] > 0.85
    assert found["jsd"] == pytest.approx(0.5)
    assert found["brier"] == pytest.approx(0.5)
    assert found["f1"] == 0


def test_without_a_face_an_item_counts_as_the_worst():
    states, p = draw()
    gone = p.copy()
    gone[:100] = np.nan
    worst = p.copy()
    worst[:100] = states[:100] != ON
    assert secondary(states, gone) == secondary(states, worst)
    assert secondary(states, gone)["jsd"] < secondary(states, p)["jsd"]


def test_divergence_is_a_number_of_bits():
    q = np.array([0.0, 0.0, 1.0, 0.3, 0.5])
    assert jensen_shannon(q, np.array([0.0, 1.0, 1.0, 0.3, 0.5])) == pytest.approx([0, 1, 0, 0, 0], abs=1e-12)
    assert jensen_shannon(np.array(0.0), np.array(0.2)) == pytest.approx(jensen_shannon(np.array(0.2), np.array(0.0)))


# --- levels: failures and the detector's own errors ------------------------------------------------------------------


def levelled(items=200):
    levels = RNG.choice([0.0, 2, 3, 4, 5], (items, 2))
    states = np.where(levels > 0, ON, OFF).astype(np.int8)
    return Targets(("12", "17"), states, levels), np.full((items, 2), 0.5)


def test_a_level_without_a_face_is_worth_nothing_and_is_read_nowhere():
    targets, presence = levelled()
    found = np.arange(200) % 4 > 0
    score = aaad(presence, targets, level=targets.levels, found=found, least=5, resamplings=0)
    whole = aaad(presence, targets, level=targets.levels, least=5, resamplings=0)
    assert whole.level == pytest.approx(1)
    for column in range(2):
        shares = [found[targets.levels[:, column] == level].mean() for level in (0, 2, 3, 4, 5)]
        assert score.level[column] == pytest.approx(np.mean(shares), abs=1e-9)
    np.testing.assert_allclose(score.level_means, whole.level_means)


def test_errors_of_the_detector_spread_what_it_reads():
    targets, presence = levelled()
    off = np.clip(targets.levels + 1, 0, 5)  # reads one too much wherever it can
    residuals = fit_residuals(off, targets.levels, smoothing=0.0)
    plain = aaad(presence, targets, level=off, least=5, resamplings=0)
    mended = aaad(presence, targets, level=off, least=5, resamplings=0, residuals=residuals)
    assert (mended.level > plain.level + 0.05).all()
    with pytest.raises(MetricError, match=r"residuals \(2, 3\).*\(2, 11\)"):
        aaad(presence, targets, level=off, residuals=np.ones((2, 3)))

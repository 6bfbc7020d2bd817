"""Levels by hand: distance, a detector's own errors, and the weight of each level."""

import numpy as np
import pytest

from auface_diffusers.metrics import Targets, aaad
from auface_diffusers.metrics.levels import fit_residuals, level_overlap, point_distribution, with_residuals
from auface_diffusers.metrics.targets import OFF, ON


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
    columns = ("17", "25", "26", "L12", "R12", "L4")
    levels = np.random.default_rng(14).choice([0.0, 2, 3, 4, 5], (400, 6), p=[0.6, 0.1, 0.1, 0.1, 0.1])
    states = np.where(levels > 0, ON, OFF).astype(np.int8)
    level = np.where(levels >= 2, 2.0, 0.0)
    score = aaad(np.full((400, 6), 0.5), Targets(columns, states, levels), level=level, least=5, resamplings=0)
    np.testing.assert_allclose(score.level, (1 + 1 + 0.8 + 0.6 + 0.4) / 5, atol=1e-9)
    np.testing.assert_allclose(score.level_means[:, [0, 2, 5]], [[0, 2, 2]] * 6)

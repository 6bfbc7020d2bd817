"""Calibrations against closed forms and brute force; areas under curves and reliability from counts."""

import numpy as np
import pytest

from auface_diffusers.metrics.calibration import Calibration, fit_calibration, gate
from auface_diffusers.metrics.histogram import Histogram, area_under_curve, calibration_error, reliability
from auface_diffusers.metrics.targets import MASKED, OFF, ON

COLUMNS = ("17", "25")


def simulated(count=20_000, scale=1.7, bias=0.8, share=0.5, seed=0):
    """Raw scores (N, 2) of which the first column's log odds at equal priors are ``scale * raw + bias``."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(0, 1.5, (count, 2))
    p = 1 / (1 + np.exp(-(scale * raw + bias)))
    states = (rng.random(raw.shape) < p).astype(np.int8)
    keep = (states[:, 0] == ON) | (rng.random(count) < share)  # equal priors: weigh them back
    return raw[keep], states[keep]


def test_platt_finds_the_line():
    raw, states = simulated()
    on, off = (states[:, 0] == ON).mean(), (states[:, 0] == OFF).mean()
    (scale, bias), _ = fit_calibration(raw, states, COLUMNS).knots
    assert scale[0] == pytest.approx(1.7, rel=0.05)
    assert bias[0] == pytest.approx(0.8 - np.log(0.5) - np.log(on / off), abs=0.06), "prior odds are taken out"


def test_rates_do_not_matter_at_equal_priors():
    many, few = (fit_calibration(*simulated(60_000, share=share), COLUMNS).knots[0] for share in (1.0, 0.3))
    np.testing.assert_allclose(many, few, atol=0.15)


def test_isotonic_is_the_nearest_rising_function():
    rng = np.random.default_rng(1)
    x = np.arange(12.0)
    y = rng.random(12) < np.linspace(0.1, 0.9, 12)
    made = fit_calibration(x[:, None], y[:, None].astype(np.int8), ["25"], "isotonic", least=1)
    found = made.apply(x[:, None])[:, 0]
    weight = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())
    brute = [
        max(min(np.average(y[a : b + 1], weights=weight[a : b + 1]) for b in range(i, 12)) for a in range(i + 1))
        for i in range(12)
    ]  # the min-max formula of isotonic regression
    np.testing.assert_allclose(found, brute, atol=1e-12)
    assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_calibration_is_the_same_from_its_values(method):
    raw, states = simulated(2000)
    made = fit_calibration(raw, states, COLUMNS, method, note="renders")
    again = Calibration.from_dict(made.to_dict())
    np.testing.assert_array_equal(again.apply(raw), made.apply(raw))
    assert again.hash == made.hash
    assert again.note == "renders"
    other = fit_calibration(raw * 1.01, states, COLUMNS, method)
    assert other.hash != made.hash
    assert fit_calibration(raw, states, COLUMNS, method, note="other").hash == made.hash
    error = calibration_error(Histogram.of(states, made.apply(raw)))
    assert error.max() < 0.05


def test_a_column_with_too_few_images_stays_empty():
    raw, states = simulated(200)
    states[5:, 1] = MASKED
    made = fit_calibration(raw, states, COLUMNS)
    assert np.isnan(made.apply(raw)[:, 1]).all()
    assert not np.isnan(made.apply(raw)[:, 0]).any()


def test_the_gate_names_what_is_wrong():
    rng = np.random.default_rng(0)
    states = np.repeat([[ON] * 4, [OFF] * 4], 200, 0).astype(np.int8)
    states[30:390, 3] = MASKED
    states[:15, 3] = MASKED
    good = np.clip(np.where(states == ON, 0.8, 0.2) + rng.normal(0, 0.25, states.shape), 0.02, 0.98)
    presence = good.copy()
    presence[:, 1] = rng.random(400)
    presence[:, 2] = np.where(states[:, 2] == ON, 0.6, 0.4) + rng.normal(0, 0.01, 400)
    found = gate(presence, states, ["a", "b", "c", "d"])
    assert "a" not in found or "calibration" in found["a"]
    assert "AUC" in found["b"]
    assert "calibration error" in found["c"]
    assert "fewer than 20" in found["d"]


def test_area_by_brute_force():
    rng = np.random.default_rng(3)
    states = rng.choice([ON, OFF, MASKED], (200, 2)).astype(np.int8)
    presence = rng.integers(0, 40, (200, 2)) / 40
    found = area_under_curve(Histogram.of(states, presence), 5)
    for column in range(2):
        on, off = (presence[states[:, column] == s, column] for s in (ON, OFF))
        wins = (on[:, None] > off[None]) + 0.5 * (on[:, None] == off[None])
        assert found[column] == pytest.approx(wins.mean())
    assert np.isnan(area_under_curve(Histogram.of(states, presence), 100)).all()


def test_reliability_by_hand():
    states = np.array([[ON], [ON], [OFF], [OFF]], dtype=np.int8)
    presence = np.array([[0.9], [0.1], [0.1], [0.1]])
    mean, share, weight = reliability(Histogram.of(states, presence), bins=2)
    np.testing.assert_allclose(share[0], [(0.25) / 0.75, 1.0])
    np.testing.assert_allclose(weight[0], [0.75, 0.25])
    np.testing.assert_allclose(mean[0], [0.1, 0.9], atol=1e-3)
    error = calibration_error(Histogram.of(states, presence), bins=2, least=1)[0]
    assert error == pytest.approx(0.75 * abs(0.1 - 1 / 3) + 0.25 * 0.1, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r, s: fit_calibration(r, s, COLUMNS, "magic"), "method 'magic': one of platt, isotonic"),
        (lambda r, s: fit_calibration(r, s[:3], COLUMNS), "do not fit"),
        (lambda r, s: fit_calibration(r * np.nan, s, COLUMNS), "17 hold NaN or infinity"),
        (lambda r, s: fit_calibration(r, s, COLUMNS).apply(r[:, :1]), r"raw \(\d+, 1\): give \(N, 2\)"),
        (lambda r, s: Calibration.from_dict({"method": "x", "columns": [], "knots": []}), "calibration 'x'"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(*simulated(200))

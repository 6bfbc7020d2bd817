"""Calibrations against closed forms and exhaustive search, what their hash is of, and counts against plain loops."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auface_diffusers.metrics.calibration import MAX_ERROR, MIN_AUC, Calibration, fit_calibration, gate
from auface_diffusers.metrics.histogram import BINS, Histogram, area_under_curve, calibration_error, reliability
from auface_diffusers.metrics.targets import MASKED, OFF, ON, UNSPECIFIED

COLUMNS = ("17", "25")


def column(values, kind=float):
    return np.array(values, dtype=kind)[:, None]


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def logistic(count, scale, bias, seed=0):
    """Raw scores (N, 1), as many with the unit as without, whose log odds are ``scale * raw + bias``."""
    rng = np.random.default_rng(seed)
    raw = rng.normal(0, 1.5, 6 * count)
    states = (rng.random(len(raw)) < sigmoid(scale * raw + bias)).astype(np.int8)
    shift = np.log(states.mean() / (1 - states.mean()))  # of the prior odds, which the fit takes out
    rows = np.concatenate([np.nonzero(states == state)[0][:count] for state in (ON, OFF)])
    return column(raw[rows]), column(states[rows], np.int8), bias - shift


def fitted(raw, states, method="platt", **options):
    return fit_calibration(raw, states, COLUMNS[: raw.shape[1]], method, **{"least": 1, **options})


# --- Platt's line ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "bias"), [(1.0, 0.0), (2.5, -1.0), (0.4, 1.5), (-1.2, 0.3)])
def test_platt_recovers_the_line_of_logistic_data(scale, bias):
    raw, states, expected = logistic(20_000, scale, bias)
    found = fitted(raw, states).knots[0][:, 0]
    np.testing.assert_allclose(found, [scale, expected], atol=0.08)


@given(st.lists(st.integers(1, 40), min_size=4, max_size=4), st.floats(-3, 3), st.floats(0.1, 5))
def test_platt_of_two_scores_is_the_weighted_mean_of_its_targets_at_each(counts, low, step):
    """A line goes through two points: both kinds weigh a half, and count as (n + 1) / (n + 2) and 1 / (n + 2)."""
    raw = column(np.repeat([low, low + step, low, low + step], counts))
    states = column(np.repeat([ON, ON, OFF, OFF], counts), np.int8)
    on, off = counts[0] + counts[1], counts[2] + counts[3]
    found = fitted(raw, states).apply(column([low, low + step]))[:, 0]
    for p, with_unit, without in ((found[0], counts[0], counts[2]), (found[1], counts[1], counts[3])):
        weights = np.array([with_unit / on, without / off])
        assert p == pytest.approx(np.average([(on + 1) / (on + 2), 1 / (off + 2)], weights=weights), abs=1e-6)


def test_units_of_the_raw_score_change_nothing():
    raw, states, _ = logistic(300, 1.3, 0.5)
    plain = fitted(raw, states).apply(raw)
    np.testing.assert_allclose(fitted(40 * raw - 7, states).apply(40 * raw - 7), plain, atol=1e-7)
    np.testing.assert_allclose(fitted(-raw, states).apply(-raw), plain, atol=1e-7)
    np.testing.assert_allclose(1 - fitted(raw, 1 - states).apply(raw), plain, atol=1e-7)


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_how_rare_a_unit_is_does_not_matter(method):
    raw, states, _ = logistic(2000, 1.3, 0.5)
    rows = np.concatenate([np.arange(4000), *[np.arange(2000, 4000)] * 4])
    more = fitted(raw[rows], states[rows], method)
    grid = column(np.linspace(-4, 4, 50))
    np.testing.assert_allclose(more.apply(grid), fitted(raw, states, method).apply(grid), atol=2e-3)


def test_platt_stays_finite_where_scores_tell_everything_or_nothing():
    x = np.linspace(-30, 30, 60)
    for raw in (x, np.full(60, 0.1), 1e6 * x):
        found = fitted(column(raw), column(x > 0, np.int8)).apply(column(raw))
        assert np.isfinite(found).all()
        assert ((found >= 0) & (found <= 1)).all()
    np.testing.assert_allclose(fitted(column(np.full(60, 0.1)), column(x > 0, np.int8)).apply(column([0.1])), 0.5)


# --- isotonic steps --------------------------------------------------------------------------------------------------


def best_rising(values, weights):
    """Least squares among all rising functions, by trying every way to cut the places into blocks of equal value."""
    best, found = np.inf, None
    for cuts in itertools.product([False, True], repeat=len(values) - 1):
        blocks = np.cumsum([0, *cuts])
        means = [np.average(values[blocks == b], weights=weights[blocks == b]) for b in range(blocks[-1] + 1)]
        if (np.diff(means) >= 0).all():
            fit = np.array(means)[blocks]
            error = (weights * (values - fit) ** 2).sum()
            if error < best - 1e-15:
                best, found = error, fit
    return found


@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=16))
@settings(max_examples=60)
def test_isotonic_is_the_best_of_all_rising_functions(pairs):
    x, y = (np.array(part) for part in zip(*pairs, strict=True))
    if y.all() or not y.any():
        assert fitted(column(x), column(y, np.int8), "isotonic").knots[0].shape == (2, 0)
        return
    weight = np.where(y, 0.5 / y.sum(), 0.5 / (~y).sum())
    places = np.unique(x)
    total = np.array([weight[x == place].sum() for place in places])
    value = np.array([(weight * y)[x == place].sum() for place in places]) / total
    made = fitted(column(x), column(y, np.int8), "isotonic")
    np.testing.assert_allclose(made.apply(column(places))[:, 0], best_rising(value, total), atol=1e-9)
    assert (np.diff(made.knots[0], axis=1)[0] > 0).all(), "each place is one knot"
    assert (np.diff(made.knots[0], axis=1)[1] >= 0).all()


def test_isotonic_is_linear_between_its_knots_and_flat_outside():
    made = Calibration("isotonic", ("25",), (np.array([[0.0, 1.0, 2.0], [0.2, 0.2, 0.8]]),))
    np.testing.assert_allclose(made.apply(column([-9, 0.5, 1.5, 1.75, 99]))[:, 0], [0.2, 0.2, 0.5, 0.65, 0.8])


# --- both ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_only_what_has_a_label_counts(method):
    raw, states, _ = logistic(300, 1.3, 0.5)
    hidden = np.concatenate([raw, column([np.nan, np.inf, 1e9])])
    more = np.concatenate([states, column([MASKED, UNSPECIFIED, MASKED], np.int8)])
    assert fitted(hidden, more, method).hash == fitted(raw, states, method).hash


@pytest.mark.parametrize("method", ["platt", "isotonic"])
@pytest.mark.parametrize("rare", [ON, OFF])
def test_a_column_needs_so_many_images_of_either_kind(method, rare):
    raw, states, _ = logistic(30, 1.3, 0.5)
    states[np.nonzero(states[:, 0] == rare)[0][12:]] = MASKED
    for least, there in ((12, True), (13, False)):
        made = fitted(raw, states, method, least=least)
        assert np.isfinite(made.apply(raw)).all() == there
        assert np.isnan(made.apply(raw)).all() != there


def calibration(**change):
    knots = (np.array([[1.5], [0.25]]), np.array([[2.0], [-1.0]]))
    return Calibration(**{"method": "platt", "columns": COLUMNS, "knots": knots, "note": "renders", **change})


def test_a_hash_is_of_what_decides_and_of_nothing_else():
    plain = calibration().hash
    assert len(plain) == 16
    assert int(plain, 16) >= 0
    assert calibration(note="").hash == calibration(note="other people").hash == plain
    least = np.nextafter(1.5, 2)
    others = [
        calibration(method="isotonic"),
        calibration(columns=COLUMNS[::-1]),
        calibration(knots=calibration().knots[::-1]),
        calibration(knots=(np.array([[least], [0.25]]), calibration().knots[1])),
        calibration(knots=(np.zeros((2, 0)), calibration().knots[1])),
        calibration(columns=("17",), knots=calibration().knots[:1]),
    ]
    assert len({plain, *(other.hash for other in others)}) == len(others) + 1


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_calibration_survives_json_to_the_last_bit(method):
    raw, states, _ = logistic(60, 1.3, 0.5)
    states = np.concatenate([states, np.full_like(states, OFF)], 1)
    made = fitted(np.repeat(raw, 2, 1), states, method, note="renders")
    assert made.knots[1].shape == (2, 0), "a column without a fit is stored as such"
    again = Calibration.from_dict(json.loads(json.dumps(made.to_dict())))
    assert (again.method, again.columns, again.note, again.hash) == (method, COLUMNS, "renders", made.hash)
    np.testing.assert_array_equal(again.apply(np.repeat(raw, 2, 1)), made.apply(np.repeat(raw, 2, 1)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fitted(np.zeros((4, 2)), np.zeros((4, 1))), r"raw \(4, 2\), states \(4, 1\) and 2 columns"),
        (lambda: fit_calibration(np.zeros((4, 2)), np.zeros((4, 2)), ("17",)), "and 1 columns do not fit"),
        (lambda: fitted(np.zeros(4)[:, None], column([ON] * 4), "line"), "method 'line': one of platt, isotonic"),
        (lambda: fitted(column([0, np.inf]), column([ON, OFF])), "raw scores of 17 hold NaN or infinity"),
        (lambda: calibration().apply(np.zeros((3, 1))), r"raw \(3, 1\): give \(N, 2\), one column each of"),
        (lambda: calibration().apply(np.zeros(2)), r"raw \(2,\)"),
        (lambda: Calibration.from_dict(calibration(method="line").to_dict()), "calibration 'line': platt or isotonic"),
        (lambda: Calibration.from_dict(calibration(columns=("17",)).to_dict()), "knots for each column"),
    ],
)
def test_mistakes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- the gate --------------------------------------------------------------------------------------------------------


def test_the_gate_keeps_what_is_told_apart_and_calibrated():
    raw, states, _ = logistic(3000, 2.0, 0.0)
    good = fitted(raw, states).apply(raw)
    blind, sure = np.random.default_rng(0).random(good.shape), np.where(good > 0.5, 1.0, 0.0)
    flat = 0.5 + 0.2 * (good - 0.5)
    few = np.where(np.arange(len(states))[:, None] < 3019, states, MASKED)  # rows with the unit come first
    few[:1000] = MASKED
    presence = np.concatenate([good, blind, flat, sure, good], 1)
    found = gate(presence, np.concatenate([states] * 4 + [few], 1), ["good", "blind", "flat", "sure", "few"])
    assert set(found) == {"blind", "flat", "sure", "few"}
    assert f"is below {MIN_AUC}" in found["blind"]
    assert f"is above {MAX_ERROR}" in found["flat"]
    assert f"is above {MAX_ERROR}" in found["sure"]
    assert found["few"] == "fewer than 20 images with or without it"
    assert "fewer" not in str(gate(presence[:, 4:], few, ["few"], least=19))


# --- counts ----------------------------------------------------------------------------------------------------------

labelled = st.lists(
    st.tuples(st.integers(0, BINS - 1), st.sampled_from([ON, OFF, MASKED, UNSPECIFIED])), min_size=1, max_size=25
)


@given(labelled, st.integers(1, 4))
def test_an_area_is_the_share_of_pairs_in_order(pairs, least):
    bins, states = (column(part, int) for part in zip(*pairs, strict=True))
    presence = (bins + np.random.default_rng(0).random(bins.shape)) / BINS  # anywhere in their bins: these are ties
    found = area_under_curve(Histogram.of(states, presence), least)[0]
    on, off = ([b for b, state in pairs if state == polarity] for polarity in (ON, OFF))
    if min(len(on), len(off)) < least:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(np.mean([(a > b) + 0.5 * (a == b) for a in on for b in off]))


@given(labelled, st.sampled_from([1, 4, 16]))
def test_reliability_is_that_of_every_image_weighted_to_equal_priors(pairs, bins):
    places, states = (column(part, int) for part in zip(*pairs, strict=True))
    counts = Histogram.of(states, (places + 0.5) / BINS)
    found = calibration_error(counts, bins, least=1)[0]
    seen = [((place + 0.5) / BINS, state) for place, state in pairs if state in (ON, OFF)]
    total = {polarity: sum(state == polarity for _, state in seen) for polarity in (ON, OFF)}
    if not all(total.values()):
        assert np.isnan(found)
        return
    mean, share, weight = (part[0] for part in reliability(counts, bins))
    error = 0.0
    for number in range(bins):
        inside = [(p, state, 0.5 / total[state]) for p, state in seen if int(p * bins) == number]
        mass = sum(w for *_, w in inside)
        assert weight[number] == pytest.approx(mass)
        if inside:
            assert mean[number] == pytest.approx(sum(p * w for p, _, w in inside) / mass)
            assert share[number] == pytest.approx(sum(w for _, state, w in inside if state == ON) / mass)
            error += abs(sum(w * (p - (state == ON)) for p, state, w in inside))
        else:
            assert np.isnan(mean[number])
            assert np.isnan(share[number])
    assert found == pytest.approx(error)


def test_calibrated_probabilities_have_a_small_error_and_others_have_not():
    p = np.random.default_rng(0).random((40_000, 1))
    states = (np.random.default_rng(1).random(p.shape) < p).astype(np.int8)
    assert calibration_error(Histogram.of(states, p))[0] < 0.01
    assert calibration_error(Histogram.of(states, p**2))[0] == pytest.approx(1 / 6, abs=0.01)  # mean of p - p^2


def test_counts_add_up():
    states = column([ON, OFF, ON, MASKED, OFF], int)
    presence = column([0.0, 1.0, 0.5, np.nan, 0.2])
    whole = Histogram.of(states, presence)
    total = Histogram.of(states[:2], presence[:2]) + Histogram.of(states[2:], presence[2:])
    for name in ("on", "off"):
        np.testing.assert_array_equal(getattr(total, name), getattr(whole, name))
    assert whole.on[0, [0, BINS // 2]].tolist() == [1, 1]
    assert whole.off[0, -1] == 1, "a probability of 1 has a bin"
    assert (whole.on.sum(), whole.off.sum()) == (2, 2)

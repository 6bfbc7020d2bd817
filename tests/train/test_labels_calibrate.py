"""Labels of what pictures show; calibration and its measures against closed forms and brute force."""

import pytest
import torch

from auface_diffusers.anatomy import HeadModel
from auface_diffusers.facs import AUSet, units
from train_lora.calibrate import auc, expected_calibration_error, fit_platt
from train_lora.data.labels import FAR_SIDE, observed_levels


@pytest.fixture(scope="module")
def turns():
    return HeadModel.from_default().turns


def labels(turns, text="0", pose=(0, 0, 0), gaze=(0, 0)):
    levels = torch.tensor([AUSet.parse(text).vector()])
    made = observed_levels(levels, torch.tensor([pose]).float(), torch.tensor([gaze]).float(), turns)
    place = {name: index for index, name in enumerate(units.channels)}
    return tuple((lambda name, v=value: v[0, place[name]].item()) for value in made)


@pytest.mark.parametrize(
    ("text", "pose", "gaze", "expected"),
    [
        ("0", (0, 0, 0), (0, 0), {}),
        ("0", (45, 0, 0), (0, 0), {"51": 5.0}),
        ("0", (-18, 0, 0), (0, 0), {"52": 2.0}),
        ("0", (0, 28, 0), (0, 0), {"53": 5.0}),
        ("0", (0, -14, 0), (0, 0), {"54": 2.5}),
        ("0", (0, 0, 15), (0, 0), {"55": 3.0}),
        ("0", (0, 0, -40), (0, 0), {"56": 5.0}),
        ("0", (0, 0, 0), (12, 0), {"61": 2.0}),
        ("0", (0, 0, 0), (-30, 11), {"62": 5.0, "63": 2.5}),
        ("0", (0, 0, 0), (0, -26), {"64": 5.0}),
        ("51B", (9, 0, 0), (0, 0), {"51": 3.0}),
        ("51B", (-36, 0, 0), (0, 0), {"52": 2.0}),
        ("61C", (0, 0, 0), (-18, 0), {}),
        ("65C", (0, 0, 0), (0, 0), {"65": 3.0}),
        ("66E", (0, 0, 0), (12, 0), {"61": 2.0, "66": 5.0}),
        ("57D", (0, 0, 0), (0, 0), {"57": 4.0}),
        ("12D+L4B", (0, 0, 0), (0, 0), {"L12": 4.0, "R12": 4.0, "L4": 2.0}),
    ],
)
def test_levels_are_what_the_picture_shows(turns, text, pose, gaze, expected):
    level, present, *_ = labels(turns, text, pose, gaze)
    for name in units.channels:
        assert level(name) == pytest.approx(expected.get(name, 0.0), abs=1e-5)
        assert present(name) == (name in expected)


def test_a_trace_is_in_doubt_but_its_level_counts(turns):
    level, present, counts, graded = labels(turns, "12=0.6+1=0.4+2B", pose=(9, 2, 0))
    assert level("51") == pytest.approx(1.0)
    assert level("L12") == pytest.approx(0.6)
    for name in ("51", "L12"):
        assert not counts(name)
        assert graded(name)
    for name in ("52", "53", "L1"):  # 2 degrees are below an A: clearly absent
        assert counts(name)
        assert not present(name)
        assert not graded(name)
    assert present("L2")
    assert counts("L2")
    assert all(labels(turns, pose=(18, 0, 0))[2](name) for name in units.channels)


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("43E", ("61", "62", "63", "64", "65", "66")),
        ("43C", ()),
        ("L46E", ("65", "66")),
        ("L46E+R43D", ("61", "62", "63", "64", "65", "66")),
    ],
)
def test_gaze_behind_closed_lids_does_not_count(turns, text, hidden):
    counts = labels(turns, text)[2]
    assert {name for name in units.channels if not counts(name)} == set(hidden)


def test_far_side_of_a_turned_head_does_not_count(turns):
    for yaw, side in ((FAR_SIDE + 5, "L"), (-FAR_SIDE - 5, "R")):
        counts = labels(turns, pose=(yaw, 0, 0))[2]
        assert {name for name in units.channels if not counts(name)} == {n for n in units.channels if n[0] == side}
    assert labels(turns, "51E", pose=(20, 0, 0))[2]("R12")
    assert not labels(turns, "51E", pose=(20, 0, 0))[2]("L12")


def test_label_errors_name_what_is_wrong(turns):
    good = torch.zeros(2, len(units.channels)), torch.zeros(2, 3), torch.zeros(2, 2)
    with pytest.raises(ValueError, match=r"pose \(2, 2\)"):
        observed_levels(good[0], good[2], good[2], turns)
    with pytest.raises(ValueError, match="gaze"):
        observed_levels(good[0], good[1], good[2] * torch.nan, turns)
    with pytest.raises(ValueError, match=r"turns \(3, 8\)"):
        observed_levels(*good, turns[:3])


# --- calibration -----------------------------------------------------------------------------------------------------


def simulated(count, scales, biases, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, len(scales), generator=generator) * 2
    p = torch.sigmoid(logits * torch.tensor(scales) + torch.tensor(biases))
    return logits, torch.rand(p.shape, generator=generator) < p, p


def test_platt_recovers_what_made_the_data():
    scales, biases = [1.0, 2.0, 0.5, 1.0], [0.0, 1.0, -2.0, -1.0]
    logits, truth, _ = simulated(60000, scales, biases)
    mask = torch.ones_like(truth)
    logits[:100, 3], mask[:100, 3] = 1e6, False  # what is masked does not count
    scale, bias = fit_platt(logits, truth, mask, balanced=False)
    torch.testing.assert_close(scale, torch.tensor(scales), atol=0.05, rtol=0)
    torch.testing.assert_close(bias, torch.tensor(biases), atol=0.06, rtol=0)


def test_balanced_platt_is_the_prior_corrected_one():
    """Equal weights move the bias by the log odds of the prior and leave the scale."""
    logits, truth, _ = simulated(60000, [1.0, 1.5], [-2.0, 1.0])
    scale, bias = fit_platt(logits, truth, torch.ones_like(truth))
    shift = torch.logit(truth.double().mean(0)).float()
    torch.testing.assert_close(scale, torch.tensor([1.0, 1.5]), atol=0.06, rtol=0)
    torch.testing.assert_close(bias, torch.tensor([-2.0, 1.0]) - shift, atol=0.08, rtol=0)


def test_platt_does_not_depend_on_how_often_a_picture_without_the_unit_is_repeated():
    logits, truth, _ = simulated(4000, [1.0], [-1.0])
    more_logits, more = (
        torch.cat([logits, *[logits[~truth[:, 0]]] * 3]),
        torch.cat([truth, *[truth[~truth[:, 0]]] * 3]),
    )
    one = fit_platt(logits, truth, torch.ones_like(truth))
    many = fit_platt(more_logits, more, torch.ones_like(more))
    torch.testing.assert_close(torch.cat(one), torch.cat(many), atol=0.01, rtol=0)


@pytest.mark.parametrize("count", [40, 400])
def test_platt_stays_finite_for_a_perfect_channel_and_says_nothing_without_data(count):
    logits = torch.linspace(-30, 30, count)[:, None].expand(-1, 3)
    truth = (logits > 0).clone()
    truth[:, 1], truth[:, 2] = False, True
    scale, bias = fit_platt(logits, truth, torch.ones_like(truth))
    assert scale.isfinite().all()
    assert scale[0] > 0
    assert scale[1:].tolist() == [1, 1]
    assert bias[1:].tolist() == [0, 0]


def test_calibrated_error_is_small_and_uncalibrated_is_not():
    logits, truth, p = simulated(20000, [0.4], [-1.5])
    mask = torch.ones_like(truth)
    scale, bias = fit_platt(logits, truth, mask)
    assert expected_calibration_error(torch.sigmoid(logits * scale + bias), truth, mask)[0] < 0.03
    assert expected_calibration_error(torch.sigmoid(logits), truth, mask)[0] > 0.1
    assert expected_calibration_error(p, truth, mask, balanced=False)[0] < 0.02
    assert expected_calibration_error(p, truth, mask, balanced=True)[0] > 0.1


def test_calibration_error_by_hand():
    p = torch.tensor([[0.1], [0.1], [0.9], [0.9]])
    truth = torch.tensor([[False], [True], [True], [True]])
    mask = torch.ones_like(truth)
    plain = expected_calibration_error(p, truth, mask, balanced=False, bins=10, n_min=1)
    assert plain.item() == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    # weights 1/2 on the one without, 1/6 each on the three with
    level = expected_calibration_error(p, truth, mask, bins=10, n_min=1)
    assert level.item() == pytest.approx(abs((0.5 + 1 / 6) * 0.1 - 1 / 6) + 2 / 6 * 0.1)
    one_bin = expected_calibration_error(p, truth, mask, balanced=False, bins=1, n_min=1)
    assert one_bin.item() == pytest.approx(0.25)
    assert expected_calibration_error(p, truth, mask).isnan().all(), "too few"


def test_auc_is_the_share_of_pairs_in_order():
    generator = torch.Generator().manual_seed(4)
    scores = (torch.randn(60, 5, generator=generator) * 2).round()  # with ties
    truth = torch.rand(60, 5, generator=generator) < 0.4
    mask = torch.rand(60, 5, generator=generator) < 0.8
    truth[:, 4] = False
    found = auc(scores, truth, mask, n_min=1)
    for c in range(4):
        on, off = (scores[mask[:, c] & which, c] for which in (truth[:, c], ~truth[:, c]))
        pairs = (on[:, None] > off).float() + 0.5 * (on[:, None] == off).float()
        assert found[c].item() == pytest.approx(pairs.mean().item())
    assert found[4].isnan()
    assert auc(scores, truth, mask, n_min=60).isnan().all()


def test_auc_does_not_see_a_monotone_map():
    logits, truth, _ = simulated(500, [1.0], [0.0])
    mask = torch.ones_like(truth)
    torch.testing.assert_close(auc(logits, truth, mask), auc((3 * logits + 1).sigmoid(), truth, mask))
    torch.testing.assert_close(auc(logits, truth, mask), 1 - auc(-logits, truth, mask))


def test_calibration_errors_name_what_is_wrong():
    logits, truth, _ = simulated(50, [1.0], [0.0])
    mask = torch.ones_like(truth)
    with pytest.raises(ValueError, match="labels.*float32"):
        fit_platt(logits, truth.float(), mask)
    with pytest.raises(ValueError, match=r"mask \(50,\)"):
        auc(logits, truth, mask[:, 0])
    with pytest.raises(ValueError, match="NaN"):
        auc(logits * torch.nan, truth, mask)
    with pytest.raises(ValueError, match="not logits"):
        expected_calibration_error(logits, truth, mask)
    with pytest.raises(ValueError, match="bins 0"):
        expected_calibration_error(logits.sigmoid(), truth, mask, bins=0)

"""Labels of what pictures show."""

import pytest
import torch

from auface_diffusers.anatomy import HeadModel
from auface_diffusers.facs import AUSet, units
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

"""Landmarks as a second witness: every unit moves them its way, on heads that were turned, shifted and scaled."""

import numpy as np
import pytest
import torch

from auface_diffusers.anatomy import Camera, HeadModel
from auface_diffusers.facs import AUSet, units
from auface_diffusers.metrics import geometry

PEOPLE = list(range(900, 912))
COLUMNS = geometry.columns()


@pytest.fixture(scope="module")
def points():
    """Function from a score to landmarks (N, 68 or 468, 2) in pixels."""
    head, camera = HeadModel.from_default(), Camera.framed("face", 128)

    def project(text, name="landmarks68"):
        with torch.no_grad():
            mesh = head(PEOPLE, [AUSet.parse(text)] * len(PEOPLE))
        return camera.project(getattr(mesh, name))[..., :2].numpy()

    return project


def alone(column):
    return f"{column}D"


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("name", ["landmarks68", "landmarks468"])
def test_each_unit_moves_its_landmarks_its_way(points, column, name):
    moved = geometry.movements(points(alone(column), name), points("0", name))
    assert (moved[:, COLUMNS.index(column)] > 0.005).all()


def test_one_side_moves_more_than_the_other(points):
    for code in geometry.SIDED:
        moved = geometry.movements(points(f"L{code}D"), points("0"))
        left, right = (moved[:, COLUMNS.index(side + code)] for side in "LR")
        assert (left > right + 0.5 * left).all(), code


def test_opposite_units_move_the_other_way(points):
    rest = points("0")
    assert (geometry.movements(points("15D"), rest)[:, COLUMNS.index("L13")] < 0).all()
    assert (geometry.movements(points("4D"), rest)[:, COLUMNS.index("R1")] < 0).all()
    assert (geometry.movements(points("43E"), rest)[:, COLUMNS.index("L5")] < 0).all()


def test_shift_scale_and_turn_of_the_picture_change_nothing(points):
    before = points("1C+12D+25C")
    turn = np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    after = before @ turn.T * 2.5 + [30, -7]
    np.testing.assert_allclose(geometry.measure(after), geometry.measure(before), atol=1e-9)


def test_without_a_neutral_face_the_mean_head_stands_in(points):
    moved = geometry.movements(points("27E"))
    assert moved[:, COLUMNS.index("27")].mean() > 0.15
    assert abs(np.median(geometry.movements(points("0")))) < 0.02
    one = geometry.movements(points("27E"), points("0")[0])
    assert one.shape == (len(PEOPLE), len(COLUMNS))


def test_faces_of_one_unit_are_confirmed(points):
    scores = [AUSet.parse("12D")] * len(PEOPLE) + [AUSet.parse("12D+25C")] * len(PEOPLE)
    moved = geometry.movements(np.concatenate([points("12D"), points("15D")]), points("0")[0])
    found = geometry.confirmed(scores, moved)
    assert found.keys() == {"L12", "R12"}
    assert min(found.values()) >= 0.75, "the second half has two units, which does not count"
    assert geometry.confirmed(scores, moved, least=1.0) == {"L12": 0.0, "R12": 0.0}


def test_the_columns_are_units_and_the_mirror_is_one():
    assert all(name in units.channels or name in units for name in COLUMNS)
    assert all(geometry._MIRROR[geometry._MIRROR[place]] == place for place in range(68))


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"points \(2, 67, 2\): give \(N, 68, 2\)"):
        geometry.measure(np.zeros((2, 67, 2)))

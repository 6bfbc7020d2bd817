"""Heads, control images and key points, without ComfyUI."""

import itertools

import pytest
import torch

from auface_diffusers.anatomy import HeadModel, control_image, render_faces
from auface_diffusers.facs import AUSet
from comfyui_auface import drawing
from comfyui_auface.expression import Expression


def heads(text, **options):
    scores = drawing.shown(Expression.parse(text))
    return torch.cat(list(drawing.draw_heads(scores, **({"size": 32, "background": "plain"} | options))))


def controls(text, kind="openpose_face", size=(64, 64), **options):
    parts = list(drawing.draw_controls(drawing.shown(Expression.parse(text)), kind, size, **options))
    return torch.cat([images for images, _ in parts]), list(itertools.chain(*(frames for _, frames in parts)))


def test_conflicts_are_resolved_or_left():
    expression = Expression.parse("24C+25B")
    assert drawing.shown(expression)[0].format() == "24C"
    assert drawing.shown(expression, "as written")[0].format() == "24C+25B"
    with pytest.raises(ValueError, match="conflicts 'raw' is unknown; choose resolved, as written"):
        drawing.shown(expression, "raw")


def test_one_side_is_left_or_right():
    expression = Expression.parse("U12D")
    assert drawing.shown(expression)[0].format() == "L12D"
    assert drawing.shown(expression, one_side="right")[0].format() == "R12D"


def test_heads_are_those_of_the_library():
    wanted = render_faces(HeadModel.from_default(), AUSet.parse("12D"), 1, 32, background="plain")
    assert torch.equal(heads("12D"), wanted.permute(0, 2, 3, 1))


def test_a_batch_is_drawn_in_parts():
    images = heads("\n".join(["0", "12E"] * 3))
    assert images.shape == (6, 32, 32, 3)
    assert images.dtype == torch.float32
    assert torch.allclose(images[0], images[4], atol=1e-3)
    assert (images[0] - images[5]).abs().max() > 0.05


@pytest.mark.parametrize(
    "change",
    [
        {"identity": 2}, {"identity": drawing.AVERAGE}, {"scene": 5}, {"background": "room"}, {"background": None},
        {"pose": (30.0, 0.0, 0.0)}, {"pose": (0.0, 30.0, 0.0)}, {"pose": (0.0, 0.0, 30.0)},
        {"gaze": (40.0, 0.0)}, {"gaze": (0.0, 30.0)},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_of_a_head_changes_it(change):
    assert (heads("12C", size=64) - heads("12C", size=64, **change)).abs().max() > 0.02


def test_control_images_are_those_of_the_library():
    images, frames = controls("12D", "normal", (48, 64))
    assert torch.equal(images, control_image(AUSet.parse("12D"), "normal", (48, 64)).permute(0, 2, 3, 1))
    assert (frames[0]["canvas_width"], frames[0]["canvas_height"]) == (64, 48)


@pytest.mark.parametrize(
    "change", [{"identity": 2}, {"pose": (30.0, 0.0, 0.0)}, {"gaze": (40.0, 0.0)}, {"kind": "openpose"}], ids=str
)
def test_every_option_of_a_control_image_changes_it(change):
    assert not torch.equal(controls("12C", size=(256, 256))[0], controls("12C", **({"size": (256, 256)} | change))[0])


# --- points of a photo -----------------------------------------------------------------------------------------------


def face_of(frames):
    return torch.tensor(frames[0]["people"][0]["face_keypoints_2d"]).reshape(-1, 3)[:68, :2]


def test_points_of_a_photo_stay_where_they_are_and_units_move_them():
    _, photo = controls("0", size=(512, 512), pose=(15.0, 0.0, 0.0))
    points = drawing.landmarks_of(photo, (512, 512))
    assert torch.equal(points, face_of(photo))
    _, same = controls("0", size=(512, 512), photo=points)
    assert torch.allclose(face_of(same), points, atol=1e-3)
    _, moved = controls("26E", size=(512, 512), photo=points)
    away = (face_of(moved) - points).norm(dim=1)
    assert away[8] > 10  # the chin
    assert away[27] < 1  # the nose's root


def test_points_are_stretched_to_the_image():
    _, photo = controls("0", size=(512, 512))
    points = drawing.landmarks_of(photo, (512, 512))
    assert torch.allclose(drawing.landmarks_of(photo, (256, 1024)), points * torch.tensor([2.0, 0.5]))
    shares = [{**photo[0], "people": [{"face_keypoints_2d": _shares(photo)}]}]
    assert torch.allclose(drawing.landmarks_of(shares, (512, 512)), points, atol=1e-3)
    assert torch.equal(drawing.landmarks_of(photo[0], (512, 512)), points)  # some nodes pass one frame bare


def _shares(photo):
    flat = torch.tensor(photo[0]["people"][0]["face_keypoints_2d"]).reshape(-1, 3)
    return (flat / torch.tensor([512.0, 512.0, 1.0])).flatten().tolist()


def test_a_photo_without_a_whole_face_is_refused():
    _, photo = controls("0", size=(512, 512))
    flat = list(photo[0]["people"][0]["face_keypoints_2d"])
    for people in ([], [{"face_keypoints_2d": None}]):
        with pytest.raises(ValueError, match="photo_points has no face"):
            drawing.landmarks_of([{**photo[0], "people": people}], (512, 512))
    with pytest.raises(ValueError, match="photo_points has no face"):
        drawing.landmarks_of([], (512, 512))
    flat[5] = 0.0
    with pytest.raises(ValueError, match="photo_points lacks 1 of the 68 face points"):
        drawing.landmarks_of([{**photo[0], "people": [{"face_keypoints_2d": flat}]}], (512, 512))

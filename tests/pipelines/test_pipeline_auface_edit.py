"""Editing: what is not touched stays, what is touched follows the new expression."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from auface_diffusers import VQAUFaceEditPipeline
from auface_diffusers.anatomy import Appearance, Camera, HeadModel, project_points
from auface_diffusers.anatomy.fit import fit_head, fit_person
from auface_diffusers.anatomy.identity import identity_codes, neutral_code, sample_identity
from auface_diffusers.facs import AUSet
from auface_diffusers.pipelines.editing import load_images, paste_onto
from auface_diffusers.pipelines.heads import head_model
from auface_diffusers.pipelines.motion import strongest_cells

SMILE = "12E+25C"


@pytest.fixture
def face(pipe):
    """A neutral face that the pipeline drew."""
    return pipe("0", identity=7, seed=0, output_type="pt")


@pytest.fixture
def known(face):
    return {
        "source_aus": "0",
        "identity": face.identity,
        "attributes": face.attributes,
        "seed": 1,
        "output_type": "pt",
    }


def codes_of(pipe, images):
    return pipe.encode_images(images).view(len(images), *pipe.face_tokenizer.code_shape)


def test_untouched_codes_and_pixels_stay(edit, face, known):
    before = codes_of(edit, face.images)
    done = edit(face.images, SMILE, **known)
    kept = ~done.edited
    assert 0 < kept.float().mean() < 1
    assert torch.equal(done.codes[kept], before[kept])
    assert not torch.equal(done.codes[done.edited], before[done.edited])
    assert done.aus == [AUSet.parse(SMILE)]
    mask = torch.zeros(64, 64)
    mask[:16, :16] = 1
    done = edit(face.images, SMILE, mask=mask, **known)
    far = torch.nn.functional.max_pool2d(done.edited[:, None].float(), 5, 1, 2)[:, 0] == 0
    pixels = far.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand_as(face.images)
    assert pixels.any()
    assert torch.equal(done.images[pixels], face.images[pixels])


def test_only_the_mouth_is_touched_by_a_smile(edit, face, known):
    done = edit(face.images, "25C+26C", **known)
    rows = done.edited[0].any(1).nonzero().flatten()
    assert rows.min() >= 3
    brows = edit(face.images, "1E+2E", **known)
    assert brows.edited[0].any(1).nonzero().flatten().max() <= 5


def test_strength(edit, face, known):
    none = edit(face.images, SMILE, strength=0, **known)
    assert torch.equal(none.images, face.images)
    assert torch.equal(none.codes, codes_of(edit, face.images))
    half, whole = (edit(face.images, SMILE, strength=s, **known).edited for s in (0.5, 1.0))
    assert 0 < half.sum() < whole.sum()
    assert not (half & ~whole).any()
    same = edit(face.images, "0", **known)
    assert not same.edited.any()
    shares = torch.tensor([[[0.0, 0.5], [0.9, 0.1]]])
    assert strongest_cells(shares, 0.5).tolist() == [[[False, True], [True, False]]]


def test_paste(edit, face, known):
    codes_alone = edit(face.images, SMILE, paste=False, **known)
    pasted = edit(face.images, SMILE, **known)
    assert torch.equal(codes_alone.codes, pasted.codes)
    assert not torch.equal(codes_alone.images, pasted.images)
    inside = pasted.edited.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, None].expand_as(face.images)
    torch.testing.assert_close(codes_alone.images[inside], pasted.images[inside])
    edge = paste_onto(torch.zeros(1, 3, 64, 64), torch.ones(1, 3, 64, 64), pasted.edited)
    assert ((edge > 0) & (edge < 1)).any()


def test_mask_replaces_the_motion(edit, face, known):
    mask = torch.zeros(64, 64, dtype=torch.bool)
    mask[:16, :8] = True
    done = edit(face.images, SMILE, mask=mask, **known)
    assert done.edited.nonzero().tolist() == [[0, 0, 0], [0, 1, 0]]
    as_picture = Image.fromarray((mask.numpy() * 255).astype("uint8")).resize((128, 128))
    assert torch.equal(edit(face.images, SMILE, mask=as_picture, **known).edited, done.edited)
    with pytest.raises(ValueError, match=r"mask \(1, 4, 5\)"):
        edit(face.images, SMILE, mask=torch.zeros(4, 5), **known)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 2},
        {"guidance_scale": 5.0},
        {"num_inference_steps": 6},
        {"temperature": 0.0},
        {"source_aus": "27E+25E"},
        {"identity": 9, "attributes": None},
        {"identity": None, "attributes": None},
    ],
    ids=str,
)
def test_every_option_changes_the_edit(edit, face, known, options):
    plain, other = (edit(face.images, SMILE, **{**known, **more}) for more in ({}, options))
    assert not torch.equal(plain.images, other.images)


def test_source_is_guessed_with_a_warning_or_read(edit, estimator, face):
    with pytest.warns(UserWarning, match="taken for a neutral face"):
        edit(face.images, SMILE, seed=1)
    reader = VQAUFaceEditPipeline.from_pipe(edit, estimator=estimator)
    reader.set_progress_bar_config(disable=True)
    estimator.set_calibration(torch.ones(len(estimator.channels)), torch.full((len(estimator.channels),), 9.0))
    source, landmarks = reader.read_images(face.images)
    assert len(source[0].effective) > 3
    assert landmarks.shape == (1, 68, 2)
    assert reader(face.images, SMILE, seed=1, output_type="latent").codes.shape == (1, 8, 8, 2)


def test_batches(edit, pipe):
    faces = pipe(["0", "0"], identity=[7, 8], seed=0, output_type="pt")
    options = {"source_aus": "0", "output_type": "latent"}
    both = edit(faces.images, ["12D", "4C"], seed=[1, 2], **options)
    for row, text in enumerate(("12D", "4C")):
        alone = edit(faces.images[row], text, seed=[1 + row], **options)
        assert torch.equal(alone.codes[0], both.codes[row])
    one = edit(faces.images[0], ["12D", "4C"], seed=[1, 1], **options)
    assert len(one.codes) == 2


def test_pictures_of_every_kind(edit, face):
    picture = (face.images[0].permute(1, 2, 0).numpy() * 255).round().astype("uint8")
    same = load_images(picture, 64)
    assert torch.equal(load_images(Image.fromarray(picture), 64), same)
    assert torch.equal(load_images(picture / np.float32(255), 64), same)
    assert torch.equal(load_images([face.images[0], face.images], 64)[:1], face.images)
    assert load_images(Image.fromarray(picture).resize((200, 200)), 64).shape == (1, 3, 64, 64)


def test_pictures_are_taken_as_they_are_seen(face):
    picture = Image.fromarray((face.images[0].permute(1, 2, 0).numpy() * 255).round().astype("uint8"))
    same = load_images(picture, 64)
    lying, file = Image.Exif(), io.BytesIO()
    lying[0x0112] = 6  # turn it by 90 degrees to the right
    picture.rotate(90).save(file, "PNG", exif=lying)
    assert torch.equal(load_images(Image.open(file), 64), same)
    clear = picture.convert("RGBA")
    clear.putalpha(0)
    assert load_images(clear, 64).min() == 1, "what cannot be seen is white"
    grey = np.asarray(picture.convert("L"))
    deep = Image.fromarray(grey.astype(np.uint16) * 257)
    assert torch.equal(load_images(deep, 64)[0, 0], torch.from_numpy(grey.copy()) / 255)


def test_many_pictures_are_read_a_few_at_a_time(edit, estimator, face, monkeypatch):
    whole = VQAUFaceEditPipeline.from_pipe(edit, estimator=estimator)
    many = face.images.expand(5, -1, -1, -1)
    together = whole.read_images(many), whole.encode_images(many)
    seen = []
    estimator.register_forward_hook(lambda module, inputs, output: seen.append(len(inputs[0])))
    monkeypatch.setattr("auface_diffusers.pipelines.pipeline_auface_edit.MAX_BATCH_CPU", 2)
    (source, landmarks), codes = whole.read_images(many), whole.encode_images(many)
    assert seen == [2, 2, 1]
    assert [one.effective for one in source] == [one.effective for one in together[0][0]]
    assert torch.allclose(landmarks, together[0][1], atol=1e-4)
    assert torch.equal(codes, together[1])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.rand(3, 64, 80), "image of 80 x 64 pixels: give a square one"),
        (torch.rand(3, 16, 16), "16 x 16"),
        (torch.rand(1, 64, 64), r"\(1, 64, 64\)"),
        (torch.full((3, 64, 64), 2.0), "values 2..2"),
        (np.zeros((64, 64)), r"\(64, 64\)"),
        (["face.png"], "str"),
        ([], "empty"),
    ],
    ids=str,
)
def test_bad_pictures_are_refused(edit, image, message):
    with pytest.raises(ValueError, match=message):
        edit(image, "12D", source_aus="0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strength": 1.5}, "strength 1.5"),
        ({"strength": "1"}, "strength '1'"),
        ({"attributes": {"age": 3}}, "attributes without identity"),
        ({"source_aus": ["0", "1"]}, "2 source_aus for 1 faces"),
        ({"identity": [1, 2], "aus": ["1", "2", "4"]}, "batch sizes differ"),
        ({"output_type": "gif"}, "output_type 'gif'"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(edit, face, options, message):
    with pytest.raises(ValueError, match=message):
        edit(face.images, **{"aus": "12D", "source_aus": "0", **options})


def test_fit_finds_pose_and_camera():
    head, camera = HeadModel.from_default(), Camera.framed("face", 128)
    aus = AUSet.parse("12D")
    pose = torch.tensor([[20.0, -5.0, 4.0], [-10.0, 8.0, 0.0]])
    looks = [Appearance(zoom=0.9, shift_x=0.1, shift_y=-0.1), Appearance(zoom=1.1)]
    mesh = head([3, 4], aus, pose=pose)
    points = project_points(mesh.landmarks68, looks, camera)[..., :2] / 128
    fitted = fit_head(head, points, head.levels(aus), camera)
    assert fitted.error.max() < 0.006  # under a pixel of 128
    assert (fitted.pose - pose).abs().max() < 6
    assert all(abs(one.zoom - look.zoom) < 0.06 for one, look in zip(fitted.appearances, looks, strict=True))
    neutral = fit_head(head, points, head.levels(aus), camera, codes=head_codes())
    assert neutral.error.max() > fitted.error.max()
    assert torch.equal(neutral.codes, head_codes())
    with pytest.raises(ValueError, match="landmarks"):
        fit_head(head, points[:, :5], head.levels(aus))


def test_one_person_is_fitted_to_many_pictures():
    """Better than to one, although points are off and some are far off."""
    head, camera = HeadModel.from_default(), Camera.framed("face", 128)
    generator = torch.Generator().manual_seed(0)
    aus = AUSet.parse("12D")
    turns = torch.tensor([[float(yaw), float(pitch), 0.0] for yaw in (-30, 0, 30) for pitch in (-10, 10)])
    truth = sample_identity(4)
    mesh = head(truth.expand(6, -1), aus, pose=turns)
    points = project_points(mesh.landmarks68, [Appearance()] * 6, camera)[..., :2] / 128
    points = points + 0.004 * torch.randn(points.shape, generator=generator)
    points[0, 30:36] += 0.1
    levels = head.levels(aus).expand(6, -1)
    together, alone = fit_person(head, points, levels, camera), fit_head(head, points, levels, camera)
    assert torch.equal(together.codes, together.codes[:1].expand(6, -1))
    identity_codes(together.codes)  # within bounds
    assert (together.codes[0, :5] != neutral_code()[:5]).all()
    assert (together.pose - turns)[1:].abs().max() < 6

    def shape(codes):
        rest = head(codes).landmarks68
        return (rest - rest.mean(1, keepdim=True)) / (rest - rest.mean(1, keepdim=True)).norm(dim=(1, 2), keepdim=True)

    def off(codes):
        return float((shape(codes) - shape(truth[None]))[..., :2].norm(dim=(1, 2)).mean())

    assert off(together.codes) < 0.7 * off(alone.codes)
    assert off(together.codes) < 0.5 * off(neutral_code()[None])
    with pytest.raises(ValueError, match="landmarks"):
        fit_person(head, points[:, :5], levels)


def head_codes():
    return neutral_code().expand(2, -1)


def test_inference_mode_changes_nothing():
    head = HeadModel.from_default()
    camera, levels = Camera(128), head.levels(AUSet.parse("12D"))
    points = project_points(head([3], AUSet.parse("12D")).landmarks68, [Appearance()], camera)[..., :2] / 128
    with torch.inference_mode():
        head_model.cache_clear()
        inside = fit_head(head_model("cpu"), points * 1.0, levels * 1.0, camera)
    after = fit_head(head_model("cpu"), points, levels, camera)
    torch.testing.assert_close(inside.codes, after.codes)
    assert after.error.max() < 0.006

"""The action unit estimator: shapes, files, gradients, and that it tells left from right."""

import pytest
import torch
from torch import nn

from auface_diffusers.facs import units
from auface_diffusers.models.au_estimator import ARCHITECTURES, AUEstimator, AUEstimatorOutput

TOY = {
    "conv": {"widths": (8, 8, 16, 16), "depths": (1, 1, 1, 1)},
    "patch": {"widths": (8, 8, 32, 32), "depths": (0, 1, 1, 1)},
}
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def toy(architecture="conv", **values):
    return AUEstimator(architecture=architecture, image_size=32, **{**TOY[architecture], **values}).eval()


def pictures(count=2, side=32, seed=1):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


@each_architecture
def test_output_has_one_value_a_channel_in_its_range(architecture):
    model = toy(architecture)
    seen = model(pictures(3))
    for value in (seen.presence, seen.level, seen.presence_logits):
        assert value.shape == (3, len(units.channels))
    assert seen.channels == units.channels
    assert seen.presence.min() >= 0
    assert seen.presence.max() <= 1
    assert seen.level.min() >= 0
    assert seen.level.max() <= 5
    torch.testing.assert_close(seen.presence, seen.presence_logits.sigmoid())


@each_architecture
def test_default_size(architecture):
    model = AUEstimator(architecture=architecture).eval()
    assert 2.0e6 < sum(p.numel() for p in model.parameters()) < 4.0e6
    with torch.no_grad():
        assert model(pictures(1, 128)).level.shape == (1, len(units.channels))


def test_architectures_differ():
    conv, patch = (AUEstimator(architecture=name) for name in ARCHITECTURES)
    assert set(conv.state_dict()) != set(patch.state_dict())
    kinds = [{type(module).__name__ for module in model.backbone.modules()} for model in (conv, patch)]
    assert "PatchBlock" not in kinds[0]
    assert "PatchBlock" in kinds[1]


@each_architecture
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_is_the_same(tmp_path, architecture, dtype):
    model = toy(architecture, channels=["L12", "R12", "17"]).to(dtype)
    model.set_calibration(
        torch.tensor([2.0, 0.5, 1.0]), torch.tensor([1.0, -1.0, 0.0]), torch.tensor([True, True, False])
    )
    model.save_pretrained(tmp_path)
    loaded = AUEstimator.from_pretrained(tmp_path, torch_dtype=dtype).eval()
    assert (tmp_path / "diffusion_pytorch_model.safetensors").exists()
    assert loaded.channels == ("L12", "R12", "17")
    assert loaded.coverage == ("L12", "R12")
    assert loaded.covered.dtype == torch.bool
    with torch.no_grad():
        before, after = model(pictures()), loaded(pictures())
    assert torch.equal(before.presence, after.presence)
    assert torch.equal(before.level, after.level)


def test_names_are_written_into_the_config():
    assert toy().config["channels"] == list(units.channels)
    assert AUEstimator().config["widths"] == [32, 64, 128, 160]


@each_architecture
def test_checkpointing_changes_no_gradient(architecture):
    model = toy(architecture).train()
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
            calls = count_calls(model)
        model.zero_grad()
        image = pictures().requires_grad_()
        seen = model(image)
        (seen.presence.sum() + seen.level.square().sum()).backward()
        gradients.append([image.grad, *(p.grad.clone() for p in model.parameters())])
    assert calls, "checkpointing was not used"
    for plain, saved in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, saved)


def count_calls(model):
    calls, inner = [], model.backbone._gradient_checkpointing_func

    def counted(*args):
        calls.append(args[0])
        return inner(*args)

    model.backbone._gradient_checkpointing_func = counted
    return calls


@each_architecture
def test_gradient_reaches_every_pixel_of_a_resized_picture(architecture):
    image = pictures(1, 48).requires_grad_()
    seen = toy(architecture)(image)
    (seen.presence.sum() + seen.level.sum()).backward()
    assert image.grad.isfinite().all()
    assert (image.grad != 0).all(1).float().mean() > 0.99


@each_architecture
def test_picture_does_not_depend_on_the_batch(architecture):
    model, images = toy(architecture), pictures(3)
    with torch.no_grad():
        torch.testing.assert_close(model(images).presence[1:2], model(images[1:2]).presence)


def squares(count, seed):
    """Pictures with a bright square on one side, and whether it is on the left."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 32, 32, generator=generator) * 0.3
    left = torch.rand(count, generator=generator) < 0.5
    for image, is_left in zip(images, left, strict=True):
        row = int(torch.randint(4, 22, (), generator=generator))
        column = int(torch.randint(2, 8, (), generator=generator)) + (0 if is_left else 16)
        image[:, row : row + 6, column : column + 6] = 1
    return images, left


@each_architecture
def test_tells_left_from_right(architecture):
    model = toy(architecture, channels=["L12", "R12"]).train()
    images, left = squares(32, seed=2)
    wanted = torch.stack([left, ~left], 1).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for _ in range(40):
        loss = nn.functional.binary_cross_entropy_with_logits(model(images).presence_logits, wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    new, is_left = squares(32, seed=3)
    with torch.no_grad():
        right = (model.eval()(new).presence > 0.5) == torch.stack([is_left, ~is_left], 1)
    assert right.float().mean() > 0.9


def test_calibration_moves_presence_alone():
    model, images = toy(), pictures()
    with torch.no_grad():
        before = model(images)
        count = len(units.channels)
        model.set_calibration(torch.full((count,), 2.0), torch.full((count,), 0.5))
        after = model(images)
    torch.testing.assert_close(after.presence, (2 * before.presence_logits + 0.5).sigmoid())
    assert torch.equal(after.level, before.level)
    assert torch.equal(after.presence_logits, before.presence_logits)
    assert model.coverage == units.channels


def output(presence, level, channels):
    places = {"landmarks": torch.zeros(len(level), 68, 2), "motion": torch.zeros(len(level), 68, 3)}
    return AUEstimatorOutput(presence=presence, level=level, presence_logits=presence, channels=channels, **places)


def test_scores_hold_the_covered_channels_that_are_seen():
    model = toy(channels=["L12", "R12", "17", "28:T"])
    model.set_calibration(torch.ones(4), torch.zeros(4), torch.tensor([True, True, False, True]))
    presence = torch.tensor([[0.9, 0.4, 0.9, 0.5], [0.0, 0.0, 1.0, 0.0]])
    level = torch.tensor([[3.456, 5.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    seen = output(presence, level, model.channels)
    first, second = model.to_aus(seen)
    assert dict(first.items()) == {"L12": 3.46, "28:T": 1.0}
    assert not second
    assert dict(model.to_aus(seen, threshold=0.3)[0].items()) == {"L12": 3.46, "R12": 5.0, "28:T": 1.0}


def test_a_score_can_hold_every_channel():
    model, shape = toy(), (1, len(units.channels))
    full = output(torch.ones(shape), torch.full(shape, 5.0), units.channels)
    assert model.to_aus(full)[0].vector() == (5.0,) * len(units.channels)


def test_dropout_acts_in_training():
    model, image = toy(dropout=0.5), pictures(1)
    assert torch.equal(model(image).level, model(image).level)
    model.train()
    assert not torch.equal(model(image).level, model(image).level)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.rand(3, 32, 32), r"\(3, 32, 32\).*image\[None\]"),
        (torch.rand(1, 1, 32, 32), r"\(1, 1, 32, 32\)"),
        (torch.rand(0, 3, 32, 32), r"\(0, 3, 32, 32\)"),
        (torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "uint8.*255"),
        (torch.rand(1, 3, 16, 40), "at least 32"),
        (torch.full((1, 3, 32, 32), -0.5), r"-0\.5"),
        (torch.full((1, 3, 32, 32), 1.5), r"1\.5"),
        (torch.full((1, 3, 32, 32), torch.nan), "nan"),
    ],
)
def test_bad_pictures_are_named(image, said):
    with pytest.raises(ValueError, match=said):
        toy()(image)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"architecture": "vit"}, "vit.*conv, patch"),
        ({"image_size": 100}, "100.*32"),
        ({"channels": ["L12", "99"]}, "99"),
        ({"channels": ["L12", "L12"]}, "once"),
        ({"channels": []}, "units.channels"),
        ({"widths": (8, 8, 8)}, "four"),
        ({"depths": (1, 1, 1, -1)}, ">= 0"),
        ({"widths": (8, 8, 12, 16)}, "multiples"),
        ({"architecture": "patch", "widths": (8, 8, 16, 32)}, "multiples"),
        ({"dropout": 1.0}, "dropout 1"),
    ],
)
def test_bad_settings_are_named(values, said):
    with pytest.raises(ValueError, match=said):
        AUEstimator(**values)


@pytest.mark.parametrize(
    ("scale", "covered", "said"),
    [
        (torch.ones(3), None, r"calibration_scale \(3,\)"),
        (torch.full((2,), torch.nan), None, "finite"),
        (torch.ones(2), torch.ones(2), "torch.bool"),
    ],
)
def test_bad_calibration_is_named(scale, covered, said):
    model = toy(channels=["L12", "R12"])
    with pytest.raises(ValueError, match=said):
        model.set_calibration(scale, torch.zeros(2), covered)


def test_threshold_is_checked():
    model = toy()
    with pytest.raises(ValueError, match="threshold 2"):
        model.to_aus(model(pictures()), threshold=2)


@each_architecture
def test_landmarks_and_motion(architecture):
    with torch.no_grad():
        seen = toy(architecture)(pictures(2))
    assert seen.landmarks.shape == (2, 68, 2)
    assert 0 <= seen.landmarks.min() <= seen.landmarks.max() <= 1
    assert seen.motion.shape == (2, 68, 3)

"""The structure encoder: shapes, files, and that the heads see the map."""

import pytest
import torch

from auface_diffusers.anatomy import STRUCTURE_CHANNELS
from auface_diffusers.facs import units
from auface_diffusers.models.structure_encoder import StructureEncoder


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def toy(**values):
    return StructureEncoder(**{"image_size": 32, "width": 16, "embedding_dim": 12, **values}).eval()


def maps(count=2, side=32):
    return torch.rand(count, len(STRUCTURE_CHANNELS), side, side, generator=torch.Generator().manual_seed(1))


def test_shapes_and_ranges():
    model = toy()
    with torch.no_grad():
        out = model(maps(3))
        assert torch.equal(model.extractor(maps(3)), out.features)
    assert out.features.shape == (3, 16, 2, 2)
    assert out.embedding.shape == (3, 12)
    torch.testing.assert_close(out.embedding.norm(dim=-1), torch.ones(3))
    assert out.presence_logits.shape == out.levels.shape == (3, len(units.channels))
    assert 0 <= out.levels.min() <= out.levels.max() <= 5


def test_saved_and_loaded_with_its_channels(tmp_path):
    model = toy(channels=["1", "2", "L12"])
    model.save_pretrained(tmp_path)
    again = StructureEncoder.from_pretrained(tmp_path)
    assert list(again.config["channels"]) == ["1", "2", "L12"]
    with torch.no_grad():
        assert torch.equal(again(maps()).levels, model(maps()).levels)
    assert list(toy().config["channels"]) == list(units.channels)


def test_every_weight_learns():
    model = toy().train()
    out = model(maps())
    (out.embedding[:, 0].sum() + out.presence_logits.sum() + out.levels.sum()).backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in model.parameters())


def test_gradient_checkpointing_runs_blocks_again_and_changes_nothing():
    model, calls, grads = toy().train(), [], []
    model.extractor.middle.register_forward_pre_hook(lambda *_: calls.append(1))
    for on in (False, True):
        (model.enable_gradient_checkpointing if on else model.disable_gradient_checkpointing)()
        model.zero_grad()
        model(maps()).levels.sum().backward()
        grads.append({name: x.grad.clone() for name, x in model.named_parameters() if x.grad is not None})
    assert len(calls) == 3
    torch.testing.assert_close(grads[0], grads[1])


def test_a_place_changes_its_own_features_most():
    model, one = toy(image_size=128), maps(1, 128)
    other = one.clone()
    other[:, :, :16, :16] += 1
    with torch.no_grad():
        change = (model.extractor(other) - model.extractor(one)).abs().mean(1)[0]
    assert change.argmax() == 0


def test_runs_in_bf16():
    with torch.no_grad():
        out = toy().to(torch.bfloat16)(maps().to(torch.bfloat16))
    assert out.features.dtype == torch.bfloat16
    assert out.levels.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: toy(image_size=40), "image_size 40: a multiple of 16"),
        (lambda: toy()(maps(side=48)), r"structure \(2, \d+, 48, 48\): \(B, \d+, 32, 32\) is needed"),
        (lambda: toy().extractor(maps()[:, 1:]), "is needed"),
        (lambda: toy()(maps()[0]), "is needed"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()

"""Faces to codes and back: the codes say all that the decoder sees, and every code can be reached."""

import itertools

import pytest
import torch

from auface_diffusers.models.face_tokenizer import FaceTokenizer
from auface_diffusers.models.finite_scalar import MOST_LEVELS, FiniteScalarQuantizer

LEVELS = [(2,), (3,), (8, 5, 5, 5), (4, 4, 4), (3, 5, 7), (2, 9, 6), (16, 2)]
each_levels = pytest.mark.parametrize("levels", LEVELS, ids=str)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def toy(**values):
    defaults = {"image_size": 32, "channels": (8, 16, 16), "levels": (4, 5), "decoder_blocks": 1, "landmarks": 5}
    return wake(FaceTokenizer(**{**defaults, **values}).eval())


def wake(model):
    """Let residual blocks, which start as identity, do something."""
    for name, value in model.named_parameters():
        if name.endswith("conv2.weight"):
            torch.nn.init.normal_(value, std=0.1)
    return model


def pictures(count=2, side=32):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("values", "side"), [({}, 4), ({"code_groups": 3}, 4), ({"patch_size": 4}, 2), ({"image_size": 64}, 8)]
)
def test_shapes_and_ranges(values, side):
    model = toy(**values)
    images = pictures(side=model.config["image_size"])
    with torch.no_grad():
        out = model(images)
        codes = model.encode(images)
    half = model.config["image_size"] // 2
    assert model.code_shape == (side, side, model.config["code_groups"])
    assert codes.shape == (2, *model.code_shape)
    assert codes.dtype == torch.int64
    assert 0 <= codes.min() <= codes.max() < model.codebook_size == 20
    assert out.image.shape == images.shape
    assert out.parts.shape == (2, 9, half, half)
    assert out.landmarks.shape == (2, 5, 2)
    assert 0 < out.landmarks.min() <= out.landmarks.max() < 1
    painted = model.decode(codes)
    assert 0 <= painted.min() <= painted.max() <= 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_codes_say_all_that_is_painted(dtype):
    model = toy().to(dtype)
    images = pictures().to(dtype)
    with torch.no_grad():
        out, codes = model(images), model.encode(images)
        assert torch.equal(out.codes, codes)
        near = {"atol": 1e-5, "rtol": 0} if dtype == torch.float32 else {"atol": 0.02, "rtol": 0}  # other strides
        torch.testing.assert_close(model.decode(codes), out.image.clamp(0, 1), **near)
        assert torch.equal(model.decode(codes.flatten(1)), model.decode(codes))


def test_faces_do_not_depend_on_those_beside_them():
    model = toy()
    images = pictures(3)
    with torch.no_grad():
        assert (model.encode(images)[1:2] == model.encode(images[1:2])).float().mean() > 0.95  # but for rounding


def test_default_size():
    model = FaceTokenizer()
    assert model.code_shape == (16, 16, 2)
    assert model.codebook_size == 1000
    assert sum(p.numel() for p in model.parameters()) < 30e6


def test_saved_and_loaded(tmp_path):
    model = toy(code_groups=1)
    model.save_pretrained(tmp_path)
    again = FaceTokenizer.from_pretrained(tmp_path)
    for name in ("image_size", "patch_size", "decoder_blocks", "code_groups", "landmarks"):
        assert again.config[name] == model.config[name]
    images = pictures()
    with torch.no_grad():
        assert torch.equal(again(images).image, model(images).image)
    assert torch.equal(again.encode(images), model.encode(images))
    assert not list(tmp_path.glob("*.bin")), "no pickle"


def test_gradient_checkpointing_changes_nothing():
    model, images = toy().train(), pictures()
    grads = []
    for on in (False, True):
        (model.enable_gradient_checkpointing if on else model.disable_gradient_checkpointing)()
        assert model.is_gradient_checkpointing == on
        model.zero_grad()
        out = model(images)
        (out.image.square().mean() + out.parts.square().mean() + out.landmarks.sum()).backward()
        grads.append({name: value.grad.clone() for name, value in model.named_parameters()})
    assert all(value.abs().sum() > 0 for name, value in grads[0].items() if "bias" not in name)
    torch.testing.assert_close(grads[0], grads[1])


def test_gradient_checkpointing_runs_blocks_again():
    model, calls = toy().train(), []
    model.decoder[1].register_forward_pre_hook(lambda *_: calls.append(1))
    model.enable_gradient_checkpointing()
    model(pictures()).image.mean().backward()
    assert len(calls) == 2


def test_learns_a_face():
    model = toy(levels=(8, 8, 8))
    image = torch.linspace(0, 1, 32).expand(1, 3, 32, 32).contiguous()
    descent = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(40):
        loss = (model(image).image - image).abs().mean()
        descent.zero_grad()
        loss.backward()
        descent.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: FaceTokenizer(image_size=100), "image_size 100: a multiple of 8"),
        (lambda: toy().encode(pictures(side=40)), r"images \(2, 3, 40, 40\): \(B, 3, 32, 32\)"),
        (lambda: toy()(pictures()[0]), r"images \(3, 32, 32\)"),
        (lambda: toy().decode(torch.zeros(2, 5, dtype=torch.int64)), r"codes \(2, 5\): \(B, 4, 4, 2\)"),
        (lambda: toy().decode(torch.zeros(2, 2, 4, 4, dtype=torch.int64)), r"codes \(2, 2, 4, 4\)"),
        (lambda: toy().decode(torch.zeros(32, dtype=torch.int64)), r"codes \(32,\)"),
        (lambda: toy().decode(torch.full((1, 32), 20)), r"codes 20\.\.20: 0\.\.19"),
        (lambda: toy().decode(torch.full((1, 32), -1)), r"codes -1\.\.-1: 0\.\.19"),
        (lambda: FiniteScalarQuantizer(()), "give levels"),
        (lambda: FiniteScalarQuantizer((1, 5)), r"levels \(1, 5\)"),
        (lambda: FiniteScalarQuantizer((MOST_LEVELS + 1,)), "give levels"),
        (lambda: FiniteScalarQuantizer((5,), groups=0), "groups 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_no_faces_make_no_codes():
    assert toy().decode(torch.zeros(0, 4, 4, 2, dtype=torch.int64)).shape == (0, 3, 32, 32)


# --- the quantizer ---------------------------------------------------------------------------------------------------


@each_levels
def test_index_and_values_are_each_others_inverse(levels):
    quantizer = FiniteScalarQuantizer(levels)
    indices = torch.arange(quantizer.codebook_size)[:, None]
    values = quantizer.values(indices)
    assert values.shape == (len(indices), len(levels))
    assert len(torch.unique(values, dim=0)) == len(indices), "no two codes have the same values"
    assert values.min() == -1
    assert values.max() == 1
    grid = [torch.linspace(-1, 1, size).tolist() for size in levels]
    expected = sorted(tuple(reversed(point)) for point in itertools.product(*grid))
    torch.testing.assert_close(torch.tensor(expected).flip(1), values)


@each_levels
def test_every_code_is_reached_and_its_values_are_those_of_its_index(levels):
    quantizer = FiniteScalarQuantizer(levels)
    fine = torch.linspace(-12, 12, 4001)
    for place, size in enumerate(levels):  # numbers are rounded apart from each other
        z = torch.zeros(len(fine), len(levels))
        z[:, place] = fine
        values, indices = quantizer(z)
        assert torch.equal(quantizer.values(indices), values)
        assert len(values[:, place].unique()) == size
        assert (values[1:, place] >= values[:-1, place]).all(), "order is kept"
    z = torch.randn(20000, len(levels), generator=torch.Generator().manual_seed(0)) * 3
    values, indices = quantizer(z)
    assert torch.equal(quantizer.values(indices), values)
    assert 0 <= indices.min() <= indices.max() < quantizer.codebook_size


@each_levels
def test_every_code_comes_back_from_where_it_lies(levels):
    """The middle of each level's range of z, for all codes at once."""
    quantizer = FiniteScalarQuantizer(levels)
    fine = torch.linspace(-12, 12, 4001)
    middles = []
    for size in levels:
        steps = FiniteScalarQuantizer((size,))(fine[:, None])[1][:, 0]
        middles.append(torch.stack([fine[steps == step].median() for step in range(size)]))
    codes = torch.arange(quantizer.codebook_size)
    steps = codes[:, None] // quantizer.strides % quantizer.sizes
    z = torch.stack([middle[steps[:, place]] for place, middle in enumerate(middles)], 1)
    assert torch.equal(quantizer(z)[1][:, 0], codes)


def test_the_most_levels_stay_in_range():
    quantizer = FiniteScalarQuantizer((MOST_LEVELS, MOST_LEVELS - 1))
    _, indices = quantizer(torch.tensor([[-99.0, -99.0], [99.0, 99.0]]))
    assert indices[:, 0].tolist() == [0, quantizer.codebook_size - 1]


def test_groups_are_apart():
    quantizer, single = FiniteScalarQuantizer((4, 5), groups=3), FiniteScalarQuantizer((4, 5))
    z = torch.randn(7, 6)
    values, indices = quantizer(z)
    assert indices.shape == (7, 3)
    for group in range(3):
        part = slice(2 * group, 2 * group + 2)
        assert torch.equal(indices[:, group : group + 1], single(z[:, part])[1])
        assert torch.equal(values[:, part], single(z[:, part])[0])


@each_levels
def test_gradient_passes_the_rounding(levels):
    quantizer = FiniteScalarQuantizer(levels)
    z = torch.randn(50, len(levels), requires_grad=True)
    values, _ = quantizer(z)
    values.sum().backward()
    sizes = quantizer.sizes.float()
    half = (sizes - 1) * 1.001 / 2
    offset = torch.where(quantizer.sizes % 2 == 0, 0.5, 0.0)
    slope = half * (1 - (z.detach() + (offset / half).atanh()).tanh().square())  # of the bound alone
    torch.testing.assert_close(z.grad, 2 / (sizes - 1) * slope)
    assert (z.grad > 0).all()


# --- structure maps --------------------------------------------------------------------------------------------------


def guided(**values):
    model = toy(structure_channels=6, **values)
    with torch.no_grad():
        for out in model.guide.outs:
            torch.nn.init.normal_(out.weight, std=0.3)
    return model


def maps(count=2, channels=6, side=32):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def test_structure_maps_guide_the_decoder():
    model, images = guided(), pictures()
    codes = model.encode(images)
    plain, painted = model.decode(codes), model.decode(codes, maps())
    assert torch.equal(model.encode(images), codes)
    torch.testing.assert_close(model(images, maps()).image.clamp(0, 1), painted, atol=1e-5, rtol=0)
    assert (plain - painted).abs().mean() > 0.01
    for stage in model.guide.outs:  # each of them matters
        kept, stage.weight.data = stage.weight.data, torch.zeros_like(stage.weight)
        assert (model.decode(codes, maps()) - painted).abs().mean() > 1e-3
        stage.weight.data = kept
    more = torch.cat([maps(), maps(channels=2)], 1)  # of later versions
    assert torch.equal(model.decode(codes, more), painted)
    one = model.decode(codes, maps(), torch.tensor([True, False]))
    torch.testing.assert_close(one, torch.cat([plain[:1], painted[1:]]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_line_of_the_map_is_painted_where_it_is():
    model = guided(image_size=64)
    codes, flat = model.encode(pictures(1, 64)), torch.zeros(1, 6, 64, 64)
    line = flat.clone()
    line[..., 8:10, 16:40] = 1
    changed = (model.decode(codes, line) - model.decode(codes, flat)).abs().mean(1)[0]
    assert changed[6:12, 16:40].mean() > 3 * changed[40:].mean()


def test_a_guide_starts_as_nothing_and_learns():
    model = wake(toy(structure_channels=6))
    for out in model.guide.outs:
        torch.nn.init.zeros_(out.weight)
    out = model(pictures(), maps()).image
    assert torch.equal(out, model(pictures()).image)
    out.square().mean().backward()
    assert all(one.weight.grad.abs().sum() > 0 for one in model.guide.outs)


@pytest.mark.parametrize(
    ("structure", "said"),
    [
        (maps(side=16), r"structure \(2, 6, 16, 16\): \(2, K, 32, 32\)"),
        (maps(1), r"structure \(1, 6, 32, 32\): \(2, K, 32, 32\)"),
        (maps(channels=5), "structure of 5 channels: 6 are needed"),
    ],
)
def test_bad_structure_maps_are_refused(structure, said):
    model = guided()
    with pytest.raises(ValueError, match=said):
        model.decode(model.encode(pictures()), structure)

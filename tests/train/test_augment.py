"""Augmentation: from the seed alone, inside [0, 1], and every change changes something."""

import dataclasses

import pytest
import torch

from auface_diffusers.anatomy import HeadModel
from auface_diffusers.facs import AUSet, units
from train_lora.data.augment import (
    CHANGES,
    RANGES,
    Ranges,
    added_roll,
    augment,
    mirror,
    mirror_index,
    mirror_motion,
    mirror_points,
    move_points,
)


def pictures(count=6, side=128, seed=0):
    """Smooth colours with some texture, as faces have."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
    texture = torch.rand(count, 3, side, side, generator=generator) - 0.5
    return (smooth + 0.1 * texture).clamp(0, 1)


def only(name, chance=1.0, **values):
    """Ranges in which one change happens, always."""
    return dataclasses.replace(RANGES, **{**dict.fromkeys(CHANGES, 0.0), name: chance, **values})


def test_same_seed_same_picture():
    images = pictures()
    assert torch.equal(augment(images, range(6)), augment(images, range(6)))
    assert not torch.equal(augment(images, range(6)), augment(images, range(6, 12)))


def test_a_sample_does_not_depend_on_its_batch():
    images = pictures(24)
    together = augment(images, range(24))
    alone = torch.cat([augment(images[i : i + 1], [i]) for i in range(24)])
    backwards = augment(images.flip(0), list(range(24))[::-1]).flip(0)
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=0)
    torch.testing.assert_close(together, backwards, atol=1e-6, rtol=0)


def test_no_global_randomness_is_used():
    images = pictures(2)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = augment(images, [1, 2])
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(5)
    assert torch.equal(first, augment(images, [1, 2]))


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_alone_changes_something_and_stays_in_range(name):
    images = pictures()
    kept = images.clone()
    changed = augment(images, range(6), ranges=only(name))
    assert torch.equal(images, kept), "the input was written to"
    assert changed.shape == images.shape
    assert changed.min() >= 0
    assert changed.max() <= 1
    for before, after in zip(images, changed, strict=True):
        assert (before - after).abs().max() > 1e-3


def test_nothing_is_done_at_strength_zero_or_chance_zero():
    images = pictures()
    assert torch.equal(augment(images, range(6), strength=0), images)
    assert torch.equal(augment(images, range(6), ranges=only("jpeg", 0.0)), images)


def test_strength_scales_the_change():
    images = pictures(24)
    ranges = dataclasses.replace(RANGES, gray=0.0)
    sizes = [(augment(images, range(24), s, ranges) - images).abs().mean() for s in (0.0, 0.3, 1.0)]
    assert sizes[0] < sizes[1] < sizes[2]


def test_gray_has_no_colour():
    gray = augment(pictures(), range(6), ranges=only("gray"))
    assert (gray.amax(1) - gray.amin(1)).max() < 1e-5


def test_colour_at_the_neutral_amounts_is_identity():
    one, zero = (1.0, 1.0), (0.0, 0.0)
    amounts = {"brightness": one, "contrast": one, "saturation": one, "gamma": one, "hue": zero, "offset": zero}
    images = pictures()
    torch.testing.assert_close(augment(images, range(6), ranges=only("colour", **amounts)), images)


def test_move_at_the_neutral_amounts_is_identity():
    amounts = {"scale": (1.0, 1.0), "rotation": (0.0, 0.0), "shift": (0.0, 0.0)}
    images = pictures()
    moved = augment(images, range(6), ranges=only("affine", **amounts))
    torch.testing.assert_close(moved, images, atol=1e-5, rtol=0)


def test_occlusion_covers_a_fifth_at_most():
    images = pictures(60)
    covered = ((augment(images, range(60), ranges=only("occlusion")) - images) != 0).any(1).float().mean((1, 2))
    assert covered.max() <= 0.21
    assert covered.max() > 0.05


@pytest.mark.parametrize("shape", [(40, 64), (64, 40)])
def test_pictures_need_not_be_square(shape):
    images = torch.rand(3, 3, *shape)
    assert augment(images, [1, 2, 3], ranges=Ranges()).shape == images.shape


def test_rotation_is_what_added_roll_says():
    """A spot at the top moves to the right of the picture, the person's left, by the angle."""
    image = torch.zeros(1, 3, 129, 129)
    image[..., 14:19, 62:67] = 1  # 48 pixels above the centre
    ranges = only("affine", rotation=(-20.0, 20.0), scale=(1.0, 1.0), shift=(0.0, 0.0))
    for seed in range(6):
        spot = augment(image, [seed], ranges=ranges)[0, 0]
        spot = torch.where(spot > 0.3, spot, 0)
        places = torch.arange(129.0) - 64
        x, y = (spot.sum(0) * places).sum() / spot.sum(), (spot.sum(1) * places).sum() / spot.sum()
        measured = torch.rad2deg(torch.atan2(x, -y))
        torch.testing.assert_close(measured, added_roll([seed], ranges=ranges)[0], atol=0.5, rtol=0)
    assert added_roll([1, 2], ranges=only("blur")).tolist() == [0, 0]


def test_mirror_twice_is_identity():
    images, levels = pictures(), torch.rand(6, len(units.channels)) * 5
    once = mirror(images, levels, units.channels)
    assert not torch.equal(once[0], images)
    assert not torch.equal(once[1], levels)
    twice = mirror(*once, units.channels)
    assert torch.equal(twice[0], images)
    assert torch.equal(twice[1], levels)


def test_mirror_is_that_of_the_scores():
    for text in ("L12D+R14A", "51C+61B", "55A", "17C+28B:T", "L46E", "63C"):
        aus = AUSet.parse(text)
        flipped = torch.tensor([aus.vector()])[:, mirror_index(units.channels)]
        assert AUSet.from_vector(flipped[0].tolist()) == aus.mirror()


def test_errors_name_what_is_wrong():
    images = pictures(2)
    with pytest.raises(ValueError, match="1 seeds for 2 images"):
        augment(images, [1])
    with pytest.raises(ValueError, match="strength 1.5"):
        augment(images, [1, 2], strength=1.5)
    with pytest.raises(ValueError, match=r"\(3, 128, 128\)"):
        augment(images[0], [1])
    with pytest.raises(ValueError, match="uint8"):
        augment((images * 255).byte(), [1, 2])
    with pytest.raises(ValueError, match="L12 has no R12"):
        mirror_index(["L12", "17"])


def dots(points, side=128):
    """Pictures (B, 3, S, S) with a soft bright dot at each (B, 2), shares of the picture."""
    place = (torch.arange(side) + 0.5) / side
    x, y = points[:, 0, None, None], points[:, 1, None, None]
    spot = torch.exp(-((place[None, None] - x) ** 2 + (place[None, :, None] - y) ** 2) / (2 * 0.02**2))
    return spot[:, None].expand(-1, 3, -1, -1).contiguous()


def found(images):
    """Where the dots are: (B, 2)."""
    place = (torch.arange(images.shape[-1]) + 0.5) / images.shape[-1]
    weight = images.mean(1) ** 4
    total = weight.sum((1, 2))
    return torch.stack([(weight.sum(1) * place).sum(1) / total, (weight.sum(2) * place).sum(1) / total], 1)


def test_points_go_where_the_picture_goes():
    points = 0.35 + 0.3 * torch.rand(16, 2, generator=torch.Generator().manual_seed(0))
    seeds, ranges = range(16), only("affine", scale=(1.3, 1.5), rotation=(-15.0, 15.0), shift=(-0.02, 0.02))
    moved = move_points(points[:, None], seeds, 1.0, ranges)[:, 0]
    assert (moved - points).norm(dim=1).min() > 1e-3
    torch.testing.assert_close(found(augment(dots(points), seeds, 1.0, ranges)), moved, atol=0.004, rtol=0)
    assert torch.equal(move_points(points[:, None], seeds, 0.0), points[:, None])


def test_flipped_points_are_those_of_the_flipped_face():
    head = HeadModel.from_default()
    left, right = (head(None, AUSet.parse(code)) for code in ("L12D+R4C", "R12D+L4C"))
    rest = head().landmarks68
    flipped = mirror_points(left.landmarks68[..., :2] / 4 + 0.5) * 4 - 2
    torch.testing.assert_close(flipped, right.landmarks68[..., :2], atol=0.02, rtol=0)
    motion = left.landmarks68 - rest
    torch.testing.assert_close(mirror_motion(motion), right.landmarks68 - rest, atol=0.02, rtol=0)
    assert (motion - (right.landmarks68 - rest)).abs().max() > 0.05
    assert torch.equal(mirror_motion(mirror_motion(motion)), motion)

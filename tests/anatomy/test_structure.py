"""The picture of the anatomy: it lies where the renderer draws, and changes only where the face does."""

import math

import pytest
import torch

from auface_diffusers.anatomy import (
    Appearance,
    Camera,
    HeadModel,
    control_image,
    control_surface,
    project_points,
    render,
)
from auface_diffusers.anatomy.control_surface import PARTS
from auface_diffusers.anatomy.render import PARTS as RENDERED
from auface_diffusers.anatomy.render import sample_appearances
from auface_diffusers.anatomy.structure import DEPTH_RANGE, STRUCTURE_CHANNELS, region_mask, structure_map
from auface_diffusers.facs import AUSet, units

IDS = [1, 2, 3, 4]
SCORES = [AUSet.parse(text) for text in ("0", "12D+6C", "27E+25E", "10E+16E+25D")]
POSE = torch.tensor([[0.0, 0, 0], [30, 0, 0], [0, 8, 5], [-25, -10, 0]])
SMILE = AUSet.parse("12E")


@pytest.fixture(scope="module")
def head():
    return HeadModel.from_default()


@pytest.fixture(scope="module")
def scene(head):
    """Meshes, appearances, their map and what the renderer draws of them, with nothing on the head."""
    mesh, looks = head(IDS, SCORES, pose=POSE), sample_appearances(IDS, 3, 4)
    assert len({look.zoom for look in looks}) == 4
    looks = [Appearance.from_dict(look.to_dict() | {"hair_style": "bald"}) for look in looks]
    return mesh, looks, structure_map(mesh, head, looks, 128), render(mesh, looks, Camera(128))


def channel(image, *names):
    return image[:, [STRUCTURE_CHANNELS.index(name) for name in names]].sum(1)


def overlap(first, second):
    return float((first & second).sum() / (first | second).sum())


def mask(head, before, after, threshold=None, size=128):
    levels = [head.levels(AUSet.parse(text)) for text in (before, after)]
    meshes = [head(7, level) for level in levels]
    return region_mask(head, *levels, *meshes, [Appearance()], size, threshold)


def within(head, region, *names):
    """Share of the parts' pixels, at rest, that a mask has."""
    parts = channel(structure_map(head(7), head, None, region.shape[-1], oversample=1), *names) > 0
    return float(region[parts].float().mean())


def test_channels(scene):
    image = scene[2]
    assert image.shape == (4, len(STRUCTURE_CHANNELS), 128, 128)
    assert image.dtype == torch.float32
    assert len(set(STRUCTURE_CHANNELS)) == len(STRUCTURE_CHANNELS) == 4 + len(PARTS) - 1 + 1 + 3
    shares = image[:, 4:-3]
    assert shares.min() >= 0
    assert shares.max() == 1
    assert image.min() >= -1
    total = shares[:, :-1].sum(1)
    assert total.max() <= 1 + 1e-6
    assert (image[:, :3].norm(dim=1) <= total + 1e-5).all()  # unit, less where normals differ or the outline cuts
    assert channel(image, "iris").le(channel(image, "right eye", "left eye") + 1e-6).all()
    assert (image[:, 3][total == 0] == 1).all()
    assert (image[:, :3].abs().amax(1)[total == 0] == 0).all()
    assert all(channel(image, name).max() > 0.5 for name in STRUCTURE_CHANNELS[4:-3])
    assert image[:, -3:][(total == 0)[:, None].expand(-1, 3, -1, -1)].eq(0).all()


def test_lies_where_the_renderer_draws(scene):
    _, _, image, drawn = scene
    solid = drawn.parts != RENDERED.index("clothes")
    head_there = (channel(image, *list(PARTS)[1:]) > 0.5) & solid
    assert overlap(head_there, (drawn.parts > 0) & solid) > 0.98


def test_shares_are_those_of_a_larger_rendering(scene):
    mesh, looks, image, _ = scene
    drawn = render(mesh, looks, Camera(256))
    for name in ("right eye", "left eye", "upper teeth", "lower teeth", "tongue"):
        share = torch.nn.functional.avg_pool2d((drawn.parts == RENDERED.index(name)).float(), 2)
        both = torch.stack([share, channel(image, name)])
        assert both.amin(0).sum() / both.amax(0).sum() > 0.99, name


def test_exactly_the_renderers_pixels_without_oversampling(head, scene):
    mesh, looks, _, drawn = scene
    image = structure_map(mesh, head, looks, 128, oversample=1)
    for name in ("right eye", "left eye", "upper teeth", "lower teeth", "tongue"):
        assert overlap(channel(image, name) > 0, drawn.parts == RENDERED.index(name)) > 0.99
    face = (channel(image, "skin", "nose", "upper lip") > 0) & (drawn.parts == RENDERED.index("skin"))
    depth = (channel(image, "depth") * DEPTH_RANGE + Camera().distance)[face]
    assert torch.allclose(depth, drawn.depth[face], atol=1e-3)
    normals = image[:, :3].movedim(1, -1)[face] * torch.tensor([-1.0, 1.0, 1.0])
    assert (normals * drawn.normals.movedim(1, -1)[face]).sum(-1).min() > 0.999


def test_agrees_with_the_control_images(head, monkeypatch):
    monkeypatch.setattr(control_surface, "STEP", math.inf)  # control images soften their edges
    plain = structure_map(head(5), head, None, 128, oversample=1)
    there = channel(plain, *list(PARTS)[1:]) == 1
    normals = control_image(None, "normal", 128, identity=5, head=head) * 2 - 1
    assert (plain[:, :3] - normals).abs().amax(1)[there].max() < 1e-5
    colours = torch.tensor(list(PARTS.values())) / 255
    labels = torch.cat([1 - plain[:, 4:-4].sum(1, keepdim=True), plain[:, 4:-4]], 1).argmax(1)
    assert torch.equal(colours[labels].movedim(-1, 1), control_image(None, "parts", 128, identity=5, head=head))


def creases(head, codes, look=None, size=128):
    mesh = head(7)  # the same for all: what changes is the relief alone
    return structure_map(mesh, head, [look or Appearance()], size, None, AUSet.parse(codes))[0, -3:]


@pytest.mark.parametrize("codes", ["1E+2E", "4E", "9E", "6E+12E", "15E+17E", "18E"])
def test_creases_are_those_that_the_renderer_presses(head, codes):
    mesh, look = head(7), Appearance(blur=0.0, noise=0.0, age_lines=0.0, hair_style="bald")
    levels = head.levels(AUSet.parse(codes))
    smooth, folded = (render(mesh, [look], Camera(128), pressed).image[0] for pressed in (None, levels))
    changed = (folded - smooth).abs().amax(0)
    relief = creases(head, codes, look).abs().amax(0)
    assert changed.max() > 0.03
    assert relief[changed > 0.02].min() > 0.005
    around = torch.nn.functional.max_pool2d(relief[None, None], 3, 1, 1)[0, 0]
    assert changed[around == 0].max() < 0.01


def test_creases_of_one_side_and_of_age(head):
    plain = Appearance(age_lines=0.0)
    left, right = (creases(head, codes, plain)[2] for codes in ("L12E", "R12E"))
    assert creases(head, "0", plain).abs().max() < 1e-6
    assert left[:, 64:].max() > 0.2 > left[:, :64].max()  # the person's left is on the picture's right
    assert torch.allclose(left.flip(1), right, atol=0.05)
    old = creases(head, "0", Appearance(age_lines=1.0))
    assert 0.05 < old[2].max() < creases(head, "1E+2E+4E")[2].max()


def test_relief_adds_to_the_normals_what_the_renderer_adds(head):
    image = structure_map(head(7), head, None, 256, None, AUSet.parse("4E"), oversample=1)[0]
    across = image[-3, 76:122, 114:141]  # between the brows: furrows that stand upright
    assert across.max() > 0.1
    assert across.min() < -0.1
    assert across.abs().mean() > 1.5 * image[-2, 76:122, 114:141].abs().mean()


def test_depth_is_the_same_in_all_images(head):
    """A nose that is nearer has a smaller value, whatever else the picture shows."""
    near, far = (structure_map(head(aus=AUSet.parse(text)), head, None)[:, 3] for text in ("57E", "58E"))
    assert -1 < near.min() < far.min() - 0.1
    assert far.max() == 1


def test_zero_is_neutral(head):
    zeros = torch.zeros(1, len(units.channels))
    assert torch.equal(structure_map(head(3, zeros), head, None, 64), structure_map(head(3), head, None, 64))


@pytest.mark.parametrize("change", [{"shift_x": 0.1}, {"shift_y": 0.1}, {"zoom": 1.1}])
def test_follows_the_appearances_camera(head, change):
    rest = structure_map(head(), head, [Appearance()], 64)
    assert torch.equal(rest, structure_map(head(), head, None, 64))
    assert (structure_map(head(), head, [Appearance(**change)], 64) - rest).abs().mean() > 0.005


def test_camera(head):
    close = structure_map(head(), head, None, 64, Camera(height=2.0))
    assert channel(close, "nose").sum() > 1.4 * channel(structure_map(head(), head, None, 64), "nose").sum()


def test_oversampling_softens_edges(head):
    hard, soft = (channel(structure_map(head(), head, None, 64, oversample=n), "nose") for n in (1, 3))
    assert set(hard.unique().tolist()) == {0, 1}
    assert 5 < len(soft.unique()) <= 10
    assert hard.sum() == pytest.approx(float(soft.sum()), rel=0.05)


def test_batch_does_not_matter(head, scene):
    mesh, looks, image, _ = scene
    alone = structure_map(head(IDS[2:3], SCORES[2], pose=POSE[2]), head, looks[2:3], 128)
    assert (alone - image[2:3]).abs().mean() < 1e-4


@pytest.mark.parametrize(("unit", "way"), [("61C", 1), ("62C", -1)])
def test_gaze_moves_the_iris(head, unit, way):
    """To the person's left is to the image's right, and the iris lies about the pupil."""

    def place(mesh):
        irises = channel(structure_map(mesh, head, None, 256), "iris")[0]
        irises = irises * torch.tensor([[0.0, 1.0]]).repeat_interleave(128, 1)  # the left eye
        return float((irises.sum(0) * (torch.arange(256) + 0.5)).sum() / irises.sum())

    rest, turned = head(), head(aus=AUSet.parse(unit))
    assert way * (place(turned) - place(rest)) > 3
    for mesh in (rest, turned):
        pupil = project_points(mesh.pupils, [Appearance()], Camera(256))[0, 1, 0]
        assert place(mesh) == pytest.approx(float(pupil), abs=2)


def test_the_iris_is_as_large_as_the_renderers(head):
    """At 512 pixels, an eye held wide open: the width of the dark disc in the picture."""
    aus, look = AUSet.parse("5E"), Appearance(iris=(0.0, 0.0, 0.0), noise=0.0, blur=0.0, key_softness=1.0)
    image = structure_map(head(aus=aus), head, [look], 512)
    drawn = render(head(aus=aus), [look], Camera(512))
    eye = (drawn.parts == RENDERED.index("left eye")) | (drawn.parts == RENDERED.index("right eye"))
    dark = eye & (drawn.image.mean(1) < 0.25)
    iris = channel(image, "iris") > 0.5
    assert overlap(iris, dark) > 0.75


def test_bad_maps(head):
    with pytest.raises(ValueError, match=r"2 appearances for 1 faces.*give one a face"):
        structure_map(head(), head, [Appearance()] * 2)
    with pytest.raises(ValueError, match="2 expressions for 1 faces"):
        structure_map(head(), head, None, levels=[SMILE, SMILE])
    with pytest.raises(ValueError, match=r"size 4: pixels in 8\.\.2048"):
        structure_map(head(), head, None, 4)
    with pytest.raises(ValueError, match=r"oversample 9: an integer in 1\.\.4"):
        structure_map(head(), head, None, oversample=9)


# Regions


@pytest.mark.parametrize("score", ["0", "12C", "27E+1B", "61D"])
def test_no_change_no_region(head, score):
    assert not mask(head, score, score).any()


def test_a_smile_leaves_the_brows(head):
    region = mask(head, "0", "12E")
    assert region.dtype == torch.bool
    assert region.shape == (1, 128, 128)
    assert within(head, region, "upper lip", "lower lip") > 0.9
    assert within(head, region, "right brow", "left brow") == 0
    assert region.float().mean() < 0.25


def test_raised_brows_leave_the_mouth(head):
    region = mask(head, "0", "1E+2E")
    assert within(head, region, "right brow", "left brow") > 0.95
    assert within(head, region, "upper lip", "lower lip") == 0


def test_a_gaze_changes_the_eyes_alone(head):
    region = mask(head, "0", "61E")
    assert within(head, region, "right eye", "left eye") > 0.9
    assert within(head, region, "lower lip", "nose") == 0


def test_a_turned_head_changes_all(head):
    assert within(head, mask(head, "0", "51E"), *list(PARTS)[1:-1]) > 0.9


def test_region_is_the_same_both_ways(head):
    assert torch.equal(mask(head, "12D", "27C"), mask(head, "27C", "12D"))


def test_what_opens_is_in_the_region(head):
    """Teeth that come to light and lips that cover them, though no skin need move there."""
    region = mask(head, "25B", "27E")
    opened = channel(structure_map(head(7, AUSet.parse("27E")), head, None), "lower teeth", "tongue") > 0.9
    assert region[opened].all()


def test_threshold(head):
    small, default, large = (float(mask(head, "0", "27E", t).float().sum()) for t in (0.1, None, 6.0))
    assert small > default > large > 0
    assert torch.equal(mask(head, "0", "12E", 0.5), mask(head, "0", "12E"))


def test_folds_count_though_nothing_moves(head):
    levels = [head.levels(AUSet.parse(text)) for text in ("0", "12E")]
    assert region_mask(head, *levels, head(), head(), None).any()


def test_bad_regions(head):
    one, mesh = head.levels(None), head()
    with pytest.raises(ValueError, match=r"threshold -1: pixels"):
        region_mask(head, one, one, mesh, mesh, None, threshold=-1)
    with pytest.raises(ValueError, match=r"threshold nan"):
        region_mask(head, one, one, mesh, mesh, None, threshold=math.nan)
    with pytest.raises(ValueError, match=r"batch sizes differ: 1 and 2 levels"):
        region_mask(head, one, one.expand(2, -1), mesh, mesh, None)
    with pytest.raises(ValueError, match=r"levels lie in 0\.\.5"):
        region_mask(head, one, one + 6, mesh, mesh, None)
    with pytest.raises(ValueError, match=r"size 5000"):
        region_mask(head, one, one, mesh, mesh, None, 5000)

"""The face renderer: the same seed gives the same picture, and every number shows."""

from __future__ import annotations

import json
from dataclasses import fields, replace

import pytest
import torch

from auface_diffusers.anatomy.appearance import HAIR_STYLES, Appearance
from auface_diffusers.anatomy.camera import Camera
from auface_diffusers.anatomy.head import HeadModel
from auface_diffusers.anatomy.render import PARTS, render, render_faces, sample_appearances
from auface_diffusers.anatomy.wrinkles import GROUPS, strengths
from auface_diffusers.facs import AUSet, units

LOOK = Appearance(freckles=0.4, age_spots=0.4, stubble=0.5, gray=0.3, noise=0.01, blur=0.5, hair_style="side part")


@pytest.fixture(scope="module")
def head() -> HeadModel:
    return HeadModel.from_default()


@pytest.fixture(scope="module")
def plain(head: HeadModel) -> torch.Tensor:
    return render_faces(head, size=96, attributes=LOOK, gaze=(0.0, 8.0))


@pytest.mark.parametrize("size", [128, 256, 512])
def test_sizes(head: HeadModel, size: int) -> None:
    image = render_faces(head, identity=3, aus=AUSet.parse("12C"), size=size)
    assert image.shape == (1, 3, size, size)
    assert image.dtype == torch.float32
    assert torch.isfinite(image).all()
    assert image.min() >= 0
    assert image.max() <= 1
    assert image.std() > 0.05


def test_same_seed_same_picture(head: HeadModel) -> None:
    arguments = {"identity": [1, 2], "aus": AUSet.parse("6C+12D"), "size": 64, "seed": 5}
    first = render_faces(head, **arguments)
    assert torch.equal(first, render_faces(head, **arguments))
    assert not torch.allclose(first, render_faces(head, **(arguments | {"seed": 6})), atol=0.02)


def test_batch_does_not_matter(head: HeadModel) -> None:
    both = render_faces(head, identity=[1, 2], size=64, seed=5)
    alone = render_faces(head, identity=[2], size=64, seed=5)
    assert (both[1:] - alone).abs().mean() < 0.01  # levels of detail follow the batch's mean zoom


def test_person_stays_across_seeds() -> None:
    first, second = (sample_appearances(7, seed, 1)[0] for seed in (1, 2))
    same = {name for name in ("melanin", "iris", "hair_style", "hair_color", "stubble", "brow_arch", "texture_seed")}
    assert all(getattr(first, name) == getattr(second, name) for name in same)
    assert first.key_azimuth != second.key_azimuth


def _other(look: Appearance, name: str) -> object:
    value = getattr(look, name)
    if isinstance(value, str):
        return {"hair_style": "long", "neckline": "v", "background": "room"}[name]
    if isinstance(value, tuple):
        return tuple(0.9 - 0.5 * x for x in value)
    if name == "texture_seed":
        return 12345
    return {"key_azimuth": -30.0, "key_elevation": 10.0, "warmth": -0.8, "noise": 0.1}.get(
        name, value + (0.4 if value <= 0.6 else -0.5)
    )


@pytest.mark.parametrize("name", [field.name for field in fields(Appearance)])
def test_every_field_shows(head: HeadModel, plain: torch.Tensor, name: str) -> None:
    changed = replace(LOOK, **{name: _other(LOOK, name)})
    image = render_faces(head, size=96, attributes=changed, gaze=(0.0, 8.0))
    assert (image - plain).abs().max() > 0.01


def test_appearance_survives_json() -> None:
    for seed in range(50):
        look = Appearance.sample(seed)
        assert Appearance.from_dict(json.loads(json.dumps(look.to_dict()))) == look
        assert Appearance.sample(seed) == look


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"melanin": 1.2}, "melanin"),
        ({"melanin": float("nan")}, "melanin"),
        ({"iris": (0.1, 0.2)}, "iris"),
        ({"hair_style": "mohawk"}, "hair_style"),
        ({"texture_seed": -1}, "texture_seed"),
        ({"shape": 1}, "not fields"),
    ],
)
def test_bad_appearance(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Appearance.from_dict(LOOK.to_dict() | change)


def test_zero_is_neutral(head: HeadModel, plain: torch.Tensor) -> None:
    zeros = torch.zeros(1, len(units.channels))
    assert torch.equal(render_faces(head, aus=zeros, size=96, attributes=LOOK, gaze=(0.0, 8.0)), plain)


@pytest.mark.parametrize("code", ["1", "2", "4", "6", "9", "10", "12", "14", "15", "17", "20"])
def test_wrinkles_grow_with_the_level(head: HeadModel, code: str) -> None:
    """On a mesh held still, so that only the skin's relief can change the picture."""
    mesh = head()
    change = []
    for level in (0.0, 1.0, 3.0, 5.0):
        levels = AUSet.parse(code + "C").vector()
        levels = torch.tensor([[level if value else 0.0 for value in levels]])
        change.append(render(mesh, [LOOK], Camera(128, height=2.4), levels).image)
    sizes = [(image - change[0]).abs().mean() for image in change]
    assert 0 == sizes[0] < sizes[1] < sizes[2] < sizes[3]


def test_wrinkles_take_sides() -> None:
    weights = torch.zeros(1, len(units.channels))
    weights[0, units.channels.index("L12")] = 1.0
    right, left = strengths(weights, torch.zeros(1))[0]
    fold = list(GROUPS).index("fold_lower")
    assert right[fold] == 0
    assert left[fold] > 0.9


@pytest.mark.parametrize("style", HAIR_STYLES)
def test_hair_leaves_the_brows_free(head: HeadModel, style: str) -> None:
    looks = [replace(LOOK, hair_style=style, hair_volume=1.0, zoom=1.0)]
    mesh = head()
    shown = render(mesh, looks, Camera(128))
    brows = Camera(128).project(mesh.landmarks68[:, 17:27])[0, :, :2].long()
    parts = shown.parts[0, brows[:, 1], brows[:, 0]]
    assert (parts == PARTS.index("skin")).all()
    assert ((shown.parts == PARTS.index("hair")).float().mean() > 0.01) == (style != "bald")


def test_rendering_describes_the_picture(head: HeadModel) -> None:
    shown = render(head(aus=AUSet.parse("27E+25E")), [LOOK], Camera(128))
    names = {PARTS[number] for number in shown.parts.unique().tolist()}
    assert names >= {"background", "skin", "left eye", "right eye", "upper teeth", "clothes", "hair"}
    solid = torch.isfinite(shown.depth)
    assert torch.allclose(shown.normals.norm(dim=1)[solid], torch.ones(()), atol=1e-4)
    assert (shown.normals.norm(dim=1)[~solid] == 0).all()


def test_bad_calls(head: HeadModel) -> None:
    with pytest.raises(ValueError, match="background"):
        render_faces(head, background="sea")
    with pytest.raises(ValueError, match="appearances"):
        render_faces(head, identity=[1, 2, 3], attributes=[LOOK, LOOK])
    with pytest.raises(ValueError, match="size"):
        render_faces(head, size=8)
    with pytest.raises(ValueError, match="levels"):
        render(head(), [LOOK], levels=torch.full((1, len(units.channels)), 6.0))

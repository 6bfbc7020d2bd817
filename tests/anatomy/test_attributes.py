"""Attributes: as columns for a network, and as words that a user may say."""

from dataclasses import fields, replace

import pytest
import torch

from auface_diffusers.anatomy import (
    ATTRIBUTE_NAMES,
    ATTRIBUTE_SIZE,
    Appearance,
    attribute_vector,
    render_faces,
    resolve_attributes,
)
from auface_diffusers.anatomy.appearance import _CHOICES, BACKGROUNDS, HAIR_STYLES
from auface_diffusers.anatomy.head import HeadModel
from auface_diffusers.anatomy.identity import PHENOTYPE, identity_codes
from auface_diffusers.anatomy.people import KEYS, _tables
from auface_diffusers.anatomy.render import sample_appearances

CODES = identity_codes([11, 12])
FIELDS = [field.name for field in fields(Appearance)]
OTHER = {"key_azimuth": -30.0, "hair_style": "bun", "neckline": "v", "background": "room", "texture_seed": 9}


def other(name):
    value = getattr(Appearance(), name)
    if isinstance(value, tuple):
        return tuple(0.9 - 0.5 * x for x in value)
    if name in OTHER:
        return OTHER[name]
    return value + (0.1 if name in ("noise", "shift_x", "shift_y") else 0.3)


def resolved(**attributes):
    return resolve_attributes(CODES, attributes, scene_seed=4)


def look(**attributes):
    return resolved(**attributes).appearances[0]


# The vector


def test_samples_are_well_spread():
    values = attribute_vector([Appearance.sample(seed) for seed in range(300)])
    assert values.shape == (300, ATTRIBUTE_SIZE)
    assert values.dtype == torch.float32
    assert values.abs().max() <= 1 + 1e-5
    assert (values.std(0) > 0.09).all()
    assert {name for name, all_same in zip(ATTRIBUTE_NAMES, values.std(0) < 1e-3, strict=True) if all_same} == set()


def test_names_are_unique_and_follow_the_fields():
    assert len(set(ATTRIBUTE_NAMES)) == len(ATTRIBUTE_NAMES) == ATTRIBUTE_SIZE
    order = list(dict.fromkeys(name.split("=")[0].split(".")[0] for name in ATTRIBUTE_NAMES))
    assert order == [name for name in FIELDS if name != "texture_seed"]


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_changes_its_columns_alone(name):
    first, second = attribute_vector([Appearance(), replace(Appearance(), **{name: other(name)})])
    changed = {column for column, same in zip(ATTRIBUTE_NAMES, first == second, strict=True) if not same}
    assert {column.split("=")[0].split(".")[0] for column in changed} == ({name} - {"texture_seed"})


def test_columns_are_read_back_in_order():
    at = {name: index for index, name in enumerate(ATTRIBUTE_NAMES)}
    looks = [Appearance.sample(seed) for seed in range(20)]
    for values, one in zip(attribute_vector(looks).tolist(), looks, strict=True):
        assert values[at["melanin"]] == pytest.approx(2 * one.melanin - 1, abs=1e-6)
        assert values[at["brow_arch"]] == pytest.approx(one.brow_arch, abs=1e-6)
        assert values[at["zoom"]] * 0.11 + 1.01 == pytest.approx(one.zoom, abs=1e-6)
        color = [(values[at[f"iris.{channel}"]] + 1) / 2 for channel in ("red", "green", "blue")]
        assert color == pytest.approx(one.iris, abs=1e-6)
        for name, choices in _CHOICES.items():
            hot = [values[at[f"{name}={choice}"]] for choice in choices]
            assert hot == [float(choice == getattr(one, name)) for choice in choices]


def test_extremes_exceed_the_spread():
    assert attribute_vector([Appearance(zoom=2.0)])[0, ATTRIBUTE_NAMES.index("zoom")] > 5


def test_spread_names_fields():
    assert set(_tables()["spread"]) <= set(FIELDS)


def test_no_appearances():
    assert attribute_vector([]).shape == (0, ATTRIBUTE_SIZE)


def test_vector_of_something_else():
    with pytest.raises(ValueError, match=r"'short' is no Appearance"):
        attribute_vector(["short"])


# What a user says


def test_nothing_said_is_the_sampled_person():
    for attributes in (None, {}, [None, {}]):
        result = resolve_attributes(CODES, attributes, scene_seed=4)
        assert result.appearances == sample_appearances(CODES, 4, 2)
        assert torch.equal(result.codes, CODES)
        assert not result.pose.any()
        assert not result.gaze.any()
        assert result.pose.shape == (2, 3)
        assert result.gaze.shape == (2, 2)


def test_a_seed_is_the_person_of_its_code():
    seeds = [11, 12]
    assert sample_appearances(seeds, 4, 2) == sample_appearances(identity_codes(seeds), 4, 2)
    assert sample_appearances(11, 4, 1) == sample_appearances(seeds, 4, 2)[:1]


def test_scene_seed_changes_the_scene_alone():
    first, second = (resolve_attributes(CODES, {"hair": "bun"}, seed).appearances[0] for seed in (1, 2))
    assert first.key_azimuth != second.key_azimuth
    assert first.melanin == second.melanin


def test_an_appearance_is_taken_as_it_is():
    mine = Appearance(melanin=0.9)
    assert resolve_attributes(CODES, mine).appearances == [mine, mine]
    assert resolve_attributes(CODES, [None, mine]).appearances[1] == mine


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_may_be_given(name):
    assert getattr(look(**{name: other(name)}), name) == other(name)


@pytest.mark.parametrize(("years", "age"), [(18, 0.0), (54, 0.5), (90, 1.0)])
def test_age(years, age):
    result = resolved(age=years)
    assert result.codes[:, PHENOTYPE.index("age")].tolist() == [age, age]
    assert torch.equal(result.codes[:, 2:], CODES[:, 2:])
    assert CODES[0, 1] not in (0.0, 0.5, 1.0)  # the caller's codes stay


def test_age_shows_in_the_skin():
    assert look(age=85).age_lines > look(age=20).age_lines


@pytest.mark.parametrize(("given", "gender"), [("female", 0.0), ("Male", 1.0), (0.25, 0.25), (1, 1.0)])
def test_gender(given, gender):
    assert resolved(gender=given).codes[:, PHENOTYPE.index("gender")].tolist() == [gender, gender]


def test_skin():
    names = ("fair", "light", "medium", "olive", "brown", "dark")
    tones = [look(skin=name).melanin for name in names]
    assert tones == sorted(set(tones))
    assert tuple(_tables()["skin"]) == names
    assert look(skin=0.33).melanin == 0.33
    assert look(skin="olive").warm_skin == 0.95


@pytest.mark.parametrize("style", HAIR_STYLES)
def test_hair_styles(style):
    assert look(hair=style).hair_style == style
    assert look(hair=style).hair_color == look().hair_color


@pytest.mark.parametrize("color", list(_tables()["hair_colors"]))
def test_hair_colors(color):
    row = _tables()["hair_colors"][color]
    for text in (color, f"side part {color}", f"{color.title()}, curly hair"):
        said = look(hair=text)
        assert said.hair_color == tuple(row["hair_color"])
        assert said.gray == row["gray"]
    assert look(hair=color).hair_style == look().hair_style


@pytest.mark.parametrize("word", list(_tables()["light"]))
def test_light(word):
    row = _tables()["light"][word]
    assert {name: getattr(look(light=word), name) for name in row} == row
    assert row.items() - {name: getattr(look(), name) for name in row}.items()


def test_light_words_add_up():
    said = look(light="hard, left top  warm")
    assert (said.key_softness, said.key_azimuth, said.key_elevation, said.warmth) == (0.0, 60.0, 75.0, 0.8)


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_background_names(name):
    assert look(background=name).background == name
    assert look(background=name).background_color == look().background_color


@pytest.mark.parametrize("color", list(_tables()["background_colors"]))
def test_background_colors(color):
    said = look(background=color)
    assert (said.background, said.background_color) == ("plain", tuple(_tables()["background_colors"][color]))


def test_background_hex():
    said = look(background="#FF8000")
    assert (said.background, said.background_color) == ("plain", (1.0, 128 / 255, 0.0))


def test_head_pose_and_gaze():
    result = resolved(head_pose=(20, -5, 3), gaze=[10, -4])
    assert result.pose.tolist() == [[20, -5, 3]] * 2
    assert result.gaze.tolist() == [[10, -4]] * 2


def test_of_a_field_and_a_word_the_later_counts():
    assert look(hair_color=(0.9, 0.1, 0.1), hair="black").hair_color == look(hair="black").hair_color
    said = look(hair="gray bun", gray=0.2, light="warm", warmth=0.1, background="blue", background_color=(0, 1, 0))
    assert (said.gray, said.warmth, said.background_color) == (0.2, 0.1, (0, 1, 0))
    assert said.hair_style == "bun"


def test_one_each():
    result = resolve_attributes(CODES, [{"hair": "bald"}, {"age": 90}])
    assert result.appearances[0].hair_style == "bald"
    assert result.codes[0, 1] == CODES[0, 1] != 1
    assert result.codes[1, 1] == 1


@pytest.mark.parametrize(
    ("key", "one", "two"),
    [
        ("age", 20, 88),
        ("gender", "female", "male"),
        ("skin", "fair", "dark"),
        ("hair", "bald", "long blond"),
        ("light", "left", "right"),
        ("background", "red", "#3050ff"),
        ("head_pose", (0, 0, 0), (25, 0, 0)),
        ("gaze", (-20, 0), (20, 0)),
    ],
)
def test_every_key_shows(key, one, two):
    head = HeadModel.from_default()

    def picture(value):
        codes, looks, pose, gaze = resolve_attributes(CODES[:1], {key: value})
        return render_faces(head, identity=codes, size=64, attributes=looks, pose=pose, gaze=gaze)

    assert key in KEYS
    assert (picture(one) - picture(two)).abs().max() > 0.1


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"hat": 1, "hair": "bun"}, r"unknown attributes: hat; there are age, gender, .*melanin"),
        ({"age": 12}, r"age 12: give a number in 18\.\.90 years"),
        ({"age": "old"}, r"age 'old'"),
        ({"age": float("nan")}, r"age nan"),
        ({"age": True}, r"age True"),
        ({"gender": "x"}, r"gender 'x': one of female, male"),
        ({"gender": 1.5}, r"gender 1\.5: give a number in 0\.\.1, or female or male"),
        ({"skin": "green"}, r"skin 'green': one of fair, light"),
        ({"skin": 2}, r"skin 2: give a number in 0\.\.1, or one of fair"),
        ({"hair": "short pink"}, r"'pink' is unknown; there are styles bald, .*; colours black, dark brown"),
        ({"hair": "short long"}, r"'long' contradicts"),
        ({"hair": ""}, r"hair '': give a text"),
        ({"hair": 3}, r"hair 3: give a text"),
        ({"hair": "hair"}, r"hair 'hair': give a text"),
        ({"light": "left sunny"}, r"'sunny' is unknown; there are soft, hard"),
        ({"light": "left right"}, r"'right' contradicts"),
        ({"background": "sea"}, r"background 'sea': one of plain, .*a colour black, .*#rrggbb"),
        ({"background": "#12345"}, r"background '#12345'"),
        ({"background": 5}, r"background 5"),
        ({"head_pose": (1, 2)}, r"head_pose .*give 3 angles"),
        ({"head_pose": "left"}, r"head_pose 'left': give 3 angles"),
        ({"gaze": (100, 0)}, r"gaze 100: angles lie in -90\.\.90"),
        ({"gaze": [[1, 2], [3, 4]]}, r"gaze \(2, 2\): give 2 angles"),
        ({"melanin": 3}, r"melanin 3: a number in 0\.\.1"),
    ],
)
def test_bad_words(said, message):
    with pytest.raises(ValueError, match=message):
        resolve_attributes(CODES, said)


def test_bad_batches():
    with pytest.raises(ValueError, match=r"3 attributes for 2 people"):
        resolve_attributes(CODES, [None] * 3)
    with pytest.raises(ValueError, match=r"attributes 'bun': give an Appearance"):
        resolve_attributes(CODES, "bun")
    with pytest.raises(ValueError, match=r"attributes 3: give an Appearance, a mapping or None"):
        resolve_attributes(CODES, [3, None])
    with pytest.raises(ValueError, match=r"identity code \(2, 3\)"):
        resolve_attributes(torch.zeros(2, 3))

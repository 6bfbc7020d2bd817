"""What the generating and editing nodes ask the pipelines for, with real pipelines of toy size and without ComfyUI."""

import pytest
import torch
from toy_pipeline import toy_estimator, toy_pipeline

from auface_diffusers import VQAUFaceEditPipeline
from auface_diffusers.anatomy import appearance, resolve_attributes
from auface_diffusers.anatomy.identity import neutral_code
from auface_diffusers.anatomy.tables import table
from comfyui_auface import editing, generating
from comfyui_auface.expression import Expression
from comfyui_auface.generating import ANY, People, Wish, attributes_of, check_light, check_prompt, draw

SMILE, TWO = Expression.parse("6C+12D"), Expression.parse("0\n12E+26D")
PLAIN = {"expression": SMILE, "prompt": "", "avoid": None, "identity": 7, "attributes": {}, "batch": "same scene"}
PLAIN |= {"copies": 1, "steps": 0, "guidance": 0.0, "seed": 3}
LOOK = {"age": 0, "gender": ANY, "skin": ANY, "hair_style": ANY, "hair_color": ANY, "light": "", "background": ANY}
LOOK |= {"pose": (0, 0, 0), "gaze": (0, 0)}


@pytest.fixture(scope="module")
def pipe():
    return toy_pipeline()


def wish(**changes):
    return Wish(**(PLAIN | changes))


def images(pipe, **changes):
    return draw(pipe, wish(**changes)).images


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_zero_takes_the_models_own_steps_and_guidance(pipe):
    own = pipe(aus="6C+12D", identity=7, seed=[3], output_type="pt").images
    assert torch.equal(images(pipe), own)
    assert not torch.equal(images(pipe, steps=5), own)
    assert not torch.equal(images(pipe, guidance=1.0), own)


def test_a_batch_has_one_scene_or_one_each(pipe):
    same, own = (draw(pipe, wish(expression=TWO, batch=batch)) for batch in ("same scene", "own scenes"))
    assert same.appearances[0] == same.appearances[1]
    assert own.appearances[0] != own.appearances[1]
    assert torch.equal(same.codes[0], own.codes[0])
    assert torch.equal(own.codes[1:], draw(pipe, wish(expression=Expression.parse("12E+26D"), seed=4)).codes)


def test_a_film_keeps_what_does_not_move(pipe):
    film = draw(pipe, wish(expression=TWO, batch="film"))
    assert torch.equal(film.images, pipe.sequence(list(TWO), identity=7, seed=3, output_type="pt").images)
    assert not film.edited[1].all()


def test_copies_count_the_seed_on(pipe):
    out = draw(pipe, wish(expression=TWO, copies=2))
    assert [aus.format() for aus in out.aus] == ["0", "0", "12E+26D", "12E+26D"]
    assert out.appearances[0] == out.appearances[2] != out.appearances[1] == out.appearances[3]
    assert wish(expression=TWO, copies=2).seeds() == [3, 4, 3, 4]


def test_a_new_person_comes_with_the_seed(pipe):
    first, second = (draw(pipe, wish(identity=generating.NEW_PERSON, seed=seed)).identity for seed in (3, 4))
    assert not torch.equal(first, second)
    assert torch.equal(draw(pipe, wish(seed=3)).identity, draw(pipe, wish(seed=4)).identity)


def test_a_prompt_is_codes_or_text(pipe):
    assert draw(pipe, wish(expression=None, prompt="6C+12D")).aus[0].format() == "6C+12D"
    with generating.heard() as notes:
        out = draw(pipe, wish(expression=None, prompt="a grin, quite big"))
    assert out.texts == ["a grin, quite big"]
    assert len(notes) == 1  # what it understood
    assert "a grin" in notes[0]


def test_avoid_and_attributes_reach_the_pipeline(pipe):
    assert not torch.equal(images(pipe, avoid=SMILE), images(pipe))
    out = draw(pipe, wish(attributes={"background": "room"}))
    assert out.appearances[0].background == "room"


class Called:
    def __init__(self):
        self.previews = []

    def __call__(self, pipe, step, timestep, tensors):
        self.previews.append(tensors["preview"])
        self.structure = tensors["structure"]
        return {}


def test_the_callback_gets_previews_in_as_many_rounds_as_are_told(pipe):
    for changes in ({"copies": 20}, {"expression": TWO, "batch": "film"}):
        called = Called()
        draw(pipe, wish(**changes), called)
        assert len(called.previews) == wish(**changes).rounds * pipe.config["num_inference_steps"]
        assert called.structure is not None
        assert called.previews[0].max() < pipe.transformer.mask_token_id


def test_the_pictures_are_comfyuis():
    made = generating.to_comfy(torch.zeros(2, 3, 8, 8, dtype=torch.float16))
    assert made.shape == (2, 8, 8, 3)
    assert made.dtype == torch.float32
    assert made.is_contiguous()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"expression": None}, "nothing to draw: connect an expression, or write a prompt"),
        ({"expression": TWO, "prompt": "smiling"}, "one prompt for the 2 expressions of a batch"),
        ({"copies": 5000}, "at most 4096 faces"),
        ({"batch": "film", "copies": 2}, "a film has one face a frame"),
        ({"expression": TWO, "avoid": Expression.parse("0\n0\n0")}, "avoid has 3 expressions and there are 2"),
        ({"batch": "film", "avoid": SMILE}, "avoid has no effect in a film"),
        ({"guidance": 1.0, "avoid": SMILE}, "avoid has no effect at guidance 1"),
        ({"batch": "both"}, "batch 'both' is unknown"),
    ],
)
def test_wishes_that_cannot_be_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        wish(**changes)


def test_prompt_and_expression_have_to_agree():
    check_prompt(SMILE, "")
    check_prompt(TWO, "anything")  # refused elsewhere
    text = "The lip corners are strongly pulled up and back, lifting the cheeks."
    with pytest.raises(ValueError, match="prompt and expression differ: .*connect the text of this expression"):
        check_prompt(Expression.parse("4C"), text)


# --- people ----------------------------------------------------------------------------------------------------------


def test_nothing_said_is_no_attribute():
    assert attributes_of(**LOOK) == {}


@pytest.mark.parametrize(
    ("changes", "given"),
    [
        ({"age": 40}, {"age": 40}),
        ({"gender": "female"}, {"gender": "female"}),
        ({"skin": "olive"}, {"skin": "olive"}),
        ({"hair_style": "long"}, {"hair": "long"}),
        ({"hair_style": "side part", "hair_color": "light brown"}, {"hair": "side part light brown"}),
        ({"light": " soft, left "}, {"light": "soft, left"}),
        ({"background": "blue"}, {"background": "blue"}),
        ({"pose": (20, 0, 0)}, {"head_pose": (20, 0, 0)}),
        ({"gaze": (0, -5)}, {"gaze": (0, -5)}),
    ],
)
def test_what_is_said_is_what_the_library_takes(changes, given):
    made = attributes_of(**(LOOK | changes))
    assert made == given
    resolve_attributes(neutral_code()[None], made)  # raises if it does not


def test_words_are_those_of_the_library():
    words = table("attributes.toml")
    assert set(generating.SKINS) == set(words["skin"])
    assert set(generating.GENDERS) == set(words["gender"])
    assert set(generating.HAIR_COLORS) == set(words["hair_colors"]) - {"blonde", "grey"}  # spellings of others
    assert set(generating.COLORS) == set(words["background_colors"]) - {"grey"}
    assert (*generating.AGES,) == (words["age"]["young"], words["age"]["old"])
    assert generating.HAIR_STYLES == appearance.HAIR_STYLES
    assert generating.BACKGROUNDS == appearance.BACKGROUNDS


def test_unknown_words_are_refused():
    with pytest.raises(ValueError, match="age 5: give 18 to 90 years, or 0"):
        attributes_of(**(LOOK | {"age": 5}))
    with pytest.raises(ValueError, match="skin 'green' is unknown; choose any, fair"):
        attributes_of(**(LOOK | {"skin": "green"}))
    check_light("warm, top")
    with pytest.raises(ValueError, match="'moon' is unknown; there are soft, hard"):
        check_light("moon")


# --- edits -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def edit_pipe(pipe):
    return VQAUFaceEditPipeline.from_pipe(pipe, estimator=toy_estimator())


def test_people_bring_the_person_and_what_they_show(pipe, edit_pipe):
    out = draw(pipe, wish(expression=TWO))
    people = People.of(out)
    assert len(people) == 2
    told = {"identity": out.identity, "attributes": out.attributes, "source_aus": out.aus}
    wanted = edit_pipe(out.images, "4D", **told, seed=[0, 0], output_type="pt")
    four = Expression.parse("4D")
    made = editing.edit(edit_pipe, out.images, four, None, people, None, seed=[0, 0])
    assert torch.equal(made.images, wanted.images)
    other = editing.edit(edit_pipe, out.images, four, Expression.parse("12E"), people, None, seed=[0, 0])
    assert not torch.equal(made.edited, other.edited)  # the source counts more than what people say
    masks = editing.drawn_mask(made)
    assert masks.shape == made.images.shape[:1] + made.images.shape[2:]
    assert 0 < masks.mean() < 1


def test_a_mask_says_where(pipe, edit_pipe):
    out = draw(pipe, wish())
    mask = torch.zeros(64, 64)
    mask[32:] = 1
    masks = editing.check_mask(mask, out.images, 1)
    made = editing.edit(edit_pipe, out.images, SMILE, None, People.of(out), masks, seed=[0])
    assert torch.equal(editing.drawn_mask(made)[0], mask)


def test_pictures_come_in_as_comfyui_has_them():
    image = torch.rand(2, 64, 64, 3) * 1.2 - 0.1
    before = image.clone()
    made = editing.check_image(image)
    assert made.shape == (2, 3, 64, 64)
    assert made.min() >= 0
    assert made.max() <= 1
    assert torch.equal(image, before)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (torch.zeros(1, 48, 64, 3), "image is 64 x 48 pixels: it has to be square, at least 32 x 32; crop it"),
        (torch.zeros(1, 16, 16, 3), "image is 16 x 16"),
        (torch.zeros(1, 64, 64, 4), "image has 4 channels: give RGB"),
        (torch.full((1, 64, 64, 3), torch.nan), "no numbers"),
    ],
)
def test_pictures_that_are_no_faces_are_refused(image, said):
    with pytest.raises(ValueError, match=said):
        editing.check_image(image)


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        (torch.ones(1, 32, 64), "mask is 64 x 32 pixels and image 64 x 64"),
        (torch.zeros(1, 64, 64), "mask is empty"),
        (torch.ones(3, 64, 64), "mask has 3 masks for 2 faces"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask, said):
    with pytest.raises(ValueError, match=said):
        editing.check_mask(mask, torch.zeros(2, 3, 64, 64), 2)


def test_batches_go_together():
    image = torch.zeros(3, 3, 64, 64)
    assert editing.count_faces(image, SMILE, None, None) == 3
    assert editing.count_faces(image[:1], TWO, SMILE, None) == 2
    with pytest.raises(ValueError, match="batches differ: image has 3, expression has 2; give one of each"):
        editing.count_faces(image, TWO, None, None)

"""Drawing faces: every option does something, and a face depends on nothing but its own arguments."""

import warnings

import numpy as np
import pytest
import torch

from auface_diffusers.anatomy import ATTRIBUTE_SIZE, STRUCTURE_CHANNELS, sample_identity
from auface_diffusers.facs import AUSet, describe, resolve
from auface_diffusers.models import FaceTokenizer, FaceTransformer
from auface_diffusers.pipelines import people, steps
from auface_diffusers.pipelines.chunks import in_chunks

SIZE = 64
SURPRISE = "1C+2C+5B+26C"
BASE = {"identity": 7, "seed": 0, "output_type": "latent"}


def codes(pipe, *args, **options):
    return pipe(*args, **{**BASE, **options}).codes


def test_output(pipe):
    said = pipe([SURPRISE, "12D"], identity=[1, 2], seed=0)
    assert [image.size for image in said.images] == [(SIZE, SIZE)] * 2
    assert said.aus == [AUSet.parse(SURPRISE), AUSet.parse("12D")]
    assert said.texts == [describe(text).text for text in (SURPRISE, "12D")]
    assert said.structure.shape == (2, len(STRUCTURE_CHANNELS), SIZE, SIZE)
    assert said.codes.shape == (2, 8, 8, 2)
    assert torch.equal(said.identity, torch.stack([sample_identity(1), sample_identity(2)]))
    assert said.edited.all()
    assert len(said.appearances) == len(said.traces) == 2


def test_a_model_of_fewer_map_channels_draws_as_before(pipe):
    """Later versions of `structure_map` draw more channels, after those that a model was trained on."""
    few = pipe.transformer.config["structure_channels"] - 3
    old = FaceTransformer.from_config(pipe.transformer.config, structure_channels=few)
    state = pipe.transformer.state_dict()
    pipe.transformer.structure.stem.weight.data[:, few:] = 0  # blind to the new ones
    old.load_state_dict(state | {"structure.stem.weight": state["structure.stem.weight"][:, :few]})
    blind = codes(pipe, SURPRISE)
    pipe.transformer = old
    assert torch.equal(codes(pipe, SURPRISE), blind)


def test_creases_reach_transformer_and_decoder(pipe):
    map_ = pipe(["4E", "0"], **BASE).structure
    assert map_[0, -1].amax() > 0.2 > map_[1, -1].amax()
    plain, with_map = pipe.decode(codes(pipe, "4E")), pipe.decode(codes(pipe, "4E"), map_[:1])
    assert not torch.equal(plain, with_map)
    flat = map_[:1].clone()
    flat[:, -3:] = 0  # without the creases
    assert not torch.equal(pipe.decode(codes(pipe, "4E"), flat), with_map)
    pictures = {"identity": 7, "seed": 0, "output_type": "pt", "structure_guidance_scale": 0.0}
    without = pipe("4E", **pictures)
    assert torch.equal(without.images, pipe.decode(without.codes))


def test_a_decoder_of_codes_alone_goes_without_maps(pipe):
    config = {**pipe.face_tokenizer.config, "structure_channels": 0}
    alone = FaceTokenizer.from_config(config)
    alone.load_state_dict(pipe.face_tokenizer.state_dict(), strict=False)
    pipe.face_tokenizer = alone.eval()
    said = pipe("4E", identity=7, seed=0, output_type="pt")
    assert said.structure.shape[1] == len(STRUCTURE_CHANNELS)  # the transformer's
    assert torch.equal(said.images, pipe.decode(said.codes))


def test_output_types_are_one_picture(pipe):
    as_pt = pipe(SURPRISE, identity=7, seed=0, output_type="pt").images
    as_np = pipe(SURPRISE, identity=7, seed=0, output_type="np").images
    as_pil = pipe(SURPRISE, identity=7, seed=0).images
    latent = pipe(SURPRISE, **BASE).images
    assert as_pt.shape == (1, 3, SIZE, SIZE)
    assert as_np.shape == (1, SIZE, SIZE, 3)
    assert np.array_equal(as_np, as_pt.permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.asarray(as_pil[0]), (as_np[0] * 255).round().astype("uint8"))
    said = pipe(SURPRISE, **BASE)
    assert torch.equal(pipe.decode(latent, said.structure), as_pt)
    assert torch.equal(pipe(SURPRISE, **BASE, return_dict=False)[0], latent)


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},
        {"identity": 8},
        {"identity": sample_identity(8)},
        {"attributes": {"age": 80, "background": "blue"}},
        {"attributes": {"head_pose": (30, 0, 0)}},
        {"attributes": {"gaze": (25, 0)}},
        {"guidance_scale": 1.0},
        {"guidance_scale": 4.0},
        {"text_guidance_scale": 3.0},
        {"structure_guidance_scale": 3.0},
        {"identity_guidance_scale": 3.0},
        {"negative_aus": "12E"},
        {"negative_prompt": "a broad smile"},
        {"num_inference_steps": 6},
        {"temperature": 0.0},
        {"temperature": (3.0, 0.1)},
        {"top_k": 1},
        {"top_p": 0.2},
        {"choice_temperature": 20.0},
    ],
    ids=str,
)
def test_every_option_changes_the_face(pipe, options):
    assert not torch.equal(codes(pipe, SURPRISE), codes(pipe, SURPRISE, **options))


def test_guidance_is_the_sum_it_promises(pipe):
    from auface_diffusers.pipelines.guidance import Guidance

    faces = people.prepare_faces(
        pipe.encode_expressions(SURPRISE), pipe.encode_expressions("12E"), 7, None, people.face_draws(None, 0, 1), 1
    )
    structure = pipe.prepare_structure(faces, faces.expressions)
    start = pipe.prepare_codes(1)

    def logits(guidance, some=faces):
        conditions = pipe.prepare_conditions(some, structure, guidance)
        many = start.repeat(len(conditions.weights), 1)
        with torch.no_grad():
            return conditions.combine(pipe.transformer(many, **conditions.tensors, dropped=conditions.dropped))

    plain = logits(Guidance())
    for scale, weight in ((2.0, 1.0), (3.0, 2.0), (0.0, -1.0)):
        at_two = logits(Guidance(identity_guidance_scale=2.0)) - plain
        torch.testing.assert_close(
            logits(Guidance(identity_guidance_scale=scale)), plain + weight * at_two, atol=1e-4, rtol=1e-4
        )
    negative = people.Faces(**{**vars(faces), "expressions": faces.negatives, "negatives": ()})
    away = pipe.prepare_structure(negative, negative.expressions)
    conditions = pipe.prepare_conditions(negative, away, Guidance())
    with torch.no_grad():
        other = conditions.combine(pipe.transformer(start, **conditions.tensors))
    torch.testing.assert_close(logits(Guidance(3.0)), plain + 2 * (plain - other), atol=1e-4, rtol=1e-4)
    assert len(pipe.prepare_conditions(faces, structure, Guidance()).weights) == 1
    assert len(pipe.prepare_conditions(faces, structure, Guidance(2.0, 2.0, 2.0, 2.0)).weights) == 5


def test_a_score_reads_the_same_however_it_is_given(pipe):
    score = AUSet.parse(SURPRISE)
    text = describe(score).text
    wanted = codes(pipe, SURPRISE)
    assert torch.equal(codes(pipe, score), wanted)
    assert torch.equal(codes(pipe, aus=SURPRISE), wanted)
    assert torch.equal(codes(pipe, aus=score, prompt=text), wanted)
    assert torch.equal(codes(pipe, prompt=text), wanted)
    assert torch.equal(codes(pipe, text), wanted)


def test_a_face_does_not_depend_on_its_batch(pipe):
    many = [SURPRISE, "12D+6C", "4D", describe("15C+17B").text]
    together = codes(pipe, many, seed=[5, 6, 7, 8], identity=[1, 2, 3, 4])
    for row, text in enumerate(many):
        assert torch.equal(codes(pipe, text, seed=[5 + row], identity=row + 1)[0], together[row])


def test_one_generator_draws_different_faces_the_first_as_for_one(pipe):
    together = codes(pipe, [SURPRISE] * 3)
    assert torch.equal(together[0], codes(pipe, SURPRISE)[0])
    assert not torch.equal(together[0], together[1])
    again = codes(pipe, [SURPRISE] * 3, seed=None, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again, together)
    assert torch.equal(codes(pipe, SURPRISE, num_images_per_prompt=3), together)


def test_a_seed_and_its_code_are_one_person(pipe):
    by_seed, by_code = (pipe(SURPRISE, seed=3, identity=who, output_type="latent") for who in (7, sample_identity(7)))
    assert torch.equal(by_seed.codes, by_code.codes)
    assert by_seed.appearances == by_code.appearances


def test_what_is_given_back_draws_the_same_again(pipe):
    first = pipe(SURPRISE, seed=3, attributes={"head_pose": (20, 5, 0), "age": 70}, output_type="latent")
    again = pipe(SURPRISE, seed=3, identity=first.identity, attributes=first.attributes, output_type="latent")
    assert torch.equal(again.codes, first.codes)
    assert again.appearances == first.appearances
    assert len(first.appearances) == 1
    assert ATTRIBUTE_SIZE > 0


def test_without_seed_or_identity_faces_differ_but_follow_the_global_seed(pipe):
    torch.manual_seed(1)
    first = pipe(SURPRISE, output_type="latent")
    second = pipe(SURPRISE, output_type="latent")
    torch.manual_seed(1)
    assert torch.equal(pipe(SURPRISE, output_type="latent").codes, first.codes)
    assert not torch.equal(first.identity, second.identity)


def test_naming_the_person_changes_nothing_else(pipe):
    drawn = people.face_draws(None, 11, 1)[0]
    unnamed, named = (pipe(SURPRISE, seed=11, identity=who, output_type="latent") for who in (None, drawn.person))
    assert torch.equal(unnamed.codes, named.codes)


def test_empty_scores_are_a_neutral_face(pipe):
    neutral = pipe(AUSet(), **BASE)
    assert neutral.aus == [AUSet()]
    assert torch.equal(neutral.codes, codes(pipe, "0"))
    assert not torch.equal(neutral.codes, codes(pipe, SURPRISE))


def test_contradictions_are_resolved_and_told(pipe):
    said = pipe("43E+5C", **BASE)
    assert said.aus[0] == resolve(AUSet.parse("43E+5C")).effective
    assert said.traces[0] == resolve(AUSet.parse("43E+5C")).trace


def test_one_side_is_drawn_left(pipe):
    assert pipe("U12C", **BASE).aus == [AUSet.parse("L12C")]


def test_prompt_that_disagrees(pipe):
    with pytest.raises(ValueError, match=r"says 6C\+12D and aus 4C"):
        pipe(aus="4C", prompt=describe("12D+6C").text)
    with pytest.warns(UserWarning, match="seems to say 12, which aus 4C lacks"):
        said = pipe(aus="4C", prompt="she smiles", **BASE)
    assert said.aus == [AUSet.parse("4C")]
    assert said.texts == ["she smiles"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe(aus="12D", prompt="she smiles", **BASE)


def test_free_text(pipe):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        said = pipe("smiling with raised brows", **BASE)
    assert said.aus == [AUSet.parse("1+2+12")]
    with pytest.warns(UserWarning, match="the text model reads .* from 'a purple elephant dances'"):
        said = pipe("a purple elephant dances", **BASE)
    assert said.texts == ["a purple elephant dances"]
    with pytest.warns(UserWarning, match="the prompt is too long"):
        pipe("smiling " * 200, **BASE)


def test_callback_sees_and_changes_every_step(pipe):
    seen = []

    def look(owner, step, timestep, tensors):
        assert owner is pipe
        seen.append((step, timestep, int((tensors["codes"] == 16).sum()), sorted(tensors)))
        assert tensors["preview"].max() < 16

    pipe(SURPRISE, **BASE, callback_on_step_end=look, callback_on_step_end_tensor_inputs=["codes", "preview"])
    assert [one[:2] for one in seen] == [(0, 2), (1, 1), (2, 0)]
    assert seen[0][2] > seen[1][2] > seen[2][2] == 0
    assert seen[0][3] == ["codes", "preview"]

    def change(owner, step, timestep, tensors):
        return {"codes": torch.zeros_like(tensors["codes"])} if step == 2 else None

    assert not codes(pipe, SURPRISE, callback_on_step_end=change).any()


def test_a_callback_can_paint_what_is_there(pipe):
    seen = []

    def look(owner, step, timestep, tensors):
        seen.append(owner.decode(tensors["preview"], tensors["structure"]))

    watched = {"callback_on_step_end": look, "callback_on_step_end_tensor_inputs": ["preview", "structure"]}
    watched |= {**BASE, "output_type": "pt"}
    drawn = pipe(SURPRISE, **watched).images
    assert not torch.equal(seen[0], drawn)
    assert torch.equal(seen[-1], drawn)
    pipe(SURPRISE, **watched, structure_guidance_scale=0.0)
    assert len(seen) == 6, "without a map, too"


def test_interrupt_stops_within_a_step_and_leaves_nothing_behind(pipe):
    steps = []

    def stop(owner, step, timestep, tensors):
        steps.append(step)
        owner._interrupt = step == 1

    whole = codes(pipe, SURPRISE, num_inference_steps=6)
    half = pipe(
        [SURPRISE] * 3, **BASE, num_inference_steps=6, max_batch=2, callback_on_step_end=stop
    )  # the second chunk is not begun
    assert steps == [0, 1]
    assert half.codes.shape[0] == len(half.aus) == len(half.images) == 2
    assert half.codes.max() < 16
    assert torch.equal(codes(pipe, SURPRISE, num_inference_steps=6), whole)

    def fail(owner, step, timestep, tensors):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pipe(SURPRISE, **BASE, callback_on_step_end=fail)
    assert torch.equal(codes(pipe, SURPRISE, num_inference_steps=6), whole)


def test_chunks_give_what_one_batch_gives(pipe):
    many = [SURPRISE, "12D", "4C"]
    whole, parts = (pipe(many, identity=7, seed=0, output_type="pt", max_batch=size) for size in (3, 2))
    assert torch.equal(whole.codes, parts.codes)
    assert (whole.structure - parts.structure).abs().mean() < 1e-4  # a pixel on an edge may round otherwise
    torch.testing.assert_close(whole.images, parts.images, atol=3e-5, rtol=0)  # sums round otherwise too


def test_a_cpu_draws_few_at_once(pipe, monkeypatch):
    wanted = codes(pipe, [SURPRISE] * 3)
    monkeypatch.setattr(steps, "MAX_BATCH_CPU", 2)
    sizes, forward = set(), pipe.transformer.forward
    monkeypatch.setattr(pipe.transformer, "forward", lambda x, *a, **k: (sizes.add(len(x)), forward(x, *a, **k))[1])
    assert torch.equal(codes(pipe, [SURPRISE] * 3), wanted)
    assert sizes == {4, 2}


def test_out_of_memory_halves_the_chunk_then_says_so(pipe, monkeypatch):
    wanted = codes(pipe, [SURPRISE] * 5)
    sizes, forward = [], pipe.transformer.forward

    def small(limit):
        def run(batch, *args, **kwargs):
            sizes.append(len(batch))
            if len(batch) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
            return forward(batch, *args, **kwargs)

        return run

    monkeypatch.setattr(pipe.transformer, "forward", small(4))
    assert torch.equal(codes(pipe, [SURPRISE] * 5), wanted)
    assert sizes[0] == 10  # five faces, two branches
    assert max(sizes[1:]) == 4
    monkeypatch.setattr(pipe.transformer, "forward", small(1))
    with pytest.raises(torch.OutOfMemoryError, match="a single face .*load with"):
        pipe(SURPRISE, **BASE)


def test_chunks_let_other_errors_through():
    def fail(begin, end):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        in_chunks(2, 2, fail)
    assert in_chunks(5, 2, lambda begin, end: (begin, end)) == [(0, 2), (2, 4), (4, 5)]


def test_every_person_shows_every_expression(pipe):
    said = pipe([SURPRISE, "12D"], identity=[7, 8], seed=[0, 0], output_type="latent")
    assert torch.equal(said.codes[0], codes(pipe, SURPRISE, seed=[0])[0])
    same = pipe([SURPRISE, "12D"], identity=7, seed=[0, 0], output_type="latent")
    assert same.appearances[0] == same.appearances[1]
    assert torch.equal(same.identity[0], same.identity[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "nothing to draw"),
        ({"expression": "12", "aus": "12"}, "not both"),
        ({"expression": ""}, "empty score"),
        ({"expression": []}, "empty list"),
        ({"expression": "1C+99B"}, "no unit 99"),
        ({"prompt": " "}, "give a text"),
        ({"aus": 12}, "aus 12: give an AUSet"),
        ({"aus": ["1", "2"], "prompt": ["a", "b", "c"]}, "2 for 3 faces"),
        ({"expression": "12", "identity": "bob"}, "identity 'bob'"),
        ({"expression": "12", "identity": [1, 2], "attributes": [None] * 3}, "batch sizes differ"),
        ({"expression": "12", "attributes": {"hat": 1}}, "unknown attributes: hat"),
        ({"expression": "12", "attributes": []}, "batch sizes differ"),
        ({"expression": "12", "guidance_scale": -1}, "guidance_scale -1"),
        ({"expression": "12", "guidance_scale": 1, "negative_aus": "4"}, "do nothing at guidance_scale 1"),
        ({"expression": "12", "num_inference_steps": 0}, "num_inference_steps 0"),
        ({"expression": "12", "temperature": -1}, "temperature -1"),
        ({"expression": "12", "num_images_per_prompt": 0}, "num_images_per_prompt 0"),
        ({"expression": "12", "max_batch": 0}, "max_batch 0"),
        ({"expression": "12", "output_type": "jpg"}, "output_type 'jpg': one of pil"),
        ({"expression": "12", "callback_on_step_end_tensor_inputs": ["latents"]}, "latents: there are codes"),
        ({"expression": "12", "seed": 1, "generator": torch.Generator()}, "both given"),
        ({"expression": "12", "seed": [1, 2]}, "2 generators or seeds for 1 faces"),
        ({"expression": "12", "seed": 1.5}, "seed 1.5: give an integer"),
        ({"expression": "12", "seed": "7"}, "seed '7': give an integer"),
        ({"expression": "12", "num_inference_steps": "3"}, "num_inference_steps '3': an integer"),
        ({"expression": "12", "num_images_per_prompt": 1.5}, "num_images_per_prompt 1.5"),
        ({"expression": "12", "max_batch": "8"}, "max_batch '8'"),
    ],
    ids=str,
)
def test_bad_input_is_refused(pipe, options, message):
    with pytest.raises(ValueError, match=message):
        pipe(options.pop("expression", None), **options)


def test_notation_is_read_in_a_prompt_too(pipe):
    by_prompt, by_aus = (
        pipe(**{name: "L12D+4B"}, identity=3, seed=0, output_type="latent") for name in ("prompt", "aus")
    )
    assert by_prompt.aus == by_aus.aus
    assert torch.equal(by_prompt.codes, by_aus.codes)

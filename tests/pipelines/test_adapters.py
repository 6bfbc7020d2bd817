"""Adapters of a pipeline: their files, what is refused, switching, mixing and fusing them."""

import dataclasses
import itertools
import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from toy_adapters import face, logits, make_adapter

from auface_diffusers import VQAUFaceEditPipeline, VQAUFacePipeline
from auface_diffusers.anatomy.identity import sample_identity
from auface_diffusers.facs import units
from auface_diffusers.models import FaceTransformer
from auface_diffusers.models.adapters import (
    KINDS,
    adapter_config,
    adapter_layers,
    adapter_parameters,
    base_hash,
    find_layers,
    put_adapter,
)
from auface_diffusers.pipelines.adapter_files import HEADER, read_adapter, write_adapter


@pytest.fixture
def file(pipe, tmp_path):
    """`file("clay", kind="dora")` writes an adapter and returns its path."""

    def write(name="a", **values):
        path = tmp_path / f"{name}.safetensors"
        write_adapter(path, make_adapter(pipe, **values))
        return path

    return write


# --- the file --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_survives_its_file(pipe, file, kind):
    made = make_adapter(pipe, kind, trigger="clay", data={"pictures": 24}, sample={"steps": 3}, steps=7)
    path = file(kind=kind, trigger="clay", data={"pictures": 24}, sample={"steps": 3}, steps=7)
    found = read_adapter(path)
    assert found.info == made.info
    assert found.weights["transformer"].keys() == made.weights["transformer"].keys()
    for name, value in made.weights["transformer"].items():
        assert torch.equal(found.weights["transformer"][name], value.half())


def test_the_file_is_diffusers_own_format(pipe, file):
    """diffusers' loader, which knows nothing of us, draws the same face from it."""
    for kind in ("lora", "dora", "lokr"):  # it has no LoHa
        path = file(kind, kind=kind)
        with safe_open(path, "pt") as opened:
            assert {"lora_adapter_metadata", HEADER, "format"} <= opened.metadata().keys()
            assert all(name.startswith("transformer.") for name in opened.keys())  # noqa: SIM118 - no dict
        pipe.load_lora_weights(path, "ours")
        ours = face(pipe)
        pipe.unload_lora_weights()
        pipe.transformer.load_lora_adapter(
            str(path), prefix="transformer", adapter_name="theirs", use_safetensors=True
        )
        assert torch.allclose(face(pipe), ours, atol=1e-5)
        pipe.transformer.unload_lora()


def test_a_file_appears_whole_or_not_at_all(pipe, tmp_path):
    made = make_adapter(pipe)
    with pytest.raises(ValueError, match=r"name it a\.safetensors"):
        write_adapter(tmp_path / "a.bin", made)
    made.weights["transformer"][next(iter(made.weights["transformer"]))].fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        write_adapter(tmp_path / "a.safetensors", made)
    with pytest.raises(OSError, match="No such file"):
        write_adapter(tmp_path / "no" / "a.safetensors", make_adapter(pipe))
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_refused(pipe, file, tmp_path):
    pickle = tmp_path / "a.bin"
    torch.save({}, pickle)
    foreign, damaged = tmp_path / "foreign.safetensors", tmp_path / "damaged.safetensors"
    save_file({"unet.down.lora_A.weight": torch.zeros(2, 2)}, foreign)
    damaged.write_bytes(file().read_bytes()[:200])
    for path, message in (
        (pickle, "is a pickle"),
        (foreign, "is no adapter for AUFace.*unet.down"),
        (damaged, "damaged"),
        (tmp_path / "none.safetensors", "is no file"),
        (tmp_path, "is no file"),
    ):
        with pytest.raises(ValueError, match=message):
            pipe.load_lora_weights(path)
    assert pipe.adapters == {}
    assert adapter_layers(pipe.transformer) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ia3"}, "kind 'ia3': one of lora, dora, loha, lokr"),
        ({"rank": 0}, "rank 0"),
        ({"alpha": -1.0}, "alpha -1"),
        ({"format": 2}, "its format is 2, this AUFace reads 1"),
        ({"surprise": 1}, "unknown entry surprise"),
        ({"layers": {"unet": ["a"]}}, "unet"),
        ({"base": {}}, "base of"),
        ({"layers": None}, "cannot be used"),
        ({"person": [0.5] * 45}, r"identity code \(45,\).*give floats \(B, 46\)"),
        ({"person": [7.0] * 46}, "identity code 7: the first 6"),
    ],
)
def test_a_header_that_cannot_be_is_refused(pipe, file, tmp_path, change, message):
    path = file()
    with safe_open(path, "pt") as opened:
        header = dict(opened.metadata())
    header[HEADER] = json.dumps(json.loads(header[HEADER]) | change)
    save_file(load_file(path), tmp_path / "b.safetensors", header)
    with pytest.raises(ValueError, match=message):
        pipe.load_lora_weights(tmp_path / "b.safetensors")


def test_weights_that_do_not_fit_are_refused_and_leave_nothing(pipe):
    before = face(pipe)
    for change in ("rank", "missing", "other part"):
        made = make_adapter(pipe)
        weights = made.weights["transformer"]
        name = next(iter(weights))
        if change == "rank":
            made = dataclasses.replace(made, info=dataclasses.replace(made.info, rank=2))
        elif change == "missing":
            del weights[name]
        state = {f"transformer.{key}": value for key, value in weights.items()}
        if change == "other part":
            state["unet.x"] = torch.zeros(1)
        header = {HEADER: json.dumps({"format": 1, **dataclasses.asdict(made.info)})}
        with pytest.raises(ValueError, match="do not fit|belongs to none"):
            pipe.load_lora_weights(state, "a", header=header)
        assert pipe.adapters == {}
        assert adapter_layers(pipe.transformer) == []
    assert torch.equal(face(pipe), before)


def test_weights_without_a_file(pipe, file):
    path = file()
    with safe_open(path, "pt") as opened:
        header = dict(opened.metadata())
    pipe.load_lora_weights(load_file(path), "a", header=header)
    given = face(pipe)
    pipe.unload_lora_weights()
    pipe.load_lora_weights(path, "a")
    assert torch.equal(face(pipe), given)
    with pytest.raises(ValueError, match="no adapter for AUFace"):
        pipe.load_lora_weights(load_file(path), "b")
    with pytest.raises(ValueError, match="leave it out"):
        pipe.load_lora_weights(path, "b", header=header)


# --- the base --------------------------------------------------------------------------------------------------------


def test_another_base_is_refused_unless_wanted(pipe, file):
    path = file()
    with torch.no_grad():
        pipe.transformer.to_codes.bias[0] += 1
    with pytest.raises(
        ValueError, match="trained on another base: transformer [0-9a-f]{16}, this pipeline has .*any_base"
    ):
        pipe.load_lora_weights(path)
    assert pipe.load_lora_weights(path, any_base=True) == "adapter_0"


def test_the_hash_of_the_base_ignores_adapters_and_precision(pipe, file):
    path = file()
    pipe.transformer.half().float()
    before = base_hash(pipe.transformer)
    assert base_hash(pipe.transformer.half()) == before
    assert base_hash(pipe.transformer.float().bfloat16()) == before
    pipe.transformer.float()
    pipe.load_lora_weights(path, any_base=True)
    assert base_hash(pipe.transformer) == before
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    assert base_hash(pipe.transformer) != before


def test_other_action_units_are_refused(pipe, file):
    path = file(channels=tuple(units.channels)[:-1])
    with pytest.raises(ValueError, match=f"other action units than this pipeline: {units.channels[-1]}"):
        pipe.load_lora_weights(path)
    with pytest.raises(ValueError, match="their order"):
        pipe.load_lora_weights(file(channels=tuple(reversed(units.channels))))


# --- switching -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_off_is_the_base_bit_for_bit(pipe, file, kind):
    path, before = file(kind=kind), face(pipe)
    pipe.load_lora_weights(path, "a")
    on = face(pipe)
    assert not torch.equal(on, before)
    for off in (lambda: pipe.set_adapters("a", 0.0), lambda: pipe.set_adapters([]), pipe.disable_lora):
        off()
        assert pipe.get_active_adapters() == []
        assert torch.equal(face(pipe), before)
        pipe.set_adapters("a")
        assert torch.equal(face(pipe), on)
    pipe.unload_lora_weights()
    assert adapter_layers(pipe.transformer) == []
    assert torch.equal(face(pipe), before)
    assert pipe.get_list_adapters() == {}


@torch.no_grad()
def test_weights_scale_the_change(pipe, file):
    pipe.load_lora_weights(file(targets=("to_codes",)), "a")  # the last layer: the change is linear
    base, half, whole, negative = (logits(pipe, "a", weight) for weight in (0.0, 0.5, 1.0, -1.0))
    assert torch.allclose((half - base) * 2, whole - base, atol=1e-4)
    assert torch.allclose(base - negative, whole - base, atol=1e-4)
    assert (whole - base).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.parametrize("kinds", [("lora", "lora"), ("lora", "lokr"), ("dora", "loha"), ("lokr", "dora")])
def test_several_adapters_add_up(pipe, file, kinds):
    first, second = (
        file("a", kind=kinds[0], targets=("to_codes",)),
        file("b", kind=kinds[1], targets=("to_codes",), seed=2),
    )
    pipe.load_lora_weights(first, "a")
    alone = logits(pipe, "a", 0.7)
    pipe.load_lora_weights(second, "b")
    base, a, b, both = (
        logits(pipe, names, weights)
        for names, weights in (([], None), ("a", 0.7), ("b", 0.4), (["a", "b"], [0.7, 0.4]))
    )
    assert torch.equal(a, alone)
    assert not torch.allclose(both, a, atol=1e-3)
    assert not torch.allclose(both, b, atol=1e-3)
    if "dora" not in kinds:
        assert torch.allclose(both - base, (a - base) + (b - base), atol=1e-4)
    pipe.delete_adapters("a")
    assert torch.equal(logits(pipe, "b", 0.4), b)
    assert list(pipe.adapters) == ["b"]
    pipe.delete_adapters("b")
    assert adapter_layers(pipe.transformer) == []


def test_loading_adds_to_what_is_on(pipe, file):
    first, second = file("a"), file("b", seed=2)
    pipe.load_lora_weights(first, "a")
    pipe.set_adapters("a", 0.5)
    pipe.load_lora_weights(second, "b")
    assert pipe.get_active_adapters() == ["a", "b"]
    assert [one.weight for one in pipe.adapters.values()] == [0.5, 1.0]
    assert pipe.get_list_adapters() == {"transformer": ["a", "b"]}
    pipe.disable_lora()
    assert pipe.get_active_adapters() == []
    pipe.enable_lora()
    assert [one.weight for one in pipe.adapters.values()] == [0.5, 1.0]
    assert pipe.get_active_adapters() == ["a", "b"]


def test_hotswap_takes_the_place_and_the_weight(pipe, file):
    first, second = file("a"), file("b", kind="loha", seed=2)
    pipe.load_lora_weights(second, "new")
    pipe.set_adapters("new", 0.6)
    wanted = face(pipe)
    pipe.unload_lora_weights()
    pipe.load_lora_weights(first, "style")
    pipe.set_adapters("style", 0.6)
    assert not torch.equal(face(pipe), wanted)
    pipe.load_lora_weights(second, "style", hotswap=True)
    assert torch.equal(face(pipe), wanted)
    assert pipe.adapters["style"].info.kind == "loha"


def test_names_and_weights_are_checked(pipe, file):
    path = file()
    pipe.load_lora_weights(path, "a")
    for action, message in (
        (lambda: pipe.load_lora_weights(path, "a"), "'a' is taken"),
        (lambda: pipe.load_lora_weights(path, "a.b"), "without dots"),
        (lambda: pipe.load_lora_weights(path, "b", hotswap=True), "no adapter 'b' is loaded"),
        (lambda: pipe.set_adapters("b"), r"give names of \['a'\]"),
        (lambda: pipe.set_adapters(["a", "a"]), "each once"),
        (lambda: pipe.set_adapters(["a"], [1.0, 2.0]), "2 weights for 1 adapters"),
        (lambda: pipe.set_adapters("a", float("inf")), "weight inf of adapter 'a'"),
        (lambda: pipe.delete_adapters("b"), "not loaded"),
        (lambda: pipe.fuse_lora(adapter_names=["b"]), r"adapters that are on are \['a'\]"),
    ):
        with pytest.raises(ValueError, match=message):
            action()
    pipe.set_adapters([])
    with pytest.raises(ValueError, match="choose with set_adapters"):
        pipe.fuse_lora()


# --- fusing and saving -----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_fused_draws_the_same_and_unfused_is_the_base(pipe, file, kind):
    state = {name: value.clone() for name, value in pipe.transformer.state_dict().items()}
    before = face(pipe)
    pipe.load_lora_weights(file(kind=kind), "a")
    wanted = logits(pipe, "a", 0.5)
    pipe.fuse_lora()
    assert pipe.fused_loras == {"a"}
    for action in (
        lambda: pipe.set_adapters([]),
        pipe.disable_lora,
        pipe.fuse_lora,
        lambda: pipe.delete_adapters("a"),
    ):
        with pytest.raises(ValueError, match="fused"):
            action()
    layer = next(one for one in adapter_layers(pipe.transformer))
    assert layer.merged
    pipe.unfuse_lora()
    assert torch.equal(logits(pipe, "a", 0.5), wanted)
    pipe.disable_lora()
    assert torch.equal(face(pipe), before)
    pipe.unload_lora_weights()
    assert all(torch.equal(value, state[name]) for name, value in pipe.transformer.state_dict().items())


@torch.no_grad()
def test_a_mixture_can_be_saved(pipe, file, tmp_path):
    pipe.load_lora_weights(file(), "a")
    with pytest.raises(ValueError, match="adapters .'a'. are loaded"):
        pipe.save_pretrained(tmp_path / "mixture")
    pipe.set_adapters("a", 0.5)
    on = face(pipe)
    pipe.fuse_lora()
    assert (face(pipe) - on).abs().mean() < 0.01  # rounding may turn a code
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "mixture")
    again = type(pipe).from_pretrained(tmp_path / "mixture")
    again.set_progress_bar_config(disable=True)
    assert torch.equal(face(again), face(pipe))


def test_fusing_can_be_scaled(pipe, file):
    pipe.load_lora_weights(file(targets=("to_codes",)), "a")
    inner = pipe.transformer.to_codes.get_base_layer()
    base = inner.weight.detach().clone()
    pipe.fuse_lora()
    whole = inner.weight.detach() - base
    pipe.unfuse_lora()
    pipe.fuse_lora(lora_scale=0.5)
    assert torch.allclose(inner.weight.detach() - base, whole / 2, atol=1e-6)
    pipe.unfuse_lora()
    assert torch.equal(inner.weight.detach(), base)


@torch.no_grad()
@pytest.mark.parametrize("kinds", list(itertools.product(KINDS, KINDS)))
def test_kinds_that_are_mixed_are_fused_as_they_draw(pipe, file, kinds):
    targets = ("to_q", "mlp", "to_codes")
    paths = [file(str(seed), kind=kind, targets=targets, seed=seed) for seed, kind in enumerate(kinds)]
    for name, path in zip(("a0", "a1"), paths, strict=True):
        pipe.load_lora_weights(path, name)
    wanted = logits(pipe, ["a0", "a1"], [0.7, 0.4])
    pipe.fuse_lora()
    pipe.unload_lora_weights()  # what is fused stays
    assert torch.allclose(logits(pipe, [], None), wanted, atol=2e-5)


def test_only_the_adapters_and_components_that_are_named_are_fused(pipe, file):
    paths = {name: file(name, targets=(layer,)) for name, layer in (("one", "to_codes"), ("two", "to_q"))}
    for name, path in paths.items():
        pipe.load_lora_weights(path, name)
    first, base = pipe.transformer.blocks[0].attention.to_q, pipe.transformer.to_codes
    still = first.get_base_layer().weight.detach().clone()
    changed = base.get_base_layer().weight.detach().clone()
    pipe.fuse_lora(adapter_names=["one"])
    assert torch.equal(first.get_base_layer().weight, still)
    assert not torch.equal(base.get_base_layer().weight, changed)
    pipe.unfuse_lora()
    assert pipe.get_active_adapters() == ["one", "two"]


# --- in the pipeline -------------------------------------------------------------------------------------------------


def test_pipelines_of_the_same_components_share_adapters(pipe, file):
    pipe.load_lora_weights(file(), "a")
    edit = VQAUFaceEditPipeline.from_pipe(pipe)
    assert list(edit.adapters) == ["a"]
    edit.disable_lora()
    assert pipe.get_active_adapters() == []


def test_trigger_words_come_before_the_texts_while_they_are_on(pipe, file):
    first, second = file("a", trigger="Clay"), file("b", trigger="toon", seed=2)
    pipe.load_lora_weights(first, "a")
    pipe.load_lora_weights(second, "b")
    assert pipe.with_triggers(["A smile."]) == ["Clay, toon, A smile."]
    assert pipe.with_triggers(["made of clay"]) == ["toon, made of clay"]
    pipe.set_adapters("b")
    assert pipe.with_triggers(["A smile."]) == ["toon, A smile."]
    texts = []
    tokens = pipe._tokens
    pipe._tokens = lambda listed: texts.append(listed) or tokens(listed)
    face(pipe)
    assert texts[-1][0].startswith("toon, ")
    pipe.disable_lora()
    assert pipe.with_triggers(["A smile."]) == ["A smile."]


def test_a_person_is_drawn_where_no_identity_is_named(pipe, edit, file):
    """And the last one, of several; with the look that belongs to it in every scene."""
    anna, boris = (sample_identity(seed) for seed in (11, 12))

    def drawn(**options):
        return pipe("12D", seed=3, num_inference_steps=2, output_type="pt", **options)

    before = drawn()
    for name, seed, person in (("style", 1, ()), ("anna", 2, anna.tolist()), ("boris", 3, boris.tolist())):
        pipe.load_lora_weights(file(name, seed=seed, person=tuple(person)), name)
    for names, person in ((["style"], None), (["anna", "style"], anna), (["anna", "boris"], boris)):
        pipe.set_adapters(names)
        out = drawn()
        assert torch.equal(out.identity, before.identity if person is None else person[None])
        assert torch.equal(out.images, drawn(identity=out.identity).images)
        frames = pipe.sequence(["0", "12D"], seed=3, num_inference_steps=2, output_type="pt")
        assert torch.equal(frames.identity, out.identity.expand(2, -1))
    assert torch.equal(drawn(identity=3).identity, sample_identity(3)[None])
    pipe.set_adapters(["anna", "boris"], [1.0, 0.0])
    assert torch.equal(drawn().identity, anna[None])
    pipe.disable_lora()
    assert torch.equal(drawn().images, before.images)
    pipe.person = boris  # of an adapter that is part of the weights
    made = VQAUFacePipeline.from_pipe(pipe)
    assert torch.equal(made("12D", seed=3, num_inference_steps=2).identity, boris[None])


def test_the_text_model_may_be_adapted_too(pipe, file):
    before = face(pipe)
    pipe.load_lora_weights(file(text=("q_proj", "reader")), "a")
    assert pipe.get_list_adapters() == {"transformer": ["a"], "text_alignment": ["a"]}
    ids = torch.tensor([[2, 40, 41, 3]])
    on = pipe.text_alignment(ids, torch.ones_like(ids)).embedding
    pipe.set_adapters([])
    assert not torch.equal(pipe.text_alignment(ids, torch.ones_like(ids)).embedding, on)
    assert torch.equal(face(pipe), before)


def test_half_precision(pipe, file):
    pipe.transformer.half().float()
    path = file()
    pipe.to(torch.float16)
    pipe.load_lora_weights(path, "a")
    assert {value.dtype for value in adapter_parameters(pipe.transformer, "a").values()} == {torch.float16}
    assert face(pipe).isfinite().all()


def test_an_edit_uses_the_adapter(pipe, edit, file):
    picture = face(pipe)
    before = edit(picture, "1C", source_aus="0", seed=1, output_type="pt").images
    pipe.load_lora_weights(file(), "a")
    assert not torch.equal(edit(picture, "1C", source_aus="0", seed=1, output_type="pt").images, before)


# --- targets ---------------------------------------------------------------------------------------------------------


def test_targets_are_names_of_layers_or_of_what_holds_them(pipe):
    model = pipe.transformer
    assert find_layers(model, ["blocks.1.mlp"], "lora") == ["blocks.1.mlp.0", "blocks.1.mlp.2"]
    assert find_layers(model, ["cross"], "lora") == [
        f"blocks.{n}.cross.{layer}" for n in range(2) for layer in ("to_q", "to_k", "to_v", "to_out")
    ]
    assert find_layers(model, ["to_q", "blocks.0.attention.to_q"], "lokr") == find_layers(model, ["to_q"], "lokr")
    assert find_layers(model, ["code_embedding"], "lora") == ["code_embedding"]
    assert "structure.stem" in find_layers(model, ["structure"], "loha")


@pytest.mark.parametrize(
    ("kind", "target"), [("lora", "to_x"), ("loha", "code_embedding"), ("lora", "norm2"), ("lora", "")]
)
def test_a_target_that_matches_nothing_lists_what_there_is(pipe, kind, target):
    with pytest.raises(
        ValueError, match=f"{target!r} matches no layer of FaceTransformer that {kind} can change; .*to_q"
    ):
        find_layers(pipe.transformer, [target], kind)
    with pytest.raises(ValueError, match="none are given; there are"):
        find_layers(pipe.transformer, [], kind)


def test_put_adapter_needs_the_weights_of_its_configuration(pipe):
    layers = find_layers(pipe.transformer, ["to_codes"], "lora")
    with pytest.raises(ValueError, match=r"to_codes\.lora_A\.weight has shape None"):
        put_adapter(pipe.transformer, "a", adapter_config("lora", 2, 2.0, layers), {})
    assert adapter_layers(pipe.transformer) == []


def test_transformers_without_adapters_are_untouched(pipe):
    assert isinstance(pipe.transformer, FaceTransformer)
    assert pipe.adapters == {}
    assert pipe.get_active_adapters() == []
    pipe.unload_lora_weights()
    pipe.disable_lora()

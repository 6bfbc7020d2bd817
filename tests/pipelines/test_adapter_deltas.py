"""What adapters add to the weights: the base with it draws what the pipeline draws."""

import itertools

import pytest
import torch
import toy_pipeline
from toy_adapters import face, logits, make_adapter

from auface_diffusers import VQAUFaceEditPipeline
from auface_diffusers.models.adapters import KINDS, adapter_layers
from auface_diffusers.pipelines.adapter_files import write_adapter

TARGETS = ("to_q", "mlp", "to_codes", "structure.coarse", "structure.stem")
PLAIN = ("to_q", "mlp", "to_codes")
"""Without convolutions, on which not every kind can come after every other."""


@pytest.fixture
def file(pipe, tmp_path):
    """`file("clay", kind="dora")` writes an adapter and returns its path."""

    def write(name="a", **values):
        path = tmp_path / f"{name}.safetensors"
        write_adapter(path, make_adapter(pipe, **({"targets": TARGETS} | values)))
        return path

    return write


@torch.no_grad()
def check(pipe, names, weights):
    """The base with the changes gives the same logits and codes as the adapters; returns the changes."""
    wanted = logits(pipe, names, weights)
    codes = pipe("12D+1C", identity=3, seed=5, num_inference_steps=2, output_type="latent").codes
    deltas = pipe.adapter_deltas()
    pipe.unload_lora_weights()
    base = logits(pipe, [], None)
    assert (base - wanted).abs().max() > 0.01
    for name, delta in deltas.items():
        part, _, inner = name.partition(".")
        weight = getattr(pipe, part).get_parameter(inner)
        assert delta.dtype == torch.float32
        assert delta.shape == weight.shape
        weight += delta
    assert torch.allclose(logits(pipe, [], None), wanted, atol=2e-5)
    again = pipe("12D+1C", identity=3, seed=5, num_inference_steps=2, output_type="latent").codes
    assert torch.equal(again, codes)
    return deltas


@pytest.mark.parametrize("weight", [1.0, 0.5, -0.7])
@pytest.mark.parametrize("kind", KINDS)
def test_the_base_with_the_changes_is_the_adapter(pipe, file, kind, weight):
    targets = (*TARGETS, "code_embedding") if kind in ("lora", "dora") else TARGETS
    pipe.load_lora_weights(file(kind=kind, targets=targets), "a")
    deltas = check(pipe, "a", weight)
    assert {"transformer.to_codes.weight", "transformer.structure.coarse.conv.weight"} <= deltas.keys()
    assert ("transformer.code_embedding.weight" in deltas) == ("code_embedding" in targets)


@pytest.mark.parametrize("kinds", list(itertools.product(KINDS, KINDS)))
def test_two_adapters_are_those_of_the_pipeline(pipe, file, kinds):
    targets = TARGETS if kinds[0] == kinds[1] else PLAIN
    paths = [file(str(seed), kind=kind, targets=targets, seed=seed) for seed, kind in enumerate(kinds)]
    for name, path in zip("ab", paths, strict=True):
        pipe.load_lora_weights(path, name)
    check(pipe, ["a", "b"], [0.7, 0.4])


def test_a_lora_scales_with_its_weight_and_a_dora_does_not(pipe, file):
    for kind, straight in (("lora", True), ("dora", False)):
        pipe.load_lora_weights(file(kind=kind), kind)
        pipe.set_adapters(kind, 0.5)
        half = pipe.adapter_deltas()
        pipe.set_adapters(kind, 1.0)
        whole = pipe.adapter_deltas()
        assert half.keys() == whole.keys()
        assert straight == all(torch.allclose(half[name] * 2, whole[name], atol=1e-6) for name in whole)
        pipe.unload_lora_weights()


def test_the_text_model_is_part_of_it(pipe, file):
    pipe.load_lora_weights(file(text=("q_proj", "reader")), "a")
    ids = torch.tensor([[2, 40, 41, 3]])
    wanted = pipe.text_alignment(ids, torch.ones_like(ids)).embedding
    deltas = check(pipe, "a", 1.0)
    assert any(name.startswith("text_alignment.") for name in deltas)
    assert torch.allclose(pipe.text_alignment(ids, torch.ones_like(ids)).embedding, wanted, atol=1e-5)


def test_reading_them_changes_nothing_and_works_without_gradients(pipe, file):
    pipe.load_lora_weights(file(), "a")
    on = face(pipe)
    with torch.no_grad():
        deltas = pipe.adapter_deltas()
    assert not any(delta.requires_grad for delta in deltas.values())
    assert all(value.grad is None for value in pipe.transformer.parameters())
    assert torch.equal(face(pipe), on)
    assert list(pipe.adapters) == ["a"]


def test_what_is_off_adds_nothing(pipe, file):
    assert pipe.adapter_deltas() == {}
    pipe.load_lora_weights(file(), "a")
    for off in (lambda: pipe.set_adapters("a", 0.0), pipe.disable_lora):
        pipe.set_adapters("a")
        off()
        assert pipe.adapter_deltas() == {}
    pipe.set_adapters("a")
    pipe.fuse_lora()
    with pytest.raises(ValueError, match="adapter_deltas: adapters are fused"):
        pipe.adapter_deltas()


def test_a_kind_that_cannot_come_after_another_is_told_and_leaves_it(pipe, file):
    loha, lora = file("a", kind="loha", targets=("structure",)), file("b", targets=("structure",))
    pipe.load_lora_weights(loha, "a")
    on = face(pipe)
    with pytest.raises(ValueError, match="cannot come after a LoHa or LoKr .*: load it before"):
        pipe.load_lora_weights(lora, "b")
    assert torch.equal(face(pipe), on)
    pipe.unload_lora_weights()
    assert adapter_layers(pipe.transformer) == []
    pipe.load_lora_weights(lora, "b")
    pipe.load_lora_weights(loha, "a")
    check(pipe, ["a", "b"], [1.0, 1.0])


def test_words_of_changes_come_before_the_texts_and_along(pipe, file):
    pipe.load_lora_weights(file(trigger="toon"), "a")
    pipe.trigger_words = ("clay", "toon")
    assert pipe.with_triggers(["A smile."]) == ["clay, toon, A smile."]
    edit = VQAUFaceEditPipeline.from_pipe(pipe)
    pipe.trigger_words = ()
    assert edit.with_triggers(["made of clay"]) == ["toon, made of clay"]
    assert pipe.with_triggers(["A smile."]) == ["toon, A smile."]
    assert toy_pipeline.toy_pipeline().trigger_words == ()

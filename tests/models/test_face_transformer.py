"""The transformer: each source counts and can be left out, and a code's logits are those of its own slot."""

import importlib.util

import pytest
import torch
from peft import LoraConfig
from torch.nn import functional as F

from auface_diffusers.anatomy import STRUCTURE_CHANNELS
from auface_diffusers.models.attention import attends, rotary_angles, rotate, rotation
from auface_diffusers.models.face_transformer import SOURCES, FaceTransformer

CODES = 20
INPUTS = {"text": ("text", "embedding"), "structure": ("structure",), "identity": ("identity",)}
INPUTS["attributes"] = ("attributes",)
each_source = pytest.mark.parametrize("source", SOURCES)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def toy(**values):
    sizes = {"grid_size": 4, "merge": 2, "image_size": 32, "width": 32, "layers": 2, "heads": 2, "code_dim": 8}
    sizes |= {"text_dim": 12, "structure_width": 16, "identity_dim": 5, "attribute_dim": 6, "codebook_size": CODES}
    model = FaceTransformer(**{**sizes, **values}).eval()
    torch.nn.init.normal_(model.modulation.weight, std=0.1)  # starts at zero: let identity do something
    return model


def given(model, count=3, words=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    slots = config["grid_size"] ** 2 * config["code_groups"]

    def numbers(*shape):
        return torch.randn(shape, generator=generator)

    return {
        "codes": torch.randint(config["codebook_size"] + 1, (count, slots), generator=generator),
        "text": numbers(count, words, config["text_dim"]),
        "text_mask": torch.ones(count, words, dtype=torch.bool),
        "embedding": numbers(count, config["text_dim"]),
        "structure": numbers(count, len(STRUCTURE_CHANNELS), config["image_size"], config["image_size"]),
        "identity": numbers(count, config["identity_dim"]),
        "attributes": numbers(count, config["attribute_dim"]),
    }


def run(model, inputs, **options):
    with torch.no_grad():
        return model(**inputs, **options)


@pytest.mark.parametrize(
    "values", [{}, {"merge": 1, "image_size": 64}, {"code_groups": 1}, {"grid_size": 8, "image_size": 64}]
)
def test_logits_for_every_slot(values):
    model = toy(**values)
    inputs = given(model)
    assert run(model, inputs).shape == (*inputs["codes"].shape, CODES)


def test_saved_and_loaded(tmp_path):
    model = toy()
    model.save_pretrained(tmp_path)
    again = FaceTransformer.from_pretrained(tmp_path)
    assert torch.equal(run(again, given(model)), run(model, given(model)))
    assert not list(tmp_path.glob("*.bin")), "no pickle"


def test_gradient_checkpointing_changes_nothing():
    model, grads, calls = toy().train(), [], []
    model.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    for on in (False, True):
        (model.enable_gradient_checkpointing if on else model.disable_gradient_checkpointing)()
        model.zero_grad()
        model(**given(model)).square().mean().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert len(calls) == 3, "the block runs again for its gradients"
    torch.testing.assert_close(grads[0], grads[1])


@each_source
def test_a_source_counts_until_it_is_dropped(source):
    model = toy()
    inputs = given(model)
    others = inputs | {name: given(model, seed=1)[name] for name in INPUTS[source]}
    gone = {source: torch.tensor([True, True, False])}
    with_it, dropped = run(model, inputs), run(model, inputs, dropped=gone)
    assert not torch.allclose(run(model, others), with_it), "it counts"
    assert not torch.allclose(dropped[:2], with_it[:2]), "leaving it out changes the logits"
    torch.testing.assert_close(dropped[2], with_it[2])
    torch.testing.assert_close(run(model, others, dropped=gone)[:2], dropped[:2])
    wild = inputs | {name: torch.full_like(inputs[name], float("nan")) for name in INPUTS[source]}
    everywhere = {source: torch.ones(3, dtype=torch.bool)}
    assert run(model, wild, dropped=everywhere).isfinite().all()


@each_source
def test_what_stands_for_a_dropped_source_learns(source):
    model = toy()
    model(**given(model), dropped={source: torch.ones(3, dtype=torch.bool)}).square().mean().backward()
    assert model.missing.get_parameter(source).grad.abs().sum() > 0


def test_dropped_text_has_no_length():
    model = toy()
    gone = {"text": torch.ones(3, dtype=torch.bool)}
    long, short = given(model, words=9), given(model, words=2)
    short |= {name: long[name] for name in long if not name.startswith("text")}
    torch.testing.assert_close(run(model, long, dropped=gone), run(model, short, dropped=gone))


@pytest.mark.parametrize("words", [1, 4, 5])
def test_padding_of_a_text_changes_nothing(words):
    model = toy()
    inputs = given(model, words=words)
    more = 12 - words
    padded = inputs | {
        "text": torch.cat([inputs["text"], 50 * torch.randn(3, more, 12)], 1),
        "text_mask": F.pad(inputs["text_mask"], (0, more)),
    }
    torch.testing.assert_close(run(model, padded), run(model, inputs), atol=1e-5, rtol=1e-5)
    assert torch.equal(run(model, padded), run(model, padded | {"text_mask": padded["text_mask"].long()}))
    unmasked = padded | {"text_mask": torch.ones_like(padded["text_mask"])}
    assert not torch.allclose(run(model, unmasked), run(model, inputs), atol=1e-3)


def test_faces_of_a_batch_are_apart():
    model = toy()
    inputs = given(model)
    alone = {name: value[1:2] for name, value in inputs.items()}
    torch.testing.assert_close(run(model, alone), run(model, inputs)[1:2], atol=1e-5, rtol=1e-5)


def test_conditions_are_encoded_once_for_all_steps():
    model = toy()
    inputs = given(model)
    dropped = {"text": torch.tensor([True, False, False]), "structure": torch.tensor([False, True, False])}
    others = {name: value for name, value in inputs.items() if name != "codes"}
    with torch.no_grad():
        conditions = model.encode_conditions(**others, dropped=dropped)
        used = []
        model.structure.register_forward_hook(lambda *_: used.append("structure"))
        for codes in (inputs["codes"], inputs["codes"].flip(0)):
            seen = model(codes, conditions=conditions)
            assert not used, "of the codes alone"
            assert torch.equal(seen, model(codes, **others, dropped=dropped))
            used.clear()


def test_gradient_of_a_slot_comes_from_its_own_cell():
    """Without attention, blocks are apart: the logits of a slot depend on the codes of its M x M x G cell alone."""
    model = toy(grid_size=4, code_groups=2)
    for block in model.blocks:
        torch.nn.init.zeros_(block.attention.to_out.weight)
    inputs = given(model, 1)
    first = run(model, inputs)
    for y, x, group in ((0, 0, 0), (0, 3, 1), (2, 1, 0), (3, 3, 1)):
        changed = inputs["codes"].clone()
        place = (y * 4 + x) * 2 + group
        changed[0, place] = (changed[0, place] + 1) % CODES
        moved = (run(model, inputs | {"codes": changed}) != first).any(-1).reshape(4, 4, 2)
        cell = torch.zeros(4, 4, 2, dtype=torch.bool)
        cell[y // 2 * 2 : y // 2 * 2 + 2, x // 2 * 2 : x // 2 * 2 + 2] = True
        assert torch.equal(moved, cell)


def test_structure_reaches_the_cells_where_it_lies():
    model = toy(grid_size=8, image_size=64)
    for block in model.blocks:
        torch.nn.init.zeros_(block.attention.to_out.weight)
    inputs = given(model, 1)
    other = inputs["structure"].clone()
    other[:, :, :16, 48:] += 3  # above on the right
    change = (run(model, inputs | {"structure": other}) - run(model, inputs)).abs().mean(-1).reshape(8, 8, 2).sum(-1)
    assert change[:2, 6:].min() > change[4:, :4].max()
    assert change.reshape(4, 2, 4, 2).mean((1, 3)).argmax() == 3


def test_learns_to_copy_codes_to_their_own_slots():
    model = toy(width=128, code_dim=32, layers=1).train()
    descent = torch.optim.AdamW(model.parameters(), lr=3e-3)
    inputs = given(model, 16)
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        codes = torch.randint(CODES, inputs["codes"].shape, generator=generator)
        logits = model(**inputs | {"codes": codes})
        loss = F.cross_entropy(logits.flatten(0, 1), codes.flatten())
        descent.zero_grad()
        loss.backward()
        descent.step()
    codes = torch.randint(CODES, inputs["codes"].shape, generator=generator)
    hit = (run(model.eval(), inputs | {"codes": codes}).argmax(-1) == codes).float().mean()
    assert hit > 0.97


def test_rotary_scores_depend_on_the_distance_alone():
    angles = rotation(rotary_angles(4, 16))
    query, key = torch.randn(16).expand(1, 16, 1, 16), torch.randn(16).expand(1, 16, 1, 16)
    scores = torch.einsum("bnhd,bmhd->nm", rotate(query, angles), rotate(key, angles)).reshape(4, 4, 4, 4)
    torch.testing.assert_close(scores[0, 0, 1, 2], scores[2, 1, 3, 3])
    assert not torch.allclose(scores[0, 0, 1, 2], scores[0, 0, 2, 1])


# --- backends, precision, adapters -----------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["native", "_native_math"])
def test_backends_agree(backend):
    model = toy()
    inputs = given(model)
    inputs["text_mask"][0, 2:] = False
    expected = run(model, inputs)
    model.set_attention_backend(backend)
    assert model.blocks[0].attention.processor._attention_backend == backend
    assert model.blocks[1].cross.processor._attention_backend == backend
    torch.testing.assert_close(run(model, inputs), expected, atol=1e-5, rtol=1e-5)


def test_the_chosen_backend_is_the_one_that_runs(monkeypatch):
    model, calls = toy(), []
    real = F.scaled_dot_product_attention
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda *a, **k: calls.append(1) or real(*a, **k))
    model.set_attention_backend("native")
    run(model, given(model))
    assert len(calls) == 4, "self and cross attention of both blocks"


@pytest.mark.skipif(importlib.util.find_spec("xformers") is not None, reason="xformers is installed")
@pytest.mark.parametrize(
    ("backend", "there"),
    [("native", True), ("_native_math", True), ("_native_cudnn", False), ("xformers", False), ("flash", False)],
)
def test_backends_that_do_not_run_here_are_found_out(backend, there):
    for kind in (torch.float32, torch.bfloat16):
        assert attends(backend, torch.zeros(1, dtype=kind), 16) == there


def test_xformers_that_is_not_installed_is_named():
    with pytest.raises((RuntimeError, ImportError), match="xformers"):
        toy().set_attention_backend("xformers")


@pytest.mark.skipif(importlib.util.find_spec("xformers") is None, reason="xformers is not installed")
def test_xformers_needs_a_gpu():
    def attend():
        model = toy()
        model.set_attention_backend("xformers")
        run(model, given(model))

    with pytest.raises((RuntimeError, ValueError, NotImplementedError), match=r"xformers|CUDA|cuda"):
        attend()


def test_unknown_backend_is_named():
    with pytest.raises(ValueError, match="swift"):
        toy().set_attention_backend("swift")


def test_bf16_is_near():
    model = toy()
    inputs = given(model)
    expected = run(model, inputs)
    low = {name: value.to(torch.bfloat16) if value.is_floating_point() else value for name, value in inputs.items()}
    with torch.autocast("cpu", torch.bfloat16):
        mixed = run(model, inputs)
    seen = run(model.to(torch.bfloat16), low)
    assert seen.dtype == torch.bfloat16
    for other in (mixed, seen):
        assert F.cosine_similarity(other.float().flatten(), expected.flatten(), 0) > 0.999


def test_low_precision_keeps_the_places():
    """Angles in bfloat16 would be off by up to 0.03: fine positions blur."""
    model, seen = toy(grid_size=16, image_size=128).to(torch.bfloat16), []
    model.blocks[0].attention.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["rotation"]), with_kwargs=True
    )
    inputs = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in given(model, 1).items()}
    run(model, inputs)
    assert torch.equal(seen[0], rotation(rotary_angles(8, 16)))


def test_lora_can_be_added(tmp_path):
    model = toy()
    inputs = given(model)
    before = run(model, inputs)
    model.add_adapter(LoraConfig(r=4, target_modules=["to_q", "to_v"]))
    torch.testing.assert_close(run(model, inputs), before)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert len(trained) == 2 * 2 * 2 * 2, "A and B of to_q and to_v, in self and cross attention of two blocks"
    assert all("lora" in name for name in trained)
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value)
    after = run(model, inputs)
    assert not torch.allclose(after, before)
    model.save_lora_adapter(tmp_path)
    again = toy()
    again.load_state_dict({k.replace(".base_layer", ""): v for k, v in model.state_dict().items() if "lora" not in k})
    again.load_lora_adapter(
        tmp_path, prefix=None, weight_name="pytorch_lora_weights.safetensors", use_safetensors=True
    )
    torch.testing.assert_close(run(again, inputs), after)
    model.disable_adapters()
    torch.testing.assert_close(run(model, inputs), before)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("codes", lambda v: v[:, 1:]),
        ("codes", lambda v: v.reshape(3, 4, 8)),
        ("text", lambda v: v[..., 1:]),
        ("text", lambda v: v[:, 1:]),
        ("text_mask", lambda v: v[:1]),
        ("embedding", lambda v: v[:, 1:]),
        ("structure", lambda v: v[..., 1:]),
        ("structure", lambda v: v[:1]),
        ("identity", lambda v: v[:, 1:]),
        ("identity", lambda v: v[0]),
        ("attributes", lambda v: v[1:]),
    ],
)
def test_wrong_shapes_are_named(name, change):
    model = toy()
    inputs = given(model)
    with pytest.raises(ValueError, match=rf"^{name} \(.*is needed"):
        model(**inputs | {name: change(inputs[name])})


def test_missing_and_foreign_conditions_are_named():
    model = toy()
    inputs = given(model)
    with pytest.raises(ValueError, match=r"^identity, text: needed, or the conditions of encode_cond"):
        model(**{name: value for name, value in inputs.items() if name not in ("text", "identity")})
    codes = inputs.pop("codes")
    with pytest.raises(ValueError, match="conditions of 3 faces for the codes of 2"):
        model(codes[:2], conditions=model.encode_conditions(**inputs))


def test_unknown_source_and_sizes_are_named():
    model = toy()
    with pytest.raises(ValueError, match="dropped hair: sources are text, structure, identity, attributes"):
        model(**given(model), dropped={"hair": torch.ones(3, dtype=torch.bool)})
    for values in ({"merge": 3}, {"heads": 5}, {"image_size": 64}):
        with pytest.raises(ValueError, match="has to divide"):
            toy(**values)

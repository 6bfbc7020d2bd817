"""The text encoder and its heads: files, foreign encoders, checkpointing, and that it can learn."""

import pytest
import torch
import transformers

from auface_diffusers.facs import AUSet, units
from auface_diffusers.models import TextAlignment
from train_lora.stages.align import alignment_losses, contrast_loss, level_loss, presence_loss, same_scores

TINY = {"vocab_size": 64, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "intermediate_size": 48}
HEADS = {"reader_dim": 64, "projection_dim": 24}
SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small(**values):
    return TextAlignment(**{**TINY, **HEADS, **values})


def texts(batch=3, length=9):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 64, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    return ids, mask


def encoders():
    t5 = {"vocab_size": 64, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
    clip = {**SIZES, "max_position_embeddings": 77, "bos_token_id": 2, "eos_token_id": 5}
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32, "patch_size": 16}
    return {
        "t5": lambda: transformers.T5EncoderModel(transformers.T5Config(**t5)),
        "t5 with decoder": lambda: transformers.T5ForConditionalGeneration(transformers.T5Config(**t5)),
        "bert": lambda: transformers.BertModel(transformers.BertConfig(**SIZES)),
        "clip text": lambda: transformers.CLIPTextModel(transformers.CLIPTextConfig(**clip)),
        "clip": lambda: transformers.CLIPModel(transformers.CLIPConfig(text_config=clip, vision_config=vision)),
    }


def assert_same(one, other):
    ids, mask = texts()
    said, again = one.eval()(ids, mask), other.eval()(ids, mask)
    for name in said:
        assert torch.equal(said[name], again[name]), name


def test_output_has_the_promised_shapes_and_ranges():
    model, (ids, mask) = small(), texts()
    said = model(ids, mask)
    count = len(units.channels)
    shapes = {name: tuple(value.shape) for name, value in said.items()}
    assert shapes == {
        "hidden_states": (3, 9, 32),
        "embedding": (3, 24),
        "presence_logits": (3, count),
        "levels": (3, count),
    }
    assert torch.allclose(said.embedding.norm(dim=-1), torch.ones(3))
    assert 0 <= said.levels.min() <= said.levels.max() <= 5


def test_saved_model_is_the_same_and_needs_no_other_file(tmp_path):
    model = small()
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}
    assert_same(model, TextAlignment.from_pretrained(tmp_path))


@pytest.mark.parametrize("kind", encoders())
def test_foreign_encoder_takes_the_place_of_ours_and_is_saved_with_the_model(kind, tmp_path):
    source = encoders()[kind]().eval()
    folder = tmp_path / "encoder"
    source.save_pretrained(folder)
    model = TextAlignment(encoder=str(folder), **HEADS).eval()
    ids, mask = texts()
    inner = {"t5 with decoder": "encoder", "clip": "text_model"}.get(kind, "")
    with torch.no_grad():
        wanted = source.get_submodule(inner)(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.allclose(model(ids, mask).hidden_states, wanted, atol=1e-5)

    model.save_pretrained(tmp_path / "saved")
    folder.rename(tmp_path / "gone")
    loaded = TextAlignment.from_pretrained(tmp_path / "saved")
    assert loaded.config.hidden_size == 32
    assert loaded.config.encoder is None
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()
    assert_same(model, loaded)


def test_positions_of_an_encoder_limit_the_length(tmp_path):
    encoders()["clip text"]().save_pretrained(tmp_path)
    model = TextAlignment(encoder=str(tmp_path), **HEADS)
    assert model.config.max_length == 77
    ids, mask = texts(length=78)
    with pytest.raises(ValueError, match="78 tokens are too many: the limit is 77"):
        model(ids, mask)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder": "openai/clip"}, "no local folder"),
        ({"channels": ["L12", "L12"]}, "each once"),
        ({"reader_dim": 96}, "multiple of 64"),
        ({"num_heads": 3}, "no multiple of num_heads"),
    ],
)
def test_impossible_configurations_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        small(**values)


def test_a_size_that_the_encoder_does_not_have_is_refused(tmp_path):
    encoders()["bert"]().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="hidden_size 512: the encoder has 32"):
        TextAlignment(encoder=str(tmp_path), hidden_size=512)


def test_a_folder_without_weights_of_a_text_encoder_is_refused(tmp_path):
    encoders()["bert"]().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    from safetensors.torch import load_file, save_file

    kept = {name: value for name, value in load_file(weights).items() if "layer.1." not in name}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="has no weights for"):
        TextAlignment(encoder=str(tmp_path), **HEADS)


def test_shapes_that_do_not_fit_are_refused():
    ids, mask = texts()
    with pytest.raises(ValueError, match="both must be"):
        small()(ids, mask[:, :5])


def test_channels_are_stored(tmp_path):
    assert small().channels == units.channels
    names = ["L12", "R12", "17"]
    small(channels=names).save_pretrained(tmp_path)
    loaded = TextAlignment.from_pretrained(tmp_path)
    assert loaded.channels == tuple(names)
    assert loaded(*texts()).levels.shape == (3, 3)


def test_padding_changes_nothing():
    model, (ids, mask) = small().eval(), texts()
    said = model(ids, mask)
    alone = model(ids[1:2, :5], mask[1:2, :5])
    for name in ("embedding", "presence_logits", "levels"):
        assert torch.allclose(said[name][1], alone[name][0], atol=1e-5), name


def test_gradient_checkpointing_gives_the_same_gradients():
    model, (ids, mask) = small().train(), texts()

    def gradients():
        model.zero_grad()
        said = model(ids, mask)
        (said.levels.sum() + said.presence_logits.square().sum() + said.embedding[:, 0].sum()).backward()
        return {name: value.grad.clone() for name, value in model.named_parameters()}

    plain = gradients()
    assert not model.is_gradient_checkpointing
    model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing
    calls = []
    layer = model.text_encoder.encoder.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    kept = gradients()
    assert len(calls) == 2, "once forward, once again on the way back"
    for name, value in plain.items():
        assert torch.allclose(value, kept[name], atol=1e-6), name


def test_read_leaves_out_what_is_absent():
    model, (ids, mask) = small(channels=["L12", "17"]), texts()
    with torch.no_grad():
        model.reader.readout.zero_()
        model.reader.gist[-1].weight.zero_()
        model.reader.gist[-1].bias.zero_()
        model.reader.readout_bias.copy_(torch.tensor([[2.0, 0.0], [-2.0, 0.0]]))
    levels = model.read(ids, mask)
    assert levels.tolist() == [[2.5, 0.0]] * 3
    assert AUSet.from_vector(levels[0].tolist(), model.channels) == AUSet({"L12": 2.5})
    assert model.read(ids, mask, threshold=0.05).tolist() == [[2.5, 2.5]] * 3
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        model.read(ids, mask, threshold=2.0)


def test_thirty_steps_learn_sixteen_texts():
    channels = list(units.channels[:12])
    model = small(channels=channels).train()
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(4, 64, (2, 16, 10), generator=generator)
    levels = torch.rand(16, 12, generator=generator) * 5 * (torch.rand(16, 12, generator=generator) < 0.3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    mask = torch.ones_like(ids[0])
    history = []
    for _ in range(30):
        losses = alignment_losses(model(ids[0], mask), model(ids[1], mask), levels, logit_scale=10.0)
        history.append({name: value.item() for name, value in losses.items()})
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
    assert history[-1]["presence"] < 0.4 * history[0]["presence"]
    assert history[-1]["level"] < history[0]["level"]
    assert history[-1]["contrast"] < history[0]["contrast"]


def test_losses_are_lowest_at_the_truth():
    levels = torch.tensor([[0.0, 3.0, 0.0], [5.0, 0.0, 0.4]])
    right = torch.where(levels >= 0.5, 20.0, -20.0)
    assert presence_loss(right, levels) < 1e-6
    assert presence_loss(-right, levels) > 10
    assert level_loss(levels, levels) == 0
    assert level_loss(5 - levels, levels) > 0.5
    absent_wrong = levels + torch.tensor([1.0, 0.0, 0.0])
    present_wrong = levels - torch.tensor([0.0, 1.0, 0.0])
    assert 0 < level_loss(absent_wrong[:1], levels[:1]) < level_loss(present_wrong[:1], levels[:1])


def test_rows_that_say_the_same_are_no_negatives():
    levels = torch.tensor([[2.9, 0.0], [3.1, 0.0], [1.0, 0.0], [0.0, 0.0], [0.2, 0.0]])
    same = same_scores(levels)
    assert same[0].tolist() == [True, True, False, False, False]
    assert same[2].tolist() == [False, False, True, False, True], "a trace is an A, never nothing"
    vectors = torch.eye(3)[[0, 0, 1]]
    matched = contrast_loss(vectors, vectors, same[:3, :3], 50.0)
    assert matched < contrast_loss(vectors, vectors, torch.eye(3, dtype=torch.bool), 50.0) + 1e-6
    assert contrast_loss(vectors, vectors.roll(1, 0), same[:3, :3], 50.0) > 10

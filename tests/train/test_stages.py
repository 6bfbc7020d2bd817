"""The stages after the tokenizer, at toy size: they learn, they export what loads, and their options act."""

import dataclasses
import importlib.util
import json
from pathlib import Path

import pytest
import torch

from auface_diffusers.anatomy import STRUCTURE_CHANNELS
from auface_diffusers.models import AUEstimator, FaceTokenizer, FaceTransformer, StructureEncoder, TextAlignment
from train_lora.ablate import VARIANTS, AblateConfig, ablate
from train_lora.data.faces import FacesConfig
from train_lora.loop import LoopConfig, Step, train
from train_lora.stages.align import AlignConfig, AlignStage
from train_lora.stages.estimator import EstimatorConfig, EstimatorStage, apart, side_pairs
from train_lora.stages.generator import GeneratorConfig, GeneratorStage
from train_lora.stages.tokenizer import TokenizerConfig, TokenizerLosses, TokenizerStage

_spec = importlib.util.spec_from_file_location("toy_parts", Path(__file__).parents[1] / "pipelines" / "conftest.py")
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

LOOP = LoopConfig(
    steps=12, batch_size=8, learning_rate=3e-3, warmup=1, ema=0.5, log_every=1, validate_every=12, save_every=12
)
TEXT = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "intermediate_size": 32, "max_length": 96}
TEXT |= {"projection_dim": 32, "reader_dim": 64}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Folders of a toy tokenizer of faces and of a toy alignment."""
    folder = tmp_path_factory.mktemp("parts")
    made = toy.components()
    made["face_tokenizer"].save_pretrained(folder / "tokenizer")
    made["text_alignment"].save_pretrained(folder / "align" / "text")
    made["tokenizer"].save_pretrained(folder / "align" / "tokenizer")
    torch.manual_seed(5)
    StructureEncoder(image_size=64, width=32, embedding_dim=32).save_pretrained(folder / "align" / "structure")
    return folder


def run(stage, config):
    report = train(stage, config.train, Path(config.out), {"train": dataclasses.asdict(config.train)})
    lines = [json.loads(line) for line in (Path(config.out) / "log.jsonl").read_text().splitlines()]
    return report, lines


def first_loss(stage, player, numbers=range(8)):
    batch = stage.source.__getitems__(list(numbers))
    torch.manual_seed(0)
    ((_, loss, values),) = list(stage.losses(batch, Step(0, 0.0, tuple(range(100, 100 + len(numbers))))))
    return float(loss.detach()), values


# --- alignment -------------------------------------------------------------------------------------------------------


def align_config(parts, out, **values):
    given = {"out": str(out), "train": LOOP, "words": str(parts / "align" / "tokenizer"), "rows": 64, "image_size": 64}
    return AlignConfig(**{**given, "text": TEXT, "structure": {"width": 32, "embedding_dim": 32}, **values})


def test_alignment_learns_and_exports(parts, tmp_path):
    config = align_config(parts, tmp_path, train=dataclasses.replace(LOOP, batch_size=4))
    report, lines = run(AlignStage(config), config)
    losses = [line["presence"] for line in lines if "presence" in line]
    assert losses[-1] < losses[0]
    assert {"text_f1", "structure_to_text", "loss"} <= set(report["validation"])
    model = tmp_path / "model"
    assert TextAlignment.from_pretrained(model / "text").config["hidden_size"] == 32
    assert StructureEncoder.from_pretrained(model / "structure").config["width"] == 32
    assert (model / "tokenizer" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    "name",
    [*(f"{name}_weight" for name in ("presence", "level", "contrast", "structure", "landmark", "motion"))],
)
def test_weights_of_the_alignment(parts, tmp_path, name):
    one, other = (
        first_loss(AlignStage(align_config(parts, tmp_path, **{name: value})), "aligner", range(2))[0]
        for value in (0.0, 3.0)
    )
    assert one < other


# --- estimator -------------------------------------------------------------------------------------------------------


def estimator_config(faces, out, **values):
    data = FacesConfig(shards=faces.out)
    model = {"image_size": 32, "widths": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    given = {"out": str(out), "train": LOOP, "data": data, "held_out": data, "calibration": data, "model": model}
    return EstimatorConfig(**{**given, "strength": 0.0, **values})


def test_estimator_learns_and_exports(faces, tmp_path):
    config = estimator_config(faces, tmp_path)
    _, lines = run(EstimatorStage(config), config)
    losses = [line["loss_estimator"] for line in lines if "loss_estimator" in line]
    assert sum(losses[-3:]) < sum(losses[:3])
    model = AUEstimator.from_pretrained(tmp_path / "model")
    table = (tmp_path / "model" / "channels.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in table[1:]] == list(model.channels)


@pytest.mark.parametrize(
    "values",
    [
        {"strength": 1.0},
        {"presence_weight": 1.0},
        {"level_weight": 5.0},
        {"landmark_weight": 0.0},
        {"motion_weight": 9.0},
        {"side_weight": 0.0},
        {"tokenizer": "tokenizer", "repainted": 1.0},
    ],
    ids=str,
)
def test_options_of_the_estimator(faces, parts, tmp_path, values):
    if "tokenizer" in values:
        values = values | {"tokenizer": str(parts / "tokenizer")}
    plain, other = (EstimatorStage(estimator_config(faces, tmp_path, **given)) for given in ({}, values))
    assert first_loss(plain, "estimator")[0] != first_loss(other, "estimator")[0]


def test_the_side_that_shows_more_is_to_be_ahead():
    sides = side_pairs(["L1", "R1", "17", "L12", "R12"])
    assert sides.tolist() == [[0, 1], [3, 4]]
    logits = torch.tensor([[2.0, -1.0, 0.0, 1.0, 4.0]])
    levels = torch.tensor([[0.0, 3.0, 5.0, 4.0, 2.0]])
    ahead, differ = apart(logits, levels, torch.ones(1, 5, dtype=torch.bool), sides)
    assert ahead.tolist() == [[-3.0, -3.0]]
    assert differ.tolist() == [[True, True]]
    _, differ = apart(logits, levels - levels.new_tensor([0, 2, 0, 0, 0]), levels > 0, sides)
    assert differ.tolist() == [[False, True]]


def test_nothing_is_repainted_at_share_zero(faces, parts, tmp_path):
    config = estimator_config(faces, tmp_path, tokenizer=str(parts / "tokenizer"), repainted=0.0)
    plain = EstimatorStage(estimator_config(faces, tmp_path))
    assert first_loss(EstimatorStage(config), "estimator")[0] == first_loss(plain, "estimator")[0]


def test_an_estimator_goes_on_from_another(faces, tmp_path):
    torch.manual_seed(9)
    AUEstimator(image_size=32, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1)).save_pretrained(tmp_path / "start")
    stage = EstimatorStage(estimator_config(faces, tmp_path, start=str(tmp_path / "start")))
    start = AUEstimator.from_pretrained(tmp_path / "start")
    for name, value in start.state_dict().items():
        assert torch.equal(stage.players["estimator"].state_dict()[name], value)


# --- decoder ---------------------------------------------------------------------------------------------------------


def test_the_encoder_stays_when_the_decoder_is_trained(faces, parts, tmp_path):
    data = FacesConfig(shards=faces.out)
    losses = TokenizerLosses(adversarial=0.1, adversarial_from=0.0)
    values = {"start": str(parts / "tokenizer"), "decoder_only": True, "losses": losses, "structure": True}
    config = TokenizerConfig(str(tmp_path), dataclasses.replace(LOOP, steps=2), data, data, **values)
    run(TokenizerStage(config), config)
    before, after = (FaceTokenizer.from_pretrained(path) for path in (parts / "tokenizer", tmp_path / "model"))
    half = before.half().float()
    assert all(torch.equal(half.encoder.state_dict()[n], v) for n, v in after.encoder.state_dict().items())
    assert not all(torch.equal(half.decoder.state_dict()[n], v) for n, v in after.decoder.state_dict().items())
    assert not all(torch.equal(half.guide.state_dict()[n], v) for n, v in after.guide.state_dict().items())


def without_maps(folder):
    """A folder with the toy tokenizer as one of codes alone."""
    made = toy.components()["face_tokenizer"]
    alone = FaceTokenizer.from_config(made.config, structure_channels=0)
    alone.load_state_dict(made.state_dict(), strict=False)
    alone.save_pretrained(folder)
    return str(folder)


def test_a_decoder_learns_to_read_structure_maps(faces, tmp_path):
    data = FacesConfig(shards=faces.out)
    loop = dataclasses.replace(LOOP, steps=30, ema=0.0)
    start = without_maps(tmp_path / "start")
    found = {}
    for drop in (0.0, 1.0):
        values = {"start": start, "decoder_only": True, "structure": True, "structure_drop": drop}
        config = TokenizerConfig(str(tmp_path / f"{drop}"), loop, data, data, **values)
        stage = TokenizerStage(config)
        model, batch = stage.players["tokenizer"].eval(), stage.held_out.__getitems__([0, 1])
        with torch.no_grad():  # the map counts for nothing at first
            assert torch.equal(model(batch.images, batch.structure).image, model(batch.images).image)
        found[drop] = run(stage, config)[0]["validation"]
    assert found[0.0]["psnr"] > found[0.0]["psnr_without_structure"] + 0.1
    assert found[1.0]["psnr"] == found[1.0]["psnr_without_structure"], "nothing is learnt of maps that are not given"
    again = TokenizerConfig(str(tmp_path / "again"), loop, data, data, start=str(tmp_path / "0.0" / "model"))
    with pytest.raises(ValueError, match="takes structure maps: train it with structure=true"):
        TokenizerStage(again)


# --- generator -------------------------------------------------------------------------------------------------------


def generator_config(faces, parts, out, **values):
    data = FacesConfig(shards=faces.out)
    model = {"width": 32, "layers": 1, "heads": 2, "code_dim": 16, "structure_width": 32}
    given = {"out": str(out), "train": LOOP, "data": data, "held_out": data, "cache": False, "model": model}
    return GeneratorConfig(
        **{**given, "tokenizer": str(parts / "tokenizer"), "alignment": str(parts / "align"), **values}
    )


def test_generator_learns_and_exports(faces, parts, tmp_path):
    config = generator_config(faces, parts, tmp_path / "run")
    report, lines = run(GeneratorStage(config), config)
    losses = [line["loss_transformer"] for line in lines if "loss_transformer" in line]
    assert sum(losses[-3:]) < sum(losses[:3])
    assert report["validation"]["loss"] > 0
    assert FaceTransformer.from_pretrained(tmp_path / "run" / "model").config["codebook_size"] == 16


@pytest.mark.parametrize(
    "values",
    [
        {"drop": 1.0},
        {"drop_all": 1.0},
        {"feature_weight": 50.0},
        {"free_texts": 1.0},
        {"leave_out": ("structure",)},
        {"vector_text": True},
        {"aligned": False},
    ],
    ids=str,
)
def test_options_of_the_generator(faces, parts, tmp_path, values):
    plain = GeneratorStage(generator_config(faces, parts, tmp_path, drop=0.0, drop_all=0.0, free_texts=0.0))
    given = {"drop": 0.0, "drop_all": 0.0, "free_texts": 0.0} | values
    other = GeneratorStage(generator_config(faces, parts, tmp_path, **given))
    assert first_loss(plain, "transformer")[0] != first_loss(other, "transformer")[0]


def test_the_generator_starts_with_the_aligned_structure_encoder(faces, parts, tmp_path):
    stage = GeneratorStage(generator_config(faces, parts, tmp_path))
    encoder = StructureEncoder.from_pretrained(parts / "align" / "structure")
    for name, value in encoder.extractor.state_dict().items():
        assert torch.equal(stage.players["transformer"].structure.state_dict()[name], value)


def test_a_generator_of_fewer_map_channels_goes_on_with_all(faces, parts, tmp_path):
    few = {"width": 32, "layers": 1, "heads": 2, "code_dim": 16, "structure_width": 32, "structure_channels": 19}
    old = GeneratorStage(generator_config(faces, parts, tmp_path, model=few, aligned=False))
    loss, _ = first_loss(old, "transformer")
    old.players["transformer"].save_pretrained(tmp_path / "old")
    new = GeneratorStage(generator_config(faces, parts, tmp_path, start=str(tmp_path / "old"), aligned=False))
    assert new.players["transformer"].config["structure_channels"] == len(STRUCTURE_CHANNELS) > 19
    assert first_loss(new, "transformer")[0] == pytest.approx(loss, abs=1e-5)
    stem = new.players["transformer"].structure.stem.weight
    assert stem[:, 19:].eq(0).all()
    train(new, LOOP, tmp_path / "run", {})
    assert stem[:, 19:].ne(0).any()


def test_the_estimator_reads_what_is_drawn(faces, parts, tmp_path):
    AUEstimator(image_size=32, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1)).save_pretrained(tmp_path / "estimator")
    stage = GeneratorStage(generator_config(faces, parts, tmp_path, estimator=str(tmp_path / "estimator")))
    measured = stage.validate(stage.players["transformer"].eval())
    assert {"loss", "alignment", "alignment_of_real_codes"} <= set(measured)


def test_unknown_names_are_errors(faces, parts, tmp_path):
    with pytest.raises(ValueError, match="leave_out hair: sources are text, structure, identity, attributes"):
        generator_config(faces, parts, tmp_path, leave_out=("hair",))
    with pytest.raises(ValueError, match="FaceTransformer has no argument depth; it has codebook_size"):
        GeneratorStage(generator_config(faces, parts, tmp_path, model={"depth": 3}))
    with pytest.raises(ValueError, match="decoder_only needs start"):
        TokenizerConfig("", LOOP, FacesConfig(), FacesConfig(), decoder_only=True)
    with pytest.raises(ValueError, match="structure needs decoder_only"):
        TokenizerConfig("", LOOP, FacesConfig(), FacesConfig(), structure=True)
    with pytest.raises(ValueError, match=r"structure_drop 2: a share in 0\.\.1"):
        TokenizerConfig("", LOOP, FacesConfig(), FacesConfig(), structure_drop=2)


# --- ablations -------------------------------------------------------------------------------------------------------


def test_ablations_train_and_compare_all_variants(faces, parts, tmp_path, monkeypatch):
    AUEstimator(image_size=32, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1)).save_pretrained(tmp_path / "estimator")
    full = generator_config(faces, parts, tmp_path / "unused")
    monkeypatch.setattr("train_lora.ablate.load_config", lambda *_: full)
    config = AblateConfig(
        out=str(tmp_path / "out"),
        generator="",
        steps=LOOP.steps,
        estimator=str(tmp_path / "estimator"),
        held_out=FacesConfig(shards=faces.out),
        least=2,
    )
    table = ablate(config)
    assert list(table) == list(VARIANTS)
    assert all(0.3 < row["all"] < 0.7 for row in table.values()), "nothing is learnt in twelve steps"
    lines = (tmp_path / "out" / "ablations.md").read_text().splitlines()
    assert lines[0] == "Each trained on 96 faces."
    assert [line.split(" | ")[0] for line in lines[4:]] == [f"| {name}" for name in VARIANTS]
    weights = {name: tmp_path / "out" / name.replace(" ", "-") / "model" for name in VARIANTS}
    assert len({next(path.glob("*.safetensors")).read_bytes() for path in weights.values()}) == len(VARIANTS)

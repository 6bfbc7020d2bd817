"""Trained parts to weights and a model card, at toy size."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_pipeline
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from auface_diffusers import VQAUFacePipeline
from auface_diffusers.models import AUEstimator, StructureEncoder, TextAlignment
from train_lora.__main__ import main
from train_lora.config import load_config
from train_lora.export import ExportConfig, export
from train_lora.report import ReportConfig

CONFIGS = Path(__file__).parent.parent.parent / "train_lora" / "configs"


@pytest.fixture
def parts(tmp_path):
    """Keys of the configuration, of parts in a folder that a test may damage."""
    return toy_pipeline.save_parts(tmp_path / "parts")


@pytest.fixture
def out(tmp_path):
    return tmp_path / "weights"


def left(out):
    """Names beside ``out``, where a failed export could leave something."""
    return sorted(path.name for path in out.parent.iterdir())


def test_the_pipeline_is_what_the_parts_are(parts, out):
    done = export(ExportConfig(out=str(out), steps=3, guidance_scale=1.5, **parts))
    assert done["files"] == len([path for path in out.rglob("*") if path.is_file()])
    assert {path.suffix for path in out.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".md", ".csv"}
    pipe = VQAUFacePipeline.from_pretrained(out / "default", torch_dtype=torch.float32)
    assert (pipe.config.num_inference_steps, pipe.config.guidance_scale, pipe.config.framing) == (3, 1.5, "face")
    for path in out.rglob("*.safetensors"):
        assert {value.dtype for value in load_file(path).values()} <= {torch.float16, torch.bool}, path
    for model in (pipe.transformer, pipe.face_tokenizer, pipe.text_alignment):
        for name, value in toy_state(model, parts).items():
            assert torch.equal(model.state_dict()[name], value.half().float()), name
    assert not any("_name_or_path" in path.read_text() for path in out.rglob("config.json"))
    assert pipe("12D", seed=0).images[0].size == (64, 64)
    for name, kind in (("estimator", "conv"), ("evaluation_estimator", "patch")):
        assert AUEstimator.from_pretrained(out / name).config["architecture"] == kind
        assert (out / name / "channels.csv").is_file()
    assert left(out) == ["parts", "weights"]


def toy_state(model, parts):
    folders = {
        "FaceTransformer": parts["generator"],
        "FaceTokenizer": parts["tokenizer"],
        "TextAlignment": f"{parts['alignment']}/text",
    }
    return load_file(Path(folders[type(model).__name__]) / "diffusion_pytorch_model.safetensors")


@pytest.mark.parametrize("structure", [{"in_channels": 19}, None], ids=["fewer-channels", "none"])
def test_a_structure_encoder_of_fewer_channels_or_none_will_do(parts, out, structure):
    """The generator may have gone on with more channels of the map; an alignment is used without the encoder."""
    folder = Path(parts["alignment"]) / "structure"
    shutil.rmtree(folder)
    if structure is not None:
        StructureEncoder(image_size=64, width=32, embedding_dim=32, **structure).save_pretrained(folder)
    export(ExportConfig(out=str(out), **parts))
    assert VQAUFacePipeline.from_pretrained(out / "default")("12D", seed=0).images[0].size == (64, 64)


def test_files_are_small(parts, out, monkeypatch):
    monkeypatch.setattr("train_lora.export.SHARD", "60KB")
    export(ExportConfig(out=str(out), **parts))
    sizes = [path.stat().st_size for path in (out / "default" / "transformer").glob("*.safetensors")]
    assert len(sizes) > 1
    VQAUFacePipeline.from_pretrained(out / "default")


def test_a_second_export_replaces_the_first_and_nothing_else(parts, out):
    export(ExportConfig(out=str(out), steps=3, **parts))
    (out / "mine").mkdir()
    (out / "default" / "old").write_text("")
    export(ExportConfig(out=str(out), steps=4, **{**parts, "estimator": ""}))
    assert VQAUFacePipeline.from_pretrained(out / "default").config.num_inference_steps == 4
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "default", "estimator", "evaluation_estimator", "mine",
    ]  # fmt: skip
    assert not (out / "default" / "old").exists()


def test_the_card(parts, out, tmp_path):
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.json").write_text(json.dumps({"n_images": 40, "n_items": 10}))
    (report / "report.md").write_text("| scores | alignment |\n|---|---|\n| all | 0.912 |\n")
    Image.fromarray(np.zeros((64, 64, 3), "uint8")).save(report / "samples.png")
    lines = [{"step": 1, "loss": 9.0}, {"step": 5, "val_loss": 3.5}, {"step": 9, "val_loss": 1.25, "val_new": 2}]
    log = Path(parts["generator"]).parent / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 10, "val_lo')
    (report / "ablations.md").write_text("| trained with | all |\n|---|---|\n| no text | 0.612 |\n")
    export(ExportConfig(out=str(out), report=str(report), ablations=str(report), recipe=("make it",), **parts))
    text = (out / "README.md").read_text()
    for said in (
        "license: apache-2.0",
        "rendered faces",
        "CC0",
        "40 drawn faces with 10 scores of the standard suite",
        "no text | 0.612 |",
        "| all | 0.912 |",
        "![samples](samples.webp)",
        "```sh\nmake it\n```",
        "| generator | 9 | loss | 3.5 (step 5) | 1.25 |",
        "| generator | 9 | new | - | 2 |",
        "not: L12.",
        "| R12 | 0.9 | - | 0.5 | 0.9 | - | 0.5 |",
    ):
        assert said in text, said
    assert (out / "samples.webp").is_file()
    plain = tmp_path / "plain"
    export(ExportConfig(out=str(plain), **parts))
    assert "No report" in (plain / "README.md").read_text()


def other_tokenizer(parts):
    from auface_diffusers.models import FaceTokenizer

    FaceTokenizer(64, channels=(8, 16, 16), levels=(5, 4), code_groups=2).save_pretrained(parts["tokenizer"])


def other_text(parts):
    text = TextAlignment(vocab_size=400, hidden_size=64, num_layers=1, num_heads=2, projection_dim=64, reader_dim=64)
    text.save_pretrained(f"{parts['alignment']}/text")


def more_words(parts):
    words = PreTrainedTokenizerFast.from_pretrained(f"{parts['alignment']}/tokenizer")
    words.add_tokens(["<more>"])
    words.save_pretrained(f"{parts['alignment']}/tokenizer")


def lost_weight(parts):
    path = Path(parts["generator"]) / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["to_codes.weight"]
    save_file(weights, path, {"format": "pt"})


def truncated(parts):
    path = Path(parts["tokenizer"]) / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def pickled(parts):
    path = Path(parts["tokenizer"]) / "diffusion_pytorch_model.safetensors"
    path.rename(path.with_name("diffusion_pytorch_model.bin"))


def other_channels(parts):
    toy = AUEstimator("conv", image_size=32, channels=["L12", "R12"], widths=(8, 8, 16, 16), depths=(1, 1, 1, 1))
    toy.save_pretrained(parts["estimator"])


def same_estimators(parts):
    shutil.rmtree(parts["estimator"])
    shutil.copytree(parts["evaluation_estimator"], parts["estimator"])


def other_structure(parts):
    StructureEncoder(image_size=32, width=32, embedding_dim=32).save_pretrained(f"{parts['alignment']}/structure")


def swapped(parts):
    parts["generator"] = parts["tokenizer"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (other_tokenizer, "codebook_size 16 and face_tokenizer 20"),
        (other_text, "text_dim 32"),
        (more_words, "vocab_size"),
        (lost_weight, "to_codes.weight"),
        (truncated, "tokenizer"),
        (pickled, "pickle"),
        (other_channels, "estimator: its channels"),
        (same_estimators, "both estimators"),
        (other_structure, "image_size 32 and the generator 64"),
        (swapped, "FaceTransformer is needed"),
        (lambda parts: parts.update(generator="none"), "none is no trained FaceTransformer"),
        (lambda parts: parts.update(framing="close"), "framing 'close'"),
        (lambda parts: parts.update(report="none"), "report.json"),
    ],
)
def test_parts_that_do_not_fit_are_named_and_nothing_is_written(parts, out, damage, message):
    damage(parts)
    with pytest.raises(ValueError, match=message):
        export(ExportConfig(out=str(out), **parts))
    assert left(out) == ["parts"]


def test_from_the_command_line(parts, out, tmp_path, capsys):
    config = tmp_path / "export.toml"
    config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in parts.items()))
    assert main(["export", str(config), f"out={out}", "steps=5", 'recipe=["a", "b"]']) == 0
    assert json.loads(capsys.readouterr().out)["out"] == str(out)
    assert main(["export", str(config), f"out={out}", "steps=0"]) == 1
    assert "steps 0" in capsys.readouterr().err
    assert main(["export", str(config), "size=3"]) == 1
    assert "unknown key size" in capsys.readouterr().err


def test_shipped_configurations_can_be_read():
    assert load_config(ExportConfig, CONFIGS / "export.toml").out == "auface_diffusers/weights"
    assert load_config(ReportConfig, CONFIGS / "report.toml").suite == "standard"

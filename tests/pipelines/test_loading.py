"""Saving and loading, dtypes, attention backends, and files that are refused."""

import contextlib
import importlib.util
import json
import shutil
import subprocess
import sys

import pytest
import torch
from diffusers import DiffusionPipeline

import auface_diffusers
from auface_diffusers import VQAUFaceEditPipeline, VQAUFacePipeline
from auface_diffusers.pipelines import base
from auface_diffusers.schedulers import MaskedTokenScheduler

TEXT = "1C+2C+5B+26C"


def drawn(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe(TEXT, identity=7, seed=0, output_type="pt").images


@pytest.fixture
def folder(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def test_saved_and_loaded_draws_the_same(pipe, folder):
    loaded = VQAUFacePipeline.from_pretrained(folder)
    assert loaded.config["num_inference_steps"] == 3
    assert loaded.config["framing"] == "face"
    assert torch.equal(drawn(loaded), drawn(pipe))
    index = json.loads((folder / "model_index.json").read_text())
    assert index["transformer"] == ["auface_diffusers.models.face_transformer", "FaceTransformer"]
    assert index["tokenizer"] == ["transformers", "PreTrainedTokenizerFast"]
    assert not list(folder.rglob("*.bin"))


def test_framing_is_kept_and_used(pipe, tmp_path):
    wide = VQAUFacePipeline(**pipe.components, framing="portrait", num_inference_steps=3)
    wide.save_pretrained(tmp_path)
    loaded = VQAUFacePipeline.from_pretrained(tmp_path)
    assert loaded.config["framing"] == "portrait"
    assert not torch.equal(drawn(loaded), drawn(pipe))
    with pytest.raises(ValueError, match="framing 'wide'"):
        VQAUFacePipeline(**pipe.components, framing="wide")


def test_shards_are_loaded(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, max_shard_size="50KB")
    shards = sorted((tmp_path / "transformer").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    assert torch.equal(drawn(VQAUFacePipeline.from_pretrained(tmp_path)), drawn(pipe))
    shards[1].unlink()
    with pytest.raises(ValueError, match=f"lacks {shards[1].name}"):
        VQAUFacePipeline.from_pretrained(tmp_path)


def test_half_precision(pipe, folder, tmp_path):
    half = VQAUFacePipeline.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert half.transformer.dtype == half.text_alignment.dtype == torch.bfloat16
    image = drawn(half)
    assert image.dtype == torch.float32
    assert image.isfinite().all()
    pipe.to(torch.float16).save_pretrained(tmp_path / "fp16")
    single = VQAUFacePipeline.from_pretrained(tmp_path / "fp16", torch_dtype=torch.float32)
    assert {p.dtype for p in single.transformer.parameters()} == {torch.float32}
    assert drawn(single).isfinite().all()


def test_variant(pipe, tmp_path):
    pipe.save_pretrained(tmp_path, variant="fp16")
    assert list(tmp_path.rglob("*.fp16.safetensors"))
    assert torch.equal(drawn(VQAUFacePipeline.from_pretrained(tmp_path, variant="fp16")), drawn(pipe))
    with pytest.raises(ValueError, match="diffusion_pytorch_model.safetensors is missing"):
        VQAUFacePipeline.from_pretrained(tmp_path)


def test_default_weights(folder, pipe, monkeypatch, tmp_path):
    monkeypatch.setattr(base, "DEFAULT_WEIGHTS", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="none has no model_index.json"):
        VQAUFacePipeline.from_default()
    monkeypatch.setattr(base, "DEFAULT_WEIGHTS", folder)
    assert torch.equal(drawn(VQAUFacePipeline.from_default()), drawn(pipe))
    assert VQAUFaceEditPipeline.from_default(estimator=None).estimator is None
    assert VQAUFacePipeline.from_default(torch_dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_pickle_is_refused(pipe, folder):
    part = folder / "transformer"
    torch.save(pipe.transformer.state_dict(), part / "diffusion_pytorch_model.bin")
    VQAUFacePipeline.from_pretrained(folder)  # it is not looked at beside safetensors
    (part / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"diffusion_pytorch_model.bin is a pickle"):
        VQAUFacePipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match="use_safetensors=False"):
        VQAUFacePipeline.from_pretrained(folder, use_safetensors=False)


def test_damaged_and_foreign_files_are_named(folder):
    file = folder / "face_tokenizer" / "diffusion_pytorch_model.safetensors"
    whole = file.read_bytes()
    for bad in (whole[:-100], whole[:5], b"", b"not safetensors at all"):
        file.write_bytes(bad)
        with pytest.raises(ValueError, match=r"face_tokenizer.diffusion_pytorch_model.safetensors is damaged"):
            VQAUFacePipeline.from_pretrained(folder)
    file.write_bytes((folder / "transformer" / file.name).read_bytes())
    with pytest.raises(ValueError, match="face_tokenizer holds no FaceTokenizer of its config.json: lacks"):
        VQAUFacePipeline.from_pretrained(folder)
    file.unlink()
    with pytest.raises(ValueError, match=f"{file.name} is missing"):
        VQAUFacePipeline.from_pretrained(folder)
    with pytest.raises(ValueError, match="no saved pipeline"):
        VQAUFacePipeline.from_pretrained(folder / "transformer")


def test_a_path_that_is_not_there_asks_no_hub(tmp_path):
    for path in (tmp_path / "none", str(tmp_path / "none"), "./none"):
        with pytest.raises(ValueError, match="none is no folder"):
            VQAUFacePipeline.from_pretrained(path)


def test_a_hub_id_is_loaded(pipe, folder, tmp_path):
    """From a cache laid out as huggingface_hub does: the network is not here, all else is."""
    place = tmp_path / "cache" / "models--someone--faces"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("c0ffee")
    shutil.copytree(folder, place / "snapshots" / "c0ffee")
    options = {"cache_dir": tmp_path / "cache", "local_files_only": True}
    loaded = VQAUFacePipeline.from_pretrained("someone/faces", **options)
    assert torch.equal(drawn(loaded), drawn(pipe))
    with pytest.raises(OSError, match="cached snapshot"):
        VQAUFacePipeline.from_pretrained("someone/else", **options)


def test_a_missing_part_is_named(folder):
    shutil.rmtree(folder / "transformer")
    with pytest.raises(ValueError, match="transformer is missing"):
        VQAUFacePipeline.from_pretrained(folder)


def test_a_pipeline_saves_no_pickles(pipe, tmp_path):
    with pytest.raises(ValueError, match="safe_serialization=False"):
        pipe.save_pretrained(tmp_path, safe_serialization=False)
    assert not list(tmp_path.rglob("*.bin"))


def test_weights_of_another_size_are_refused(pipe, folder):
    config = folder / "transformer" / "config.json"
    config.write_text(config.read_text().replace('"code_dim": 16', '"code_dim": 8'))
    with pytest.raises(ValueError, match=r"in another shape \['code_embedding.weight'"):
        VQAUFacePipeline.from_pretrained(folder)


def test_a_component_can_be_given(pipe, folder):
    other = MaskedTokenScheduler(mask_token_id=16, schedule="linear", temperature=0.0)
    loaded = VQAUFacePipeline.from_pretrained(folder, scheduler=other, transformer=pipe.transformer)
    assert loaded.scheduler is other
    assert loaded.transformer is pipe.transformer
    assert not torch.equal(drawn(loaded), drawn(pipe))


def test_components_that_do_not_belong_together(pipe):
    parts = {**pipe.components, "scheduler": MaskedTokenScheduler(mask_token_id=99)}
    with pytest.raises(ValueError, match="codebook_size 16 and scheduler 99"):
        VQAUFacePipeline(**parts)


def test_from_pipe_shares_components_and_keeps_their_dtype(pipe):
    pipe.to(torch.bfloat16)
    edit = VQAUFaceEditPipeline.from_pipe(pipe)
    assert isinstance(edit, DiffusionPipeline)
    assert edit.transformer is pipe.transformer
    assert edit.dtype == torch.bfloat16
    assert edit.config["num_inference_steps"] == 3
    assert isinstance(VQAUFacePipeline.from_pipe(edit), VQAUFacePipeline)


def test_edit_pipeline_saves_its_estimator_or_none(edit, estimator, tmp_path):
    edit.save_pretrained(tmp_path / "without")
    assert VQAUFaceEditPipeline.from_pretrained(tmp_path / "without").estimator is None
    VQAUFaceEditPipeline.from_pipe(edit, estimator=estimator).save_pretrained(tmp_path / "with")
    assert VQAUFaceEditPipeline.from_pretrained(tmp_path / "with").estimator.config["architecture"] == "conv"
    file = tmp_path / "with" / "estimator" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="estimator.diffusion_pytorch_model.safetensors is damaged"):
        VQAUFaceEditPipeline.from_pretrained(tmp_path / "with")


def test_attention_backend(pipe, monkeypatch):
    wanted = drawn(pipe)
    assert pipe.set_attention() == "native"
    assert pipe.set_attention("_native_math") == "_native_math"
    torch.testing.assert_close(drawn(pipe), wanted, atol=1e-3, rtol=0)
    assert pipe.transformer.blocks[0].attention.processor._attention_backend == "_native_math"
    with pytest.raises(ValueError, match="xformers needs CUDA, the transformer is on cpu"):
        pipe.set_attention("xformers")
    with pytest.raises(ValueError, match="must be one of"):
        pipe.set_attention("fast")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert pipe.set_attention("auto") == "native"


@pytest.mark.parametrize("method", ["encode", "decode", "encode_conditions"])
def test_offloaded_models_are_fetched(pipe, method):
    moved = []

    class Hook:
        def pre_forward(self, module):
            moved.append(module)

    model = pipe.transformer if method == "encode_conditions" else pipe.face_tokenizer
    model._hf_hook = Hook()
    inputs = {"encode": torch.rand(1, 3, 64, 64), "decode": torch.zeros(1, 8, 8, 2, dtype=torch.int64)}
    with contextlib.suppress(TypeError):  # nothing is given to the transformer
        getattr(model, method)(*([inputs[method]] if method in inputs else []))
    assert moved == [model]


def test_importing_the_package_loads_no_torch():
    code = "import sys, auface_diffusers.facs; assert 'torch' not in sys.modules; print(dir(auface_diffusers))"
    listed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "VQAUFacePipeline" in listed
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = auface_diffusers.Nothing

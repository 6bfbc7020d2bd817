"""A toy pipeline of the real classes with random weights, saved as `train_lora export` lays weights out."""

import importlib.util
from pathlib import Path

import torch

from auface_diffusers import VQAUFacePipeline
from auface_diffusers.models import AUEstimator
from auface_diffusers.models.structure_encoder import StructureEncoder

_spec = importlib.util.spec_from_file_location("toy_parts", Path(__file__).parent / "pipelines" / "conftest.py")
_parts = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_parts)
components = _parts.components


def toy_pipeline():
    pipe = VQAUFacePipeline(**components(), guidance_scale=2.0, num_inference_steps=2)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def toy_estimator(architecture="conv"):
    torch.manual_seed(1)
    widths = (8, 8, 16, 16) if architecture == "conv" else (8, 8, 32, 32)
    return AUEstimator(architecture, image_size=32, widths=widths, depths=(1, 1, 1, 1)).eval()


def save_weights(folder):
    """``default`` and both estimators in a folder; returns the pipeline's."""
    toy_pipeline().save_pretrained(folder / "default")
    toy_estimator("conv").save_pretrained(folder / "estimator")
    toy_estimator("patch").save_pretrained(folder / "evaluation_estimator")
    return folder / "default"


def save_parts(folder):
    """Trained parts as the stages of `train_lora` leave them; returns the keys of an export's configuration."""
    made = components()
    made["face_tokenizer"].save_pretrained(folder / "tokenizer" / "model")
    made["transformer"].save_pretrained(folder / "generator" / "model")
    alignment = folder / "align" / "model"
    made["text_alignment"].save_pretrained(alignment / "text")
    made["tokenizer"].save_pretrained(alignment / "tokenizer")
    inner = made["transformer"].config
    StructureEncoder(inner["image_size"], width=inner["structure_width"]).save_pretrained(alignment / "structure")
    for name, architecture in (("estimator", "conv"), ("evaluation_estimator", "patch")):
        toy_estimator(architecture).save_pretrained(folder / name / "model")
        rows = [f"{channel},30,0.9,nan,0.5,{int(channel != 'L12')}" for channel in toy_estimator().channels]
        lines = ["channel,positives,auc,ece,level_error,covered", *rows]
        (folder / name / "model" / "channels.csv").write_text("\n".join(lines) + "\n")
    names = ("tokenizer", "generator", "estimator", "evaluation_estimator")
    return {name: str(folder / name / "model") for name in names} | {"alignment": str(alignment)}

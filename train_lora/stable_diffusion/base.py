"""The Stable Diffusion checkpoint that a LoRA is trained on: a local folder of diffusers, or one .safetensors file.

Nothing is downloaded, and no pickle is opened. What is read are the parts that training needs: no safety checker, no
image encoder.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors import SafetensorError

from auface_diffusers.models.checkpoints import PICKLES

Pipe: TypeAlias = Any
"""One of `KINDS`. diffusers' types say nothing of its parts."""
KINDS: dict[str, type[Any]] = {
    "StableDiffusionPipeline": StableDiffusionPipeline,
    "StableDiffusionXLPipeline": StableDiffusionXLPipeline,
}
MODELS = ("unet", "vae", "text_encoder", "text_encoder_2")
"""Parts that have weights, of which SD 1 and 2 have the first three."""
PREDICTIONS = ("epsilon", "v_prediction")
INDEX = "model_index.json"
HALF = "fp16"
"""Variant of diffusers that is taken where a folder has no other weights."""


def load_base(base: str, config: str, dtype: torch.dtype) -> Pipe:
    """A pipeline to train on, frozen, on the CPU.

    Args:
        base: the checkpoint. config: a folder of diffusers with configurations and tokenizers of the same kind of
            model, for a base that is one file; "" otherwise.
        dtype: of UNet and text encoders. The VAE stays float32: that of SDXL overflows in float16.

    Raises:
        ValueError: what is there is no Stable Diffusion checkpoint, lacks a part, is a pickle or damaged, or makes
            pictures by other rules than those that are trained.
    """
    place = Path(base)
    pipe = _from_file(place, config) if place.is_file() else _from_folder(place, config, dtype)
    _check(pipe, base)
    pipe.set_progress_bar_config(disable=True)
    for name in models_of(pipe):
        part = getattr(pipe, name).eval().requires_grad_(False)
        wanted = torch.float32 if name == "vae" else dtype
        if part.dtype != wanted:  # of one file
            part.to(dtype=wanted)
    return pipe


def models_of(pipe: Pipe) -> tuple[str, ...]:
    """Names of a pipeline's parts that have weights."""
    return tuple(name for name in MODELS if getattr(pipe, name, None) is not None)


def is_xl(pipe: Pipe) -> bool:
    """Whether it has SDXL's two text encoders and time ids."""
    return isinstance(pipe, StableDiffusionXLPipeline)


def family(pipe: Pipe) -> str:
    """``"sdxl"``, or by the width of the text: ``"sd1"`` (768) or ``"sd2"`` (1024)."""
    if is_xl(pipe):
        return "sdxl"
    return "sd2" if pipe.unet.config.cross_attention_dim == 1024 else "sd1"


def noise_scheduler(pipe: Pipe) -> Any:  # noqa: ANN401 - a DDPMScheduler, whose types say as little
    """What adds noise in training as the base's own scheduler counts it."""
    return DDPMScheduler.from_config(pipe.scheduler.config)


def _from_folder(folder: Path, config: str, dtype: torch.dtype) -> Pipe:
    if config:
        raise ValueError(f"base_config is for a base that is one file, and {folder} is none: leave it empty")
    kind = _kind(folder, "base")
    wanted = [name for name in MODELS if name != "text_encoder_2" or kind is StableDiffusionXLPipeline]
    for name in (*wanted, "scheduler", "tokenizer", *(["tokenizer_2"] if len(wanted) == len(MODELS) else [])):
        if not (folder / name).is_dir():
            raise ValueError(f"base {folder} lacks {name}: copy the whole checkpoint again")
    halves = [_only_half(folder / name) for name in wanted]
    with _naming(folder):
        return kind.from_pretrained(
            folder,
            torch_dtype={"default": dtype, "vae": torch.float32},
            variant=HALF if any(halves) else None,
            use_safetensors=True,
            local_files_only=True,
            **_left_out(kind),
        )


def _from_file(path: Path, config: str) -> Pipe:
    if path.suffix in PICKLES:
        raise ValueError(_pickle(path))
    if path.suffix != ".safetensors":
        raise ValueError(f"base {path} is no checkpoint: name a folder of diffusers or a .safetensors file")
    if not config:
        raise ValueError(
            f"base {path} is one file, which says nothing of its tokenizer and scheduler: set base_config to a folder "
            "of diffusers for the same kind of model (its weights are not read), or convert the file to such a folder"
        )
    kind = _kind(Path(config), "base_config")
    with _naming(path):
        return kind.from_single_file(
            str(path), config=config, torch_dtype=torch.float32, local_files_only=True, **_left_out(kind)
        )


@contextlib.contextmanager
def _naming(base: Path) -> Iterator[None]:
    """Say which base it is that diffusers or transformers cannot load."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, LookupError, TypeError, SafetensorError) as error:
        raise ValueError(f"base {base} cannot be loaded: {error}") from None


def _kind(folder: Path, name: str) -> type[Any]:
    index = folder / INDEX
    if not index.is_file():
        raise ValueError(f"{name} {folder} is no Stable Diffusion checkpoint: {INDEX} is not there")
    found = json.loads(index.read_text(encoding="utf-8")).get("_class_name")
    if found not in KINDS:
        raise ValueError(f"{name} {folder} is a {found}: {' and '.join(KINDS)} can be trained")
    return KINDS[found]


def _only_half(folder: Path) -> bool:
    """Whether a part has weights in float16 only. Raises `ValueError` if it has none, or a pickle."""
    names = [path.name for path in folder.glob("*.safetensors")]
    if not names:
        pickles = sorted(path for path in folder.iterdir() if path.suffix in PICKLES)
        raise ValueError(_pickle(pickles[0]) if pickles else f"base: {folder} has no .safetensors: copy it again")
    return all(f".{HALF}." in name for name in names)


def _left_out(kind: type[Any]) -> dict[str, Any]:
    if kind is StableDiffusionXLPipeline:
        return {"image_encoder": None, "feature_extractor": None}
    return {
        "safety_checker": None,
        "feature_extractor": None,
        "image_encoder": None,
        "requires_safety_checker": False,
    }


def _pickle(path: Path) -> str:
    return (
        f"base: {path} is a pickle, which can run code when it is opened: only safetensors are read; convert it where "
        "you trust it"
    )


def _check(pipe: Pipe, base: str) -> None:
    wanted = [*models_of(pipe), "tokenizer", "scheduler"]
    missing = [name for name in wanted if getattr(pipe, name, None) is None]
    if is_xl(pipe):
        missing += [name for name in ("text_encoder", "text_encoder_2", "tokenizer_2") if getattr(pipe, name) is None]
    if missing:
        raise ValueError(f"base {base} lacks {', '.join(missing)}")
    channels = pipe.vae.config.latent_channels
    if (pipe.unet.config.in_channels, pipe.unet.config.out_channels) != (channels, channels):
        raise ValueError(
            f"base {base}: its UNet takes {pipe.unet.config.in_channels} channels and gives "
            f"{pipe.unet.config.out_channels}, its VAE has {channels}: inpainting and editing models are not trained"
        )
    prediction = pipe.scheduler.config.get("prediction_type")
    if prediction not in PREDICTIONS:
        raise ValueError(f"base {base} predicts {prediction!r}: {' and '.join(PREDICTIONS)} can be trained")
    if pipe.vae.config.get("latents_mean") is not None:
        raise ValueError(f"base {base}: its VAE has latents_mean, which SD 1, SD 2 and SDXL have not")

"""The generator under ComfyUI's memory manager: loaded once, moved by ComfyUI, never changed for one node alone.

A `FaceModel` travels between the nodes. Its weights are shared by all that come from the same loader; what a node adds
to it are patches of a clone of its patcher, as with ComfyUI's own models: see `FaceModel.patched`.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import comfy.model_management as mm
import comfy.utils
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image

import auface_diffusers
from comfyui_auface.adapting import Worn
from comfyui_auface.expression import choose
from comfyui_auface.generating import quiet
from comfyui_auface.model_files import stamp
from comfyui_auface.parts import what_to_do

WEIGHTS = Path(auface_diffusers.__file__).parent / "weights"
DTYPES = ("auto", "fp32", "fp16", "bf16")
ATTENTIONS = ("auto", "native", "xformers")
PARTS = ("text_alignment", "transformer", "face_tokenizer")
"""Components with weights."""
FACE_BYTES = 64 * 2**20
"""Memory that a face needs while it is drawn, besides the weights: ComfyUI makes room for it."""
PREVIEW_S = 0.5
"""Seconds between two previews at least: decoding one costs as much as a step on a CPU."""


class WholePatcher(ModelPatcher):
    """A model that is on the device as a whole, or not at all.

    When memory is short ComfyUI leaves some layers behind and casts them as they are used, which only its own layers
    can do; ours would then lie on two devices.
    """

    def load(self, device_to=None, lowvram_model_memory=0, force_patch_weights=False, full_load=False):
        """Load all of it, whatever the manager planned."""
        super().load(device_to, 1e32, force_patch_weights, full_load=True)

    def partially_unload(self, device_to, memory_to_free=0, force_patch_weights=False):
        """Nothing: the manager then unloads the whole model."""
        return 0


class VQAUFace(torch.nn.ModuleDict):
    """The components; its name is what ComfyUI writes into the log when it loads them."""


@dataclass(frozen=True)
class FaceModel:
    """What the socket AUFACE_MODEL carries.

    Attributes:
        name: as in the loader's menu. folder: of its files. pipe: shares its components with every clone; its
            trigger words are those of ``adapters``.
        patcher: of these components; attention: how the transformer attends.
        notes: what was added on the way, for people. adapters: those among it, in their order.
    """

    name: str
    folder: Path
    pipe: Any
    patcher: WholePatcher
    attention: str
    notes: tuple[str, ...] = field(default=())
    adapters: tuple[Worn, ...] = field(default=())

    def patched(self, deltas: Mapping[str, torch.Tensor], strength: float, note: str) -> FaceModel:
        """This model with ``strength`` times a delta added to some weights; this one stays as it is.

        Args:
            deltas: by name, such as "transformer.blocks.0.attention.to_q.weight", in the shape of the weight.
            strength: any number. note: what is added, in a few words.

        Raises:
            ValueError: a weight that the model does not have.
        """
        patcher = self.patcher.clone()
        taken = patcher.add_patches({name: ("diff", (delta,)) for name, delta in deltas.items()}, strength)
        unknown = sorted(deltas.keys() - set(taken))
        if unknown:
            raise ValueError(f"{note}: model {self.name!r} has no weight {', '.join(unknown[:3])}")
        return replace(self, patcher=patcher, notes=(*self.notes, note))


def load_model(name: str, folder: Path | None, dtype: str, attention: str) -> FaceModel:
    """Read a saved pipeline into memory; nothing is on the GPU yet.

    Args:
        name: as in the menu. folder: see `model_files.find_model`. dtype: one of `DTYPES`. attention: of `ATTENTIONS`.

    Raises:
        ValueError: a file is missing, damaged or another model's, or the attention is not possible here.
    """
    kind = _dtype(choose("dtype", dtype, DTYPES))
    check_attention(attention)
    try:
        from auface_diffusers import VQAUFacePipeline
    except ImportError as error:  # a package that is too old, or lacks a part
        raise RuntimeError(f"the generator cannot be loaded: {what_to_do(error)}") from error
    try:
        with quiet():
            if folder is None:
                pipe: Any = VQAUFacePipeline.from_default(torch_dtype=kind)
            else:
                pipe = VQAUFacePipeline.from_pretrained(folder, torch_dtype=kind)
    except (ValueError, OSError) as error:
        raise ValueError(f"model {name!r}: {error}") from error
    pipe.set_progress_bar_config(disable=True)
    modules = VQAUFace({part: getattr(pipe, part).eval() for part in PARTS})
    return FaceModel(name, folder or WEIGHTS / "default", pipe, managed(modules), attention)


def check_attention(attention: str) -> None:
    """Raise `ValueError` if the transformer cannot attend that way here."""
    choose("attention", attention, ATTENTIONS)
    if attention == "xformers":
        device = mm.get_torch_device()
        if device.type != "cuda":
            raise ValueError(f"attention 'xformers' needs an NVIDIA GPU, and ComfyUI runs on {device}: choose auto")
        if importlib.util.find_spec("xformers") is None:
            raise ValueError(
                "attention 'xformers' needs the package xformers. Install it into ComfyUI's Python: "
                "python -m pip install xformers; or choose auto"
            )


def describe_model(model: FaceModel) -> str:
    """Size of its faces, number of weights, kind of number."""
    size = model.pipe.face_tokenizer.config["image_size"]
    weights = [weight for part in PARTS for weight in getattr(model.pipe, part).parameters()]
    count, kind = sum(weight.numel() for weight in weights), str(model.pipe.transformer.dtype).removeprefix("torch.")
    return f"{model.name}: {size} x {size} pixels, {count / 1e6:.0f} M weights, {kind}, attention {model.attention}"


def ready(model: FaceModel, faces: int, *more: WholePatcher) -> Any:
    """The pipeline, with its weights where they are used.

    Args:
        faces: drawn at once. more: models that are used with it.
    """
    mm.load_models_gpu([model.patcher, *more], memory_required=faces * FACE_BYTES, force_full_load=True)
    model.pipe.set_attention(model.attention)
    return model.pipe


def ready_to_edit(model: FaceModel, faces: int, fit: bool) -> Any:
    """A `VQAUFaceEditPipeline` of the same components; see `ready`.

    Args:
        fit: whether pictures have to be read: then there is an estimator, if there is one for this model.
    """
    from auface_diffusers import VQAUFaceEditPipeline

    eye = estimator_of(model) if fit else None
    pipe = ready(model, faces, *([] if eye is None else [eye]))
    made = VQAUFaceEditPipeline.from_pipe(pipe, estimator=None if eye is None else eye.model["estimator"])
    made.set_progress_bar_config(disable=True)
    return made


def estimator_of(model: FaceModel) -> WholePatcher | None:
    """The estimator beside a model's folder, else the embedded one; None if there is neither. It reads photos."""
    for place in (model.folder.parent, WEIGHTS):
        folder = place / "estimator"
        if (folder / "config.json").is_file():
            return _estimator(folder, stamp(folder))
    return None


@lru_cache(maxsize=2)
def _estimator(folder: Path, version: object) -> WholePatcher:
    from auface_diffusers.models import AUEstimator

    with quiet():
        loaded: Any = AUEstimator.from_pretrained(folder, local_files_only=True)
    return managed(torch.nn.ModuleDict({"estimator": loaded.float().eval()}))


def managed(modules: torch.nn.ModuleDict) -> WholePatcher:
    """A container: the manager notes the device in an attribute, which diffusers' own models compute."""
    return WholePatcher(modules, load_device=mm.get_torch_device(), offload_device=mm.unet_offload_device())


def _dtype(name: str) -> torch.dtype:
    device = mm.get_torch_device()
    if name == "auto":  # full precision where half is slow, as on CPUs
        name = "fp16" if mm.should_use_fp16(device) else "bf16" if mm.should_use_bf16(device) else "fp32"
    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[name]


class Progress:
    """What a pipeline calls after each step: moves the bar, shows a picture now and then, ends a cancelled run.

    Args:
        node: the node that runs. total: steps of all rounds.
    """

    def __init__(self, node, total: int) -> None:
        self.bar = comfy.utils.ProgressBar(total, node_id=node.hidden.unique_id)
        self.done, self.total, self.shown = 0, total, time.monotonic()

    def __call__(self, pipe, step, timestep, tensors):
        """As diffusers calls it. Raises ComfyUI's exception if the user has cancelled."""
        self.done += 1
        mm.throw_exception_if_processing_interrupted()
        now, picture = time.monotonic(), None
        if now - self.shown >= PREVIEW_S and self.done < self.total:
            picture, self.shown = preview(pipe, tensors["preview"], tensors["structure"]), now
        self.bar.update_absolute(self.done, self.total, picture)
        return {}


def preview(pipe, codes: torch.Tensor, structure: torch.Tensor | None) -> tuple[str, Image.Image, int]:
    """The first of the faces (B, N), and of their maps, as `ProgressBar` takes it."""
    image = pipe.decode(codes[:1], None if structure is None else structure[:1])[0]  # (3, S, S)
    pixels = (image.permute(1, 2, 0) * 255).clamp(0, 255).round().byte().cpu().numpy()
    return "JPEG", Image.fromarray(pixels), max(image.shape[1:])

"""Adapters on a model of the nodes: what they add to its weights, and the words that belong to them. Needs no ComfyUI.

The weights that ComfyUI holds may be patched at any moment, so nothing is read off them: the changes are those of the
model's files, loaded for this alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from comfyui_auface.adapter_files import file_stamp
from comfyui_auface.generating import quiet
from comfyui_auface.model_files import stamp

if TYPE_CHECKING:
    from auface_diffusers.pipelines.adapter_files import AdapterInfo
    from comfyui_auface.models import FaceModel


@dataclass(frozen=True)
class Worn:
    """An adapter on a model.

    Attributes:
        file: of the adapter. version: its `file_stamp`. strength: how much it counts, not 0.
    """

    file: Path
    version: tuple[int, int]
    strength: float


def put_on(model: FaceModel, name: str, file: Path, strength: float) -> tuple[FaceModel, AdapterInfo]:
    """A model with an adapter added to those that it has; ``model`` stays as it is. Returns what the adapter is, too.

    Args:
        name: for people. strength: any finite number but 0.

    Raises:
        ValueError: the file is no adapter of ours, damaged, or made for another model; says which.
    """
    try:
        adapters = (*model.adapters, Worn(file, file_stamp(file), strength))
        version = stamp(model.folder)
        before, _ = changes(model.folder, version, model.adapters)
        now, info = changes(model.folder, version, adapters)
    except (ValueError, OSError) as error:
        raise ValueError(f"adapter {name!r} on model {model.name!r}: {error}") from error
    assert info is not None
    # several do not simply add up (a DoRA scales what stands before it): this one adds what the last ones lack
    deltas = {key: _minus(now.get(key), before.get(key)) for key in now.keys() | before.keys()}
    pipe: Any = type(model.pipe).from_pipe(model.pipe)  # its trigger words are its own, its components are shared
    pipe.set_progress_bar_config(disable=True)
    pipe.trigger_words = (*model.pipe.trigger_words, *filter(None, [info.trigger]))
    pipe.person = torch.tensor(info.person) if info.person else model.pipe.person
    patched = model.patched(deltas, 1.0, f"{name} at {strength:g}")
    return replace(patched, pipe=pipe, adapters=adapters), info


def _minus(now: Tensor | None, before: Tensor | None) -> Tensor:
    """A missing one is zero."""
    if now is None:
        assert before is not None
        return -before
    return now if before is None else now - before


@lru_cache(maxsize=2)  # of a chain the last two are needed; each may be as large as the weights
def changes(folder: Path, version: object, adapters: tuple[Worn, ...]) -> tuple[dict[str, Tensor], AdapterInfo | None]:
    """What adapters add to the weights of a saved pipeline, see ``pipe.adapter_deltas``, and what the last of them is.

    Args:
        folder: of the pipeline. version: its `stamp`; another one is computed anew. adapters: in their order.

    Raises:
        ValueError, OSError: a file that cannot be used.
    """
    if not adapters:
        return {}, None
    from auface_diffusers import VQAUFacePipeline

    with torch.inference_mode(False), quiet():  # ComfyUI runs nodes in it, and no gradient comes out of it again
        pipe: Any = VQAUFacePipeline.from_pretrained(folder, torch_dtype=torch.float32)
        names = [pipe.load_lora_weights(one.file) for one in adapters]
        pipe.set_adapters(names, [one.strength for one in adapters])
        return pipe.adapter_deltas(), pipe.adapters[names[-1]].info

"""The LoRA of a Stable Diffusion pipeline: which layers it changes, and what trains."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from peft import inject_adapter_in_model
from torch import Tensor

from auface_diffusers.models.adapters import adapter_config, adapter_layers, adapter_parameters, find_layers
from train_lora.adapters import NAME, AdaptedTransformer
from train_lora.stable_diffusion.base import Pipe, is_xl
from train_lora.stable_diffusion.lora_file import can_name


@dataclass(frozen=True)
class LoraSpec:
    """The LoRA; table ``[lora]`` of a configuration.

    Attributes:
        rank, alpha: its size, and what the change counts: alpha / rank.
        dropout: 0..1, against learning few pictures by heart.
        targets: layers of the UNet by name, such as "to_q", "ff", "conv1"; see ``models.adapters.find_layers``.
        text_targets: layers of the text encoders, such as "q_proj" or "fc1"; none leaves them as they are.
        trigger: words before every caption; "" is none.
    """

    rank: int = 16
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out")
    text_targets: tuple[str, ...] = ()
    trigger: str = ""

    def __post_init__(self) -> None:
        adapter_config("lora", self.rank, self.alpha, ["x"], self.dropout)  # raises for what cannot be


class AdaptedUNet(AdaptedTransformer):
    """The UNet as the loop sees it: its parameters are those of the LoRA, those in text encoders included."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - what the UNet takes
        """See ``UNet2DConditionModel.forward``; gives the prediction (B, C, h, w)."""
        predicted: Tensor = self.held[0](*args, **kwargs).sample
        return predicted

    def enable_gradient_checkpointing(self) -> None:
        """Less memory, more time."""
        unet, *encoders = self.held
        unet.enable_gradient_checkpointing()  # type: ignore[operator] # diffusers' ModelMixin
        for encoder in encoders:  # the embeddings they begin with need no gradients, which the other kind would want
            encoder.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator] # transformers'


def begin_lora(pipe: Pipe, spec: LoraSpec) -> AdaptedUNet:
    """Put a new LoRA `NAME` into a pipeline, in float32 whatever the base has, and return what trains.

    Raises:
        ValueError: a target that matches no layer, or one that LoRA files have no name for.
    """
    encoders = ["text_encoder", "text_encoder_2"] if is_xl(pipe) else ["text_encoder"]
    parts = {"unet": spec.targets} | {name: spec.text_targets for name in encoders if spec.text_targets}
    models = []
    for part, targets in parts.items():
        model = getattr(pipe, part)
        names = find_layers(model, targets, "lora")
        _refuse_unnamed(part, names)
        if is_xl(pipe) and part == "text_encoder":
            names = _that_count(names, model.config.num_hidden_layers)
        # by peft alone: transformers' own way in wants a newer peft than diffusers does
        inject_adapter_in_model(adapter_config("lora", spec.rank, spec.alpha, names, spec.dropout), model, NAME)
        for value in adapter_parameters(model, NAME).values():
            value.data = value.data.float()
        models.append(model)
    return AdaptedUNet(models[0], models[1:])


@contextlib.contextmanager
def switched_off(model: AdaptedUNet) -> Iterator[None]:
    """Let the base be what it was for a while."""
    layers = [layer for part in model.held for layer in adapter_layers(part)]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


def _that_count(names: Sequence[str], layers: int) -> list[str]:
    """Without those of the last layer: SDXL reads its first encoder before it, so nothing there would be trained."""
    found = [name for name in names if f".layers.{layers - 1}." not in f".{name}"]
    if not found:
        raise ValueError(f"lora text_targets: only layer {layers - 1} of text_encoder, which SDXL does not read")
    return found


def _refuse_unnamed(part: str, names: Iterable[str]) -> None:
    unnamed = [name for name in names if not can_name(part, name)]
    if unnamed:
        raise ValueError(
            f"lora targets: {', '.join(unnamed[:3])} of {part} cannot be written so that diffusers and ComfyUI both "
            "read it: name layers inside of down_blocks, mid_block, up_blocks, or of a text encoder's layers"
        )

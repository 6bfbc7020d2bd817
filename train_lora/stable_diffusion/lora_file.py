"""LoRA files of Stable Diffusion: one safetensors that diffusers and ComfyUI both read.

Keys are ``<part>_<layer with underscores>.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``, as kohya-ss's
sd-scripts name them: diffusers' ``load_lora_weights`` and ComfyUI's LoraLoader know these, and neither knows all
names of the other. What the file is, and what it was made with, stands as JSON under `HEADER`; keys that user
interfaces show (``ss_...``) say the same again.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

HEADER = "auface_sd_lora"
"""Key of the file's header that holds a `LoraInfo` as JSON."""
FORMAT = 1
"""Version of the header."""
PARTS = {
    "sd": {"unet": "lora_unet", "text_encoder": "lora_te"},
    "sdxl": {"unet": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"},
}
"""How keys begin, by pipeline and part."""
NAMED = {
    "unet": re.compile(r"(down_blocks|mid_block|up_blocks)\."),
    "text_encoder": re.compile(r"(text_model\.)?encoder\.layers\."),
    "text_encoder_2": re.compile(r"(text_model\.)?encoder\.layers\."),
}
"""Layers whose keys both programs find. Of others, such as SDXL's add_embedding, diffusers loses the number."""


@dataclass(frozen=True)
class LoraInfo:
    """What a LoRA is and what it was made with.

    Attributes:
        family: "sd1", "sd2" or "sdxl". prediction: "epsilon" or "v_prediction", of the base.
        base_name: as the base was called. base: by part that is changed, ``models.adapters.base_hash`` of the base.
        rank, alpha, targets, layers: size, layers as asked for, and by part how many these are.
        trigger: words that stood before every caption; "" is none.
        captions: kinds of text, see ``latents.CAPTIONS``. drop: share of captions that were empty.
        resolution: in pixels. channels: names of the AU channels that the data has.
        data: a summary of the pictures. steps: of training.
    """

    family: str
    prediction: str
    base_name: str
    base: dict[str, str]
    rank: int
    alpha: float
    targets: tuple[str, ...]
    layers: dict[str, int]
    trigger: str
    captions: tuple[str, ...]
    drop: float
    resolution: int
    channels: tuple[str, ...]
    data: dict[str, Any] = field(default_factory=dict)
    steps: int = 0


def can_name(part: str, layer: str) -> bool:
    """Whether the file format has a name for a layer."""
    return NAMED[part].match(layer) is not None


def file_keys(weights: Mapping[str, Mapping[str, Tensor]], alpha: float, xl: bool) -> dict[str, Tensor]:
    """Weights by part, named as peft does, under the names of files, in float16."""
    prefixes = PARTS["sdxl" if xl else "sd"]
    found: dict[str, Tensor] = {}
    for part, values in weights.items():
        for name, value in values.items():
            layer, end = re.fullmatch(r"(.+)\.(lora_A|lora_B)\.weight", name).groups()  # type: ignore[union-attr] # peft's
            if part != "unet":
                layer = f"text_model.{layer.removeprefix('text_model.')}"  # transformers 5 has left this part out
            key = f"{prefixes[part]}_{layer.replace('.', '_')}"
            which = "lora_down" if end == "lora_A" else "lora_up"
            found[f"{key}.{which}.weight"] = value.detach().to("cpu", torch.float16).contiguous()
            found[f"{key}.alpha"] = torch.tensor(alpha, dtype=torch.float16)
    return found


def write_lora(path: str | os.PathLike[str], weights: Mapping[str, Mapping[str, Tensor]], info: LoraInfo) -> None:
    """Write a LoRA. Nothing appears under ``path`` unless all of it was written.

    Raises:
        OSError: it cannot be written.
        ValueError: weights that are no numbers in float16.
    """
    flat = file_keys(weights, info.alpha, info.family == "sdxl")
    broken = [name for name, value in flat.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"the LoRA's weight {broken[0]} has values that are not finite: it is not written")
    place = Path(path)
    part = place.with_name(place.name + ".part")
    try:
        part.write_bytes(save(flat, header(info)))
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)


def header(info: LoraInfo) -> dict[str, str]:
    """The file's header."""
    versions = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}
    ending = "_v" if info.prediction == "v_prediction" and info.family != "sdxl" else ""
    return {
        "format": "pt",
        HEADER: json.dumps({"format": FORMAT, **asdict(info)}),
        "ss_base_model_version": versions[info.family] + ending,
        "ss_sd_model_name": info.base_name,
        "ss_network_dim": str(info.rank),
        "ss_network_alpha": str(info.alpha),
        "ss_resolution": f"({info.resolution}, {info.resolution})",
        "ss_num_train_images": str(info.data.get("pictures", 0)),
        "ss_caption_dropout_rate": str(info.drop),
        "ss_steps": str(info.steps),
        "modelspec.trigger_phrase": info.trigger,
    }


def lora_card(name: str, info: LoraInfo, description: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Markdown that lies beside a LoRA. ``name``: of its file."""
    trigger = f"`{info.trigger}`: write it before the text" if info.trigger else "none"
    lines = ["---", "library_name: diffusers", "tags: [FACS, action-units, lora, text-to-image]", "---", ""]
    lines += [f"# LoRA for {info.family.upper()} with captions of action units", ""]
    lines += [
        "ComfyUI: put the file into `models/loras`, and Load LoRA between the checkpoint and CLIPTextEncode, which"
    ]
    lines += [
        "takes the text as it is. (Of the `coder` style write `\\(` and `\\)`: bare parentheses are weights.)",
        "",
    ]
    lines += ["```python", f'pipe.load_lora_weights("{name}")  # a pipeline of {info.base_name}', "```", ""]
    lines += ["diffusers cuts prompts at 77 tokens; for longer ones `CaptionEncoder` of"]
    lines += ["`train_lora.stable_diffusion.text` makes the `prompt_embeds` that training has seen.", ""]
    lines += [f"- Base: {info.base_name} ({info.prediction}), {json.dumps(info.base)}."]
    layers = json.dumps(info.layers)
    lines += [f"- Rank {info.rank}, alpha {info.alpha:g}; layers: {', '.join(info.targets)}, {layers}."]
    lines += [f"- Trigger words: {trigger}.", f"- Captions: {', '.join(info.captions)}; {info.drop:g} of them empty."]
    lines += [f"- Pictures: {info.resolution} pixels, {json.dumps(info.data)}."]
    lines += [f"- Steps: {report['step']}, in {report['seconds'] / 60:.1f} min."]
    lines += [
        "",
        "Whose pictures these are, and what may be done with this file, its maker has to say here: the licence",
    ]
    lines += ["of the base counts as well.", "", "## Held out", "", "| what | value |", "|---|---|"]
    lines += [f"| {key} | {value:.5g} |" for key, value in report["validation"].items()]
    lines += ["", "## Configuration", "", "```json", json.dumps(description, indent=1), "```", ""]
    return "\n".join(lines)

"""LoRA files of `train_lora sd-adapter` in ComfyUI's own code: every key finds a layer of the real models' size, and
captions are encoded as in training.

The models of full size have no weights (meta tensors); what is encoded is encoded by toys.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_unet_state_dict_to_peft
from safetensors.torch import save_file
from toy_stable_diffusion import save_toy
from transformers import CLIPTextConfig, CLIPTextModel

from auface_diffusers.facs import describe
from train_lora.stable_diffusion.lora_file import LoraInfo, can_name, write_lora
from train_lora.stable_diffusion.text import CaptionEncoder

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file
import real_comfyui

pytestmark = pytest.mark.slow
CHECKOUTS = real_comfyui.checkouts()
RANK, ALPHA = 2, 1.0
UNETS = {  # what the config.json of the published checkpoints says beside diffusers' defaults
    "sd1": {"cross_attention_dim": 768, "attention_head_dim": 8},
    "sd2": {"cross_attention_dim": 1024, "attention_head_dim": [5, 10, 20, 20], "use_linear_projection": True},
    "sdxl": {
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": [320, 640, 1280],
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
TEXTS = {"sd1": (12,), "sd2": (23,), "sdxl": (12, 32)}
"""Layers of the text encoders. Their width does not matter: names alone are looked up."""
CAPTIONS = [
    "",
    "smile",
    describe("1C+2C+4B+L12D+R14A").text,
    " ".join(describe("1C+2C+4B+L12D+R14A", seed=seed).text for seed in range(3)),
    "a" * 75,
    "a " * 75,
    "b " * 76,
    "Brows, raised; (not) lids: 50%",
]


def random_lora(model, part):
    """Weights of every layer that a file can name, as peft names and shapes them."""
    kinds = torch.nn.Linear | torch.nn.Conv2d
    layers = [(name, one) for name, one in model.named_modules() if isinstance(one, kinds) and can_name(part, name)]
    found = {}
    for number, (name, layer) in enumerate(layers):
        generator = torch.Generator().manual_seed(number)
        out, into, *kernel = layer.weight.shape
        found[f"{name}.lora_A.weight"] = torch.randn(RANK, into, *kernel, generator=generator)
        found[f"{name}.lora_B.weight"] = torch.randn(out, RANK, *[1 for _ in kernel], generator=generator)
    return found


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """A folder of LoRA files of real size, of toy checkpoints, and of captions that ours have encoded."""
    folder = tmp_path_factory.mktemp("asked")
    layers = {}
    for kind, unet in UNETS.items():
        with init_empty_weights():
            parts = {"unet": random_lora(UNet2DConditionModel(**unet), "unet")}
            for name, depth in zip(("text_encoder", "text_encoder_2"), TEXTS[kind], strict=False):
                text = CLIPTextModel(CLIPTextConfig(num_hidden_layers=depth, hidden_size=64, intermediate_size=64))
                parts[name] = random_lora(text, name)
        layers[kind] = [len(parts["unet"]) // 2, sum(len(one) for name, one in parts.items() if name != "unet") // 2]
        info = LoraInfo(kind, "epsilon", "none", {}, RANK, ALPHA, (), {}, "", (), 0.0, 512, ())
        write_lora(folder / f"{kind}.safetensors", parts, info)
        pipe = DiffusionPipeline.from_pretrained(save_toy(folder / kind, kind))
        text = CaptionEncoder(pipe)
        for number, caption in enumerate(CAPTIONS):
            with torch.no_grad():
                read = text([caption])
            found = {"hidden": read.hidden} | ({} if read.pooled is None else {"pooled": read.pooled})
            save_file(found, folder / f"{kind}-{number}.safetensors")
    escaped = [one.replace("(", "\\(").replace(")", "\\)") for one in CAPTIONS]  # bare ones are weights
    configs = {kind: {"_class_name": "UNet2DConditionModel", **unet} for kind, unet in UNETS.items()}
    (folder / "asked.json").write_text(json.dumps({"unets": configs, "captions": escaped}))
    return folder, layers


@pytest.mark.parametrize("checkout", CHECKOUTS or [None], ids=lambda one: one.name if one else "none")
def test_comfyui_reads_every_key_and_encodes_captions_alike(checkout, asked):
    if checkout is None:
        pytest.skip(real_comfyui.MISSING)
    folder, layers = asked
    script = Path(__file__).with_name("inside_comfyui_lora.py")
    command = [real_comfyui.python_of(checkout), script, checkout, folder]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for kind in UNETS:
        assert found["loaded"][kind]["layers"] == layers[kind]
        assert found["loaded"][kind]["left"] == []
        assert found["loaded"][kind]["error"] < 1e-3
        assert found["encoded"][kind]["hidden"] < 1e-4
        assert found["encoded"][kind]["pooled"] < 1e-4


@pytest.mark.parametrize("kind", UNETS)
def test_diffusers_finds_every_layer(asked, kind):
    folder, _ = asked
    with init_empty_weights():
        model = UNet2DConditionModel(**UNETS[kind])
    pipeline = StableDiffusionXLPipeline if kind == "sdxl" else StableDiffusionPipeline
    state, alphas = pipeline.lora_state_dict(str(folder / f"{kind}.safetensors"), unet_config=model.config)
    assert set(alphas.values()) == {ALPHA}
    parts = [name.partition(".")[0] for name in state]
    assert set(parts) == {"unet", "text_encoder"} | ({"text_encoder_2"} if kind == "sdxl" else set())
    unet = {name.removeprefix("unet."): value for name, value in state.items() if name.startswith("unet.")}
    assert convert_unet_state_dict_to_peft(unet).keys() == random_lora(model, "unet").keys()

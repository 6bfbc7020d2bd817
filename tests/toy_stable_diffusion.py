"""Toy Stable Diffusion checkpoints of diffusers' real classes with random weights: SD 1, SD 2 (v-prediction), SDXL."""

import io
import json
import re

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from auface_diffusers.facs import AUSet, describe, units
from auface_diffusers.facs.describe import STYLES
from train_lora.data.shards import DATA_FILE, shard_name, write_shard

WIDTH = 32
"""Of a text encoder."""
LAYERS = 3
"""Of a text encoder."""
START, END = 49406, 49407
"""Tokens at the ends of a caption, as ComfyUI has them in its code."""
UNET_NAMES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "conv1": "in_layers.2",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
"""Of layers, new and old."""
VAE_NAMES = {
    r"downsamplers\.0": "downsample",
    r"upsamplers\.0": "upsample",
    r"mid_block\.resnets\.0": "mid.block_1",
    r"mid_block\.resnets\.1": "mid.block_2",
    r"mid_block\.attentions\.0": "mid.attn_1",
    "down_blocks": "down",
    "resnets": "block",
    r"attn_1\.group_norm": "attn_1.norm",
    r"attn_1\.to_([qkv])": r"attn_1.\1",
    r"attn_1\.to_out\.0": "attn_1.proj_out",
    "conv_norm_out": "norm_out",
    "conv_shortcut": "nin_shortcut",
}
"""Patterns of names, new and old."""


def tokenizer(folder, pad):
    """CLIP's tokenizer with letters as its vocabulary: one token a letter, so that captions are long."""
    letters = sorted(ByteLevel.alphabet())
    words = ["!", *(one for one in letters if one != "!"), *(f"{one}</w>" for one in letters)]
    vocabulary = {word: number for number, word in enumerate(words)} | {"<|startoftext|>": START, "<|endoftext|>": END}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    told = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "pad_token": pad}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return CLIPTokenizer.from_pretrained(folder)


def encoder_config(act):
    return CLIPTextConfig(
        vocab_size=END + 1,
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        max_position_embeddings=77,
        hidden_act=act,
        projection_dim=WIDTH,
        bos_token_id=START,
        eos_token_id=END,
    )


def vae():
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        block_out_channels=[8, 8, 8, 8],
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=4,
        scaling_factor=0.18215,
    )


def unet(xl, text_width, **more):
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + WIDTH,
        "transformer_layers_per_block": [1, 2],
        "use_linear_projection": True,
    }
    return UNet2DConditionModel(
        block_out_channels=[16, 32],
        layers_per_block=1,
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"] if xl else ["CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"] if xl else ["UpBlock2D", "CrossAttnUpBlock2D"],
        cross_attention_dim=text_width,
        attention_head_dim=4,
        norm_num_groups=8,
        **(added if xl else {}),
        **more,
    )


def save_toy(folder, kind="sd1", **variant):
    """Save a toy of "sd1", "sd2" (v-prediction) or "sdxl" in a folder and return the folder."""
    torch.manual_seed(0)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if kind == "sd2" else "epsilon",
    )
    words = tokenizer(folder / "tokenizer", "!" if kind == "sd2" else "<|endoftext|>")
    parts = {"vae": vae(), "tokenizer": words, "scheduler": scheduler}
    parts["text_encoder"] = CLIPTextModel(encoder_config("gelu" if kind == "sd2" else "quick_gelu"))
    if kind == "sdxl":
        parts["tokenizer_2"] = tokenizer(folder / "tokenizer_2", "!")
        parts["text_encoder_2"] = CLIPTextModelWithProjection(encoder_config("gelu"))
        parts["unet"] = unet(True, 2 * WIDTH)
        pipe = StableDiffusionXLPipeline(**parts)
    else:
        parts["unet"] = unet(False, WIDTH, use_linear_projection=kind == "sd2")
        pipe = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    pipe.save_pretrained(folder, **variant)
    return folder


def plain_shards(folder, count=8, size=64, wordings=2):
    """A shard of stripes with the labels of `train_lora.data.pairs`: no face has to be drawn; returns its folder."""
    samples = []
    for number in range(count):
        aus = AUSet.parse(("12D", "1C+2C", "4D", "9C", "L12C", "26D", "43E", "0")[number % 8])
        texts = {style: describe(aus, style).text for style in STYLES}
        label = {
            "origin": "annotated",
            "aus": aus.format(),
            "effective": aus.format(),
            "effective_levels": dict(zip(units.channels, aus.vector(), strict=True)),
            "texts": {**texts, "varied": [describe(aus, seed=seed).text for seed in range(wordings)]},
            "subject": str(number),
            "size": size,
        }
        place = np.indices((size, size)).sum(0)[..., None] * (1 + number) / np.array([7, 11, 13])
        data = io.BytesIO()
        Image.fromarray((127 + 120 * np.sin(place)).astype(np.uint8)).save(data, "PNG")
        samples.append((f"{number:08d}", {"json": json.dumps(label).encode(), "png": data.getvalue()}))
    write_shard(folder / shard_name(0), samples)
    (folder / DATA_FILE).write_text(json.dumps({"channels": list(units.channels)}))
    return folder


def save_one_file(folder, path):
    """Write the weights of a toy "sd1" as the one file in which checkpoints are passed on; its names are older."""
    pipe = StableDiffusionPipeline.from_pretrained(folder)
    found = {f"model.diffusion_model.{_old_unet(name)}": value for name, value in pipe.unet.state_dict().items()}
    for name, value in pipe.vae.state_dict().items():
        old = _old_vae(name)
        matrix = ".attn_1." in old and value.ndim == 2
        found[f"first_stage_model.{old}"] = value[..., None, None] if matrix else value
    for name, value in pipe.text_encoder.state_dict().items():
        found[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = value
    save_file({name: value.contiguous() for name, value in found.items()}, path)
    return path


def _old_unet(name):
    """Of a UNet with one layer a block and two blocks."""
    part, _, rest = name.partition(".")
    if part in ("down_blocks", "up_blocks"):
        block, kind, number, inner = rest.split(".", 3)
        place = int(number) + 2 * int(block) + (part == "down_blocks")
        where = {"resnets": 0, "attentions": 1, "downsamplers": 0, "upsamplers": 1}[kind]
        place += kind.endswith("samplers")
        rest = inner.replace("conv.", "op.") if kind == "downsamplers" else inner
        side = "input_blocks" if part == "down_blocks" else "output_blocks"
        name = f"{side}.{place}.{where}.{rest}"
    elif part == "mid_block":
        kind, number, inner = rest.split(".", 2)
        name = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}.{inner}"
    if ".transformer_blocks." not in name:  # where norms are called so in both
        name = name.replace("norm1", "in_layers.0").replace("norm2", "out_layers.0")
    for new, old in UNET_NAMES.items():
        name = name.replace(new, old)
    return name


def _old_vae(name):
    if ".up_blocks." in name:
        name = re.sub(r"up_blocks\.(\d)", lambda found: f"up.{3 - int(found[1])}", name)
    for new, old in VAE_NAMES.items():
        name = re.sub(new, old, name)
    return name

"""A Stable Diffusion 1.5 checkpoint and its ControlNet, in their real sizes and names, with random weights.

python random_checkpoint.py CHECKOUT MODELS CHECKPOINT CONTROLNET; by ComfyUI's own classes, in a process without its
server. What is drawn with them is noise, but noise that depends on every word and every pixel.
"""

import sys
from pathlib import Path

checkout, folder, checkpoint, control = sys.argv[1:]
sys.path.insert(0, checkout)
sys.argv[1:] = ["--cpu"]

import comfy.options  # noqa: E402 - ComfyUI is found by the line above

comfy.options.enable_args_parsing()

import comfy.cldm.cldm  # noqa: E402 - reads the command line when it is imported
import comfy.model_detection  # noqa: E402
import comfy.ops  # noqa: E402
import comfy.sd1_clip  # noqa: E402
import torch  # noqa: E402
from accelerate import init_empty_weights  # noqa: E402
from comfy.ldm.models.autoencoder import AutoencoderKL  # noqa: E402
from diffusers import UNet2DConditionModel  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

VAE = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128}
VAE |= {"ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}


def drawn(model, seed):
    """Weights by name, float16: small random ones, norms at 1, biases at 0."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        if value.ndim > 1:
            scale = value[0].numel() ** -0.5
            found[name] = (scale * torch.randn(value.shape, generator=generator)).half()
        else:
            found[name] = torch.full(value.shape, float(name.endswith("weight"))).half()
    return found


def main():
    to = Path(folder)
    with init_empty_weights():
        shapes = UNet2DConditionModel(cross_attention_dim=768).state_dict()
    config = comfy.model_detection.model_config_from_diffusers_unet(shapes)
    parts = {
        "model.diffusion_model.": config.get_model({}, "", device="meta").diffusion_model,
        "first_stage_model.": AutoencoderKL(ddconfig=VAE, embed_dim=4),
        "cond_stage_model.": comfy.sd1_clip.SD1ClipModel(device="cpu", dtype=torch.float32).clip_l,
    }
    found = {
        prefix + name: value
        for seed, (prefix, part) in enumerate(parts.items())
        for name, value in drawn(part, seed).items()
    }
    save_file(found, to / "checkpoints" / checkpoint)
    settings = {**config.unet_config, "hint_channels": 3}
    settings |= {"device": "meta", "operations": comfy.ops.disable_weight_init}
    settings.pop("out_channels", None)
    save_file(drawn(comfy.cldm.cldm.ControlNet(**settings), 9), to / "controlnet" / control)


if __name__ == "__main__":
    main()

"""What ComfyUI makes of LoRA files and of captions, in a process of it without its server; prints JSON.

python inside_comfyui_lora.py CHECKOUT FOLDER; the folder is that of `test_lora_files`.
"""

import json
import sys
from pathlib import Path

checkout, folder, *_ = sys.argv[1:]
sys.path.insert(0, checkout)
sys.argv[1:] = ["--cpu"]

import comfy.options  # noqa: E402 - ComfyUI is found by the line above

comfy.options.enable_args_parsing()

import comfy.lora  # noqa: E402 - reads the command line when it is imported
import comfy.lora_convert  # noqa: E402
import comfy.model_detection  # noqa: E402
import comfy.sd1_clip  # noqa: E402
import comfy.sdxl_clip  # noqa: E402
import torch  # noqa: E402
from accelerate import init_empty_weights  # noqa: E402
from comfy.text_encoders import sd2_clip  # noqa: E402
from diffusers import UNet2DConditionModel  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

FOLDER = Path(folder)
TOKENIZERS = {
    "l": comfy.sd1_clip.SDTokenizer,
    "h": sd2_clip.SD2ClipHTokenizer,
    "g": comfy.sdxl_clip.SDXLClipGTokenizer,
}
MODELS = {
    "sd1": (comfy.sd1_clip.SD1ClipModel, {"l": "text_encoder"}),
    "sd2": (sd2_clip.SD2ClipModel, {"h": "text_encoder"}),
    "sdxl": (comfy.sdxl_clip.SDXLClipModel, {"l": "text_encoder", "g": "text_encoder_2"}),
}


def loaded(kind, unet):
    """By part, how many layers of the real model the file changes; what is left over of it; the largest error."""
    with init_empty_weights():
        shapes = UNet2DConditionModel.from_config(unet).state_dict()
        model = comfy.model_detection.model_config_from_diffusers_unet(shapes).get_model({}, "", device="meta")
    state = comfy.lora_convert.convert_lora(load_file(FOLDER / f"{kind}.safetensors"))
    clip = MODELS[kind][0](device="meta", dtype=torch.float32)
    maps = comfy.lora.model_lora_keys_unet(model, {}), comfy.lora.model_lora_keys_clip(clip, {})
    patches = [comfy.lora.load_lora(state, keys, log_missing=False) for keys in maps]
    read = {key for part in patches for adapter in part.values() for key in adapter.loaded_keys}
    alphas = {key for key in state if key.endswith(".alpha")}
    errors = []
    for target, adapter in list(patches[0].items())[::40]:
        up, down, alpha = adapter.weights[:3]
        weight = torch.zeros(model.state_dict()[target].shape)
        got = comfy.lora.calculate_weight([(1.0, adapter, 1.0, None, None)], weight.clone(), target)
        wanted = alpha / len(down) * (up.flatten(1).float() @ down.flatten(1).float()).reshape(weight.shape)
        errors.append(float((got - wanted).abs().max()) / float(wanted.abs().max()))
    return {
        "layers": [len(part) for part in patches],
        "left": sorted(state.keys() - read - alphas),
        "error": max(errors),
    }


@torch.inference_mode()
def encoded(kind, captions):
    """Captions as CLIPTextEncode has them, by the toy encoders and tokenizers of a checkpoint: the largest errors."""
    make, parts = MODELS[kind]
    toy = FOLDER / kind
    options, tokens = {}, {}
    for clip, part in parts.items():
        config = json.loads((toy / part / "config.json").read_text())
        names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
        told = {name: config[name] for name in names}
        # ComfyUI's SD 2 has the last layer, which it leaves out; diffusers' folders lack it
        options[f"clip_{clip}_model_config"] = told | {
            "num_hidden_layers": told["num_hidden_layers"] + (kind == "sd2")
        }
    model = make(device="cpu", dtype=torch.float32, model_options=options)
    worst = {"hidden": 0.0, "pooled": 0.0}
    for clip, part in parts.items():
        state = load_file(toy / part / "model.safetensors")
        whole = {name if name.startswith("text_") else f"text_model.{name}": value for name, value in state.items()}
        _, unexpected = getattr(model, f"clip_{clip}").load_sd(whole)
        assert not [name for name in unexpected if "position_ids" not in name], unexpected
        words = str(toy / part.replace("text_encoder", "tokenizer"))
        tokens[clip] = TOKENIZERS[clip](tokenizer_path=words)
    for number, caption in enumerate(captions):
        ours = load_file(FOLDER / f"{kind}-{number}.safetensors")
        hidden, pooled = model.encode_token_weights(
            {clip: one.tokenize_with_weights(caption) for clip, one in tokens.items()}
        )
        assert hidden.shape == ours["hidden"].shape, (hidden.shape, ours["hidden"].shape)
        worst["hidden"] = max(worst["hidden"], float((hidden - ours["hidden"]).abs().max()))
        if "pooled" in ours:
            worst["pooled"] = max(worst["pooled"], float((pooled - ours["pooled"]).abs().max()))
    return worst


def main():
    asked = json.loads((FOLDER / "asked.json").read_text())
    done = {"loaded": {kind: loaded(kind, unet) for kind, unet in asked["unets"].items()}}
    done["encoded"] = {kind: encoded(kind, asked["captions"]) for kind in asked["unets"]}
    print(json.dumps(done))


if __name__ == "__main__":
    main()

"""Adapters with random weights that change faces, for tests: made in a moment, for any pipeline."""

import dataclasses

import torch

from auface_diffusers import VQAUFacePipeline
from auface_diffusers.facs import units
from auface_diffusers.models.adapters import adapter_config, adapter_weights, base_hash, find_layers
from auface_diffusers.pipelines.adapter_files import Adapter, AdapterInfo, write_adapter

TARGETS = ("to_q", "to_v", "mlp", "structure")


def make_adapter(pipe, kind="lora", targets=TARGETS, seed=1, **values):
    """An adapter that changes faces, without leaving a trace in the pipeline."""
    torch.manual_seed(seed)
    layers = {"transformer": tuple(find_layers(pipe.transformer, targets, kind))}
    if "text" in values:
        layers["text_alignment"] = tuple(find_layers(pipe.text_alignment, values.pop("text"), kind))
    weights, base = {}, {}
    for part, names in layers.items():
        model = getattr(pipe, part)
        base[part] = base_hash(model)
        model.add_adapter(adapter_config(kind, 4, 8.0, names, init=False), "made")
        weights[part] = {name: value.detach().clone() * 0.7 for name, value in adapter_weights(model, "made").items()}
        model.unload_lora()
    info = AdapterInfo(kind, 4, 8.0, tuple(targets), layers, base, tuple(units.channels))
    return Adapter(dataclasses.replace(info, **values), weights)


def write_adapters(folder, **wanted):
    """Files of adapters for the embedded weights: `write_adapters(folder, clay={"kind": "dora"})`."""
    pipe = VQAUFacePipeline.from_default()
    for name, values in wanted.items():
        write_adapter(folder / f"{name}.safetensors", make_adapter(pipe, **values))


def face(pipe, **values):
    return pipe("12D+1C", identity=3, seed=5, num_inference_steps=2, output_type="pt", **values).images


def logits(pipe, names, weights):
    """Raw logits of the transformer, which show small changes."""
    pipe.set_adapters(names, weights)
    torch.manual_seed(0)
    config, model = pipe.transformer.config, pipe.transformer
    length, size = 8, config["image_size"]
    return model(
        torch.full((1, config["grid_size"] ** 2 * config["code_groups"]), model.mask_token_id),
        torch.randn(1, length, config["text_dim"]),
        torch.ones(1, length),
        torch.randn(1, config["text_dim"]),
        torch.randn(1, config["structure_channels"], size, size),
        torch.randn(1, config["identity_dim"]),
        torch.randn(1, config["attribute_dim"]),
    )

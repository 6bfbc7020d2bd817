"""The node that puts an adapter (LoRA, DoRA, LoHa, LoKr) on a model."""

import os

import folder_paths
from comfy_api.latest import io

from comfyui_auface import adapting
from comfyui_auface.adapter_files import NO_FILE, about, file_stamp, find_adapter, list_adapters
from comfyui_auface.generate_inputs import FaceModelSocket
from comfyui_auface.nodes_generate import CATEGORY, FOLDER
from comfyui_auface.types import say, schema


class AUFaceLoRA(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        files = list(list_adapters(_places())) or [NO_FILE]
        return schema(
            node_id="AUFaceLoRA",
            display_name="VQ-AUFace LoRA",
            category=CATEGORY,
            description="Puts an adapter (LoRA, DoRA, LoHa or LoKr) on the model: a style, or people, that it has "
            "learned from pictures.",
            aliases=["LoRA loader", "load adapter", "DoRA", "LoHa", "LoKr", "style"],
            inputs=[
                FaceModelSocket.Input(
                    "model", tooltip="From VQ-AUFace Loader, or from another VQ-AUFace LoRA: several add up."
                ),
                io.Combo.Input(
                    "lora",
                    options=files,
                    default=files[0],
                    tooltip="A file that train_lora adapter wrote, in models/auface/loras or models/loras. LoRAs of "
                    "other models are not listed. Copy it there and press R.",
                ),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=-4.0,
                    max=4.0,
                    step=0.05,
                    round=0.01,
                    tooltip="How much the adapter counts: 1 is as trained, 0 is the model without it, below 0 is the "
                    "opposite.",
                ),
            ],
            outputs=[
                FaceModelSocket.Output(
                    "model_out",
                    display_name="model",
                    tooltip="The model with the adapter, for VQ-AUFace Generate, Edit and LoRA.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, lora=None):
        try:
            if lora is not None:  # a linked name is looked up when the node runs
                find_adapter(lora, _places())
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, lora, **rest):
        return file_stamp(find_adapter(lora, _places()))

    @classmethod
    def execute(cls, model, lora, strength):
        file = find_adapter(lora, _places())
        if strength == 0:
            say(cls, "strength 0: the model as it was")
            return io.NodeOutput(model)
        adapted, info = adapting.put_on(model, lora, file, strength)
        chain = [f"on the model: {', '.join(adapted.notes)}"] if len(adapted.notes) > 1 else []
        say(cls, "\n".join([about(info, strength), *chain]))
        return io.NodeOutput(adapted)


def _places() -> dict[str, list[str]]:
    ours = [os.path.join(root, "loras") for root in folder_paths.get_folder_paths(FOLDER)]
    return {f"{FOLDER}/loras": ours, "loras": folder_paths.get_folder_paths("loras")}


NODES = (AUFaceLoRA,)

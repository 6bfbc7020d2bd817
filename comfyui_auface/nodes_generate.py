"""Nodes that draw faces with VQ-AUFace: its loader, and faces from expressions or text."""

import os

import comfy.model_management
import folder_paths
from comfy_api.latest import io

from comfyui_auface import generating, models
from comfyui_auface.generate_inputs import (
    MODEL_TIP,
    FaceModelSocket,
    PeopleSocket,
    person_inputs,
    run_inputs,
    scene_inputs,
)
from comfyui_auface.model_files import EMBEDDED, find_model, list_models, stamp
from comfyui_auface.parts import require
from comfyui_auface.types import CODES_TIP, ExpressionSocket, say, schema

require(("diffusers", "accelerate", "peft"))

CATEGORY = "AUFace/generate"
FOLDER = "auface"
# first, and also where extra_model_paths.yaml, which is read before, has the key already
folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER), is_default=True)


class AUFaceLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceLoader",
            display_name="VQ-AUFace Loader",
            category=CATEGORY,
            description="The model that draws faces. The embedded one comes with the pack: nothing has to be "
            "downloaded.",
            aliases=["load model", "AUFace model", "checkpoint"],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=[EMBEDDED, *list_models(_roots())],
                    default=EMBEDDED,
                    tooltip="The embedded model, or a folder of models/auface with a model_index.json.",
                ),
                io.Combo.Input(
                    "dtype",
                    options=list(models.DTYPES),
                    default=models.DTYPES[0],
                    tooltip="Precision of the weights: auto is fp16 on GPUs that are fast with it, else fp32.",
                ),
                io.Combo.Input(
                    "attention",
                    options=list(models.ATTENTIONS),
                    default=models.ATTENTIONS[0],
                    tooltip="auto is xformers where it is installed and the model on an NVIDIA GPU, else native "
                    "(PyTorch).",
                ),
            ],
            outputs=[
                FaceModelSocket.Output("model_out", display_name="model", tooltip="For VQ-AUFace Generate and Edit.")
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, model=EMBEDDED, attention=models.ATTENTIONS[0]):
        try:
            find_model(model, _roots())
            models.check_attention(attention)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, model, dtype, attention):
        return stamp(find_model(model, _roots()) or models.WEIGHTS / "default")

    @classmethod
    def execute(cls, model, dtype, attention):
        loaded = models.load_model(model, find_model(model, _roots()), dtype, attention)
        say(cls, models.describe_model(loaded))
        return io.NodeOutput(loaded)


class AUFaceGenerate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceGenerate",
            display_name="VQ-AUFace Generate",
            category=CATEGORY,
            description="Draws a face that shows the expression, or what a text says. A batch of expressions gives a "
            "batch of images of one person.",
            aliases=["generate face", "FACS face", "AU to image", "text to face"],
            inputs=[
                FaceModelSocket.Input("model", tooltip=MODEL_TIP),
                io.String.Input(
                    "prompt",
                    multiline=True,
                    default="",
                    placeholder="empty, or: smiling with raised brows",
                    tooltip="What is shown, in words or FACS codes, if no expression is connected. Beside an "
                    "expression it has to say the same, as the text of AUFace Text does. Mostly it stays empty.",
                ),
                *person_inputs(),
                *scene_inputs(),
                io.Combo.Input(
                    "batch",
                    display_name="a batch is",
                    options=list(generating.BATCHES),
                    default=generating.BATCHES[0],
                    tooltip="same scene: light, background and chance are those of the seed in every image. film: "
                    "also keeps each frame where nothing moves, one after the other. own scenes: another one each.",
                ),
                io.Int.Input(
                    "copies",
                    display_name="faces of each",
                    default=1,
                    min=1,
                    max=64,
                    tooltip="Images of each expression, with seeds that count on.",
                ),
                *run_inputs(),
                ExpressionSocket.Input(
                    "expression", optional=True, tooltip="What is shown: one expression, or a batch. Open: the prompt."
                ),
                ExpressionSocket.Input(
                    "avoid",
                    optional=True,
                    tooltip="An expression to keep away from, by guidance. It may be left open.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The faces, in the size of the model."),
                ExpressionSocket.Output(
                    "expression_out",
                    display_name="expression",
                    tooltip="What was drawn, after the rules: one for each image.",
                ),
                io.String.Output("codes_out", display_name="codes", tooltip=CODES_TIP),
                PeopleSocket.Output(
                    "people", display_name="people", tooltip="Who was drawn in which scene, for VQ-AUFace Edit."
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, light=""):
        try:
            generating.check_light(light or "")  # what is linked is None
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls, model, prompt, identity, batch, copies, steps, guidance, seed, expression=None, avoid=None, **who
    ):
        turns = {"pose": [who.pop(name) for name in ("yaw", "pitch", "roll")]}
        turns["gaze"] = [who.pop(name) for name in ("gaze_yaw", "gaze_pitch")]
        attributes = generating.attributes_of(**who, **turns)
        wish = generating.Wish(expression, prompt, avoid, identity, attributes, batch, copies, steps, guidance, seed)
        generating.check_prompt(expression, prompt)
        with generating.heard() as notes:
            pipe = models.ready(model, min(wish.faces, generating.CHUNK))
            rounds = steps or pipe.config["num_inference_steps"]
            out = generating.draw(pipe, wish, models.Progress(cls, rounds * wish.rounds))
        shown = generating.used(out.aus)
        say(cls, "\n".join([str(shown), *notes]))
        return io.NodeOutput(images(out), shown, str(shown), generating.People.of(out))


def images(out):
    """What a pipeline drew as an IMAGE: (B, H, W, 3) float32 where ComfyUI wants it."""
    return generating.to_comfy(out.images).to(comfy.model_management.intermediate_device())


def _roots() -> list[str]:
    return folder_paths.get_folder_paths(FOLDER)


NODES = (AUFaceLoader, AUFaceGenerate)

"""The node that gives a face another expression."""

import comfy.model_management
from comfy_api.latest import io

from comfyui_auface import editing, generating, models
from comfyui_auface.generate_inputs import MODEL_TIP, FaceModelSocket, PeopleSocket, run_inputs
from comfyui_auface.nodes_generate import CATEGORY, images
from comfyui_auface.types import CODES_TIP, ExpressionSocket, say, schema


class AUFaceEdit(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceEdit",
            display_name="VQ-AUFace Edit",
            category=CATEGORY,
            description="The same face with another expression: draws again what the action units move, and keeps the "
            "rest.",
            aliases=["edit expression", "change expression", "expression editor", "inpaint face"],
            inputs=[
                FaceModelSocket.Input("model", tooltip=MODEL_TIP),
                io.Image.Input(
                    "image",
                    tooltip="A square picture whose face fills about 70 % of its side, or a batch. The result has the "
                    "model's size.",
                ),
                ExpressionSocket.Input("expression", tooltip="What the face is to show: one, or one for each image."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="The part of what moves that is drawn again, what moves most first. 0 draws nothing.",
                ),
                io.Boolean.Input(
                    "keep_rest",
                    display_name="keep the rest",
                    default=True,
                    tooltip="On: what is not drawn again is the picture itself, with a soft edge. Off: the whole "
                    "picture goes through the model's codes.",
                ),
                *run_inputs(),
                ExpressionSocket.Input(
                    "source",
                    optional=True,
                    tooltip="What the image shows now. Open: as people say, else as an estimator reads it.",
                ),
                PeopleSocket.Input(
                    "people",
                    optional=True,
                    tooltip="From the VQ-AUFace Generate that drew the image: the person is then known exactly. Open: "
                    "a head is fitted to the picture.",
                ),
                io.Mask.Input(
                    "mask", optional=True, tooltip="Draw again what is white here, instead of what the units move."
                ),
            ],
            outputs=[
                io.Image.Output("image_out", display_name="image", tooltip="The faces with the new expression."),
                ExpressionSocket.Output(
                    "expression_out", display_name="expression", tooltip="What was drawn, after the rules."
                ),
                io.String.Output("codes_out", display_name="codes", tooltip=CODES_TIP),
                io.Mask.Output("mask_out", display_name="mask", tooltip="Where something was drawn again."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model, image, expression, strength, keep_rest, steps, guidance, seed, source=None, people=None, mask=None
    ):
        pictures = editing.check_image(image)
        count = editing.count_faces(pictures, expression, source, people)
        masks = None if mask is None else editing.check_mask(mask, pictures, count)
        with generating.heard() as notes:
            pipe = models.ready_to_edit(model, min(count, generating.CHUNK), fit=people is None)
            rounds = (steps or pipe.config["num_inference_steps"]) * -(-count // generating.CHUNK)
            out = editing.edit(
                pipe,
                pictures,
                expression,
                source,
                people,
                masks,
                strength=strength,
                paste=keep_rest,
                guidance_scale=guidance or None,
                num_inference_steps=steps or None,
                seed=[seed] * count,
                callback_on_step_end=models.Progress(cls, rounds),
                callback_on_step_end_tensor_inputs=generating.PREVIEWED,
            )
        shown = generating.used(out.aus)
        say(cls, "\n".join([str(shown), *notes]))
        drawn = editing.drawn_mask(out).to(comfy.model_management.intermediate_device())
        return io.NodeOutput(images(out), shown, str(shown), drawn)


NODES = (AUFaceEdit,)

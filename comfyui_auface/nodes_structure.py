"""Nodes that draw an expression: the head itself, and what ControlNet and its kin read."""

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io, ui

from auface_diffusers.cli_images import CONTROL_KINDS
from comfyui_auface import drawing
from comfyui_auface.expression import choose
from comfyui_auface.types import (
    MAX_SEED,
    ExpressionSocket,
    PoseKeypoint,
    identity_input,
    place_inputs,
    schema,
)

CATEGORY = "AUFace/structure"
BACKGROUNDS = ("plain", "gradient", "bokeh", "room", "any")
"""Those of `anatomy.appearance`, spelled here so that ComfyUI starts without it, and what leaves it to the scene."""


class AUFaceHeadPreview(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceHeadPreview",
            display_name="AUFace Head Preview",
            category=CATEGORY,
            description="The expression on a 3-D head, at once and without a model. A batch gives a batch of images.",
            aliases=["3D head", "face preview", "render expression"],
            inputs=[
                ExpressionSocket.Input("expression", tooltip="One expression, or a batch: then one image for each."),
                identity_input(default=1),
                io.Int.Input(
                    "size", default=512, min=64, max=2048, step=8, tooltip="Height and width of the image in pixels."
                ),
                io.Int.Input(
                    "scene",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    tooltip="Number of the light, the clothes and what is behind; the person stays the same.",
                ),
                io.Combo.Input(
                    "background",
                    options=list(BACKGROUNDS),
                    default=BACKGROUNDS[0],
                    tooltip="What is behind the head; any takes what the scene has.",
                ),
                *place_inputs(),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The rendered heads, one for each expression.")
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, expression, identity, size, scene, background, yaw, pitch, roll, gaze_yaw, gaze_pitch, conflicts, one_side
    ):
        choose("background", background, BACKGROUNDS)
        parts = drawing.draw_heads(
            drawing.shown(expression, conflicts, one_side),
            identity=identity,
            size=size,
            scene=scene,
            pose=(yaw, pitch, roll),
            gaze=(gaze_yaw, gaze_pitch),
            background=None if background == "any" else background,
        )
        images = collect(cls, parts, len(expression))
        return io.NodeOutput(images, ui=ui.PreviewImage(images, cls=cls))


class AUFaceControlImage(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceControlImage",
            display_name="AUFace Control Image",
            category=CATEGORY,
            description="What a ControlNet reads, drawn from action units: no photo and no detector are needed. "
            "With key points of a photo, the units move that face.",
            aliases=["ControlNet face", "openpose face", "DWPose", "MediaPipe face", "normal map", "depth map"],
            inputs=[
                ExpressionSocket.Input("expression", tooltip="One expression, or a batch: then one image for each."),
                io.Combo.Input(
                    "kind",
                    options=list(CONTROL_KINDS),
                    default=CONTROL_KINDS[0],
                    tooltip="What the model reads. openpose has the head's body points, openpose_face the face alone; "
                    "mediapipe_face is for CrucibleAI's ControlNet; normal and depth suit most others.",
                ),
                io.Int.Input("width", default=512, min=64, max=4096, step=8, tooltip="Width of the image in pixels."),
                io.Int.Input(
                    "height", default=512, min=64, max=4096, step=8, tooltip="Height of the image in pixels."
                ),
                identity_input(default=drawing.AVERAGE),
                *place_inputs(),
                PoseKeypoint.Input(
                    "photo_points",
                    optional=True,
                    tooltip="Key points of a photo with one face, from DWPose or its like. The units, pose and gaze "
                    "then move this face; without them it stays as it is.",
                ),
            ],
            outputs=[
                io.Image.Output("image", display_name="image", tooltip="The control images, one for each expression."),
                PoseKeypoint.Output(
                    "keypoints",
                    display_name="keypoints",
                    tooltip="The face and head points in pixels, for nodes that edit or save poses.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls,
        expression,
        kind,
        width,
        height,
        identity,
        yaw,
        pitch,
        roll,
        gaze_yaw,
        gaze_pitch,
        conflicts,
        one_side,
        photo_points=None,
    ):
        choose("kind", kind, CONTROL_KINDS)
        keypoints = []
        parts = drawing.draw_controls(
            drawing.shown(expression, conflicts, one_side),
            kind,
            (height, width),
            identity=identity,
            pose=(yaw, pitch, roll),
            gaze=(gaze_yaw, gaze_pitch),
            photo=None if photo_points is None else drawing.landmarks_of(photo_points, (height, width)),
        )

        def images():
            for part, frames in parts:
                keypoints.extend(frames)
                yield part

        return io.NodeOutput(collect(cls, images(), len(expression)), keypoints)


def collect(node, parts, total: int):
    """Join images (n, H, W, 3) to one batch where ComfyUI wants it; between the parts, show how far it is.

    The bar is also where a cancelled run ends: ComfyUI raises in it.
    """
    bar = comfy.utils.ProgressBar(total, node_id=node.hidden.unique_id)
    done = []
    for part in parts:
        done.append(part)
        bar.update(len(part))
        comfy.model_management.throw_exception_if_processing_interrupted()  # newer bars skip some updates
    return torch.cat(done).float().to(comfy.model_management.intermediate_device())


NODES = (AUFaceHeadPreview, AUFaceControlImage)

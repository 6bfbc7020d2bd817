"""Nodes that make an expression out of others: combine, blend, mirror, animate."""

from comfy_api.latest import io

from auface_diffusers.facs import AUSet
from comfyui_auface.expression import blend, choose, pair
from comfyui_auface.keyframes import EASINGS, animate, parse_keys
from comfyui_auface.types import ExpressionSocket, expression_outputs, say, schema

CATEGORY = "AUFace/expression"
WAYS = ("max", "add", "replace")
"""Names of `AUSet.merge`."""


class AUFaceCombine(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceCombine",
            display_name="AUFace Combine",
            category=CATEGORY,
            description="Two expressions in one face, such as brows of the one and mouth of the other.",
            aliases=["add expression", "merge expressions"],
            inputs=[
                ExpressionSocket.Input("first", tooltip="One expression, or a batch."),
                ExpressionSocket.Input(
                    "second", tooltip="The other one. A single expression goes with every one of a batch."
                ),
                io.Combo.Input(
                    "how",
                    display_name="where both have a unit",
                    options=list(WAYS),
                    default=WAYS[0],
                    tooltip="max keeps the stronger, add sums the levels up to E, replace takes the second one's.",
                ),
            ],
            outputs=expression_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, first, second, how):
        choose("how", how, WAYS)
        made = pair(first, second, lambda a, b: a.merge(b, how), ("first", "second"))
        say(cls, str(made))
        return io.NodeOutput(made, str(made))


class AUFaceBlend(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceBlend",
            display_name="AUFace Blend",
            category=CATEGORY,
            description="A point on the way from one expression to another. From neutral, it sets the strength.",
            aliases=["interpolate expression", "expression strength", "weaken expression"],
            inputs=[
                ExpressionSocket.Input("start", tooltip="Where the way begins: what 0 gives."),
                ExpressionSocket.Input(
                    "end", tooltip="Where it ends: what 1 gives. A single expression goes with every one of a batch."
                ),
                io.Float.Input(
                    "amount",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="Share of the way, 0 to 1; every unit's level changes evenly.",
                ),
            ],
            outputs=expression_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, start, end, amount):
        made = pair(start, end, lambda a, b: blend(a, b, amount), ("start", "end"))
        say(cls, str(made))
        return io.NodeOutput(made, str(made))


class AUFaceMirror(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceMirror",
            display_name="AUFace Mirror",
            category=CATEGORY,
            description="Swaps left and right, turns of head and eyes included.",
            aliases=["flip expression", "swap sides"],
            inputs=[ExpressionSocket.Input("expression", tooltip="One expression, or a batch.")],
            outputs=expression_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, expression):
        made = expression.map(AUSet.mirror)
        say(cls, str(made))
        return io.NodeOutput(made, str(made))


class AUFaceAnimate(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceAnimate",
            display_name="AUFace Animate",
            category=CATEGORY,
            description="Keyframes to a batch of expressions, one a frame: what draws or generates faces makes a film "
            "of it.",
            aliases=["keyframes", "animation", "timeline", "expression batch"],
            inputs=[
                io.String.Input(
                    "keyframes",
                    multiline=True,
                    default="0: 0\n12: 6C+12D\n24: 0",
                    placeholder="FRAME: CODES",
                    tooltip="A line a key, FRAME: CODES, such as 12: 6C+12D. Frames count from 0; the last key is "
                    "the end. 'input' in place of codes is the connected expression, 'input 3' its third frame.",
                ),
                io.Combo.Input(
                    "easing",
                    options=list(EASINGS),
                    default="smooth",
                    tooltip="The way from key to key: smooth speeds up and slows down, linear is even, hold jumps.",
                ),
                io.Boolean.Input(
                    "bounce",
                    display_name="and back again",
                    default=False,
                    tooltip="On: after the last key the film runs backwards, so that it can be looped.",
                ),
                ExpressionSocket.Input(
                    "expression",
                    optional=True,
                    tooltip="What 'input' stands for in the keyframes. It may be left open.",
                ),
            ],
            outputs=[
                *expression_outputs(),
                io.Int.Output("frames", display_name="frames", tooltip="How many frames there are."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, keyframes=None):
        try:
            if keyframes is not None:  # a linked text is read when the node runs
                parse_keys(keyframes)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, keyframes, easing, bounce, expression=None):
        made = animate(keyframes, easing, bounce, expression)
        say(cls, f"{len(made)} frames")
        return io.NodeOutput(made, str(made), len(made))


NODES = (AUFaceCombine, AUFaceBlend, AUFaceMirror, AUFaceAnimate)

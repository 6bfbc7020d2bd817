"""Sockets that the nodes share, and what keeps one code path from ComfyUI 0.3.64 to today."""

import inspect

from comfy_api.latest import io
from server import PromptServer

from comfyui_auface.drawing import AVERAGE, CONFLICTS, SIDES

ExpressionSocket = io.Custom("AUFACE_EXPRESSION")
"""Carries an `Expression`: one score of action units, or a batch of them."""
PoseKeypoint = io.Custom("POSE_KEYPOINT")
"""The socket that DWPose and the nodes around it use."""
MAX_SEED = 2**63 - 1
"""Largest seed that torch takes."""

EXPRESSION_TIP = "Action units: one expression, or a batch of them."
CODES_TIP = "The expression as FACS codes, a line for each of the batch; AUFace Codes reads it back."


def schema(aliases=(), **fields) -> io.Schema:
    """`io.Schema`; ``aliases`` are words that find the node in the search, where ComfyUI knows such words."""
    if "search_aliases" in inspect.signature(io.Schema).parameters:  # since 0.12
        fields["search_aliases"] = list(aliases)
    return io.Schema(**fields)


def say(node, text: str) -> None:
    """Show a text inside the node that runs. Without a page nobody sees it, and nothing else happens."""
    if node.hidden.unique_id:
        PromptServer.instance.send_progress_text(text, node.hidden.unique_id)


def expression_outputs() -> list[io.Output]:
    """The two outputs of every node that makes an expression."""
    return [
        ExpressionSocket.Output("expression_out", display_name="expression", tooltip=EXPRESSION_TIP),
        io.String.Output("codes_out", display_name="codes", tooltip=CODES_TIP),
    ]


def angle(name: str, label: str, tip: str) -> io.Float.Input:
    """An input for degrees."""
    return io.Float.Input(name, display_name=label, default=0.0, min=-90.0, max=90.0, step=1.0, round=0.1, tooltip=tip)


def turn_inputs() -> list[io.Input]:
    """Inputs that say where head and eyes turn."""
    return [
        angle("yaw", "head yaw", "Degrees the head turns to the person's left (right in the image). 0 looks ahead."),
        angle("pitch", "head pitch", "Degrees the head is raised; below 0 it is lowered."),
        angle("roll", "head roll", "Degrees the head leans to the person's left shoulder."),
        angle("gaze_yaw", "gaze yaw", "Degrees the eyes turn to the person's left, the head staying where it is."),
        angle("gaze_pitch", "gaze pitch", "Degrees the eyes look up; below 0 they look down."),
    ]


def place_inputs() -> list[io.Input]:
    """Inputs that say where head and eyes turn, and which units are drawn: those of every node that draws a head."""
    return [
        *turn_inputs(),
        io.Combo.Input(
            "conflicts",
            options=list(CONFLICTS),
            default=CONFLICTS[0],
            tooltip="Units that exclude each other: 'resolved' draws what AUFace Text describes, 'as written' draws "
            "every unit as it stands.",
        ),
        io.Combo.Input(
            "one_side",
            display_name="one side is",
            options=list(SIDES),
            default=SIDES[0],
            tooltip="Where a unit is drawn that is scored on one side without saying which (U12). Sides are the "
            "person's own.",
        ),
    ]


def identity_input(default: int) -> io.Int.Input:
    """The input for who is drawn."""
    return io.Int.Input(
        "identity",
        default=default,
        min=AVERAGE,
        max=MAX_SEED,
        tooltip="Number of the person, who stays the same in every expression. -1 is the average head.",
    )

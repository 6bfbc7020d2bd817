"""Inputs of the generating nodes, in the order in which saved workflows hold them: new ones go to the end."""

from comfy_api.latest import io

from comfyui_auface import generating as g
from comfyui_auface.types import MAX_SEED, turn_inputs

FaceModelSocket = io.Custom("AUFACE_MODEL")
"""Carries a `models.FaceModel`."""
PeopleSocket = io.Custom("AUFACE_PEOPLE")
"""Carries `People`: who stands where, for an edit of the faces that were drawn."""
MODEL_TIP = "From VQ-AUFace Loader."


def person_inputs() -> list[io.Input]:
    """Who is drawn: what is left open follows the identity number."""
    return [
        io.Int.Input(
            "identity",
            default=1,
            min=g.NEW_PERSON,
            max=MAX_SEED,
            tooltip="Number of the person, who stays the same in every expression. -1 takes another person with each "
            "seed, or the person that an adapter shows.",
        ),
        io.Int.Input(
            "age",
            default=0,
            min=0,
            max=g.AGES[1],
            tooltip=f"Years, {g.AGES[0]} to {g.AGES[1]}: the same person at this age. 0 is the person's own age.",
        ),
        _words("gender", "gender", g.GENDERS, "any is the person's own."),
        _words("skin", "skin", g.SKINS, "Tone of the skin; any is the person's own."),
        _words("hair_style", "hair style", g.HAIR_STYLES, "any is the person's own."),
        _words("hair_color", "hair colour", g.HAIR_COLORS, "any is the person's own."),
    ]


def scene_inputs() -> list[io.Input]:
    """What is around the person: what is left open follows the seed."""
    return [
        io.String.Input(
            "light",
            default="",
            placeholder="soft, left, warm",
            tooltip="Words about the light: soft or hard; left, right or front; top; warm or cool; dim or bright. "
            "Sides are the person's. Empty: as the seed has it.",
        ),
        _words("background", "background", (*g.BACKGROUNDS, *g.COLORS), "A kind or a colour; any takes the seed's."),
        *turn_inputs(),
    ]


def run_inputs() -> list[io.Input]:
    """How it is drawn."""
    return [
        io.Int.Input(
            "steps",
            default=0,
            min=0,
            max=128,
            tooltip="How often the transformer is asked. More takes longer. 0 takes the model's own number.",
        ),
        io.Float.Input(
            "guidance",
            default=0.0,
            min=0.0,
            max=20.0,
            step=0.1,
            round=0.01,
            tooltip="How much the expression counts: 1 is no guidance and takes half the time. 0 takes the "
            "model's own.",
        ),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=MAX_SEED,
            control_after_generate=True,
            tooltip="Number of what chance decides, the scene included. The same number gives the same image.",
        ),
    ]


def _words(name: str, label: str, options, tip: str) -> io.Input:
    return io.Combo.Input(name, display_name=label, options=[g.ANY, *options], default=g.ANY, tooltip=tip)

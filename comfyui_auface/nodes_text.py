"""Node that says an expression in words, for any model that reads a prompt."""

from comfy_api.latest import io

from auface_diffusers.facs import describe
from auface_diffusers.facs.describe import STYLES
from comfyui_auface.expression import choose
from comfyui_auface.saying import negative, report
from comfyui_auface.types import MAX_SEED, ExpressionSocket, say, schema

CATEGORY = "AUFace/text"


class AUFaceText(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceText",
            display_name="AUFace Text",
            category=CATEGORY,
            description="Action units to anatomical text, conflicts resolved by named rules. Connect it to the text "
            "of CLIP Text Encode, or to any node that takes a prompt.",
            aliases=["FACS text", "AU to text", "expression prompt", "describe expression"],
            inputs=[
                ExpressionSocket.Input("expression", tooltip="One expression, or a batch: then one text for each."),
                io.Combo.Input(
                    "style",
                    options=list(STYLES),
                    default=STYLES[0],
                    tooltip="anatomical: sentences on what the muscles visibly do. compact: fits CLIP's 75 tokens. "
                    "tags: a comma list for tag-trained checkpoints. coder: codes with names.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=MAX_SEED,
                    control_after_generate=False,  # its name alone would get the page to change it after every run
                    tooltip="Varies the wording of the anatomical style, never its meaning. 0 is the plain wording.",
                ),
                io.String.Input(
                    "subject",
                    default="",
                    placeholder="a 40-year-old woman with short black hair",
                    tooltip="Who is shown, in your own words, put in front of the text. It may stay empty.",
                ),
                io.Boolean.Input(
                    "emotion",
                    display_name="name the emotion",
                    default=False,
                    tooltip="On: also name the emotion prototype that the units fit, if there is one. Off: no word of "
                    "emotion.",
                ),
            ],
            outputs=[
                io.String.Output("text_out", display_name="text", is_output_list=True, tooltip="The description."),
                io.String.Output(
                    "negative_out",
                    display_name="negative text",
                    is_output_list=True,
                    tooltip="The opposite actions, for the negative prompt. Empty if there are none.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="The score before and after the rules, and each rule that fired: its id, the grade of its "
                    "evidence, what it did and why.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, expression, style, seed, subject, emotion):
        choose("style", style, STYLES)
        saids = [describe(aus, style, seed or None, subject=subject or None, emotion=emotion) for aus in expression]
        against = [negative(said.resolution.effective, style) for said in saids]
        say(cls, saids[0].text)
        return io.NodeOutput([said.text for said in saids], against, report(saids))


NODES = (AUFaceText,)

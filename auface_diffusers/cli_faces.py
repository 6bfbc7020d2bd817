"""Subcommands of ``auface`` that draw faces with the generator. Each writes its files and returns what it did."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auface_diffusers import __version__
from auface_diffusers.cli_images import numbers
from auface_diffusers.cli_models import draw_grid, load_estimator, load_pipeline, model_hash, plain_errors, read_units
from auface_diffusers.face_file import face_bytes, open_image, part_of, read_face, write_all

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from auface_diffusers.pipelines import VQAUFaceEditPipeline, VQAUFacePipelineOutput

STOPPED = "nothing was written"
FILMS = (".gif", ".webp", ".mp4")
"""Endings that `pipelines.save_animation` knows, spelled here so that the command starts without torch."""
TOLD = ("source", "identity", "attributes", "pose", "gaze")
"""Options of ``edit`` about a picture that auface did not draw."""


def add_parsers(commands: Any) -> None:  # noqa: ANN401 - argparse's class for this is private
    """Add the subcommands to the parser of ``auface``; ``make`` is the function that does one."""
    generate = commands.add_parser("generate", help="faces from scores or texts, drawn by VQ-AUFace")
    generate.add_argument("codes", nargs="+", help="FACS notation such as 1C+2C+L12D, or a text; '0' is neutral")
    generate.add_argument("--identity", help="seed of the person, or several with commas; without it --seed's")
    generate.add_argument("--count", type=int, default=1, help="faces of each score and person, with seeds counted on")
    generate.add_argument("--negative", metavar="CODES", help="a score to keep away from; needs guidance other than 1")
    generate.add_argument("--sheet", action="store_true", help="all faces in one labelled picture")
    generate.add_argument("--readout", action="store_true", help="also say what the evaluation estimator reads")
    generate.add_argument("-o", "--output", type=Path, default=Path("face.png"), metavar="OUT.png")
    _add_options(generate)
    generate.set_defaults(make=generate_command)

    edit = commands.add_parser("edit", help="another expression in a picture of a face")
    edit.add_argument("image", type=Path, help="a face; of one that auface drew, everything but the score is kept")
    edit.add_argument("codes", help="FACS notation such as 1C+2C+L12D, or a text; '0' is neutral")
    edit.add_argument("--source", metavar="CODES", help="the score that the picture shows, if auface did not draw it")
    edit.add_argument("--identity", help="seed of the person, if auface did not draw it")
    edit.add_argument("--strength", type=float, default=1.0, help="share of what changes that is drawn again, 0..1")
    edit.add_argument("--mask", type=Path, metavar="MASK.png", help="draw again what is white here")
    edit.add_argument("-o", "--output", type=Path, metavar="OUT.png", help="(default: IMAGE-edited.png)")
    _add_options(edit)
    edit.set_defaults(make=edit_command)

    animate = commands.add_parser("animate", help="a film from one score to another")
    animate.add_argument("a", help="the first frame's FACS notation; '0' is neutral")
    animate.add_argument("b", help="the last frame's FACS notation")
    animate.add_argument("--frames", type=int, default=12, help="both ends included (default 12)")
    animate.add_argument("--fps", type=float, default=12, help="frames a second (default 12)")
    animate.add_argument("--identity", help="seed of the person; without it --seed's")
    animate.add_argument("-o", "--output", type=Path, default=Path("face.gif"), metavar="OUT.gif|webp|mp4")
    _add_options(animate)
    animate.set_defaults(make=animate_command)


def _add_options(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, help="of person, scene and noise (default 0, or that of the picture)")
    command.add_argument("--steps", type=int, help="calls of the transformer (default: the model's)")
    command.add_argument("--guidance", type=float, help="how much the score counts; 1 is none (default: the model's)")
    command.add_argument("--attributes", help="such as 'age=40,hair=short black', or a JSON object")
    command.add_argument("--pose", help="yaw,pitch,roll in degrees: to the person's left, up, left")
    command.add_argument("--gaze", help="yaw,pitch in degrees")
    command.add_argument("--model", type=Path, metavar="FOLDER", help="a saved pipeline (default: the embedded one)")
    command.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="FILE[=WEIGHT]",
        help="of train_lora adapter; may be repeated",
    )
    command.add_argument("--attention", default="auto", help="auto, native, xformers, ...")
    command.set_defaults(stopped=STOPPED)


@dataclass(frozen=True)
class Wanted:
    """One face to draw: what was asked for, a person's seed or None, and the seed of the rest."""

    codes: str
    person: int | None
    seed: int


def generate_command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Draw faces; write one file each, or one sheet."""
    wanted = _wanted(arguments)
    _check_png(arguments.output)
    attributes = read_attributes(arguments.attributes, arguments.pose, arguments.gaze)
    with plain_errors():
        pipe = load_pipeline(arguments.model, arguments.attention, arguments.adapter)
        people = [one.person for one in wanted if one.person is not None]
        out: Any = pipe(
            [one.codes for one in wanted],
            identity=people or None,
            attributes=attributes,
            negative_aus=arguments.negative,
            guidance_scale=arguments.guidance,
            num_inference_steps=arguments.steps,
            seed=[one.seed for one in wanted],
            output_type="pt",
        )
        rows = read_units(out.images, arguments.model) if arguments.readout else None
    made = _settings(pipe, arguments) | {"negative": arguments.negative}
    infos = [
        {"asked": one.codes, "identity": one.person, "seed": one.seed} | face_info(out, row) | made
        for row, one in enumerate(wanted)
    ]
    files = _face_files(arguments, wanted, to_pictures(out.images), infos)
    write_all(files)
    names = [str(path) for path in files]
    done: dict[str, Any] = {"outputs": names, "faces": infos}
    if rows is not None:
        labels = names if len(names) == len(wanted) else [f"{one.codes}, person {one.person}" for one in wanted]
        done["readout"] = [
            {"face": label, "shown": info["aus"], "read": read}
            for label, info, read in zip(labels, infos, rows, strict=True)
        ]
    return done


def edit_command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Draw a picture's face with another expression."""
    output = arguments.output or arguments.image.with_name(f"{arguments.image.stem}-edited.png")
    _check_png(output)
    source = _source(arguments)
    seed = source["seed"] if arguments.seed is None else arguments.seed
    with plain_errors():
        pipe = _edit_pipeline(arguments, source["drawn"])
        off = [name for name in source["adapters"] if name not in pipe.get_active_adapters()]
        if off:
            sys.stderr.write(f"{arguments.image} was drawn with --adapter {', '.join(off)}, which is not on now\n")
        out: Any = pipe(
            open_image(arguments.image),
            arguments.codes,
            source_aus=source["aus"],
            identity=source["code"],
            attributes=source["attributes"],
            strength=arguments.strength,
            mask=open_image(arguments.mask) if arguments.mask else None,
            guidance_scale=arguments.guidance,
            num_inference_steps=arguments.steps,
            seed=seed,
            output_type="pt",
        )
    info = {"asked": arguments.codes, "identity": source["identity"], "seed": seed, "edited": arguments.image.name}
    info |= face_info(out, 0) | _settings(pipe, arguments) | {"foreign": not source["drawn"]}
    info |= {"strength": arguments.strength, "mask": arguments.mask.name if arguments.mask else None}
    write_all({output: face_bytes(to_pictures(out.images)[0], info)})
    return {"outputs": [str(output)], "faces": [info]}


def _source(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is known of a picture: from its file if auface drew it, else what the options say, or None."""
    info = read_face(arguments.image)
    if info is None or info.get("foreign"):
        people = _seeds(arguments.identity, 1)
        return {
            "drawn": False,
            "aus": arguments.source or (info or {}).get("aus"),
            "identity": people[0] if people else None,
            "code": people[0] if people else None,
            "attributes": read_attributes(arguments.attributes, arguments.pose, arguments.gaze),
            "seed": 0,
            "adapters": {},
        }
    if "sheet" in info:
        raise ValueError(f"{arguments.image} is a sheet of several faces: give a file with one")
    told = [name for name in TOLD if getattr(arguments, name) is not None]
    if told:
        raise ValueError(f"{arguments.image} says itself who it shows: leave out --{', --'.join(told)}")
    lacks = [name for name in ("aus", "identity_code", "attributes", "seed") if name not in info]
    if lacks:
        raise ValueError(f"{arguments.image}: its PNG text lacks {', '.join(lacks)}; save it without its metadata")
    known = {name: info[name] for name in ("aus", "attributes", "seed")}
    known["adapters"] = info.get("adapters", {})
    return known | {"drawn": True, "identity": info.get("identity"), "code": _code(info["identity_code"])}


def animate_command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Draw a sequence and write it as one file."""
    from auface_diffusers.pipelines import save_animation

    people = _seeds(arguments.identity, 1)
    attributes = read_attributes(arguments.attributes, arguments.pose, arguments.gaze)
    if arguments.output.suffix.lower() not in FILMS:
        raise ValueError(f"output {arguments.output}: the ending has to be one of {', '.join(FILMS)}")
    if not 0 < arguments.fps <= 100:
        raise ValueError(f"--fps {arguments.fps:g}: a number in 0..100, above 0")
    part = part_of(arguments.output)  # before the work: a folder that cannot be written is no news after it
    try:
        with plain_errors():
            pipe = load_pipeline(arguments.model, arguments.attention, arguments.adapter)
            out = pipe.interpolate(
                arguments.a,
                arguments.b,
                arguments.frames,
                identity=people[0] if people else None,
                attributes=attributes,
                guidance_scale=arguments.guidance,
                num_inference_steps=arguments.steps,
                seed=arguments.seed or 0,
            )
            save_animation(out.images, part, arguments.fps)
        os.replace(part, arguments.output)
    finally:  # after Ctrl-C too
        part.unlink(missing_ok=True)
    return {
        "outputs": [str(arguments.output)],
        "frames": [aus.format() for aus in out.aus],
        "fps": arguments.fps,
        "seed": arguments.seed or 0,
        **_settings(pipe, arguments),
    }


# --- what is asked ---------------------------------------------------------------------------------------------------


def _wanted(arguments: argparse.Namespace) -> list[Wanted]:
    if arguments.count < 1:
        raise ValueError(f"--count {arguments.count}: a number of faces, at least 1")
    people: list[int] | list[None] = _seeds(arguments.identity) or [None]
    seeds = [(arguments.seed or 0) + number for number in range(arguments.count)]
    return [Wanted(codes, person, seed) for codes in arguments.codes for person in people for seed in seeds]


def _seeds(text: str | None, most: int | None = None) -> list[int]:
    """``"7,8"`` to seeds; None to none."""
    if text is None:
        return []
    if not re.fullmatch(r"\d+(,\d+)*", text) or (most and text.count(",") >= most):
        allowed = "one whole number" if most == 1 else "whole numbers with commas between"
        raise ValueError(f"--identity {text!r}: {allowed}, such as 7")
    return [int(number) for number in text.split(",")]


def _check_png(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"output {path}: name a .png file, which says inside how the face was made")
    if not path.parent.is_dir():
        raise ValueError(f"output {path}: there is no folder {path.parent}; make it first")


def read_attributes(text: str | None, pose: str | None = None, gaze: str | None = None) -> dict[str, Any] | None:
    """``--attributes``, ``--pose`` and ``--gaze`` as the pipeline takes them; None if there are none.

    ``"age=40,light=soft,left"`` has the values 40 and "soft,left": what has no ``=`` belongs to what is before it.

    Raises:
        ValueError: it is neither key=value pairs nor a JSON object, or a key stands twice.
    """
    given = _attribute_pairs(text.strip()) if text is not None else {}
    for key, option, value, count in (("head_pose", "--pose", pose, 3), ("gaze", "--gaze", gaze, 2)):
        if value is not None:
            if key in given:
                raise ValueError(f"{option} and {key!r} in --attributes: give one of them")
            given[key] = numbers(value, count, option)
    return given or None


def _attribute_pairs(text: str) -> dict[str, Any]:
    if text.startswith("{"):
        try:
            found: dict[str, Any] = json.loads(text)
        except ValueError as error:
            raise ValueError(f"--attributes {text!r}: no JSON object ({error})") from None
        return found
    pairs: list[list[str]] = []
    for part in text.split(","):
        key, equals, value = part.partition("=")
        if equals:
            pairs.append([key.strip(), value.strip()])
        elif pairs:
            pairs[-1][1] += f",{part}"
        else:
            raise ValueError(f"--attributes {text!r}: write key=value with commas between, or a JSON object")
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError(f"--attributes {text!r}: a key stands twice")
    return {key: _value(value) for key, value in pairs}


def _value(text: str) -> object:
    """A number if it is one."""
    try:
        return float(text) if "." in text else int(text)
    except ValueError:
        return text


# --- what is written -------------------------------------------------------------------------------------------------


def face_info(out: VQAUFacePipelineOutput, row: int) -> dict[str, Any]:
    """What a face shows, and the numbers, exact where seeds would not be, that draw the same person again."""
    return {
        "aus": out.aus[row].format(),
        "text": out.texts[row],
        "identity_code": out.identity[row].tolist(),
        "attributes": dict(out.attributes[row]),
    }


def _code(numbers: Any) -> Tensor:  # noqa: ANN401 - whatever the file holds
    """The identity code (1, 46) of a file; its length and range are the pipeline's to check."""
    import torch

    try:
        return torch.tensor([numbers], dtype=torch.float32)
    except (TypeError, ValueError):
        raise ValueError("the file's identity_code is no list of numbers; save it without its metadata") from None


def to_pictures(images: Any) -> list[Image.Image]:  # noqa: ANN401 - a Tensor; the output's field has more types
    """(B, 3, H, W) in [0, 1] as Pillow images."""
    from auface_diffusers.pipelines.output import to_output_type

    pictures: list[Image.Image] = list(to_output_type(images, "pil"))
    return pictures


def _face_files(
    arguments: argparse.Namespace, wanted: Sequence[Wanted], images: Sequence[Image.Image], infos: list[dict[str, Any]]
) -> dict[Path, bytes]:
    path: Path = arguments.output
    if arguments.sheet:
        sheet = draw_grid(images, arguments.codes, len(images) // len(arguments.codes))
        return {path: face_bytes(sheet, {"sheet": infos})}
    if len(wanted) == 1:
        return {path: face_bytes(images[0], infos[0])}
    digits = len(str(len(wanted)))
    names = [path.with_name(f"{path.stem}-{number:0{digits}}{path.suffix}") for number in range(1, len(wanted) + 1)]
    return {name: face_bytes(image, info) for name, image, info in zip(names, images, infos, strict=True)}


def _settings(pipe: Any, arguments: argparse.Namespace) -> dict[str, Any]:  # noqa: ANN401 - one of two pipelines
    from auface_diffusers.models.au_estimator import WEIGHTS

    steps, guidance = pipe.config["num_inference_steps"], pipe.config["guidance_scale"]
    return {
        "steps": steps if arguments.steps is None else arguments.steps,
        "guidance_scale": guidance if arguments.guidance is None else arguments.guidance,
        "model": model_hash(arguments.model or WEIGHTS / "default"),
        "adapters": {name: one.weight for name, one in pipe.adapters.items()},
        "version": __version__,
    }


def _edit_pipeline(arguments: argparse.Namespace, drawn: bool) -> VQAUFaceEditPipeline:
    """For faces that were not ``drawn`` by auface, with the estimator that reads what they show, if there is one."""
    from auface_diffusers.pipelines import VQAUFaceEditPipeline

    pipe = load_pipeline(arguments.model, arguments.attention, arguments.adapter)
    edit = VQAUFaceEditPipeline.from_pipe(pipe, estimator=None if drawn else load_estimator(arguments.model))
    edit.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    return edit

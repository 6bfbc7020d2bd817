"""Subcommands of ``auface`` that make pictures. Each writes its files and returns what it did; `cli` prints it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auface_diffusers.face_file import write_whole
from auface_diffusers.facs import AUSet, resolve

if TYPE_CHECKING:
    from torch import Tensor

CONTROL_KINDS = (
    "openpose", "openpose_face", "mediapipe_face", "instantid", "normal", "depth", "parts", "heatmap",
)  # fmt: skip
"""Kinds of `anatomy.control_image`, spelled here so that the command starts without torch; a test compares them."""


def add_parsers(commands: Any) -> None:  # noqa: ANN401 - argparse's class for this is private
    """Add the subcommands to the parser of ``auface``; ``make`` is the function that does one."""
    control = commands.add_parser("control", help="a control image (ControlNet and its kin) of a score")
    control.add_argument("codes", help="FACS notation such as 1C+2C+L12D")
    control.add_argument("--kind", choices=CONTROL_KINDS, default="openpose")
    control.add_argument("--size", type=int, default=512, help="pixels, height and width (default 512)")
    control.add_argument("--identity", type=int, help="seed of the head; without it the average head")
    control.add_argument("--pose", default="0,0,0", help="yaw,pitch,roll in degrees: to the person's left, up, left")
    control.add_argument("--gaze", default="0,0", help="yaw,pitch in degrees")
    control.add_argument(
        "--landmarks",
        type=Path,
        metavar="IN.json",
        help="draw over a photo: its 68 iBUG points, [[x, y], ...] in pixels",
    )
    control.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    control.add_argument("--keypoints", type=Path, metavar="OUT.json", help="also write the POSE_KEYPOINT JSON")
    control.set_defaults(make=control_command)

    preview = commands.add_parser("preview", help="a rendered face with a score")
    preview.add_argument("codes", help="FACS notation such as 1C+2C+L12D")
    preview.add_argument("--size", type=int, default=512, help="pixels, height and width (default 512)")
    preview.add_argument("--identity", type=int, default=0, help="seed of the person (default 0)")
    preview.add_argument("--seed", type=int, default=0, help="seed of light, clothes and background")
    preview.add_argument("--pose", default="0,0,0", help="yaw,pitch,roll in degrees: to the person's left, up, left")
    preview.add_argument("--gaze", default="0,0", help="yaw,pitch in degrees")
    preview.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    preview.set_defaults(make=preview_command)

    sheet = commands.add_parser("sheet", help="a labelled grid of rendered faces: scores by identities")
    sheet.add_argument("codes", nargs="*", help="scores, one a row; none: every unit with a shape")
    sheet.add_argument("--levels", default="B,E", help="levels for units given without one (default B,E)")
    sheet.add_argument("--identities", default="1,2,3,4", help="seeds of the people (default 1,2,3,4)")
    sheet.add_argument("--size", type=int, default=160, help="pixels of a face (default 160)")
    sheet.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    sheet.set_defaults(make=sheet_command)


def control_command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write a control image, and the key points if asked for."""
    from auface_diffusers.anatomy import control_image, pose_keypoints

    aus = AUSet.parse(arguments.codes)
    shown = resolve(aus).effective  # what the texts say
    place = {
        "landmarks68": read_landmarks(arguments.landmarks) if arguments.landmarks else None,
        "identity": arguments.identity,
        "pose": numbers(arguments.pose, 3, "--pose"),
        "gaze": numbers(arguments.gaze, 2, "--gaze"),
    }
    save_png(control_image(shown, arguments.kind, arguments.size, **place)[0], arguments.output)
    done = {"output": str(arguments.output), "kind": arguments.kind, "size": arguments.size}
    done |= {"aus": aus.format(), "effective": shown.format()}
    if arguments.keypoints:
        (frame,) = pose_keypoints(shown, arguments.size, **place)
        write_whole(arguments.keypoints, json.dumps(frame).encode())
        done["keypoints"] = str(arguments.keypoints)
    return done


def preview_command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write one rendered face."""
    from auface_diffusers.anatomy import HeadModel, render_faces

    aus = AUSet.parse(arguments.codes)
    pose, gaze = numbers(arguments.pose, 3, "--pose"), numbers(arguments.gaze, 2, "--gaze")
    shown = resolve(aus).effective  # what the texts say
    head = HeadModel.from_default()
    image = render_faces(head, shown, arguments.identity, arguments.size, arguments.seed, pose=pose, gaze=gaze)
    save_png(image[0], arguments.output)
    return {
        "output": str(arguments.output),
        "aus": aus.format(),
        "effective": shown.format(),
        "identity": arguments.identity,
    }


def sheet_command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write a grid: a row a score (units without a level at each of ``--levels``), a column a level and identity."""
    from auface_diffusers.anatomy.sheet import draw_sheet, every_unit

    people = [int(number) for number in numbers(arguments.identities, None, "--identities")]
    rows = arguments.codes or every_unit()
    levels = [level.strip() for level in arguments.levels.split(",")]
    save_png(draw_sheet(rows, levels, people, arguments.size), arguments.output)
    return {"output": str(arguments.output), "rows": len(rows), "levels": levels, "identities": people}


def numbers(text: str, count: int | None, name: str) -> list[float]:
    """``"30,0,-5"`` to numbers. Raises `ValueError` naming the option unless there are ``count`` (None: any)."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or count not in (None, len(values)):
        example = ",".join(["0"] * (count or 3))
        raise ValueError(f"{name} {text!r}: write {count or 'some'} numbers with commas between, such as {example}")
    return values


def read_landmarks(path: Path) -> Tensor:
    """68 points (68, 2) of a JSON file. Raises `ValueError` naming the file if it holds something else."""
    import torch

    try:
        points = torch.tensor(json.loads(path.read_text(encoding="utf-8")), dtype=torch.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(f"--landmarks {path}: {error}; 68 points [[x, y], ...] in pixels are needed") from None
    if points.shape != (68, 2):
        raise ValueError(f"--landmarks {path} has shape {tuple(points.shape)}; 68 points [[x, y], ...] are needed")
    return points


def save_png(image: Tensor, path: Path) -> None:
    """Write an image (3, H, W) in [0, 1] as PNG. Raises `OSError` if that is not possible; no half file stays."""
    import io

    from PIL import Image

    pixels = (image.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    write_whole(path, data.getvalue())

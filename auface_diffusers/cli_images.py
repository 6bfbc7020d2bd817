"""Subcommands of ``auface`` that make pictures. Each writes its files and returns what it did; `cli` prints it."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auface_diffusers.facs import AUSet

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
    control.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.png")
    control.add_argument("--keypoints", type=Path, metavar="OUT.json", help="also write the POSE_KEYPOINT JSON")
    control.set_defaults(make=control_command)


def control_command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Write a control image, and the key points if asked for."""
    from auface_diffusers.anatomy import control_image, pose_keypoints

    aus = AUSet.parse(arguments.codes)
    place = {
        "identity": arguments.identity,
        "pose": numbers(arguments.pose, 3, "--pose"),
        "gaze": numbers(arguments.gaze, 2, "--gaze"),
    }
    save_png(control_image(aus, arguments.kind, arguments.size, **place)[0], arguments.output)
    done = {"output": str(arguments.output), "kind": arguments.kind, "size": arguments.size, "aus": aus.format()}
    if arguments.keypoints:
        (frame,) = pose_keypoints(aus, arguments.size, **place)
        write_whole(arguments.keypoints, json.dumps(frame).encode())
        done["keypoints"] = str(arguments.keypoints)
    return done


def numbers(text: str, count: int, name: str) -> list[float]:
    """``"30,0,-5"`` to numbers. Raises `ValueError` naming the option for anything but ``count`` of them."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise ValueError(
            f"{name} {text!r}: write {count} numbers with commas between, such as {','.join(['0'] * count)}"
        )
    return values


def save_png(image: Tensor, path: Path) -> None:
    """Write an image (3, H, W) in [0, 1] as PNG. Raises `OSError` if that is not possible; no half file stays."""
    import io

    from PIL import Image

    pixels = (image.clamp(0, 1).permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG")
    write_whole(path, data.getvalue())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that it is there complete or not at all."""
    if path.exists() and not path.is_file():
        raise ValueError(f"output {path} is a folder or a device: name a file")
    descriptor, name = tempfile.mkstemp(dir=path.parent or ".", prefix=path.name, suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)
        os.replace(name, path)
    except OSError:
        os.unlink(name)
        raise

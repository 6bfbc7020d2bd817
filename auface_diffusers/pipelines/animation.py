"""`save_animation`: frames to a file that plays."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

PILLOW = {".gif": "GIF", ".webp": "WEBP"}
VIDEO = (".mp4",)
Frames = Sequence[Image.Image] | np.ndarray | Tensor


def save_animation(images: Frames, path: str | Path, fps: float = 12) -> Path:
    """Write frames by the file's ending: .gif and .webp, which play for ever, or .mp4, which needs imageio[ffmpeg].

    Args:
        images: pictures of one size, or what a pipeline gives as "np" (F, S, S, 3) or "pt" (F, 3, S, S) in [0, 1].
        path: the file; its folder has to exist.
        fps: frames a second, > 0. GIF counts in hundredths of a second.

    Returns:
        The path.

    Raises:
        ValueError: no frames, frames of several sizes, or another ending.
        ModuleNotFoundError: .mp4 without imageio and its ffmpeg.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (*PILLOW, *VIDEO):
        raise ValueError(f"{path.name}: the ending has to be one of {', '.join((*PILLOW, *VIDEO))}")
    if not 0 < fps <= 100:
        raise ValueError(f"fps {fps!r}: a number in 0..100, above 0")
    frames = _pictures(images)
    sizes = {frame.size for frame in frames}
    if len(sizes) != 1:
        raise ValueError(f"frames of sizes {sorted(sizes)}: give at least one, all of one size")
    if ending in VIDEO:
        _save_video(frames, path, fps)
    else:
        options = {"quality": 90, "method": 4} if ending == ".webp" else {}
        first, rest = frames[0], frames[1:]
        duration = round(1000 / fps)
        first.save(path, PILLOW[ending], save_all=True, append_images=rest, duration=duration, loop=0, **options)
    return path


def _pictures(images: Frames) -> list[Image.Image]:
    if isinstance(images, Tensor):
        images = images.detach().float().cpu().permute(0, 2, 3, 1).numpy()
    if isinstance(images, np.ndarray):
        return [Image.fromarray(one) for one in (images.clip(0, 1) * 255).round().astype("uint8")]
    return [image.convert("RGB") for image in images]


def _save_video(frames: list[Image.Image], path: Path, fps: float) -> None:
    try:
        imageio = importlib.import_module("imageio.v2")  # optional, for videos only
        importlib.import_module("imageio_ffmpeg")  # imageio finds out late that it is missing
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            f"{path.name}: videos need imageio with ffmpeg: pip install 'imageio[ffmpeg]', or save as .gif or .webp"
        ) from None
    imageio.mimwrite(path, [np.asarray(frame) for frame in frames], fps=fps, macro_block_size=2)

"""Whether a crop is good enough to learn from: sharpness, size, pose, and what tells duplicates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from auface_diffusers.anatomy import HeadMesh, HeadModel
from auface_diffusers.anatomy.control_view import PhotoView

SHARP_SIDE = 128
"""Pixels of the side at which sharpness is measured, whatever the size of the crop."""
HASH_SIDE = 32
HASH_BITS = 64
THUMB_SIDE = 16
SAME = 2
"""Grey levels of 255 by which no cell of two thumbs of the same picture differs. Saving a picture again as JPEG of
quality 60 moves a cell by 1 or 2; traces of single units that we drew moved one by 1 to 14, 12C by 19 to 33."""


class Skip(Exception):
    """Why a picture is left out. ``reason`` is one of a few fixed phrases to count by, ``detail`` says what came."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True)
class QualityConfig:
    """What is left out; table ``[quality]`` of a configuration. 0 turns a rule off.

    Attributes:
        side: least pixels of the original that the side of the crop covers.
        blur: least sharpness, see `sharpness`.
        yaw, pitch: most degrees that the head is turned to a side, up or down. Of crops that no finder has made, our
            estimator reads it, which was trained up to 40 and 24 degrees: it underrates more, and a profile may pass.
        duplicates: two pictures are one if their `perceptual_hash` differs in fewer bits than this, of 64, and no cell
            of their `thumb` by more than `SAME`. Frames of a video that hardly moves are, too: set it to 0 for these.
    """

    side: int = 64
    blur: float = 12.0
    yaw: float = 60.0
    pitch: float = 45.0
    duplicates: int = 3

    def __post_init__(self) -> None:
        if min(self.side, self.blur, self.yaw, self.pitch, self.duplicates) < 0:
            raise ValueError("quality: side, blur, yaw, pitch and duplicates are not below 0; 0 turns a rule off")
        if max(self.yaw, self.pitch) > 90 or self.duplicates > 5:
            raise ValueError("quality: yaw and pitch are at most 90 degrees, duplicates at most 5 bits")


def check_side(config: QualityConfig, side: float) -> None:
    """Raise `Skip` for a face that covers too few pixels. ``side``: of the original under the side of the crop."""
    if side < config.side:
        raise Skip("too small", f"the crop covers {side:.0f} pixels, {config.side} are needed")


def check_blur(config: QualityConfig, sharp: float) -> None:
    """Raise `Skip` for a picture below the wanted `sharpness`."""
    if sharp < config.blur:
        raise Skip("blurred", f"sharpness {sharp:.1f}, {config.blur:g} is needed")


def check_pose(config: QualityConfig, pose: tuple[float, float, float]) -> None:
    """Raise `Skip` for a head that is turned too far."""
    for name, angle, most in (("yaw", pose[0], config.yaw), ("pitch", pose[1], config.pitch)):
        if most and abs(angle) > most:
            raise Skip("head turned", f"{name} {angle:.0f} degrees, at most {most:g} are allowed")


def sharpness(crop: Image.Image) -> float:
    """Variance of the Laplacian of the grey crop at `SHARP_SIDE` pixels, grey in 0..255; 0 is a plain colour.

    Pech-Pacheco et al. 2000, "Diatom autofocusing in brightfield microscopy".
    """
    grey = _grey(crop, SHARP_SIDE)
    inner = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
    return float(inner.var())


def perceptual_hash(crop: Image.Image) -> int:
    """64 bits that stay, but for a few, when a picture is saved again or resized.

    The signs of the 64 slowest waves of the crop at 32 x 32 against their median (Zauner 2010, "Implementation and
    Benchmarking of Perceptual Image Hash Functions").
    """
    waves = _cosines()
    slow = (waves @ _grey(crop, HASH_SIDE) @ waves.T).ravel()
    bits = slow > np.median(slow[1:])  # the first is the mean grey
    return int(np.packbits(bits).view(">u8")[0])


def thumb(crop: Image.Image) -> np.ndarray:
    """(256,) uint8: grey means of 16 x 16 cells. It tells expressions apart that `perceptual_hash` does not."""
    return _grey(crop, THUMB_SIDE).round().astype(np.uint8).ravel()


def fitted_pose(landmarks: np.ndarray) -> tuple[float, float, float]:
    """Yaw to the person's left, pitch up, roll to the person's left shoulder, in degrees, of iBUG points (68, 2).

    The average head is fitted to them, so that long noses look up: a few degrees off.

    Raises:
        ValueError: points that span no area.
    """
    view = PhotoView.fit(torch.from_numpy(np.ascontiguousarray(landmarks, np.float32))[None], _rest())
    turn = view.rotation[0].double().numpy()
    # the model turns roll first, then pitch, then yaw: its columns are where x, y and z go
    yaw, pitch = np.arctan2(turn[0, 2], turn[2, 2]), np.arcsin(np.clip(turn[1, 2], -1, 1))
    roll = np.arctan2(-turn[1, 0], turn[1, 1])
    return tuple(round(float(np.degrees(angle)), 1) for angle in (yaw, pitch, roll))  # type: ignore[return-value] # three


def _grey(image: Image.Image, side: int) -> np.ndarray:
    small = image.convert("L").resize((side, side), Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float32)


@lru_cache(maxsize=1)
def _cosines() -> np.ndarray:
    """The 8 slowest cosines (8, 32) of the discrete cosine transform."""
    place = (np.arange(HASH_SIDE) + 0.5) / HASH_SIDE
    return np.cos(np.pi * np.arange(8)[:, None] * place).astype(np.float32)


@lru_cache(maxsize=1)
def _rest() -> HeadMesh:
    with torch.no_grad():
        return HeadModel.from_default()()

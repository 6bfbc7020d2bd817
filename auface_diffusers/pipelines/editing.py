"""Pictures that come in for an edit, masks, and pasting what was not drawn back.

Shapes: B pictures, S image size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from auface_diffusers.pictures import plain_rgb

Picture = Image.Image | np.ndarray | Tensor
MIN_SIDE = 32
"""Smaller pictures show no face."""


def load_images(images: Picture | Sequence[Picture], size: int) -> Tensor:
    """Pictures (B, 3, size, size) float32 in [0, 1] on the CPU, resized with antialiasing.

    Args:
        images: PIL pictures; arrays (H, W, 3) or (B, H, W, 3), floats in [0, 1] or uint8; tensors (3, H, W) or
            (B, 3, H, W), floats in [0, 1]; or a list of these. RGB, square.

    Raises:
        ValueError: another shape or type, or values outside [0, 1].
    """
    listed = list(images) if isinstance(images, Sequence) else [images]
    if not listed:
        raise ValueError("image is an empty list: give at least one picture")
    return torch.cat([_sized(_tensor(one), size) for one in listed])


def _tensor(image: Picture) -> Tensor:
    """(B, 3, H, W) float32."""
    if isinstance(image, Image.Image):
        image = np.asarray(plain_rgb(image))
    if isinstance(image, np.ndarray):
        if image.ndim not in (3, 4) or image.shape[-1] != 3:
            raise ValueError(f"image array {image.shape}: give (H, W, 3) or (B, H, W, 3), RGB")
        flat = torch.from_numpy(np.array(image))
        whole = flat.dtype == torch.uint8
        image = flat.movedim(-1, -3).float() / (255 if whole else 1)
    if not isinstance(image, Tensor):
        raise ValueError(f"image {type(image).__name__}: give a PIL picture, an array, a tensor, or a list of these")
    if image.ndim not in (3, 4) or image.shape[-3] != 3 or not image.is_floating_point():
        raise ValueError(f"image tensor {tuple(image.shape)} {image.dtype}: give floats (3, H, W) or (B, 3, H, W)")
    batch = (image if image.ndim == 4 else image[None]).detach().float().cpu()
    low, high = batch.min(), batch.max()
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ValueError(f"image has values {low:g}..{high:g}: give [0, 1], such as image / 255")
    return batch


def _sized(batch: Tensor, size: int) -> Tensor:
    height, width = batch.shape[-2:]
    if height != width or height < MIN_SIDE:
        raise ValueError(
            f"image of {width} x {height} pixels: give a square one of at least {MIN_SIDE} x {MIN_SIDE}, cropped so "
            f"that the face fills about 70 % of its side; it is resized to {size} x {size}"
        )
    if height == size:
        return batch
    return F.interpolate(batch, (size, size), mode="bilinear", antialias=True).clamp(0, 1)


def load_mask(mask: Picture, size: int, count: int) -> Tensor:
    """Masks (count, size, size) bool of a PIL picture or (H, W) or (B, H, W) bools or numbers in [0, 1]; 0.5 counts.

    Raises:
        ValueError: another shape.
    """
    if isinstance(mask, Image.Image):
        mask = np.asarray(ImageOps.exif_transpose(mask).convert("L")) / 255
    shares = torch.as_tensor(mask).detach().cpu().float()
    shares = shares if shares.ndim == 3 else shares[None]
    if shares.ndim != 3 or shares.shape[1] != shares.shape[2] or len(shares) not in (1, count):
        raise ValueError(f"mask {tuple(shares.shape)}: give square (H, W), or one for each of the {count} faces")
    if not (shares.min() >= 0 and shares.max() <= 1):
        raise ValueError(f"mask has values {shares.min():g}..{shares.max():g}: give bools or numbers in [0, 1]")
    if shares.shape[-1] != size:
        shares = F.interpolate(shares[:, None], (size, size), mode="bilinear", antialias=True)[:, 0]
    return (shares >= 0.5).expand(count, -1, -1)


def paste_onto(original: Tensor, drawn: Tensor, cells: Tensor) -> Tensor:
    """The original (B, 3, S, S) with what was drawn in ``cells`` (B, h, w) bool, whose edge of a cell fades.

    Within the cells all is as drawn; from two cells away all is the original.
    """
    step = original.shape[-1] // cells.shape[-1]
    wide = F.max_pool2d(cells[:, None].float(), 3, 1, 1)
    cover = wide.repeat_interleave(step, 2).repeat_interleave(step, 3)
    cover = F.pad(cover, (step, step, step, step), mode="replicate")
    cover = F.avg_pool2d(cover, 2 * step + 1, 1)
    mixed = torch.lerp(original, drawn, cover)
    return torch.where(cover == 0, original, mixed)

"""Changes to training pictures that leave the face's action units alone; each sample's come from its own seed.

Shapes: B batch, H and W pixels, C channels. Images are (B, 3, H, W) in [0, 1]. `Draw` holds one row a sample, so a
sample's change depends on its seed and not on the batch. A rotation adds to the head's roll: see `added_roll`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from auface_diffusers.facs import units

LUMA = (0.299, 0.587, 0.114)
"""ITU-R BT.601."""
_UNIFORMS = 64
"""Numbers drawn a sample; the names below take theirs in order, so a new one goes to the end."""


@dataclass(frozen=True)
class Ranges:
    """What is drawn: ``chance`` of each change, and pairs (low, high) of its amount.

    Attributes:
        affine: chance of a move. scale: factors. rotation: degrees. shift: shares of the side. What comes in from
            outside is a mirror image, the repeated edge, or one colour.
        occlusion: chance of one or two shapes. area: share of the picture a shape covers (two at most 20 %).
        aspect: width to height.
        colour: chance of a change of light and colour. brightness, contrast, saturation: factors. hue: turns. offset:
            added to each colour by itself. gamma: exponents. gray: chance of no colour.
        blur: chance. blur_sigma: pixels of a picture of 128.
        resample: chance of making it smaller and larger again. resample_factor: by how much.
        noise: chance. noise_sigma: standard deviation.
        jpeg: chance. quality: of the file.
    """

    affine: float = 0.8
    scale: tuple[float, float] = (0.88, 1.12)
    rotation: tuple[float, float] = (-6.0, 6.0)
    shift: tuple[float, float] = (-0.06, 0.06)
    occlusion: float = 0.25
    area: tuple[float, float] = (0.01, 0.10)
    aspect: tuple[float, float] = (0.5, 2.0)
    colour: float = 0.8
    brightness: tuple[float, float] = (0.7, 1.3)
    contrast: tuple[float, float] = (0.65, 1.35)
    saturation: tuple[float, float] = (0.5, 1.5)
    hue: tuple[float, float] = (-0.06, 0.06)
    offset: tuple[float, float] = (-0.05, 0.05)
    gamma: tuple[float, float] = (0.7, 1.4)
    gray: float = 0.08
    blur: float = 0.3
    blur_sigma: tuple[float, float] = (0.4, 1.6)
    resample: float = 0.25
    resample_factor: tuple[float, float] = (1.3, 3.0)
    noise: float = 0.4
    noise_sigma: tuple[float, float] = (0.004, 0.05)
    jpeg: float = 0.4
    quality: tuple[float, float] = (30.0, 95.0)


RANGES = Ranges()
CHANGES = ("affine", "occlusion", "colour", "gray", "blur", "resample", "noise", "jpeg")
"""The chances in `Ranges`, in the order in which the changes are made."""


class Draw:
    """The random numbers of a batch: one row of uniforms a sample, scaled by ``strength``."""

    def __init__(self, seeds: Sequence[int], strength: float, ranges: Ranges) -> None:
        if not 0 <= strength <= 1:
            raise ValueError(f"strength {strength:g} is outside 0..1; wider ranges are set in Ranges")
        self.strength, self.ranges = strength, ranges
        self.generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        rows = [torch.rand(_UNIFORMS, generator=generator) for generator in self.generators]
        self.uniforms = torch.stack(rows) if rows else torch.empty(0, _UNIFORMS)
        self.happens = {
            name: self.uniforms[:, column] < getattr(ranges, name) * strength for column, name in enumerate(CHANGES)
        }
        self.next = len(CHANGES)

    def uniform(self, count: int = 1) -> Tensor:
        """The next ``count`` numbers in [0, 1) of every sample, (B, count)."""
        self.next += count
        assert self.next <= _UNIFORMS
        return self.uniforms[:, self.next - count : self.next]

    def amount(self, name: str, count: int = 1, neutral: float | None = None) -> Tensor:
        """Values (B, count) from a range; between ``neutral`` and the value at a strength below 1."""
        low, high = getattr(self.ranges, name)
        value = low + (high - low) * self.uniform(count)
        return value if neutral is None else neutral + self.strength * (value - neutral)


def augment(images: Tensor, seeds: Sequence[int], strength: float = 1.0, ranges: Ranges = RANGES) -> Tensor:
    """Change pictures as cameras, editors and files do.

    Args:
        images: (B, 3, H, W) float in [0, 1].
        seeds: one a picture.
        strength: 0..1; scales both how often and how much. 0 changes nothing.
        ranges: what is drawn.

    Returns:
        (B, 3, H, W) in [0, 1], new.

    Raises:
        ValueError: for other shapes, or a strength outside 0..1.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"images {tuple(images.shape)} {images.dtype}: give floats (B, 3, H, W) in [0, 1]")
    if len(seeds) != len(images):
        raise ValueError(f"{len(seeds)} seeds for {len(images)} images: give one a picture")
    draw = Draw(seeds, strength, ranges)
    images = images.clone()
    _affine(images, draw)
    _occlude(images, draw)
    _colour(images, draw)
    _blur(images, draw)
    _resample(images, draw)
    _noise(images, draw)
    _jpeg(images, draw)
    return images.clamp_(0, 1)


def added_roll(seeds: Sequence[int], strength: float = 1.0, ranges: Ranges = RANGES) -> Tensor:
    """Degrees (B,), to the person's left shoulder, by which `augment` turns pictures: add them to the pose's roll."""
    draw = Draw(seeds, strength, ranges)
    _, rotation = _turn(draw)
    return torch.where(draw.happens["affine"], rotation[:, 0], torch.zeros(len(seeds)))


def move_points(points: Tensor, seeds: Sequence[int], strength: float = 1.0, ranges: Ranges = RANGES) -> Tensor:
    """Where `augment` moves points (B, K, 2), x and y as shares of square pictures."""
    draw = Draw(seeds, strength, ranges)
    scale, rotation = _turn(draw)
    shift = draw.amount("shift", 2, neutral=0.0) * 2
    angle = torch.deg2rad(rotation)
    cos, sin = (angle.cos() / scale).to(points), (angle.sin() / scale).to(points)  # (B, 1)
    a, b = (points * 2 - 1 + shift[:, None].to(points)).unbind(-1)
    size = cos.square() + sin.square()
    moved = torch.stack([(cos * a - sin * b) / size, (sin * a + cos * b) / size], -1) / 2 + 0.5
    return torch.where(draw.happens["affine"][:, None, None].to(points.device), moved, points)


_IBUG_MIRROR = [*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1)]
_IBUG_MIRROR += [45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40]
_IBUG_MIRROR += [*range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1)]


def mirror_points(points: Tensor) -> Tensor:
    """iBUG points (B, 68, 2), x and y as shares, of the flipped picture."""
    return points[:, _IBUG_MIRROR] * points.new_tensor([-1.0, 1.0]) + points.new_tensor([1.0, 0.0])


def mirror_motion(motion: Tensor) -> Tensor:
    """Motion (B, 68, 3) of iBUG points, x to the person's left, of the flipped picture."""
    return motion[:, _IBUG_MIRROR] * motion.new_tensor([-1.0, 1.0, 1.0])


def mirror_index(channels: Sequence[str]) -> Tensor:
    """Where (C,) each channel's mirror image stands: ``levels[:, mirror_index(channels)]`` swaps left and right.

    Raises:
        ValueError: a channel's counterpart is not among ``channels``.
    """
    place = {name: index for index, name in enumerate(channels)}
    pairs = {}
    for unit in units.values():
        if unit.parts == "sides":
            pairs |= {f"L{unit.code}": f"R{unit.code}", f"R{unit.code}": f"L{unit.code}"}
        elif unit.mirror:
            pairs[unit.code] = unit.mirror
    for name in channels:
        if pairs.get(name, name) not in place:
            raise ValueError(f"channel {name} has no {pairs[name]} beside it: mirroring needs both sides")
    return torch.tensor([place[pairs.get(name, name)] for name in channels])


def mirror(images: Tensor, levels: Tensor, channels: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Flip pictures (B, 3, H, W) and what holds one value a channel (B, C), such as levels or masks."""
    return images.flip(-1), levels[:, mirror_index(channels).to(levels.device)]


# --- the changes: each works in place on the samples that it happens to ----------------------------------------------


def _turn(draw: Draw) -> tuple[Tensor, Tensor]:
    return draw.amount("scale", neutral=1.0), draw.amount("rotation", neutral=0.0)


def _affine(images: Tensor, draw: Draw) -> None:
    """Scale, turn and shift. Positive degrees turn the head's top to the right of the picture: the person's left."""
    scale, rotation = _turn(draw)
    shift = draw.amount("shift", 2, neutral=0.0) * 2
    padding, fill = (draw.uniform() * 3).long(), draw.uniform(3)
    rows = draw.happens["affine"].nonzero()[:, 0]
    if not len(rows):
        return
    scale, shift, padding, fill = scale[rows, 0], shift[rows], padding[rows], fill[rows]
    angle = torch.deg2rad(rotation[rows, 0])
    cos, sin = angle.cos() / scale, angle.sin() / scale
    height, width = images.shape[-2:]
    ratio = width / height
    x = ((torch.arange(width) + 0.5) * 2 / width - 1)[None, None]
    y = ((torch.arange(height) + 0.5) * 2 / height - 1)[None, :, None]
    cos, sin, shift = cos[:, None, None], sin[:, None, None], shift[..., None, None]
    # by hand: a matrix product rounds differently in batches of different size
    grid = torch.stack([cos * x + sin / ratio * y - shift[:, 0], cos * y - sin * ratio * x - shift[:, 1]], -1).to(
        images
    )
    mirrored = 2 * grid.clamp(-1, 1) - grid
    grid_read = torch.where((padding == 0)[:, :, None, None].to(grid.device), mirrored, grid)
    moved = F.grid_sample(images[rows], grid_read, padding_mode="border", align_corners=False)
    outside = (grid.abs().amax(-1) > 1) & (padding == 2)[:, :, None].to(grid.device)
    images[rows] = torch.where(outside[:, None], fill[:, :, None, None].to(images), moved)


def _occlude(images: Tensor, draw: Draw) -> None:
    """One shape, or two for a third of the samples: a rectangle or an ellipse of one colour or of noise."""
    area, log_aspect = draw.amount("area", 2), (draw.amount("aspect", 2)).log()
    centre, kind, fill = draw.uniform(4).unflatten(1, (2, 2)), draw.uniform(4), draw.uniform(6).unflatten(1, (2, 3))
    second = draw.uniform()[:, 0] < 1 / 3
    height, width = images.shape[-2:]
    y = (torch.arange(height) + 0.5)[:, None] / height
    x = (torch.arange(width) + 0.5)[None] / width
    for row in draw.happens["occlusion"].nonzero()[:, 0].tolist():
        for shape in range(2 if second[row] else 1):
            round_one, noisy = kind[row, 2 * shape] < 0.5, kind[row, 2 * shape + 1] < 0.4
            full = float(area[row, shape]) * draw.strength * (4 / math.pi if round_one else 1.0)
            aspect = math.exp(float(log_aspect[row, shape]))
            half_x, half_y = math.sqrt(full * aspect) / 2, math.sqrt(full / aspect) / 2
            u, v = (x - centre[row, shape, 0]) / half_x, (y - centre[row, shape, 1]) / half_y
            inside = (u * u + v * v < 1) if round_one else (u.abs() < 1) & (v.abs() < 1)
            colour = fill[row, shape][:, None, None].expand(3, height, width)
            if noisy:
                colour = torch.rand(3, height, width, generator=draw.generators[row])
            images[row] = torch.where(inside.to(images.device), colour.to(images), images[row])


def _colour(images: Tensor, draw: Draw) -> None:
    """Brightness, contrast, saturation, hue and offsets are one matrix a sample; then gamma."""
    one = {name: draw.amount(name, neutral=1.0) for name in ("brightness", "contrast", "saturation", "gamma")}
    hue, offset = draw.amount("hue", neutral=0.0) * 2 * math.pi, draw.amount("offset", 3, neutral=0.0)
    change, gray = draw.happens["colour"], draw.happens["gray"]
    rows = (change | gray).nonzero()[:, 0]
    if not len(rows):
        return
    luma, axis = torch.tensor(LUMA), 3**-0.5
    eye = torch.eye(3)
    across = axis * torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])
    angle = torch.where(change, hue[:, 0], torch.zeros(len(hue)))[rows, None, None]
    turn = eye * angle.cos() + across * angle.sin() + (1 - angle.cos()) / 3  # Rodrigues, about the gray axis
    saturation = torch.where(change, one["saturation"][:, 0], torch.ones(len(hue)))
    saturation = torch.where(gray, torch.zeros(len(hue)), saturation)[rows, None, None]
    grayed = luma.expand(3, 3)
    matrix = (grayed + saturation * (eye - grayed)) @ turn
    changed = change[rows, None]
    brightness, contrast, gamma = (
        torch.where(changed, one[name][rows], torch.ones(1)) for name in ("brightness", "contrast", "gamma")
    )
    offset = torch.where(changed & ~gray[rows, None], offset[rows], torch.zeros(1))
    old = images[rows]
    mean = (old.mean((2, 3)).cpu() * luma).sum(1)  # what contrast leaves alone
    factor = brightness * contrast
    matrix = matrix * factor[:, :, None]
    add = brightness * (1 - contrast) * mean[:, None] + offset
    weights, add = matrix.to(images)[..., None, None], add.to(images)[..., None, None]
    new = weights[:, :, 0] * old[:, :1] + weights[:, :, 1] * old[:, 1:2] + weights[:, :, 2] * old[:, 2:] + add
    images[rows] = new.clamp_(0, 1).pow_(gamma.to(images)[..., None, None])


def _blur(images: Tensor, draw: Draw) -> None:
    sigma = draw.amount("blur_sigma", neutral=0.0)[:, 0] * images.shape[-1] / 128
    for row in draw.happens["blur"].nonzero()[:, 0].tolist():
        reach = min(max(1, math.ceil(2.5 * float(sigma[row]))), min(images.shape[-2:]) - 1)
        kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma[row]) ** 2)
        kernel = (kernel / kernel.sum()).to(images)
        x = F.pad(images[row][:, None], (reach,) * 4, mode="reflect")  # (3, 1, H, W): colours as the batch
        images[row] = F.conv2d(F.conv2d(x, kernel[None, None, None]), kernel[None, None, :, None])[:, 0]


def _resample(images: Tensor, draw: Draw) -> None:
    factor = draw.amount("resample_factor", neutral=1.0)[:, 0]
    size = images.shape[-2:]
    for row in draw.happens["resample"].nonzero()[:, 0].tolist():
        small = [max(8, round(side / float(factor[row]))) for side in size]
        x = F.interpolate(images[row][None], small, mode="bilinear", antialias=True)
        images[row] = F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)[0]


def _noise(images: Tensor, draw: Draw) -> None:
    sigma = draw.amount("noise_sigma", neutral=0.0)[:, 0]
    for row in draw.happens["noise"].nonzero()[:, 0].tolist():
        noise = torch.randn(images.shape[1:], generator=draw.generators[row])
        images[row] += (noise * sigma[row]).to(images)


def _jpeg(images: Tensor, draw: Draw) -> None:
    quality = draw.amount("quality", neutral=100.0)[:, 0]
    for row in draw.happens["jpeg"].nonzero()[:, 0].tolist():
        pixels = (images[row].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().contiguous().numpy()
        data = io.BytesIO()
        Image.fromarray(pixels).save(data, "JPEG", quality=round(float(quality[row])))
        read = torch.from_numpy(np.array(Image.open(data)))  # a copy: PIL's array is not writable
        images[row] = (read.permute(2, 0, 1).float() / 255).to(images)

"""What is compared between faces and their reconstructions.

Shapes: B faces, S image size.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from train_lora.data.faces import FaceBatch

FEATURES = slice(17, 68)
"""iBUG points whose surroundings weigh more: brows, nose, eyes, mouth."""


def feature_map(batch: FaceBatch, weight: float) -> Tensor:
    """(B, S, S): 0 .. ``weight``, high near brows, nose, eyes and mouth, and on eyes, teeth and tongue."""
    size = batch.images.shape[-1]
    grid = (torch.arange(size // 4, device=batch.images.device) + 0.5) / (size // 4)
    points = batch.landmarks[:, FEATURES]
    dx = (grid[None, None] - points[..., 0:1]).square()  # (B, K, S / 4)
    dy = (grid[None, None] - points[..., 1:2]).square()
    near = torch.exp(-(dy[:, :, :, None] + dx[:, :, None, :]).amin(1) / (2 * 0.03**2))
    near = F.interpolate(near[:, None], size=size, mode="bilinear")[:, 0]
    inside = ((batch.parts >= 2) & (batch.parts <= 6)).float()  # eyes, teeth, tongue
    return weight * torch.maximum(near, inside)


def weighted_l1(painted: Tensor, batch: FaceBatch, features: float) -> Tensor:
    """Mean absolute difference; brows, eyes and mouth weigh ``1 + features``."""
    weight = 1 + feature_map(batch, features)[:, None]
    return ((painted - batch.images).abs() * weight).sum() / (weight.sum() * 3)


def detail_loss(painted: Tensor, images: Tensor, octaves: int = 3) -> Tensor:
    """Mean absolute difference of the bands of a Laplacian pyramid, each scaled to weigh about the same."""
    total = painted.new_zeros(())
    difference = painted - images  # the pyramid is linear: that of the difference will do
    for _ in range(octaves):
        coarse = F.avg_pool2d(difference, 2)
        total = total + (difference - F.interpolate(coarse, scale_factor=2, mode="nearest")).abs().mean()
        difference = coarse
    return total


def texture_loss(painted: Tensor, batch: FaceBatch, window: int = 7, floor: float = 0.01) -> Tensor:
    """One minus the contrast and structure term of SSIM (Wang et al. 2004, eq. 6), the mean over the skin.

    It compares the brightness of windows after their mean is taken out, divided by their own contrast; ``floor`` is
    the standard deviation below which contrast counts as noise (SSIM's is 0.03, as deep as a wrinkle at 128 pixels).
    """
    luma = painted.new_tensor([0.299, 0.587, 0.114])[None, :, None, None]
    mine, true = ((x * luma).sum(1, keepdim=True) for x in (painted, batch.images))

    def mean(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, window, stride=1, padding=window // 2, count_include_pad=False)

    mine, true = mine - mean(mine), true - mean(true)
    alike = (2 * mean(mine * true) + floor**2) / (mean(mine.square()) + mean(true.square()) + floor**2)
    skin = (batch.parts == 1)[:, None].float()  # eyes and mouths have losses of their own, hair is chance
    return ((1 - alike) * skin).sum() / skin.sum().clamp(min=1)


def colour_loss(painted: Tensor, images: Tensor, patch: int = 4) -> Tensor:
    """Mean absolute difference of chroma, Cb and Cr of ITU-R BT.601 in -0.5..0.5, of patches of ``patch`` pixels."""
    red, green, blue = F.avg_pool2d(painted - images, patch).unbind(1)  # chroma is linear, as is the difference
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return ((blue - luma).abs() / 1.772 + (red - luma).abs() / 1.402).mean() / 2


def parts_loss(logits: Tensor, parts: Tensor) -> Tensor:
    """Cross entropy of the part map at half size; rare parts (eyes, teeth, tongue) weigh more."""
    weight = logits.new_ones(logits.shape[1])
    weight[2:7] = 4.0
    return F.cross_entropy(logits.float(), parts[:, ::2, ::2], weight=weight.float())


def psnr(painted: Tensor, images: Tensor, weight: Tensor | None = None) -> Tensor:
    """Peak signal-to-noise ratio in dB, the mean over the images; ``weight`` (B, 1, S, S) chooses pixels."""
    error = (painted - images).square().mean(1, keepdim=True)
    weight = torch.ones_like(error) if weight is None else weight
    mean = (error * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    return (-10 * mean.clamp(min=1e-10).log10()).mean()

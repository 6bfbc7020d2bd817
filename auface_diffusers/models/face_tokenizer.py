"""`FaceTokenizer`: a face as a grid of discrete codes and back.

Shapes: B batch, S image size, h = w = S / 8 grid, G code groups, D code numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional as F

from auface_diffusers.models.checkpoints import SafetensorsOnly
from auface_diffusers.models.finite_scalar import FiniteScalarQuantizer

NORM_GROUPS = 8


@dataclass
class FaceTokenizerOutput(BaseOutput):
    """What `FaceTokenizer.forward` gives.

    ``image`` (B, 3, S, S), about [0, 1], not clamped; ``codes`` (B, h, w, G) int64; ``parts`` (B, P, S/2, S/2) logits
    of the part map; ``landmarks`` (B, K, 2), x and y as shares of the image.
    """

    image: Tensor
    codes: Tensor
    parts: Tensor
    landmarks: Tensor


class FaceTokenizer(SafetensorsOnly, ModelMixin, ConfigMixin):
    """Convolutional autoencoder with finite scalar codes and a head that reads the anatomy from the codes.

    The head predicts the part map and the landmarks from the codes alone, so that training it makes the codes carry
    the facial structure: the anatomical prior inside the tokenizer.

    Args:
        image_size: height and width in pixels.
        patch_size: pixels a side that are folded into channels first; convolutions at full size cost most.
        channels: of each stage; every stage after the first halves the size.
        encoder_blocks, decoder_blocks: residual blocks a stage.
        levels: of one code, see `FiniteScalarQuantizer`.
        code_groups: codes a grid position.
        parts: labels of the part map. landmarks: points that the head predicts.

    Raises:
        ValueError: a size that the stages do not divide.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        image_size: int = 128,
        patch_size: int = 2,
        channels: Sequence[int] = (64, 128, 192),
        encoder_blocks: int = 1,
        decoder_blocks: int = 2,
        levels: Sequence[int] = (8, 5, 5, 5),
        code_groups: int = 2,
        parts: int = 9,
        landmarks: int = 68,
    ) -> None:
        super().__init__()
        self.downscale = patch_size * 2 ** (len(channels) - 1)
        if image_size % self.downscale:
            raise ValueError(f"image_size {image_size}: a multiple of {self.downscale} is needed")
        self.gradient_checkpointing = False
        self.quantizer = FiniteScalarQuantizer(levels, code_groups)
        self.grid_size = image_size // self.downscale
        pixels = 3 * patch_size**2
        down: list[nn.Module] = [nn.Conv2d(pixels, channels[0], 3, padding=1)]
        for place, width in enumerate(channels):
            if place:
                down.append(nn.Conv2d(channels[place - 1], width, 2, stride=2))
            down += [ResidualBlock(width) for _ in range(encoder_blocks)]
        self.encoder = nn.ModuleList([*down, _Out(channels[-1], self.quantizer.dim, 1)])
        up: list[nn.Module] = [nn.Conv2d(self.quantizer.dim, channels[-1], 3, padding=1)]
        for place in reversed(range(len(channels))):
            up += [ResidualBlock(channels[place]) for _ in range(decoder_blocks)]
            if place:
                up.append(_Up(channels[place], channels[place - 1]))
        self.decoder = nn.ModuleList([*up, _Out(channels[0], pixels, 3)])
        self.anatomy = AnatomyHead(self.quantizer.dim, channels[-1], parts, landmarks, self.downscale // 2)

    @property
    def codebook_size(self) -> int:
        """How many codes there are; the index that masks a code is this number."""
        return self.quantizer.codebook_size

    @property
    def code_shape(self) -> tuple[int, int, int]:
        """(h, w, G) of an image's codes."""
        return self.grid_size, self.grid_size, self.quantizer.groups

    @apply_forward_hook  # without it, a model that is offloaded stays on the CPU
    def encode(self, images: Tensor) -> Tensor:
        """Codes (B, h, w, G) int64 of images (B, 3, S, S) in [0, 1], RGB.

        Raises:
            ValueError: another shape.
        """
        return self._quantize(images)[1]

    @apply_forward_hook
    def decode(self, codes: Tensor) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] of codes (B, h, w, G) or (B, h * w * G).

        Raises:
            ValueError: another shape, or an index outside 0..codebook_size - 1.
        """
        grid = codes.unflatten(1, self.code_shape) if codes.shape[1:] == (self._code_count(),) else codes
        if grid.ndim != 4 or grid.shape[1:] != self.code_shape:
            raise ValueError(f"codes {tuple(codes.shape)}: (B, {', '.join(map(str, self.code_shape))}) is needed")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(f"codes {int(codes.min())}..{int(codes.max())}: 0..{self.codebook_size - 1} are known")
        return self._paint(self.quantizer.values(grid).to(self.dtype)).clamp(0, 1)

    def forward(self, images: Tensor) -> FaceTokenizerOutput:
        """Encode, quantize, and paint images (B, 3, S, S) in [0, 1] again; see `FaceTokenizerOutput`."""
        values, codes = self._quantize(images)
        parts, landmarks = self.anatomy(values.permute(0, 3, 1, 2))
        return FaceTokenizerOutput(image=self._paint(values), codes=codes, parts=parts, landmarks=landmarks)

    def _code_count(self) -> int:
        height, width, groups = self.code_shape
        return height * width * groups

    def _quantize(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Values (B, h, w, D) in [-1, 1] and codes (B, h, w, G)."""
        size = self.config["image_size"]
        if images.ndim != 4 or images.shape[1:] != (3, size, size):
            raise ValueError(f"images {tuple(images.shape)}: (B, 3, {size}, {size}) in [0, 1] is needed")
        x = F.pixel_unshuffle(images * 2 - 1, self.config["patch_size"])
        x = self._run(self.encoder, x)  # (B, D, h, w)
        values, codes = self.quantizer(x.permute(0, 2, 3, 1))
        return values, codes

    def _paint(self, values: Tensor) -> Tensor:
        x = self._run(self.decoder, values.permute(0, 3, 1, 2))
        return F.pixel_shuffle(x, self.config["patch_size"]) / 2 + 0.5

    def _run(self, layers: nn.ModuleList, x: Tensor) -> Tensor:
        for layer in layers:
            if self.gradient_checkpointing and torch.is_grad_enabled() and isinstance(layer, ResidualBlock):
                x = self._gradient_checkpointing_func(layer, x)
            else:
                x = layer(x)
        return x


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after a group norm and SiLU, around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NORM_GROUPS, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # starts as identity, which trains faster

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, h, w) to the same."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        added: Tensor = x + y
        return added


class AnatomyHead(nn.Module):
    """Part map and landmarks from the values of the codes."""

    def __init__(self, dim: int, width: int, parts: int, landmarks: int, upscale: int) -> None:
        super().__init__()
        self.upscale = upscale
        self.stem = nn.Sequential(
            nn.Conv2d(dim, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
        )
        self.parts = nn.Conv2d(width, parts * upscale**2, 1)
        self.points = nn.Conv2d(width, landmarks, 1)

    def forward(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D, h, w) to logits (B, P, h * upscale, w * upscale) and points (B, K, 2), shares of the image."""
        x = F.silu(self.stem(values))
        heat = self.points(x).flatten(2).float().softmax(-1).unflatten(2, values.shape[2:])  # (B, K, h, w)
        columns = (torch.arange(values.shape[3], device=x.device) + 0.5) / values.shape[3]
        rows = (torch.arange(values.shape[2], device=x.device) + 0.5) / values.shape[2]
        points = torch.stack([(heat.sum(2) * columns).sum(-1), (heat.sum(3) * rows).sum(-1)], -1)
        return F.pixel_shuffle(self.parts(x), self.upscale), points


class _Up(nn.Sequential):
    """Twice the size, by a convolution that makes four pixels of one."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(nn.Conv2d(width, out * 4, 1), nn.PixelShuffle(2), nn.Conv2d(out, out, 3, padding=1))


class _Out(nn.Sequential):
    def __init__(self, width: int, out: int, kernel: int) -> None:
        norm = nn.GroupNorm(NORM_GROUPS, width)
        super().__init__(norm, nn.SiLU(), nn.Conv2d(width, out, kernel, padding=kernel // 2))

"""`FaceTokenizer`: a face as a grid of discrete codes and back.

Shapes: B batch, S image size, h = w = S / 8 grid, G code groups, D code numbers, K channels of a structure map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional as F

from auface_diffusers.models.checkpoints import SafetensorsOnly
from auface_diffusers.models.face_tokenizer_layers import Out, ResidualBlock, Up
from auface_diffusers.models.finite_scalar import FiniteScalarQuantizer
from auface_diffusers.models.outputs import TensorsOutput
from auface_diffusers.models.structure_guide import StructureGuide


@dataclass
class FaceTokenizerOutput(TensorsOutput):
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
        structure_channels: of the structure map that the decoder can be given beside the codes: the second anatomical
            prior, by which lines of the skin that codes lose are painted. 0 is a decoder of codes alone.

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
        structure_channels: int = 0,
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
        self.encoder = nn.ModuleList([*down, Out(channels[-1], self.quantizer.dim, 1)])
        up: list[nn.Module] = [nn.Conv2d(self.quantizer.dim, channels[-1], 3, padding=1)]
        self.stages: list[int] = []  # where the decoder's stages begin, the largest one first
        for place in reversed(range(len(channels))):
            self.stages.insert(0, len(up))
            up += [ResidualBlock(channels[place]) for _ in range(decoder_blocks)]
            if place:
                up.append(Up(channels[place], channels[place - 1]))
        self.decoder = nn.ModuleList([*up, Out(channels[0], pixels, 3)])
        self.anatomy = AnatomyHead(self.quantizer.dim, channels[-1], parts, landmarks, self.downscale // 2)
        if structure_channels:
            self.guide = StructureGuide(structure_channels, patch_size, channels)

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
    def decode(self, codes: Tensor, structure: Tensor | None = None, dropped: Tensor | None = None) -> Tensor:
        """Images (B, 3, S, S) in [0, 1] of codes (B, h, w, G) or (B, h * w * G).

        Args:
            codes: as `encode` gives them.
            structure: (B, K, S, S), see ``anatomy.structure_map``, of the same faces, of which the first
                ``structure_channels`` count; None paints from the codes alone.
            dropped: (B,) bool, faces that are painted as if they had no structure map.

        Raises:
            ValueError: another shape, or an index outside 0..codebook_size - 1.
        """
        grid = codes.unflatten(1, self.code_shape) if codes.shape[1:] == (self._code_count(),) else codes
        if grid.ndim != 4 or grid.shape[1:] != self.code_shape:
            raise ValueError(f"codes {tuple(codes.shape)}: (B, {', '.join(map(str, self.code_shape))}) is needed")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(f"codes {int(codes.min())}..{int(codes.max())}: 0..{self.codebook_size - 1} are known")
        return self._paint(self.quantizer.values(grid).to(self.dtype), structure, dropped).clamp(0, 1)

    def forward(
        self, images: Tensor, structure: Tensor | None = None, dropped: Tensor | None = None
    ) -> FaceTokenizerOutput:
        """Encode, quantize, and paint images (B, 3, S, S) in [0, 1] again; see `FaceTokenizerOutput` and `decode`."""
        values, codes = self._quantize(images)
        parts, landmarks = self.anatomy(values.permute(0, 3, 1, 2))
        image = self._paint(values, structure, dropped)
        return FaceTokenizerOutput(image=image, codes=codes, parts=parts, landmarks=landmarks)

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

    def _paint(self, values: Tensor, structure: Tensor | None, dropped: Tensor | None = None) -> Tensor:
        added = {} if structure is None else self._guidance(structure, len(values))
        if dropped is not None:
            added = {place: one * ~dropped[:, None, None, None] for place, one in added.items()}
        x = self._run(self.decoder, values.permute(0, 3, 1, 2), added)
        return F.pixel_shuffle(x, self.config["patch_size"]) / 2 + 0.5

    def _guidance(self, structure: Tensor, batch: int) -> dict[int, Tensor]:
        """What is added before which layer of the decoder."""
        size, channels = self.config["image_size"], self.config["structure_channels"]
        if structure.ndim != 4 or len(structure) != batch or structure.shape[2:] != (size, size):
            raise ValueError(f"structure {tuple(structure.shape)}: ({batch}, K, {size}, {size}) is needed")
        if structure.shape[1] < channels:
            raise ValueError(f"structure of {structure.shape[1]} channels: {channels} are needed, or None")
        if not channels:
            return {}
        return dict(zip(self.stages, self.guide(structure[:, :channels].to(self.dtype)), strict=True))

    def _run(self, layers: nn.ModuleList, x: Tensor, added: Mapping[int, Tensor] | None = None) -> Tensor:
        for place, layer in enumerate(layers):
            if added and place in added:
                x = x + added[place]
            if self.gradient_checkpointing and torch.is_grad_enabled() and isinstance(layer, ResidualBlock):
                x = self._gradient_checkpointing_func(layer, x)
            else:
                x = layer(x)
        return x


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

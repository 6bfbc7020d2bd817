"""`StructureEncoder`: the structure map of a head as a grid of features, and as a vector beside those of texts.

Shapes: B batch, S image size, P = S / 16 grid, W width, E embedding, C channels of ``units.channels``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor, nn
from torch.nn import functional as F

from auface_diffusers.anatomy import STRUCTURE_CHANNELS
from auface_diffusers.facs import units
from auface_diffusers.facs.levels import MAX_LEVEL
from auface_diffusers.models.checkpoints import SafetensorsOnly

DOWNSCALE = 16


@dataclass
class StructureEncoderOutput(BaseOutput):
    """``features`` (B, W, P, P); ``embedding`` (B, E) of length 1; ``presence_logits`` (B, C); ``levels`` (B, C) in
    0..5.
    """

    features: Tensor
    embedding: Tensor
    presence_logits: Tensor
    levels: Tensor


class StructureEncoder(SafetensorsOnly, ModelMixin, ConfigMixin):
    """Convolutions over the channels of ``anatomy.structure_map``, with heads that tie them to texts and units.

    It serves the alignment stage, which gives its `StructureFeatures` to the transformer.

    Args:
        image_size: S, a multiple of 16.
        in_channels: of the structure map.
        width: W, features of a grid position.
        embedding_dim: E, that of the text embedding.
        channels: names of the C AU channels, stored with the weights; None is ``units.channels``.

    Raises:
        ValueError: a size that 16 does not divide.
    """

    @register_to_config
    def __init__(
        self,
        image_size: int = 128,
        in_channels: int = len(STRUCTURE_CHANNELS),
        width: int = 256,
        embedding_dim: int = 256,
        channels: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        names = list(units.channels if channels is None else channels)
        self.register_to_config(channels=names)
        self.extractor = StructureFeatures(image_size, in_channels, width)
        self.squeeze = nn.Conv2d(width, 32, 1)
        self.pool = nn.Sequential(
            nn.Linear(32 * (image_size // DOWNSCALE) ** 2, 512), nn.SiLU(), nn.Linear(512, embedding_dim)
        )
        self.read = nn.Sequential(nn.SiLU(), nn.Linear(embedding_dim, 2 * len(names)))

    def forward(self, structure: Tensor) -> StructureEncoderOutput:
        """Features and what they say; see `StructureEncoderOutput`."""
        features = self.extractor(structure)
        pooled = self.pool(self.squeeze(F.silu(features)).flatten(1))
        presence, levels = self.read(pooled).chunk(2, -1)
        return StructureEncoderOutput(
            features=features,
            embedding=F.normalize(pooled.float(), dim=-1),
            presence_logits=presence,
            levels=MAX_LEVEL * torch.sigmoid(levels.float()),
        )


class StructureFeatures(nn.Module):
    """Structure maps (B, in_channels, S, S) to a grid of features (B, W, S / 16, S / 16).

    Args:
        image_size: S, a multiple of 16. in_channels: of the structure map. width: W.

    Raises:
        ValueError: a size that 16 does not divide.
    """

    def __init__(self, image_size: int, in_channels: int, width: int) -> None:
        super().__init__()
        if image_size % DOWNSCALE:
            raise ValueError(f"image_size {image_size}: a multiple of {DOWNSCALE} is needed")
        self.shape = (in_channels, image_size, image_size)
        self.stem = nn.Conv2d(in_channels, 64, 4, stride=4)
        self.fine = _Mix(64)
        self.down1 = nn.Conv2d(64, 128, 2, stride=2)
        self.middle = _Mix(128)
        self.down2 = nn.Conv2d(128, width, 2, stride=2)
        self.coarse = _Mix(width)

    def forward(self, structure: Tensor) -> Tensor:
        """See the class. Raises `ValueError` for another shape."""
        if structure.ndim != 4 or structure.shape[1:] != self.shape:
            raise ValueError(f"structure {tuple(structure.shape)}: (B, {', '.join(map(str, self.shape))}) is needed")
        x = self.fine(self.stem(structure))
        x = self.middle(self.down1(x))
        features: Tensor = self.coarse(self.down2(x))
        return features


class _Mix(nn.Module):
    """A residual pair of convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.out(F.silu(self.conv(F.silu(self.norm(x)))))
        return added

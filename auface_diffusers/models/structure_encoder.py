"""`StructureEncoder`: the structure map of a head as a grid of features, and as a vector beside those of texts.

Shapes: B batch, S image size, P = S / 16 grid, W width, E embedding, C channels of ``units.channels``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from auface_diffusers.anatomy import STRUCTURE_CHANNELS
from auface_diffusers.facs import units
from auface_diffusers.facs.levels import MAX_LEVEL
from auface_diffusers.models.checkpoints import SafetensorsOnly
from auface_diffusers.models.outputs import TensorsOutput
from auface_diffusers.models.point_head import MOTION_SCALE, POINTS, PointHead

DOWNSCALE = 16
MIDDLE = 128


@dataclass
class StructureEncoderOutput(TensorsOutput):
    """``features`` (B, W, P, P); ``embedding`` (B, E) of length 1; ``presence_logits`` (B, C); ``levels`` (B, C) in
    0..5; ``landmarks`` (B, 68, 2), shares of the map; ``motion`` (B, 68, 3) dm, as in `AUEstimatorOutput`.
    """

    features: Tensor
    embedding: Tensor
    presence_logits: Tensor
    levels: Tensor
    landmarks: Tensor
    motion: Tensor


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

    _supports_gradient_checkpointing = True

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
        self.points = PointHead(width, MIDDLE, len(names), dropout=0.0, hidden=384)
        self.embed = nn.Sequential(
            nn.Linear(2 * len(names) + 3 * POINTS, 384), nn.SiLU(), nn.Linear(384, embedding_dim)
        )

    def forward(self, structure: Tensor) -> StructureEncoderOutput:
        """Features and what they say; see `StructureEncoderOutput`."""
        features, middle = self.extractor.both(structure)
        read, points, motion = self.points(features, middle)
        meaning = self.embed(torch.cat([read.flatten(1), (motion / MOTION_SCALE).flatten(1).to(read.dtype)], 1))
        presence, levels = read.unbind(-1)
        return StructureEncoderOutput(
            features=features,
            embedding=F.normalize(meaning.float(), dim=-1),
            presence_logits=presence,
            levels=MAX_LEVEL * torch.sigmoid(levels.float()),
            landmarks=points[:, :POINTS],
            motion=motion,
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
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Tensor] | None = None  # set by ModelMixin
        self.shape = (in_channels, image_size, image_size)
        self.stem = nn.Conv2d(in_channels, 64, 4, stride=4)
        self.fine = _Mix(64)
        self.down1 = nn.Conv2d(64, MIDDLE, 2, stride=2)
        self.middle = _Mix(MIDDLE)
        self.down2 = nn.Conv2d(MIDDLE, width, 2, stride=2)
        self.coarse = _Mix(width)

    def forward(self, structure: Tensor) -> Tensor:
        """See the class. Raises `ValueError` for another shape."""
        return self.both(structure)[0]

    def both(self, structure: Tensor) -> tuple[Tensor, Tensor]:
        """The features, and those at half the distance, (B, 128, S / 8, S / 8)."""
        if structure.ndim != 4 or structure.shape[1:] != self.shape:
            raise ValueError(f"structure {tuple(structure.shape)}: (B, {', '.join(map(str, self.shape))}) is needed")
        x = self._run(self.fine, self.stem(structure))
        middle = self._run(self.middle, self.down1(x))
        return self._run(self.coarse, self.down2(middle)), middle

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            assert self._gradient_checkpointing_func
            return self._gradient_checkpointing_func(block, x)
        y: Tensor = block(x)
        return y


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

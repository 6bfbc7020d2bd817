"""`AUEstimator`: which action units a picture of a face shows, and how strongly; small, calibrated, differentiable.

Shapes: B batch, C channels of ``units.channels``, D features, G = image_size / 8. Two architectures share the head, so
that the estimator that judges a generator need not be the one that it was trained against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from auface_diffusers.facs import AUSet, units
from auface_diffusers.facs.levels import MAX_LEVEL
from auface_diffusers.models.checkpoints import SafetensorsOnly
from auface_diffusers.models.outputs import TensorsOutput
from auface_diffusers.models.point_head import POINTS, PointHead

STAGES = {  # widths and blocks of the stages at 1/2, 1/4, 1/8 and 1/16 of the image's side
    "conv": ((32, 64, 128, 160), (1, 2, 3, 2)),
    "patch": ((32, 64, 128, 192), (0, 1, 2, 2)),
}
ARCHITECTURES = tuple(STAGES)
WEIGHTS = Path(__file__).parent.parent / "weights"
EMBEDDED = {False: "estimator", True: "evaluation_estimator"}
"""Folders in `WEIGHTS` by whether only evaluation may use the estimator."""
MIN_SIDE = 32
STEP = 32
"""``image_size`` is a multiple of it, so that every stage halves exactly."""


@dataclass
class AUEstimatorOutput(TensorsOutput):
    """What is seen in B pictures.

    Attributes:
        presence: (B, C) in [0, 1], calibrated probability that the unit can be seen, at equal priors.
        level: (B, C) in [0, 5], the FACS level if it is there.
        presence_logits: (B, C), before calibration.
        landmarks: (B, 68, 2), iBUG points, x and y as shares of the picture.
        motion: (B, 68, 3), how far the expression has moved each from where it rests, in dm, head upright: x to the
            person's left, y up, z forward.
        channels: C names, such as ``"L12"``.
    """

    presence: Tensor
    level: Tensor
    presence_logits: Tensor
    landmarks: Tensor
    motion: Tensor
    channels: tuple[str, ...]


class AUEstimator(SafetensorsOnly, ModelMixin, ConfigMixin):
    """Action units of a face from its picture.

        >>> estimator = AUEstimator(architecture="conv")
        >>> seen = estimator(images)  # (B, 3, H, W) in [0, 1]
        >>> seen.presence.shape, estimator.to_aus(seen)[0].format()

    Args:
        architecture: ``"conv"``, a residual net of 3x3 convolutions, or ``"patch"``, a transformer over 16x16 and 8x8
            patches behind a convolutional stem. Both end in points of the face, see `PointHead`.
        image_size: side that pictures are resized to, a multiple of 32.
        channels: names out of ``units.channels``, which is the default; saved with the weights.
        widths, depths: features and blocks of the four stages; None is the architecture's row of `STAGES`. The
            transformer's widths (the last two of "patch") are multiples of 32, the others of 8.
        dropout: share of features dropped before the output, while training; 0 <= dropout < 1.

    Raises:
        ValueError: for a value that is not allowed.
    """

    _supports_gradient_checkpointing = True
    calibration_scale: Tensor
    calibration_bias: Tensor
    covered: Tensor

    @register_to_config
    def __init__(
        self,
        architecture: str = "conv",
        image_size: int = 128,
        channels: Sequence[str] | None = None,
        widths: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture {architecture!r}: allowed are {', '.join(ARCHITECTURES)}")
        if image_size < STEP or image_size % STEP:
            raise ValueError(f"image_size {image_size}: give a multiple of {STEP}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout {dropout:g} is outside 0 <= dropout < 1")
        names = tuple(units.channels if channels is None else channels)
        _check_channels(names)
        standard = STAGES[architecture]
        wide, deep = tuple(widths or standard[0]), tuple(depths or standard[1])
        _check_stages(architecture, wide, deep)
        self.register_to_config(channels=list(names), widths=list(wide), depths=list(deep))
        self.channels, self.image_size = names, image_size
        self.backbone = Backbone(wide, deep, 2 if architecture == "patch" else 4, image_size)
        self.head = PointHead(wide[2], wide[1], len(names), dropout)
        self.register_buffer("calibration_scale", torch.ones(len(names)))
        self.register_buffer("calibration_bias", torch.zeros(len(names)))
        self.register_buffer("covered", torch.ones(len(names), dtype=torch.bool))

    @classmethod
    def from_default(cls, evaluation: bool = False) -> AUEstimator:
        """Load an estimator that comes with the package, in float32 and ready to read.

        Args:
            evaluation: the one that no training may use, so that what it says of a generator is worth something.

        Raises:
            FileNotFoundError: its weights are not there.
        """
        folder = WEIGHTS / EMBEDDED[bool(evaluation)]
        if not (folder / "config.json").is_file():
            raise FileNotFoundError(
                f"the embedded {folder.name} is missing: {folder} has no config.json; reinstall the package, or load "
                "another one with AUEstimator.from_pretrained(folder)"
            )
        loaded: AUEstimator = cls.from_pretrained(folder, local_files_only=True, torch_dtype=torch.float32).eval()
        return loaded

    @property
    def coverage(self) -> tuple[str, ...]:
        """Channels that this estimator can tell; all until `set_calibration` says otherwise."""
        return tuple(name for name, seen in zip(self.channels, self.covered.tolist(), strict=True) if seen)

    def forward(self, image: Tensor) -> AUEstimatorOutput:
        """Look at pictures; differentiable with respect to ``image``.

        Args:
            image: (B, 3, H, W) float in [0, 1], RGB, H and W >= 32: square crops in which the face fills about 70 % of
                the side. Other sizes are resized, antialiased; other shapes are squeezed into a square.

        Raises:
            ValueError: for another shape or type, NaN, or values outside [0, 1].
        """
        check_image(image)
        size = (self.image_size, self.image_size)
        pixels = image.float()
        if image.shape[-2:] != size:
            pixels = F.interpolate(pixels, size, mode="bilinear", antialias=True)
        weight = self.backbone.stem.weight
        features, fine = self.backbone((pixels * 2 - 1).to(weight))
        both, points, motion = self.head(features, fine)
        logits, level_logits = both.float().unbind(-1)
        scale, bias = self.calibration_scale.float(), self.calibration_bias.float()
        return AUEstimatorOutput(
            presence=torch.sigmoid(logits * scale + bias),
            level=MAX_LEVEL * torch.sigmoid(level_logits),
            presence_logits=logits,
            landmarks=points[:, :POINTS],
            motion=motion,
            channels=self.channels,
        )

    @torch.no_grad()
    def set_calibration(self, scale: Tensor, bias: Tensor, covered: Tensor | None = None) -> None:
        """Set (C,) ``scale`` and ``bias`` of ``presence = sigmoid(scale * logit + bias)``, and which channels count.

        ``covered``: (C,) bool, the channels that this estimator can tell; None leaves them as they are.

        Raises:
            ValueError: for another shape, or numbers that are not finite.
        """
        pairs = [("calibration_scale", scale), ("calibration_bias", bias)]
        pairs += [] if covered is None else [("covered", covered)]
        for name, value in pairs:
            if value.shape != (len(self.channels),) or not value.isfinite().all():
                raise ValueError(
                    f"{name} {tuple(value.shape)}: give {len(self.channels)} finite values, one a channel"
                )
        if covered is not None and covered.dtype != torch.bool:
            raise ValueError(f"covered is {covered.dtype}: give torch.bool")
        for name, value in pairs:
            getattr(self, name).copy_(value)

    def to_aus(self, output: AUEstimatorOutput, threshold: float = 0.5) -> list[AUSet]:
        """One score a picture: the covered channels whose presence reaches ``threshold``, at their level.

        Levels have two decimals. Units that exclude each other can stand side by side: see ``facs.resolve``.

        Raises:
            ValueError: ``threshold`` outside [0, 1].
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold:g} is outside 0..1")
        shown = (output.presence >= threshold) & self.covered.to(output.presence.device)
        levels = torch.where(shown, output.level.detach(), torch.zeros_like(output.level)).tolist()
        return [AUSet.from_vector([round(x, 2) for x in row], self.channels) for row in levels]


def check_image(image: Tensor) -> None:
    """Raise `ValueError` unless ``image`` is a float (B, 3, H, W), H and W >= 32, in [0, 1]."""
    shape, kind = tuple(image.shape), image.dtype
    if image.ndim != 4 or image.shape[1] != 3 or not len(image):
        raise ValueError(f"image {shape}: give (B, 3, H, W), RGB; one picture is image[None]")
    if not image.is_floating_point():
        raise ValueError(f"image is {kind}: give floats in [0, 1], such as image / 255")
    if min(shape[2:]) < MIN_SIDE:
        raise ValueError(f"image {shape}: height and width are at least {MIN_SIDE}; enlarge it first")
    low, high = (float(x) for x in image.detach().aminmax())
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise ValueError(
            f"image has values {low:g}..{high:g}: allowed are 0..1; clamp it, or map -1..1 by image / 2 + 0.5"
        )


def _check_channels(names: tuple[str, ...]) -> None:
    unknown = [name for name in names if name not in units.channels]
    if unknown or not names or len(set(names)) < len(names):
        raise ValueError(f"channels {', '.join(unknown) or names}: give names out of units.channels, each once")


def _check_stages(architecture: str, widths: tuple[int, ...], depths: tuple[int, ...]) -> None:
    if len(widths) != 4 or len(depths) != 4 or min(depths) < 0:
        raise ValueError(
            f"widths {widths}, depths {depths}: give four each, of the stages at 1/2 .. 1/16; depths >= 0"
        )
    steps = (8, 8, 32, 32) if architecture == "patch" else (8, 8, 8, 8)
    if any(width < step or width % step for width, step in zip(widths, steps, strict=True)):
        raise ValueError(f"widths {widths}: {architecture} needs multiples of {steps}")


# --- parts -----------------------------------------------------------------------------------------------------------


class Backbone(nn.Module):
    """Picture (B, 3, S, S) in [-1, 1] to features (B, widths[2], S / 8, S / 8), with those at 1/16 added in.

    Args:
        widths, depths: of the four stages.
        convolutional: how many stages have `ConvBlock`; the rest have `PatchBlock`.
        image_size: S.
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int], convolutional: int, image_size: int) -> None:
        super().__init__()
        self.gradient_checkpointing = False
        self._gradient_checkpointing_func: Callable[..., Tensor] | None = None  # set by ModelMixin
        self.stem = nn.Conv2d(12, widths[0], 3, padding=1)
        self.stages = nn.ModuleList()
        for index, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            stage = nn.ModuleList()
            if index:
                stage.append(Halve(widths[index - 1], width))
            if index >= convolutional:
                stage.append(Position(width, image_size >> (index + 1)))
            kind = ConvBlock if index < convolutional else PatchBlock
            stage.extend(kind(width) for _ in range(depth))
            self.stages.append(stage)
        self.coarse = nn.Conv2d(widths[3], widths[2], 1)
        self.norm = nn.GroupNorm(8, widths[2])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """See the class; and the features (B, widths[1], S / 4, S / 4) of the second stage."""
        x = self.stem(F.pixel_unshuffle(pixels, 2))
        kept = []
        for stage in self.stages:
            for block in cast(nn.ModuleList, stage):
                if self.gradient_checkpointing and torch.is_grad_enabled():
                    assert self._gradient_checkpointing_func
                    x = self._gradient_checkpointing_func(block, x)
                else:
                    x = block(x)
            kept.append(x)
        coarse = F.interpolate(self.coarse(kept[3]), scale_factor=2.0, mode="nearest")
        features: Tensor = self.norm(kept[2] + coarse)
        return features, kept[1]


class Halve(nn.Module):
    """(B, in, 2H, 2W) to (B, out, H, W): normalise, bend, 2x2 convolution."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width_in)
        self.conv = nn.Conv2d(width_in, width_out, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.conv(F.silu(self.norm(x)))
        return y


class Position(nn.Module):
    """Adds a learned vector a place: (B, D, H, H) to the same shape."""

    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(1, width, side, side) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        return x + self.places


class ConvBlock(nn.Module):
    """Residual block: 3x3 convolution, normalisation, 1x1 convolution; (B, D, H, W) to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.GroupNorm(8, width)
        self.mix = nn.Conv2d(width, width, 1)
        self.gain = nn.Parameter(torch.full((width, 1, 1), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y: Tensor = self.mix(F.silu(self.norm(self.conv(x))))
        return x + self.gain * y


class PatchBlock(nn.Module):
    """Transformer block over the places: (B, D, H, W) to the same shape; heads of 32 features."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 32
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        tokens: Tensor = x.flatten(2).transpose(1, 2)  # (B, N, D)
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(-1, (3, self.heads, 32)).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(seen)
        tokens = tokens + self.mlp(self.norm2(tokens))
        y: Tensor = tokens.transpose(1, 2).reshape(x.shape)
        return y

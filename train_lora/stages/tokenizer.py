"""Stage "tokenizer": faces to codes and back, with the anatomy read from the codes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auface_diffusers.models.au_estimator import AUEstimator
from auface_diffusers.models.face_tokenizer import FaceTokenizer
from train_lora.data.faces import FaceBatch, FacesConfig
from train_lora.loop import LoopConfig, Step
from train_lora.stages.build import make
from train_lora.stages.critic import Critic, fooling_loss, telling_loss
from train_lora.stages.sheets import rows
from train_lora.together import shared

FEATURES = slice(17, 68)
"""iBUG points whose surroundings weigh more: brows, nose, eyes, mouth."""
SHOWN = 8


@dataclass(frozen=True)
class TokenizerLosses:
    """Weights; table ``[losses]``.

    Attributes:
        features: how much more a pixel at brows, eyes and mouth weighs than one elsewhere.
        detail: of the differences of Laplacian pyramids, which see edges and texture.
        texture: of the structure of brightness, see `texture_loss`: faint lines of the skin, by which brows and cheeks
            are read, weigh as much in it as the rims of eyes and lips, which they do not in differences of pixels.
        colour: of the differences of chroma (Cb and Cr of BT.601) between patches of 4 pixels: hue is lost first, for
            it is worth little in the others.
        parts, landmarks: of the anatomy that is read from the codes.
        adversarial: of the critic, from the share ``adversarial_from`` of the run on.
        readout: of the difference in what an AU estimator reads from a face and from its reconstruction; needs
            ``estimator``, the folder of one that training may use.
    """

    features: float = 4.0
    detail: float = 1.0
    texture: float = 0.0
    colour: float = 2.0
    parts: float = 0.1
    landmarks: float = 2.0
    adversarial: float = 0.02
    adversarial_from: float = 0.5
    readout: float = 0.0
    estimator: str = ""

    def __post_init__(self) -> None:
        if self.readout and not self.estimator:
            raise ValueError("losses.readout needs losses.estimator, the folder of a trained AUEstimator")


@dataclass(frozen=True)
class TokenizerConfig:
    """A run of this stage.

    Attributes:
        model: arguments of `FaceTokenizer`.
        start: folder of a `FaceTokenizer` whose weights are the first ones, in place of ``model``; "" draws them.
        decoder_only: keep the encoder as it is, so that codes made with it stay valid.
    """

    out: str
    train: LoopConfig
    data: FacesConfig
    held_out: FacesConfig
    model: dict[str, Any] = field(default_factory=dict)
    losses: TokenizerLosses = field(default_factory=TokenizerLosses)
    start: str = ""
    decoder_only: bool = False

    def __post_init__(self) -> None:
        if self.decoder_only and not self.start:
            raise ValueError("decoder_only needs start, the folder of a tokenizer with a trained encoder")


class TokenizerStage:
    """See `train_lora.loop.Stage`."""

    def __init__(self, config: TokenizerConfig) -> None:
        self.weights = config.losses
        self.source = config.data.open()
        self.held_out = config.held_out.open()
        torch.manual_seed(config.train.seed)  # the first weights
        model = (
            FaceTokenizer.from_pretrained(config.start).float() if config.start else make(FaceTokenizer, config.model)
        )
        if config.decoder_only:
            model.encoder.requires_grad_(False)
        self.players: dict[str, nn.Module] = {"tokenizer": model, "critic": Critic()}
        self.estimator: AUEstimator | None = None
        if config.losses.estimator:
            estimator = AUEstimator.from_pretrained(config.losses.estimator)
            self.estimator = estimator.eval().requires_grad_(False)

    def losses(self, batch: FaceBatch, step: Step) -> Iterator[tuple[str, Tensor, Mapping[str, float]]]:
        """The tokenizer's loss, then the critic's."""
        tokenizer, critic = self.players["tokenizer"], self.players["critic"]
        batch = batch.to(next(tokenizer.parameters()).device)
        out = tokenizer(batch.images)
        painted = out.image.float()
        parts = {
            "pixel": weighted_l1(painted, batch, self.weights.features),
            "detail": self.weights.detail * detail_loss(painted, batch.images),
            "texture": self.weights.texture * texture_loss(painted, batch),
            "colour": self.weights.colour * colour_loss(painted, batch.images),
            "parts": self.weights.parts * parts_loss(out.parts, batch.parts),
            "landmarks": self.weights.landmarks * F.smooth_l1_loss(out.landmarks, batch.landmarks, beta=0.01),
        }
        if self.estimator is not None and self.weights.readout:
            parts["readout"] = self.weights.readout * self._readout_loss(painted, batch.images)
        adversarial = self.weights.adversarial > 0 and step.progress >= self.weights.adversarial_from
        if adversarial:
            critic.requires_grad_(False)
            parts["adversarial"] = self.weights.adversarial * fooling_loss(critic, painted)
            critic.requires_grad_(True)
        yield "tokenizer", torch.stack(list(parts.values())).sum(), {k: float(v.detach()) for k, v in parts.items()}
        if adversarial:
            yield "critic", telling_loss(critic, batch.images, painted.detach()), {}

    def _readout_loss(self, painted: Tensor, images: Tensor) -> Tensor:
        assert self.estimator is not None
        self.estimator.to(images.device)
        with torch.no_grad():
            wanted = self.estimator(images)
        seen = self.estimator(painted.clamp(0, 1))
        covered = self.estimator.covered.float()
        near = F.smooth_l1_loss(seen.presence_logits, wanted.presence_logits, reduction="none", beta=1.0)
        return (near * covered).sum() / (covered.sum() * len(images))

    def validate(self, model: FaceTokenizer) -> dict[str, float]:
        """PSNR of whole faces and of their features, accuracy of the part map, change of the AU read-out."""

        def look(numbers: range) -> dict[str, float]:
            batch = self.held_out.__getitems__(list(numbers)).to(model.device)
            out = model(batch.images)
            painted = out.image.clamp(0, 1)
            heavy = feature_map(batch, 1.0)[:, None]
            values = {
                "psnr": psnr(painted, batch.images),
                "psnr_features": psnr(painted, batch.images, heavy),
                "parts": (out.parts.argmax(1) == batch.parts[:, ::2, ::2]).float().mean(),
                "codes_used": torch.tensor(out.codes.unique().numel() / model.codebook_size),
            }
            if self.estimator is not None:
                self.estimator.to(model.device)
                gap = (self.estimator(painted).presence - self.estimator(batch.images).presence).abs()
                values["readout_gap"] = gap[:, self.estimator.covered].mean()
            return {name: float(value) * len(numbers) / len(self.held_out) for name, value in values.items()}

        found = shared(len(self.held_out), 32, look)
        return {name: sum(one[name] for one in found) for name in found[0]}

    def sheet(self, model: FaceTokenizer) -> Tensor:
        """Faces above their reconstructions."""
        images = self.held_out.__getitems__(list(range(SHOWN))).images.to(model.device)
        return rows([images, model(images).image.clamp(0, 1)])

    def export(self, model: FaceTokenizer, folder: Path, report: Mapping[str, Any]) -> None:
        """Weights and config as diffusers writes them, in fp16."""
        save_half(model, folder)


def save_half(model: nn.Module, folder: Path) -> None:
    """Save a diffusers model in fp16 and leave it as it is."""
    half = type(model).from_config(model.config)  # type: ignore[attr-defined, operator] # ConfigMixin
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)


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

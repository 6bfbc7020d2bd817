"""Stage "tokenizer": faces to codes and back, with the anatomy read from the codes."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auface_diffusers.anatomy import STRUCTURE_CHANNELS
from auface_diffusers.models.au_estimator import AUEstimator
from auface_diffusers.models.face_tokenizer import FaceTokenizer
from train_lora.data.faces import FaceBatch, FacesConfig, RenderSource, ShardSource
from train_lora.data.prepared import PreparedBatch, PreparedSource
from train_lora.loop import LoopConfig, Step
from train_lora.precision import settled
from train_lora.stages.build import make
from train_lora.stages.critic import Critic, fooling_loss, telling_loss
from train_lora.stages.painting import (
    colour_loss,
    detail_loss,
    feature_map,
    parts_loss,
    psnr,
    texture_loss,
    weighted_l1,
)
from train_lora.stages.sheets import rows
from train_lora.together import shared

SHOWN = 8
Source = ShardSource | RenderSource | PreparedSource


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
        structure: the decoder is given the structure map as well, but for a share ``structure_drop`` of the faces.
            Only with ``decoder_only``: an encoder would leave to the map what codes have to say without one.
    """

    out: str
    train: LoopConfig
    data: FacesConfig
    held_out: FacesConfig
    model: dict[str, Any] = field(default_factory=dict)
    losses: TokenizerLosses = field(default_factory=TokenizerLosses)
    start: str = ""
    decoder_only: bool = False
    structure: bool = False
    structure_drop: float = 0.1

    def __post_init__(self) -> None:
        if self.decoder_only and not self.start:
            raise ValueError("decoder_only needs start, the folder of a tokenizer with a trained encoder")
        if self.structure and not self.decoder_only:
            raise ValueError("structure needs decoder_only: train the encoder without it first")
        if not 0 <= self.structure_drop <= 1:
            raise ValueError(f"structure_drop {self.structure_drop}: a share in 0..1")


def guided(model: FaceTokenizer) -> FaceTokenizer:
    """The model with a decoder that takes structure maps too; they count for nothing yet."""
    had, wanted = model.config["structure_channels"], len(STRUCTURE_CHANNELS)
    if had == wanted:
        return model
    if had:
        raise ValueError(
            f"structure: the decoder takes maps of {had} channels, today's have {wanted}; start from one "
            "that takes none"
        )
    found = FaceTokenizer.from_config(model.config, structure_channels=wanted)
    found.load_state_dict(model.state_dict(), strict=False)
    return found


class TokenizerStage:
    """See `train_lora.loop.Stage`."""

    def __init__(self, config: TokenizerConfig) -> None:
        self.config, self.weights = config, config.losses
        self.source, self.held_out = self._open(config.data), self._open(config.held_out)
        torch.manual_seed(config.train.seed)  # the first weights
        model = (
            FaceTokenizer.from_pretrained(config.start).float() if config.start else make(FaceTokenizer, config.model)
        )
        if config.structure:
            model = guided(model)
        elif model.config["structure_channels"]:
            raise ValueError("the decoder takes structure maps: train it with structure=true and decoder_only=true")
        if config.decoder_only:
            model.encoder.requires_grad_(False)
        self.players: dict[str, nn.Module] = {"tokenizer": model, "critic": Critic()}
        self.estimator: AUEstimator | None = None
        if config.losses.estimator:
            estimator = AUEstimator.from_pretrained(config.losses.estimator)
            self.estimator = estimator.eval().requires_grad_(False)

    def _open(self, faces: FacesConfig) -> Source:
        if not self.config.structure:
            return faces.open()
        codes = FaceTokenizer.from_pretrained(self.config.start)  # in float32, as the generator's
        folder = Path(faces.shards) if faces.shards else None
        return PreparedSource(
            faces.open(), codes, folder, settled(self.config.train.precision) == "bf16", with_pictures=True
        )

    def _structure(self, batch: FaceBatch) -> Tensor | None:
        return batch.structure if isinstance(batch, PreparedBatch) else None

    def losses(self, batch: FaceBatch, step: Step) -> Iterator[tuple[str, Tensor, Mapping[str, float]]]:
        """The tokenizer's loss, then the critic's."""
        tokenizer, critic = self.players["tokenizer"], self.players["critic"]
        batch = batch.to(next(tokenizer.parameters()).device)
        out = tokenizer(batch.images, self._structure(batch), self._dropped(step).to(batch.images.device))
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

    def _dropped(self, step: Step) -> Tensor:
        """(B,) bool: which faces are painted without their structure map."""
        draws = [random.Random(f"structure {seed}").random() for seed in step.seeds]
        return torch.tensor(draws) < self.config.structure_drop

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
            out = model(batch.images, self._structure(batch))
            painted = out.image.clamp(0, 1)
            heavy = feature_map(batch, 1.0)[:, None]
            values = {
                "psnr": psnr(painted, batch.images),
                "psnr_features": psnr(painted, batch.images, heavy),
                "parts": (out.parts.argmax(1) == batch.parts[:, ::2, ::2]).float().mean(),
                "codes_used": torch.tensor(out.codes.unique().numel() / model.codebook_size),
            }
            if self.config.structure:
                values["psnr_without_structure"] = psnr(model(batch.images).image.clamp(0, 1), batch.images)
            if self.estimator is not None:
                self.estimator.to(model.device)
                gap = (self.estimator(painted).presence - self.estimator(batch.images).presence).abs()
                values["readout_gap"] = gap[:, self.estimator.covered].mean()
            return {name: float(value) * len(numbers) / len(self.held_out) for name, value in values.items()}

        found = shared(len(self.held_out), 32, look)
        return {name: sum(one[name] for one in found) for name in found[0]}

    def sheet(self, model: FaceTokenizer) -> Tensor:
        """Faces above their reconstructions; with structure maps, those without these come last."""
        batch = self.held_out.__getitems__(list(range(SHOWN))).to(model.device)
        structure = self._structure(batch)
        shown = [structure] if structure is None else [structure, None]
        return rows([batch.images, *(model(batch.images, one).image.clamp(0, 1) for one in shown)])

    def export(self, model: FaceTokenizer, folder: Path, report: Mapping[str, Any]) -> None:
        """Weights and config as diffusers writes them, in fp16."""
        save_half(model, folder)


def save_half(model: nn.Module, folder: Path) -> None:
    """Save a diffusers model in fp16 and leave it as it is."""
    half = type(model).from_config(model.config)  # type: ignore[attr-defined, operator] # ConfigMixin
    half.load_state_dict(model.state_dict())
    half.half().save_pretrained(folder)

"""Stage "align": texts, action units and structure maps to one meaning; its losses are pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from auface_diffusers.anatomy import Camera, HeadModel, structure_map
from auface_diffusers.facs.levels import MAX_LEVEL
from auface_diffusers.models.point_head import MOTION_SCALE
from auface_diffusers.models.structure_encoder import StructureEncoder, StructureEncoderOutput
from auface_diffusers.models.text_alignment import TextAlignment, TextAlignmentOutput
from train_lora.data.alignment_pairs import GROUP, alignment_batch
from train_lora.loop import LoopConfig, Step
from train_lora.stages.build import make
from train_lora.stages.tokenizer import save_half

PRESENT_FROM = 0.5
"""Level from which a channel counts as present."""
POSITIVE_WEIGHT = 4.0
"""Weight of present channels in the presence loss: about one in twenty is present, whose root is this."""
ABSENT_WEIGHT = 0.05
"""Weight of absent channels in the level loss; presence decides about them already."""


def alignment_losses(
    out_a: TextAlignmentOutput, out_b: TextAlignmentOutput, levels: Tensor, logit_scale: Tensor | float
) -> dict[str, Tensor]:
    """Losses of two wordings of the same scores.

    Args:
        out_a: of one wording a row. out_b: of the other.
        levels: (B, C) in 0..5, what both say.
        logit_scale: factor of the cosines, positive (the inverse of a temperature).

    Returns:
        Scalars ``presence`` (cross-entropy a channel), ``level`` (smooth L1 of level / 5) and ``contrast`` (between
        the wordings, both ways; rows that say the same count as a match). Unweighted.
    """
    pairs = [(out, levels) for out in (out_a, out_b)]
    presence = torch.stack([presence_loss(out.presence_logits, truth) for out, truth in pairs]).mean()
    level = torch.stack([level_loss(out.levels, truth) for out, truth in pairs]).mean()
    contrast = contrast_loss(out_a.embedding, out_b.embedding, same_scores(levels), logit_scale)
    return {"presence": presence, "level": level, "contrast": contrast}


def presence_loss(logits: Tensor, levels: Tensor) -> Tensor:
    """Binary cross-entropy of (B, C) logits; present channels count `POSITIVE_WEIGHT` times."""
    target = (levels >= PRESENT_FROM).to(logits.dtype)
    weight = logits.new_tensor(POSITIVE_WEIGHT)
    return F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight)


def level_loss(found: Tensor, levels: Tensor) -> Tensor:
    """Smooth L1 of (B, C) levels in 0..5, divided by 5: the mean over present channels, and a little of the others."""
    error = F.smooth_l1_loss(found / MAX_LEVEL, levels.to(found.dtype) / MAX_LEVEL, reduction="none", beta=0.1)
    present = (levels >= PRESENT_FROM).to(found.dtype)
    return _mean(error, present) + ABSENT_WEIGHT * _mean(error, 1 - present)


def same_scores(levels: Tensor) -> Tensor:
    """(B, B) bool: rows whose (B, C) levels have the same letters, which texts cannot tell apart."""
    letters = torch.where(levels > 0, (levels + 0.5).floor().clamp(1, MAX_LEVEL), torch.zeros_like(levels))
    return (letters[:, None] == letters[None]).all(dim=-1)


def contrast_loss(ones: Tensor, others: Tensor, same: Tensor, logit_scale: Tensor | float) -> Tensor:
    """Symmetric contrast of (B, P) unit vectors; the matches of a row in the (B, B) bool ``same`` share its weight."""
    logits = logit_scale * ones @ others.T
    target = same.to(logits.dtype)
    target = target / target.sum(dim=1, keepdim=True)  # symmetric before, and rows that match have as many matches
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum() / weights.sum().clamp(min=1)


# --- the stage -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class AlignConfig:
    """A run of this stage.

    Attributes:
        words: folder of the tokenizer that `train_lora.data.build_tokenizer` makes.
        rows: groups of four rows that an epoch has. seed: of the texts; ``held_out_seed``: of those that are measured.
        image_size, framing: of the structure maps.
        text, structure: arguments of `TextAlignment` and `StructureEncoder`.
        presence_weight, level_weight, contrast_weight, structure_weight: of the losses. Presence is a mean over all
            channels, of which few are present: it needs a large weight.
        landmark_weight, motion_weight: of what every structure map teaches, where its points lie and how far they have
            moved.
    """

    out: str
    train: LoopConfig
    words: str
    rows: int = 200000
    seed: int = 1
    held_out_seed: int = 2
    image_size: int = 128
    framing: str = "face"
    text: dict[str, Any] = field(default_factory=dict)
    structure: dict[str, Any] = field(default_factory=dict)
    presence_weight: float = 10.0
    level_weight: float = 1.0
    contrast_weight: float = 0.1
    structure_weight: float = 1.0
    landmark_weight: float = 20.0
    motion_weight: float = 1.0


@dataclass(frozen=True)
class AlignBatch:
    """Rows R = 4 B. ``ones``, ``others``: R texts each; ``levels`` (R, C); of every fourth row ``structure``
    (B, K, S, S), ``landmarks`` (B, 68, 2), shares of the map, and ``motion`` (B, 68, 3), dm, the head upright.
    """

    ones: list[str]
    others: list[str]
    levels: Tensor
    structure: Tensor
    landmarks: Tensor
    motion: Tensor


class PairSource:
    """Number n is the rows 4 n to 4 n + 3 of `alignment_pairs`, and the anatomy of the first of them on some head."""

    def __init__(self, seed: int, groups: int, size: int, framing: str) -> None:
        self.seed, self.groups, self.size = seed, groups, size
        self.head, self.camera = HeadModel.from_default(), Camera.framed(framing, size)
        self.skin = (self.head.turns == 0).all(1).float()  # units that turn neither head nor eyes

    def __len__(self) -> int:
        return self.groups

    def __getitems__(self, numbers: Sequence[int]) -> AlignBatch:
        """The rows of these numbers."""
        rows = [GROUP * number + place for number in numbers for place in range(GROUP)]
        ones, others, levels = alignment_batch(self.seed, rows)
        people = [self.seed * 10_000_019 + number for number in numbers]
        generators = [torch.Generator().manual_seed(person) for person in people]
        pose = torch.stack([torch.randn(3, generator=one) for one in generators]).clamp(-2, 2)
        shown = levels[::GROUP]
        mesh = self.head(people, shown, pose=pose * torch.tensor([8.0, 5.0, 4.0]))
        return AlignBatch(
            ones,
            others,
            levels,
            structure=structure_map(mesh, self.head, None, self.size, self.camera, shown, oversample=1),
            landmarks=self.camera.project(mesh.landmarks68)[..., :2] / self.size,
            motion=self.head(people, shown * self.skin).landmarks68 - self.head(people).landmarks68,
        )


class Aligner(nn.Module):
    """The text model and the structure encoder, trained side by side, and the scale of their contrast."""

    def __init__(self, text: TextAlignment, structure: StructureEncoder) -> None:
        super().__init__()
        self.text, self.structure = text, structure
        self.log_scale = nn.Parameter(torch.tensor(2.7))  # a temperature of 0.07, as CLIP starts with

    def forward(
        self, ids: Tensor, mask: Tensor, structure: Tensor
    ) -> tuple[TextAlignmentOutput, StructureEncoderOutput, Tensor]:
        """What texts (R, L) and structure maps (B, K, S, S) say, and the factor of the cosines."""
        return self.text(ids, mask), self.structure(structure), self.log_scale.exp().clamp(max=100)


class AlignStage:
    """See `train_lora.loop.Stage`."""

    def __init__(self, config: AlignConfig) -> None:
        self.config = config
        self.words = PreTrainedTokenizerFast.from_pretrained(config.words)
        self.source = PairSource(config.seed, config.rows, config.image_size, config.framing)
        self.held_out = PairSource(config.held_out_seed, 64, config.image_size, config.framing)
        torch.manual_seed(config.train.seed)  # the first weights
        text = make(TextAlignment, {"vocab_size": len(self.words)} | config.text)
        structure = make(StructureEncoder, {"image_size": config.image_size} | config.structure)
        self.players: dict[str, nn.Module] = {"aligner": Aligner(text, structure)}
        self.max_length = text.config["max_length"]

    def losses(self, batch: AlignBatch, step: Step) -> Iterator[tuple[str, Tensor, Mapping[str, float]]]:
        """Presence, level and contrast of two wordings, and of structure map and wording."""
        model = self.players["aligner"]
        device = next(model.parameters()).device
        parts = self._parts(model, batch, device)
        yield "aligner", torch.stack(list(parts.values())).sum(), {k: float(v.detach()) for k, v in parts.items()}

    def _parts(self, model: nn.Module, batch: AlignBatch, device: torch.device) -> dict[str, Tensor]:
        ids, mask = self._encode([*batch.ones, *batch.others], device)
        levels = batch.levels.to(device)
        both, seen, scale = model(ids, mask, batch.structure.to(device))
        first, second = _halves(both)
        config = self.config
        texts = alignment_losses(first, second, levels, scale)
        shown = levels[::GROUP]
        contrast = contrast_loss(seen.embedding, first.embedding[::GROUP].float(), same_scores(shown), scale)
        structure = config.presence_weight * presence_loss(seen.presence_logits.float(), shown)
        structure = structure + config.level_weight * level_loss(seen.levels, shown)
        place = F.smooth_l1_loss(seen.landmarks, batch.landmarks.to(device), beta=0.01)
        wanted = batch.motion.to(device) / MOTION_SCALE
        moved = F.smooth_l1_loss(seen.motion / MOTION_SCALE, wanted, beta=0.2)
        return {
            "presence": config.presence_weight * texts["presence"],
            "level": config.level_weight * texts["level"],
            "contrast": config.contrast_weight * texts["contrast"],
            "structure": config.structure_weight * structure,
            "structure_contrast": config.contrast_weight * contrast,
            "landmarks": config.landmark_weight * place,
            "motion": config.motion_weight * moved,
        }

    def _encode(self, texts: list[str], device: torch.device) -> tuple[Tensor, Tensor]:
        encoded = self.words(
            texts,
            padding=True,
            pad_to_multiple_of=32,
            truncation=True,
            max_length=self.max_length,
            return_tensors="pt",
        )
        return encoded["input_ids"].to(device), encoded["attention_mask"].to(device)

    def validate(self, model: Aligner) -> dict[str, float]:
        """On other scores: how exactly texts are read, and how often a structure map finds its own text."""
        device = next(model.parameters()).device
        batch = self.held_out.__getitems__(list(range(len(self.held_out))))
        ids, mask = self._encode(batch.ones, device)
        text, seen, _ = model(ids, mask, batch.structure.to(device))
        levels = batch.levels.to(device)
        present = levels >= PRESENT_FROM
        found = text.presence_logits > 0
        hit = (found & present).sum()
        cosine = seen.embedding @ text.embedding[::GROUP].T.float()
        return {
            "text_f1": float(2 * hit / (found.sum() + present.sum())),
            "text_level_error": float((text.levels - levels).abs()[present].mean()),
            "structure_to_text": float((cosine.argmax(1) == torch.arange(len(cosine), device=device)).float().mean()),
            "structure_f1": _f1(seen.presence_logits > 0, present[::GROUP]),
            "loss": float(torch.stack(list(self._parts(model, batch, device).values())).sum()),
        }

    def sheet(self, model: Aligner) -> None:
        """Texts have no picture."""

    def export(self, model: Aligner, folder: Path, report: Mapping[str, Any]) -> None:
        """``text``, ``structure`` and ``tokenizer``, each a folder that ``from_pretrained`` reads."""
        save_half(model.text, folder / "text")
        save_half(model.structure, folder / "structure")
        self.words.save_pretrained(folder / "tokenizer")


def _halves(out: TextAlignmentOutput) -> tuple[TextAlignmentOutput, TextAlignmentOutput]:
    halves = [{name: value.float().chunk(2)[side] for name, value in out.items()} for side in (0, 1)]
    return TextAlignmentOutput(**halves[0]), TextAlignmentOutput(**halves[1])


def _f1(found: Tensor, present: Tensor) -> float:
    return float(2 * (found & present).sum() / (found.sum() + present.sum()).clamp(min=1))

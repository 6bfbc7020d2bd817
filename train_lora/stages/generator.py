"""Stage "generator": text, structure map, identity and attributes to the codes of the face."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from auface_diffusers.anatomy import STRUCTURE_CHANNELS
from auface_diffusers.facs import AUSet
from auface_diffusers.facs.levels import MAX_LEVEL
from auface_diffusers.models.au_estimator import AUEstimator
from auface_diffusers.models.face_tokenizer import FaceTokenizer
from auface_diffusers.models.face_transformer import SOURCES, FaceTransformer
from auface_diffusers.models.structure_encoder import StructureEncoder
from auface_diffusers.models.text_alignment import TextAlignment
from auface_diffusers.schedulers import MaskedTokenScheduler
from train_lora.data.faces import FacesConfig
from train_lora.data.prepared import PreparedBatch, PreparedSource
from train_lora.data.wordings import wordings
from train_lora.loop import LoopConfig, Step
from train_lora.precision import settled
from train_lora.read_out import skin_aaad
from train_lora.stages.build import make
from train_lora.stages.sheets import rows
from train_lora.stages.tokenizer import save_half
from train_lora.together import shared

SHOWN = 16
SHEET_STEPS = 8
LEAST = 5
"""Held-out faces with and without a unit that its read-out needs; they are few."""
FEATURES = slice(17, 68)
"""iBUG points whose cells weigh more: brows, nose, eyes, mouth."""


@dataclass(frozen=True)
class GeneratorConfig:
    """A run of this stage.

    Attributes:
        tokenizer: folder of a trained `FaceTokenizer`.
        alignment: folder of the alignment stage: text model, its tokenizer, structure encoder.
        estimator: folder of an `AUEstimator` that training may use, for the read-out in validation; "" is none.
        model: arguments of `FaceTransformer`; what follows from the other models is filled in.
        drop: how often each source is left out, for guidance. drop_all: how often all are.
        feature_weight: how much more a cell at brows, eyes and mouth weighs.
        free_texts: share of texts in other words than the processor's.
        start: folder of a `FaceTransformer` whose weights are the first ones; "" draws them.
        cache: keep codes and structure maps beside the shards.
        leave_out: sources that are never given; aligned: start from the alignment stage, or else from chance;
            vector_text: the levels themselves in place of the text. For ablations: a pipeline expects none of them.
    """

    out: str
    train: LoopConfig
    data: FacesConfig
    held_out: FacesConfig
    tokenizer: str
    alignment: str
    estimator: str = ""
    model: dict[str, Any] = field(default_factory=dict)
    drop: float = 0.08
    drop_all: float = 0.04
    feature_weight: float = 2.0
    free_texts: float = 0.4
    start: str = ""
    cache: bool = True
    leave_out: tuple[str, ...] = ()
    aligned: bool = True
    vector_text: bool = False

    def __post_init__(self) -> None:
        unknown = set(self.leave_out) - set(SOURCES)
        if unknown:
            raise ValueError(f"leave_out {', '.join(sorted(unknown))}: sources are {', '.join(SOURCES)}")


def widened(model: FaceTransformer) -> FaceTransformer:
    """The model for structure maps of more channels than it was trained on: what is new counts for nothing yet."""
    had, wanted = model.config["structure_channels"], len(STRUCTURE_CHANNELS)
    if had == wanted:
        return model
    wide = FaceTransformer.from_config(model.config, structure_channels=wanted)
    state = model.state_dict()
    stem = state["structure.stem.weight"]
    state["structure.stem.weight"] = F.pad(stem, (0, 0, 0, 0, 0, wanted - had))
    wide.load_state_dict(state)
    return wide


class GeneratorStage:
    """See `train_lora.loop.Stage`."""

    player = "transformer"
    """What is trained."""
    map_channels: int
    """Of structure maps that it takes: the first ones."""
    trains_text = False
    """Whether gradients reach the text model."""

    def __init__(self, config: GeneratorConfig) -> None:
        self.config = config
        self.tokenizer = FaceTokenizer.from_pretrained(config.tokenizer).eval().requires_grad_(False)
        self.text = self._text_model().eval().requires_grad_(False)
        self.words = PreTrainedTokenizerFast.from_pretrained(f"{config.alignment}/tokenizer")
        self.source = self._open(config.data)
        self.held_out = self._open(config.held_out)
        torch.manual_seed(config.train.seed)  # the first weights
        model = self._model()
        self.map_channels = model.config["structure_channels"]
        self.players: dict[str, nn.Module] = {"transformer": model}
        self.scheduler = MaskedTokenScheduler(mask_token_id=self.tokenizer.codebook_size)
        self.estimator: AUEstimator | None = None
        if config.estimator:
            self.estimator = AUEstimator.from_pretrained(config.estimator).eval().requires_grad_(False)

    def _text_model(self) -> TextAlignment:
        trained = TextAlignment.from_pretrained(f"{self.config.alignment}/text")
        if self.config.aligned:
            return trained
        torch.manual_seed(self.config.train.seed)
        return TextAlignment.from_config(trained.config)

    def _open(self, faces: FacesConfig) -> PreparedSource:
        folder = Path(faces.shards) if self.config.cache and faces.shards else None
        return PreparedSource(faces.open(), self.tokenizer, folder, settled(self.config.train.precision) == "bf16")

    def _model(self) -> FaceTransformer:
        if self.config.start:
            return widened(FaceTransformer.from_pretrained(self.config.start).float())
        side, _, groups = self.tokenizer.code_shape
        given = {
            "codebook_size": self.tokenizer.codebook_size,
            "grid_size": side,
            "code_groups": groups,
            "image_size": self.tokenizer.config["image_size"],
            "text_dim": self.text.config["hidden_size"],
        }
        model = make(FaceTransformer, given | self.config.model)
        folder = Path(self.config.alignment) / "structure"
        if folder.exists() and self.config.aligned:
            model.structure.load_state_dict(StructureEncoder.from_pretrained(folder).extractor.float().state_dict())
        return model

    def losses(self, batch: PreparedBatch, step: Step) -> Iterator[tuple[str, Tensor, Mapping[str, float]]]:
        """Cross entropy of the codes that are masked."""
        model = self.players[self.player]
        device = next(model.parameters()).device
        self._to(device)
        generators = [torch.Generator().manual_seed(seed) for seed in step.seeds]
        draws = torch.stack([torch.rand(2 + len(SOURCES), generator=generator) for generator in generators])
        ratio = self.scheduler.mask_share(draws[:, 0])
        masked, where = self.scheduler.mask(batch.codes, ratio, generators)
        every = draws[:, 1] < self.config.drop_all
        never = self._left_out(batch.labels)
        dropped = {name: every | never[name] | (draws[:, 2 + i] < self.config.drop) for i, name in enumerate(SOURCES)}
        texts = [self._text(label, seed) for label, seed in zip(batch.labels, step.seeds, strict=True)]
        weight = 1 + self.config.feature_weight * self._cells(batch.landmarks)  # (B, N)
        batch = batch.to(device)
        logits = model(masked.to(device), **self._conditions(batch, texts), dropped=dropped)
        where = where.to(device)
        cost = F.cross_entropy(logits[where].float(), batch.codes[where], reduction="none")
        counted = weight.to(device)[where]
        loss = (cost * counted).sum() / counted.sum()
        hit = (logits[where].argmax(-1) == batch.codes[where]).float().mean()
        yield self.player, loss, {"accuracy": float(hit)}

    def _text(self, label: Mapping[str, Any], seed: int) -> str:
        """One of the many texts of a face: the processor's, or free words."""
        rng = random.Random(f"text {seed}")
        if rng.random() < self.config.free_texts:
            return wordings(rng, AUSet.parse(label["effective"]))
        return rng.choice([label["texts"]["anatomical"], *label["texts"]["varied"], label["texts"]["compact"]])

    def _cells(self, landmarks: Tensor) -> Tensor:
        """(B, N) in 0..1: how near each code is to brows, nose, eyes or mouth."""
        side, _, groups = self.tokenizer.code_shape
        grid = (torch.arange(side) + 0.5) / side
        points = landmarks[:, FEATURES].cpu()
        near = (grid[None, None, :, None] - points[..., 1, None, None]).square()
        near = near + (grid[None, None, None] - points[..., 0, None, None]).square()
        close = torch.exp(-near.amin(1) / (2 * 0.04**2))
        return close.flatten(1).repeat_interleave(groups, 1)

    def _conditions(self, batch: PreparedBatch, texts: Sequence[str]) -> dict[str, Tensor]:
        structure = batch.structure[:, : self.map_channels]
        given = {"structure": structure, "identity": batch.identity, "attributes": batch.attributes}
        if self.config.vector_text:
            vector = F.pad(batch.levels / MAX_LEVEL, (0, self.text.config["hidden_size"] - batch.levels.shape[1]))
            return given | {"text": vector[:, None], "text_mask": torch.ones_like(vector[:, :1]), "embedding": vector}
        encoded = self.words(
            list(texts),
            padding=True,
            pad_to_multiple_of=32,
            truncation=True,
            max_length=self.text.config["max_length"],
            return_tensors="pt",
        ).to(batch.codes.device)
        with torch.set_grad_enabled(self.trains_text and torch.is_grad_enabled()):
            read = self.text(encoded["input_ids"], encoded["attention_mask"])
        return given | {
            "text": read.hidden_states.float(),
            "text_mask": encoded["attention_mask"],
            "embedding": read.embedding.float(),
        }

    def _left_out(self, labels: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """By source, (B,) bool: what is never given, or not known of a face."""
        return {
            name: torch.tensor(
                [name in self.config.leave_out or name in label.get("unknown_sources", ()) for label in labels]
            )
            for name in SOURCES
        }

    def _to(self, device: torch.device) -> None:
        for model in (self.text, self.tokenizer):  # the text model may be there already: the loop moves what it trains
            if model.device != device:
                model.to(device)

    @torch.no_grad()
    def draw(self, model: FaceTransformer, batch: PreparedBatch, steps: int = SHEET_STEPS) -> Tensor:
        """Faces (B, 3, S, S) of a batch's conditions, without guidance; the same at every call."""
        device = next(model.parameters()).device
        self._to(device)
        batch = batch.to(device)
        conditions = self._conditions(batch, [label["texts"]["anatomical"] for label in batch.labels])
        codes = torch.full_like(batch.codes, self.tokenizer.codebook_size)
        generators = [torch.Generator().manual_seed(row) for row in range(len(codes))]
        self.scheduler.set_timesteps(steps)
        for timestep in self.scheduler.timesteps:  # not by encode_conditions: only `forward` gathers a model in shards
            logits = model(codes, **conditions, dropped=self._left_out(batch.labels))
            codes = self.scheduler.step(logits, timestep, codes, generators).prev_sample
        return self._paint(codes, batch)

    def _paint(self, codes: Tensor, batch: PreparedBatch) -> Tensor:
        """Codes (B, N) of a batch's faces as pictures (B, 3, S, S)."""
        dropped = self._left_out(batch.labels)["structure"]
        return self.tokenizer.decode(codes, batch.structure.to(codes.device), dropped.to(codes.device))

    def validate(self, model: FaceTransformer) -> dict[str, float]:
        """Loss with half the codes masked; and what the estimator reads from drawn faces, beside what was asked."""
        count = len(self.held_out)
        losses, read = zip(*shared(count, 32, lambda numbers: self._look(model, numbers)), strict=True)
        totals = {"loss": sum(losses) / count}
        if self.estimator is not None:
            asked, seen, real = (torch.cat(column) for column in zip(*read, strict=True))
            covered = self.estimator.covered.cpu()
            totals["alignment"] = skin_aaad(seen, asked, covered, LEAST)
            totals["alignment_of_real_codes"] = skin_aaad(real, asked, covered, LEAST)
        return totals

    def _look(self, model: FaceTransformer, numbers: Sequence[int]) -> tuple[float, tuple[Tensor, ...]]:
        """Of held-out faces: their loss, added up; and levels asked, presence in drawn faces and in real codes."""
        batch = self.held_out.__getitems__(list(numbers))
        generators = [torch.Generator().manual_seed(number) for number in numbers]
        masked, where = self.scheduler.mask(batch.codes, torch.full((len(numbers),), 0.5), generators)
        self._to(model.device)
        moved = batch.to(model.device)
        conditions = self._conditions(moved, [label["texts"]["anatomical"] for label in batch.labels])
        logits = model(masked.to(model.device), **conditions, dropped=self._left_out(batch.labels))
        loss = F.cross_entropy(logits[where.to(model.device)].float(), moved.codes[where.to(model.device)])
        if self.estimator is None:
            return float(loss) * len(numbers), ()
        self.estimator.to(model.device)
        seen = self.estimator(self.draw(model, batch)).presence.cpu()
        real = self.estimator(self._paint(moved.codes, moved)).presence.cpu()
        return float(loss) * len(numbers), (batch.levels, seen, real)

    def sheet(self, model: FaceTransformer) -> Tensor:
        """Held-out faces as the tokenizer paints them, above what the transformer draws from their conditions."""
        batch = self.held_out.__getitems__(list(range(SHOWN)))
        real = self._paint(batch.codes.to(model.device), batch)
        drawn = self.draw(model, batch)
        return rows([real[:8], drawn[:8], real[8:], drawn[8:]])

    def export(self, model: FaceTransformer, folder: Path, report: Mapping[str, Any]) -> None:
        """Weights and config as diffusers writes them, in fp16."""
        save_half(model, folder)

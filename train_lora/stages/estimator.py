"""Stage "estimator": faces to the presence and level of each action unit, calibrated at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auface_diffusers.anatomy import HeadModel
from auface_diffusers.facs.levels import MAX_LEVEL
from auface_diffusers.metrics.calibration import MIN_AUC, fit_calibration, gate
from auface_diffusers.metrics.evaluate import SIDE_GAP
from auface_diffusers.metrics.histogram import Histogram, area_under_curve, calibration_error
from auface_diffusers.models.au_estimator import AUEstimator
from auface_diffusers.models.face_tokenizer import FaceTokenizer
from auface_diffusers.models.point_head import MOTION_SCALE
from train_lora.data.augment import (
    added_roll,
    augment,
    mirror,
    mirror_index,
    mirror_motion,
    mirror_points,
    move_points,
)
from train_lora.data.faces import FaceBatch, FacesConfig
from train_lora.data.labels import Labels, labels_where_known
from train_lora.loop import LoopConfig, Step
from train_lora.stages.build import make
from train_lora.stages.sheets import rows
from train_lora.stages.tokenizer import save_half
from train_lora.together import alone, shared


@dataclass(frozen=True)
class EstimatorConfig:
    """A run of this stage.

    Attributes:
        model: arguments of `AUEstimator`.
        strength: of the augmentation, 0 is none.
        tokenizer: folder of a trained tokenizer; a share ``repainted`` of the faces goes through it, so that its
            handwriting is no news to the estimator.
        presence_weight, level_weight, landmark_weight, motion_weight: of the losses of presence (a mean over all
            channels, of which few are present), level, points, and how far these have moved.
        side_weight: of the loss that asks which side of a face shows more of a unit: few faces are one-sided, and
            without it both sides are read alike.
        start: folder of an `AUEstimator` whose weights are the first ones, in place of ``model``; "" draws them.
        calibration: faces with labels that fit the calibration; apart from ``data`` and ``held_out``.
    """

    out: str
    train: LoopConfig
    data: FacesConfig
    held_out: FacesConfig
    calibration: FacesConfig
    model: dict[str, Any] = field(default_factory=dict)
    strength: float = 1.0
    tokenizer: str = ""
    repainted: float = 0.25
    presence_weight: float = 5.0
    level_weight: float = 1.0
    landmark_weight: float = 20.0
    motion_weight: float = 1.0
    side_weight: float = 1.0
    start: str = ""


class EstimatorStage:
    """See `train_lora.loop.Stage`."""

    def __init__(self, config: EstimatorConfig) -> None:
        self.config = config
        self.source = config.data.open(pictures=True)
        self.held_out = config.held_out.open(pictures=True)
        torch.manual_seed(config.train.seed)  # the first weights
        model = AUEstimator.from_pretrained(config.start).float() if config.start else make(AUEstimator, config.model)
        self.channels = tuple(model.channels)
        self.players: dict[str, nn.Module] = {"estimator": model}
        self.head = HeadModel.from_default()
        self.turns = self.head.turns
        self.sides = side_pairs(self.channels)
        self.skin = (self.turns == 0).all(1).float()  # units that turn neither head nor eyes
        self.tokenizer: FaceTokenizer | None = None
        if config.tokenizer:
            tokenizer = FaceTokenizer.from_pretrained(config.tokenizer)
            self.tokenizer = tokenizer.eval().requires_grad_(False)

    def losses(self, batch: FaceBatch, step: Step) -> Iterator[tuple[str, Tensor, Mapping[str, float]]]:
        """Presence by cross entropy, level by its distance where the unit is there."""
        model = self.players["estimator"]
        device = next(model.parameters()).device
        images, labels, points, motion = self._prepare(batch.to(device), step.seeds)
        out = model(images)
        present, counts = labels.present.float(), labels.mask.float()
        # a unit that is there is rare among 96 channels: it weighs more
        cost = F.binary_cross_entropy_with_logits(
            out.presence_logits.float(), present, pos_weight=present.new_tensor(4.0), reduction="none"
        )
        presence = (cost * counts).sum() / counts.sum().clamp(min=1)
        near = F.smooth_l1_loss(out.level.float() / MAX_LEVEL, labels.levels / MAX_LEVEL, beta=0.1, reduction="none")
        level = (near * labels.graded).sum() / labels.graded.sum().clamp(min=1)
        place = _distance(out.landmarks, points, beta=0.01)
        parts = {"presence": self.config.presence_weight * presence, "level": self.config.level_weight * level}
        parts["landmarks"] = self.config.landmark_weight * place
        moved = _distance(out.motion / MOTION_SCALE, motion / MOTION_SCALE, beta=0.2)
        parts["motion"] = self.config.motion_weight * moved
        parts["sides"] = self.config.side_weight * self._side_loss(out.presence_logits.float(), labels)
        yield "estimator", torch.stack(list(parts.values())).sum(), {k: float(v.detach()) for k, v in parts.items()}

    def _side_loss(self, logits: Tensor, labels: Labels) -> Tensor:
        """Cross entropy of the side that shows more, of units whose sides differ (Bradley and Terry); 0 if none do."""
        ahead, differ = apart(logits, labels.levels, labels.mask | labels.graded, self.sides.to(logits.device))
        cost: Tensor = (F.softplus(-ahead) * differ).sum() / differ.sum().clamp(min=1)
        return cost

    def _prepare(self, batch: FaceBatch, seeds: tuple[int, ...]) -> tuple[Tensor, Labels, Tensor, Tensor]:
        """Changed pictures, half of them mirrored, what they show, their iBUG points, and how far these have moved."""
        images = self._repaint(batch.images, seeds) if self.tokenizer is not None else batch.images
        images = augment(images, seeds, self.config.strength)
        pose = batch.pose.nan_to_num()
        pose[:, 2] += added_roll(seeds, self.config.strength).to(pose)
        labels = labels_where_known(batch.levels, batch.scored, pose, batch.gaze, self.turns.to(pose))
        flip = torch.tensor([seed // 3 % 2 == 1 for seed in seeds], device=pose.device)
        mirrored, _ = mirror(images, labels.levels, self.channels)
        images = torch.where(flip[:, None, None, None], mirrored, images)
        swap = mirror_index(self.channels).to(pose.device)
        points = move_points(batch.landmarks, seeds, self.config.strength)
        points = torch.where(flip[:, None, None], mirror_points(points), points)
        labels = Labels(*(torch.where(flip[:, None], value[:, swap], value) for value in labels))
        motion = self._motion(batch)
        motion = torch.where(flip[:, None, None], mirror_motion(motion), motion)
        return images, labels, points, motion

    def _motion(self, batch: FaceBatch) -> Tensor:
        """(B, 68, 3) dm: the iBUG points of the expression against those at rest, head upright; NaN of pictures."""
        made = batch.identity.isfinite().all(1)
        motion = torch.full((*batch.landmarks.shape[:2], 3), torch.nan, device=made.device)
        if made.any():
            with torch.no_grad():
                identity, skin = batch.identity[made], batch.levels[made] * self.skin.to(batch.levels)
                self.head.to(batch.levels.device)
                motion[made] = self.head(identity, skin).landmarks68 - self.head(identity).landmarks68
        return motion

    def _repaint(self, images: Tensor, seeds: tuple[int, ...]) -> Tensor:
        assert self.tokenizer is not None
        chosen = [row for row, seed in enumerate(seeds) if (seed // 2) % 1000 < 1000 * self.config.repainted]
        if chosen:
            self.tokenizer.to(images.device)
            with torch.no_grad():
                painted = self.tokenizer(images[chosen]).image.float().clamp(0, 1)
            images = images.clone()
            images[chosen] = painted
        return images

    def _read(self, model: AUEstimator, source: Any, through: Callable[..., Any]) -> tuple[Tensor, Tensor, Labels]:
        """Presence logits, levels read, and what is true, of every face; ``through``: `alone` or `shared`."""

        def look(numbers: range) -> tuple[Tensor, ...]:
            batch = source.__getitems__(list(numbers))
            labels = labels_where_known(batch.levels, batch.scored, batch.pose, batch.gaze, self.turns.cpu())
            with torch.no_grad():
                out = model(batch.images.to(model.device))
            return out.presence_logits.float().cpu(), out.level.float().cpu(), *labels

        logits, read, *labels = (torch.cat(parts) for parts in zip(*through(len(source), 64, look), strict=True))
        return logits, read, Labels(*labels)

    def validate(self, model: AUEstimator) -> dict[str, float]:
        """AUC over the channels, error of the level of units that are present, and how often the side of a one-sided
        unit is read right.
        """
        logits, read, labels = self._read(model, self.held_out, shared)
        areas = area_under_curve(Histogram.of(labels.states(), torch.sigmoid(logits).numpy()))
        known = areas[~np.isnan(areas)]
        error = (read - labels.levels).abs()[labels.graded].mean()
        measured = {"level_error": float(error), "covered": float((known >= MIN_AUC).sum())}
        ahead, differ = apart(logits, labels.levels, labels.mask | labels.graded, self.sides)
        if differ.any():
            measured["sides"] = float((ahead[differ] > 0).float().mean())
        if len(known):  # too few faces tell nothing about any channel
            measured |= {"auc": float(known.mean()), "auc_10th": float(np.quantile(known, 0.1))}
        return measured

    def sheet(self, model: AUEstimator) -> Tensor:
        """What augmentation makes of eight faces."""
        batch = self.held_out.__getitems__(list(range(8)))
        return rows([batch.images, augment(batch.images, tuple(range(8)), self.config.strength)])

    def export(self, model: AUEstimator, folder: Path, report: Mapping[str, Any]) -> None:
        """Calibrate on faces of their own, and write weights and a table of the channels.

        Covered is what passes the gate of AAAD on these and on held-out faces, see `metrics.calibration.gate`.
        """
        model.eval()
        logits, _, labels = self._read(model, self.config.calibration.open(pictures=True), alone)
        fitted = fit_calibration(logits.numpy(), labels.states(), self.channels)
        blind = gate(fitted.apply(logits.numpy()), labels.states(), self.channels)
        logits, read, labels = self._read(model, self.held_out, alone)
        presence = fitted.apply(logits.numpy())
        blind |= gate(presence, labels.states(), self.channels)
        lines = [(float(x[0]), float(y[0])) if len(x) else (1.0, 0.0) for x, y in fitted.knots]  # unfitted: as it is
        scale, bias = torch.tensor(lines, dtype=torch.float32).unbind(1)
        model.set_calibration(scale, bias, covered=torch.tensor([name not in blind for name in self.channels]))
        save_half(model, folder)
        self._write_table(folder, blind, presence, read, labels)

    def _write_table(
        self, folder: Path, blind: Mapping[str, str], presence: np.ndarray, read: Tensor, labels: Labels
    ) -> None:
        """``channels.csv``: how well each channel is read on held-out faces."""
        counts = Histogram.of(labels.states(), presence)
        areas, errors = area_under_curve(counts), calibration_error(counts)
        lines = ["channel,positives,auc,ece,level_error,covered"]
        for column, name in enumerate(self.channels):
            there = labels.mask[:, column] & labels.present[:, column]
            off = float((read - labels.levels).abs()[labels.graded[:, column], column].mean())
            lines.append(
                f"{name},{int(there.sum())},{areas[column]:.4f},{errors[column]:.4f},{off:.3f},"
                f"{int(name not in blind)}"
            )
        (folder / "channels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def side_pairs(channels: Sequence[str]) -> Tensor:
    """Numbers (P, 2) of the left and the right channel of every unit that has two sides."""
    place = {name: number for number, name in enumerate(channels)}
    both = [(place[name], place[f"R{name[1:]}"]) for name in channels if name[0] == "L" and f"R{name[1:]}" in place]
    return torch.tensor(both, dtype=torch.long).reshape(-1, 2)


def apart(logits: Tensor, levels: Tensor, known: Tensor, sides: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the side that shows more of a unit is read as ahead (B, P), and where it matters (B, P) bool.

    Args:
        logits: (B, C) of presence. levels: (B, C) in 0..5. known: (B, C) bool, whether they are.
        sides: (P, 2), see `side_pairs`.
    """
    more = levels[:, sides[:, 0]] - levels[:, sides[:, 1]]
    ahead = (logits[:, sides[:, 0]] - logits[:, sides[:, 1]]) * more.sign()
    return ahead, known[:, sides].all(2) & (more.abs() >= SIDE_GAP)


def _distance(value: Tensor, target: Tensor, beta: float) -> Tensor:
    """Smooth L1 distance, a mean over what is known of ``target``; 0 if nothing is (NaN)."""
    known = target.isfinite()
    if known.all():
        return F.smooth_l1_loss(value, target, beta=beta)
    # of the value itself where there is no target, so that its gradient is 0 and not missing
    off = F.smooth_l1_loss(value, torch.where(known, target, value.detach()), beta=beta, reduction="sum")
    return off / known.sum().clamp(min=1)

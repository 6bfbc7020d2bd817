"""What each source is worth: the same generator, trained as long without it, and what is read from its faces.

``python -m train_lora ablate train_lora/configs/ablate.toml`` trains every row of `VARIANTS` (a run that was stopped
goes on) and writes ``ablations.json`` and ``ablations.md``. The measure is AAAD.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from auface_diffusers.models.au_estimator import AUEstimator
from auface_diffusers.models.face_transformer import FaceTransformer
from train_lora.config import load_config
from train_lora.data.faces import FacesConfig
from train_lora.loop import train
from train_lora.read_out import skin_aaad
from train_lora.stages.generator import GeneratorConfig, GeneratorStage

VARIANTS: dict[str, dict[str, Any]] = {
    "everything": {},
    "no structure map": {"leave_out": ("structure",)},
    "no text": {"leave_out": ("text",)},
    "no alignment stage": {"aligned": False},
    "levels in place of text": {"vector_text": True},
}
"""Rows of the table, and what of `GeneratorConfig` they change."""
GROUPS = {"all": (), "conflict": ("conflict",)}
"""Columns, and the kinds of score that belong there; none is all."""
BATCH = 32


@dataclasses.dataclass(frozen=True)
class AblateConfig:
    """What to compare.

    Attributes:
        out: folder of the runs and the table.
        generator: configuration of the generator's training. steps: of every run; its learning rate falls over these.
        estimator: folder of an `AUEstimator` that no training has used.
        held_out: faces whose conditions are drawn; labels as in `FacesConfig`.
        least: faces of either kind that a channel needs to count.
    """

    out: str
    generator: str
    steps: int
    estimator: str
    held_out: FacesConfig
    least: int = 20


def ablate(config: AblateConfig) -> dict[str, Any]:
    """Train and measure all variants; returns the table by variant and group.

    Raises:
        ValueError: a configuration that cannot be used.
    """
    full = load_config(GeneratorConfig, config.generator, [f"train.steps={config.steps}"])
    estimator = AUEstimator.from_pretrained(config.estimator).float().eval()
    table: dict[str, Any] = {}
    for name, changes in VARIANTS.items():
        folder = Path(config.out) / name.replace(" ", "-")
        one = dataclasses.replace(full, **changes, out=str(folder), held_out=config.held_out, estimator="")
        stage = GeneratorStage(one)
        description = {key: value for key, value in dataclasses.asdict(one).items() if key != "out"}
        if not train(stage, one.train, folder, description)["finished"]:
            raise ValueError(f"{name} was stopped: the same call goes on where it was")
        table[name] = measure(stage, FaceTransformer.from_pretrained(folder / "model").eval(), estimator, config.least)
    _write(Path(config.out), table, config.steps * full.train.batch_size)
    return table


@torch.no_grad()
def measure(
    stage: GeneratorStage, model: FaceTransformer, estimator: AUEstimator, least: int
) -> dict[str, float | None]:
    """AAAD of faces that ``model`` draws of the stage's held-out conditions, by `GROUPS`."""
    seen, levels, kinds = [], [], []
    for batch in _batches(stage):
        seen.append(estimator(stage.draw(model, batch).float().cpu().clamp(0, 1)).presence)
        levels.append(batch.levels)
        kinds += [label["kind"] for label in batch.labels]
    found = {}
    for group, members in GROUPS.items():
        rows = torch.tensor([not members or kind in members for kind in kinds])
        value = skin_aaad(torch.cat(seen)[rows], torch.cat(levels)[rows], estimator.covered, least)
        found[group] = None if math.isnan(value) else value
    return found


def _batches(stage: GeneratorStage) -> Iterator[Any]:
    for begin in range(0, len(stage.held_out), BATCH):
        yield stage.held_out.__getitems__(list(range(begin, min(begin + BATCH, len(stage.held_out)))))


def _write(out: Path, table: dict[str, Any], faces: int) -> None:
    (out / "ablations.json").write_text(json.dumps(table, indent=1), encoding="utf-8")
    lines = [f"Each trained on {faces} faces.", "", f"| trained with | {' | '.join(GROUPS)} |", "|---" * 3 + "|"]
    for name, row in table.items():
        cells = ["n/a" if value is None else f"{value:.3f}" for value in row.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    (out / "ablations.md").write_text("\n".join(lines) + "\n", encoding="utf-8")

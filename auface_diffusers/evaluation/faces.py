"""Faces for an evaluation: drawn by a generator, rendered exactly, and what a detector makes of rendered ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from auface_diffusers.anatomy import Appearance, Camera, HeadModel, render, sample_appearances
from auface_diffusers.facs import AUSet, resolve, units
from auface_diffusers.facs.units import ActionUnit, channel_name
from auface_diffusers.metrics.detectors import AUDetector
from auface_diffusers.metrics.levels import LEVELS, spearman
from auface_diffusers.metrics.suite import SuiteItem
from auface_diffusers.pipelines.output import to_output_type

NEUTRAL = 64
"""Neutral renders that leakage is compared with."""
NEUTRAL_PERSON, GATE_PERSON = 95_000_000, 96_000_000
GATE_RHO = 0.9
"""Rank correlation of level and mean presence that a column needs."""


@dataclass(frozen=True)
class Wanted:
    """One image to draw: image ``image`` of an item."""

    item: SuiteItem
    image: int

    @property
    def key(self) -> str:
        """Its name in the files."""
        return f"{self.item.id}-{self.image}"


def draw(pipe: Any, wanted: Sequence[Wanted], steps: int | None, guidance: float | None) -> Tensor:  # noqa: ANN401 - a VQAUFacePipeline, see run.py
    """Faces (B, 3, S, S) of a pipeline, each from its own seed; None takes the pipeline's settings."""
    people, looks = _people(wanted)
    drawn: Tensor = pipe(
        aus=[one.item.aus for one in wanted],
        identity=people,
        attributes=looks,
        seed=[one.item.seeds[one.image] for one in wanted],
        output_type="pt",
        num_inference_steps=steps,
        guidance_scale=guidance,
    ).images
    return drawn


def rendered(wanted: Sequence[Wanted], camera: Camera) -> Tensor:
    """The same people before the same camera with the same scores, as exact renders: (B, 3, S, S)."""
    people, looks = _people(wanted)
    return _render([resolve(one.item.aus).effective for one in wanted], people, looks, camera)


def _render(scores: Sequence[AUSet], people: list[int], looks: list[Appearance], camera: Camera) -> Tensor:
    head = HeadModel.from_default()
    with torch.no_grad():
        return render(head(people, scores), looks, camera, head.levels(scores)).image.clamp(0, 1)


def _people(wanted: Sequence[Wanted]) -> tuple[list[int], list[Appearance]]:
    people = [one.item.identities[one.image] for one in wanted]
    seeds = [one.item.seeds[one.image] for one in wanted]
    return people, [sample_appearances([who], seed, 1)[0] for who, seed in zip(people, seeds, strict=True)]


def pictures(images: Tensor) -> list[Image.Image]:
    """Images (B, 3, S, S) in [0, 1] as Pillow images."""
    found: list[Image.Image] = list(to_output_type(images, "pil"))
    return found


def dose_gate(detector: AUDetector, camera: Camera, people: int) -> dict[str, str]:
    """Columns whose mean presence does not rise with the level of their unit, alone on rendered faces, and why.

    Args:
        detector: who reads. camera: of the renders. people: on how many heads; 0 gates nothing.
    """
    if not people:
        return {}
    who = [GATE_PERSON + number for number in range(people)] * LEVELS
    looks = [sample_appearances([one], one, 1)[0] for one in who]
    dropped = {}
    for unit in units.values():
        own = [name for name in detector.coverage if name in _columns_of(unit)]
        if not own:
            continue
        sides = "LR" if unit.one_sided else ("",)
        for side in sides:
            scores = [AUSet({f"{side}{unit.code}": level}) for level in range(LEVELS) for _ in range(people)]
            faces = pictures(_render(scores, who, looks, camera))
            seen = detector(faces).presence.reshape(LEVELS, people, -1).mean(1)
            for name in own:
                if not side or name.startswith(side):
                    column = list(detector.columns).index(name)
                    rho = spearman(np.arange(float(LEVELS))[:, None], seen[:, [column]], least=2)[0]
                    if not rho >= GATE_RHO:  # NaN, nothing varies, is not
                        dropped[name] = f"presence does not rise with the level on renders (rho {rho:.2f})"
    return dropped


def _columns_of(unit: ActionUnit) -> set[str]:
    return {unit.code, *(channel_name(unit.code, part) for part in unit.part_names)}


def neutral_presence(detector: AUDetector, camera: Camera) -> np.ndarray:
    """Presence (M, C) on rendered neutral faces of people who are not in the suite."""
    people = [NEUTRAL_PERSON + number for number in range(NEUTRAL)]
    looks = [sample_appearances([who], who, 1)[0] for who in people]
    return detector(pictures(_render([AUSet()] * NEUTRAL, people, looks, camera))).presence

"""How well a generator does what it is asked: held-out scores, a second estimator, a ceiling and a control.

``python -m train_lora report train_lora/configs/report.toml`` writes ``report.json``, ``report.md`` and two sheets.
The measure is the balanced alignment of AAAD (our definition, v1): per channel, half the mean probability where a unit
was asked and half the mean of one minus it where it was not. A trace (A) is neither, see `train_lora.data.labels`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from auface_diffusers import VQAUFacePipeline
from auface_diffusers.anatomy import Camera, HeadModel, render, sample_appearances
from auface_diffusers.facs import AUSet, resolve, units
from auface_diffusers.models.au_estimator import AUEstimator
from train_lora.data.labels import clear
from train_lora.data.sample_aus import sample_aus
from train_lora.stages.sheets import rows

KINDS = ("single", "sided", "natural", "conflict")
LEAST = 20
"""Fewer images of either kind give a channel no value (aaad.md §3)."""
BATCH = 32
LEVEL_CODES = ("1", "2", "4", "5", "6", "7", "9", "10", "12", "14", "15", "16", "17", "18", "20", "25", "26", "27")
LEVEL_CODES += ("30", "33", "43")
PERMUTATIONS = 200
"""Shuffles of the control (aaad.md §6)."""


@dataclass(frozen=True)
class ReportConfig:
    """What to measure.

    Attributes:
        model: folder of a `VQAUFacePipeline`. estimator: of an `AUEstimator` that no training has used.
        sets: scores of each kind; singles come on top, each unit at B and D. images: of each score.
        steps, guidance: of the generator; 0 takes the pipeline's own.
        shards: folder of training faces, to check that none of the scores was trained on; "" does not check.
    """

    out: str
    model: str
    estimator: str
    sets: int = 110
    images: int = 4
    seed: int = 77
    steps: int = 0
    guidance: float = 0.0
    shards: str = ""


@dataclass(frozen=True)
class Spec:
    """One score to draw. ``kind``: one of `KINDS`."""

    kind: str
    aus: AUSet


def specs(config: ReportConfig) -> list[Spec]:
    """The held-out scores: combinations that training never draws, and single units at whole levels, which it does not
    draw either.
    """
    found = [
        Spec("single", AUSet({("L" if unit.one_sided else "") + unit.code: level}))
        for unit in units.values()
        if unit.still and unit.kind.startswith("action")
        for level in (2, 4)
    ]
    for kind in KINDS[1:]:
        rng = random.Random(f"{config.seed} {kind}")
        seen: set[str] = set()
        while len(seen) < config.sets:
            _, drawn = sample_aus(rng, {kind: 1.0}, evaluation=True)
            aus = drawn.round()
            if aus.format() not in seen and resolve(aus).effective.codes:
                seen.add(aus.format())
                found.append(Spec(kind, aus))
    return found


def report(config: ReportConfig) -> dict[str, Any]:
    """Draw, read and compare; write the report's files to ``config.out``.

    Raises:
        ValueError: a score that training has seen.
    """
    pipe = VQAUFacePipeline.from_pretrained(config.model)
    pipe.set_progress_bar_config(disable=True)
    estimator = AUEstimator.from_pretrained(config.estimator).float().eval()
    asked = specs(config)
    _check_leak(asked, config.shards)
    people = [90_000_000 + number for number in range(len(asked) * config.images)]
    sets = [spec.aus for spec in asked for _ in range(config.images)]
    drawn, real, seen, ceiling = [], [], [], []
    for images, true in _faces(pipe, config, sets, people):
        drawn.append(images)
        real.append(true)
        with torch.no_grad():
            seen.append(estimator(images))
            ceiling.append(estimator(true))
    presence, truth = torch.cat([s.presence for s in seen]), torch.cat([s.presence for s in ceiling])
    target = torch.tensor([resolve(aus).effective.vector() for aus in sets])
    kinds = [spec.kind for spec in asked for _ in range(config.images)]
    result = _compare(presence, truth, target, kinds, estimator.covered)
    result["levels"] = level_response(pipe, config, estimator)
    result |= {"images": len(sets), "sets": len(asked)}
    _write(Path(config.out), result, torch.cat(drawn), torch.cat(real), presence, target, sets, estimator.covered)
    return result


def _faces(
    pipe: VQAUFacePipeline, config: ReportConfig, sets: Sequence[AUSet], people: Sequence[int]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Drawn faces and rendered ones of the same scores, people and scenes, in batches."""
    head, size = HeadModel.from_default(), pipe.face_tokenizer.config["image_size"]
    camera = Camera.framed(pipe.config["framing"], size)
    options: dict[str, Any] = {}
    if config.steps:
        options["num_inference_steps"] = config.steps
    if config.guidance:
        options["guidance_scale"] = config.guidance
    for begin in range(0, len(sets), BATCH):
        some, who = list(sets[begin : begin + BATCH]), list(people[begin : begin + BATCH])
        looks = sample_appearances(who, config.seed, len(who))
        generators = [torch.Generator().manual_seed(config.seed + person) for person in who]
        images = pipe(
            aus=some, identity=who, attributes=looks, generator=generators, output_type="pt", **options
        ).images
        effective = [resolve(aus).effective for aus in some]
        mesh = head(who, effective)
        yield images, render(mesh, looks, camera, head.levels(effective)).image


def _compare(presence: Tensor, truth: Tensor, target: Tensor, kinds: Sequence[str], covered: Tensor) -> dict[str, Any]:
    """Alignment of all and of each kind: drawn, rendered (the ceiling), and shuffled (the control)."""
    usable = covered & skin_channels()
    on, counts = clear(target)
    result: dict[str, Any] = {}
    for kind in ("all", *KINDS):
        rows_ = torch.tensor([kind in ("all", one) for one in kinds])
        result[kind] = {
            "alignment": alignment(presence[rows_], on[rows_], counts[rows_], usable),
            "ceiling": alignment(truth[rows_], on[rows_], counts[rows_], usable),
        }
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(len(on), generator=generator) for _ in range(PERMUTATIONS)]
    shuffles = [alignment(presence, on[order], counts[order], usable) for order in orders]
    known = [value for value in shuffles if value is not None]
    result["all"]["shuffled"] = float(np.mean(known)) if known else None
    per_channel = channel_alignment(presence, on, counts, usable)
    top = channel_alignment(truth, on, counts, usable)
    result["channels"] = {
        name: {"alignment": round(float(a), 4), "ceiling": round(float(b), 4)}
        for name, a, b in zip(units.channels, per_channel, top, strict=True)
        if not a.isnan()
    }
    sided = [row for row, kind in enumerate(kinds) if kind == "sided"]
    result["sided_right"] = _sides(presence[sided], target[sided], usable)
    return result


def skin_channels() -> Tensor:
    """(C,) bool: the channels that skin shows, without head and gaze."""
    codes = [name.split(":")[0].lstrip("LR") for name in units.channels]
    return torch.tensor([units[code].kind.startswith("action") for code in codes])


def channel_alignment(presence: Tensor, on: Tensor, counts: Tensor, usable: Tensor, least: int = LEAST) -> Tensor:
    """Balanced alignment (C,) of presence (N, C) in [0, 1] with on (N, C) bool, where counts (N, C) bool; NaN where
    too few are on or off.
    """
    values = torch.full((presence.shape[1],), float("nan"))
    for column in usable.nonzero().flatten().tolist():
        there, absent = (on & counts)[:, column], (~on & counts)[:, column]
        if min(int(there.sum()), int(absent.sum())) >= least:
            values[column] = (presence[there, column].mean() + (1 - presence[absent, column]).mean()) / 2
    return values


def alignment(presence: Tensor, on: Tensor, counts: Tensor, usable: Tensor, least: int = LEAST) -> float | None:
    """The mean of `channel_alignment` over the channels that have a value; None if none has."""
    values = channel_alignment(presence, on, counts, usable, least)
    return None if values.isnan().all() else float(values.nanmean())


def _sides(presence: Tensor, target: Tensor, usable: Tensor) -> float | None:
    """How often the stronger side of a sided unit is the one that reads stronger; None without any."""
    right = total = 0
    for column, name in enumerate(units.channels):
        if name[0] != "L" or "R" + name[1:] not in units.channels:
            continue
        other = units.channels.index("R" + name[1:])
        apart = (target[:, column] - target[:, other]).abs() >= 1.5
        if usable[column] and usable[other]:
            said = (target[apart, column] - target[apart, other]).sign()
            read = (presence[apart, column] - presence[apart, other]).sign()
            right, total = right + int((said == read).sum()), total + int(apart.sum())
    return right / total if total else None


def level_response(pipe: VQAUFacePipeline, config: ReportConfig, estimator: AUEstimator) -> dict[str, float]:
    """Spearman's rank correlation of the level asked (0, A .. E) and the level read, for single units."""
    channel = {name: index for index, name in enumerate(units.channels)}
    found = {}
    for code in LEVEL_CODES:
        name = next(n for n in (code, f"L{code}", f"{code}:T") if n in channel)
        unit = ("L" if units[code].one_sided else "") + code
        sets = [AUSet({unit: level}) for level in range(6) for _ in range(config.images)]
        people = [80_000_000 + i for _ in range(6) for i in range(config.images)]
        with torch.no_grad():
            read = torch.cat([_weighted(estimator, images) for images, _ in _faces(pipe, config, sets, people)])
        asked = np.repeat(np.arange(6), config.images)
        found[code] = round(_spearman(asked, read[:, channel[name]].numpy()), 4)
    return found


def _weighted(estimator: AUEstimator, images: Tensor) -> Tensor:
    seen = estimator(images)
    return seen.presence * seen.level


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    def ranks(values: np.ndarray) -> np.ndarray:
        order = np.unique(values, return_inverse=True, return_counts=True)
        ends = np.cumsum(order[2])
        return (ends - (order[2] - 1) / 2)[order[1]]

    return float(np.corrcoef(ranks(a), ranks(b))[0, 1]) if len(np.unique(b)) > 1 else 0.0


def _check_leak(asked: Sequence[Spec], shards: str) -> None:
    if not shards:
        return
    from train_lora.data.shards import read_shard

    trained = {
        json.loads(sample["json"])["aus"]
        for path in sorted(Path(shards).glob("*.tar"))
        for _, sample in read_shard(path)
    }
    seen = [spec.aus.format() for spec in asked if spec.aus.format() in trained]
    if seen:
        raise ValueError(f"{len(seen)} scores were trained on, such as {seen[0]}: choose another seed")


def _write(
    out: Path,
    result: dict[str, Any],
    drawn: Tensor,
    real: Tensor,
    presence: Tensor,
    target: Tensor,
    sets: Sequence[AUSet],
    covered: Tensor,
) -> None:
    """The report as JSON and Markdown, 64 samples, and the 16 worst beside what a render shows."""
    out.mkdir(parents=True, exist_ok=True)
    on, counts = clear(target)
    usable = covered & skin_channels()
    hit = torch.where(on, presence, 1 - presence)[:, usable]
    weight = (torch.where(on, 1.0, 0.05) * counts)[:, usable]  # what was asked for counts most
    score = (hit * weight).sum(1) / weight.sum(1)
    step = max(1, len(drawn) // 64)
    some = drawn[::step][:64]
    _save(rows(list(some.split(8))), out / "samples.png")
    worst = score.argsort()[:16]
    _save(rows([drawn[worst[:8]], real[worst[:8]], drawn[worst[8:]], real[worst[8:]]]), out / "worst.png")
    result["samples"] = [sets[i].format() for i in range(0, len(sets), step)][:64]
    result["worst"] = [{"aus": sets[i].format(), "score": round(float(score[i]), 3)} for i in worst.tolist()]
    (out / "report.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    lines = ["| scores | alignment | ceiling (renders) |", "|---|---|---|"]
    lines += [f"| {k} | {_said(result[k]['alignment'])} | {_said(result[k]['ceiling'])} |" for k in ("all", *KINDS)]
    lines += [f"| all, shuffled | {_said(result['all']['shuffled'])} | |", ""]
    ranked = sum(value >= 0.8 for value in result["levels"].values())
    lines += [f"Level response: Spearman >= 0.8 for {ranked} of {len(result['levels'])} units.", ""]
    lines += [f"Share of sided units whose stronger side reads stronger: {_said(result['sided_right'])}.", ""]
    (out / "report.md").write_text("\n".join(lines), encoding="utf-8")


def _said(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _save(image: Tensor, path: Path) -> None:
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(path)

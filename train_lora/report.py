"""How well a generator does what it is asked: the standard suite, a second estimator, a ceiling, controls and levels.

``python -m train_lora report train_lora/configs/report.toml`` writes what `auface evaluate` writes, and ``report.md``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from auface_diffusers import VQAUFacePipeline
from auface_diffusers.cli_models import model_hash
from auface_diffusers.evaluation import EvaluationConfig, evaluate_model
from auface_diffusers.evaluation.faces import Wanted, draw, pictures
from auface_diffusers.evaluation.run import BATCH
from auface_diffusers.face_file import write_whole
from auface_diffusers.facs import AUSet, units
from auface_diffusers.metrics.detectors import AUDetector, load_detector
from auface_diffusers.metrics.levels import spearman
from auface_diffusers.metrics.suite import Suite, SuiteItem, load_suite

LEVEL_CODES = ("1", "2", "4", "5", "6", "7", "9", "10", "12", "14", "15", "16", "17", "18", "20", "25", "26", "27")
LEVEL_CODES += ("30", "33", "43")
LEVEL_PERSON = 80_000_000
PEOPLE = 4
"""People who show each level of each unit."""


@dataclass(frozen=True)
class ReportConfig:
    """What to measure.

    Attributes:
        model: folder of a `VQAUFacePipeline`. estimator: of an `AUEstimator` that no training has used.
        suite: name or file, see `auface_diffusers.metrics.suite`. images: of each score, 0 is all of the suite.
        steps, guidance: of the generator; 0 takes the pipeline's own.
        gate: people of `evaluation.dose_gate`.
        shards: folder of training faces, to check that none of the scores was trained on; "" does not check.
    """

    out: str
    model: str
    estimator: str
    suite: str = "standard"
    images: int = 0
    steps: int = 0
    guidance: float = 0.0
    gate: int = 4
    shards: str = ""


def report(config: ReportConfig) -> dict[str, Any]:
    """Draw, read and compare; write the report's files to ``config.out``.

    Raises:
        ValueError: a score that training has seen, or ``out`` holds the run of another model.
    """
    pipe = VQAUFacePipeline.from_pretrained(config.model)
    pipe.set_progress_bar_config(disable=True)
    suite, detector, out = load_suite(config.suite), load_detector(config.estimator), Path(config.out)
    _check_leak(suite, config.shards)
    how = EvaluationConfig(config.steps or None, config.guidance or None, config.images, gate=config.gate)
    result = evaluate_model(pipe, model_hash(Path(config.model)), suite, detector, out, how)
    result["level_response"] = level_response(pipe, detector, how)
    write_whole(out / "report.json", json.dumps(result, indent=1, allow_nan=False).encode())
    write_whole(out / "report.md", _page(result).encode())
    return result


def level_response(pipe: VQAUFacePipeline, detector: AUDetector, how: EvaluationConfig) -> dict[str, float | None]:
    """Spearman's rank correlation of the level asked for (0, A .. E) and what is read, probability times level, for
    single units; None where nothing varies.
    """
    found = {}
    for code in LEVEL_CODES:
        name = next(n for n in (code, f"L{code}", f"{code}:T") if n in detector.columns)
        unit = ("L" if units[code].one_sided else "") + code
        wanted = [
            Wanted(
                SuiteItem(f"{code}-{level}", "level", AUSet({unit: level}), (LEVEL_PERSON + who,), (who,), False), 0
            )
            for level in range(6)
            for who in range(PEOPLE)
        ]
        read = []
        for begin in range(0, len(wanted), BATCH):
            seen = detector(pictures(draw(pipe, wanted[begin : begin + BATCH], how.steps, how.guidance)))
            level = np.ones_like(seen.presence) if seen.level is None else seen.level
            read.append((seen.presence * level)[:, detector.columns.index(name)])
        asked = np.repeat(np.arange(6.0), PEOPLE)[:, None]
        rank = float(spearman(asked, np.concatenate(read)[:, None], least=2)[0])
        found[code] = None if np.isnan(rank) else round(rank, 4)
    return found


def _check_leak(suite: Suite, shards: str) -> None:
    if not shards:
        return
    from train_lora.data.shards import read_shard

    trained = {
        json.loads(sample["json"])["aus"]
        for path in sorted(Path(shards).glob("*.tar"))
        for _, sample in read_shard(path)
    }
    seen = [item.aus.format() for item in suite.items if item.aus.format() in trained]
    if seen:
        raise ValueError(f"{len(seen)} scores were trained on, such as {seen[0]}: choose another suite")


def _page(result: dict[str, Any]) -> str:
    """The report as Markdown, for a model card."""
    control, levels = result["shuffled"], result["level_response"]
    lines = ["| scores | items | AAAD | ceiling (renders) |", "|---|---|---|---|"]
    rows: Sequence[tuple[str, dict[str, Any]]] = [("all", result), *result["kinds"].items()]
    lines += [f"| {k} | {v['n_items']} | {_said(v['aaad'])} | {_said(v['ceiling'])} |" for k, v in rows]
    conflict = result["conflict"]
    if conflict:
        lines.append(f"| rules S or F | {conflict['n']} | {_said(conflict['res'])} | {_said(conflict['ceiling'])} |")
    lines += [f"| all, shuffled | {control['items']} | {_said(control['mean'])} | |", ""]
    lines += [f"95 % interval of all: {_said(result['ci'][0])} to {_said(result['ci'][1])}; "]
    lines[-1] += f"of the way from chance to the ceiling: {_said(result['rel'])}; mean AUC {_said(result['auc'])}."
    if conflict:
        lines += ["", f"Matched scores without a conflict: {_said(conflict['control'])}."]
    ranked = sum(value is not None and value >= 0.8 for value in levels.values())
    lines += ["", f"Level response: Spearman >= 0.8 for {ranked} of {len(levels)} units."]
    if result["sides"]:
        lines += ["", f"Share of one-sided units whose side reads stronger: {_said(result['sides']['right'])}."]
    return "\n".join(lines) + "\n"


def _said(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"

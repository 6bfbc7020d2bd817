"""What an adapter does to AAAD: the same scores with the base and with the adapter, and the difference."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from auface_diffusers import VQAUFacePipeline
from auface_diffusers.cli_models import model_hash
from auface_diffusers.evaluation import EvaluationConfig, compare_runs, evaluate_model
from auface_diffusers.metrics.detectors import load_detector
from auface_diffusers.metrics.suite import Suite, load_suite
from auface_diffusers.pipelines.base import DEFAULT_WEIGHTS

LEAST = 8
"""Scores with and without a unit that its column needs: a part of the suite has few."""


def before_after(
    pipe: VQAUFacePipeline, base: str, adapter: Path, out: Path, scores: int
) -> tuple[dict[str, Any], str]:
    """Draw, read and compare; goes on where it was after a kill.

    Args:
        pipe: with the adapter that is on. base: its folder, "" is the embedded one. adapter: the adapter's file.
        out: gets the folders ``report/base`` and ``report/adapter``, as `auface evaluate` writes them.
        scores: of the standard suite, at even distances; its size or more is all.

    Returns:
        The comparison as plain values, and a table in Markdown.
    """
    suite = _part(load_suite("standard"), scores)
    folder = Path(base) if base else DEFAULT_WEIGHTS
    beside = folder.resolve().parent / "evaluation_estimator"
    detector = load_detector(str(beside) if beside.is_dir() else "auface")
    how = EvaluationConfig(images=1, ceiling=False, gate=0, resamplings=200, permutations=0, least=LEAST)
    trained = f"{model_hash(folder)}+{hashlib.sha256(adapter.read_bytes()).hexdigest()[:16]}"
    runs = {"base": model_hash(folder), "adapter": trained}
    for name, model in runs.items():
        if name == "base":
            pipe.disable_lora()
        try:
            evaluate_model(pipe, model, suite, detector, out / "report" / name, how)
        finally:
            pipe.enable_lora()
    found, _ = compare_runs(out / "report" / "base", out / "report" / "adapter", least=LEAST)
    for name in runs:
        text = (out / "report" / name / "report.json").read_text(encoding="utf-8")
        found[f"aaad_{name}"] = json.loads(text)["aaad"]
    for name in ("difference", "p", "interval"):  # too few scores tell nothing
        value = found[name]
        found[name] = [_known(one) for one in value] if isinstance(value, list | tuple) else _known(value)
    return found, _table(found)


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _said(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4f}"


def _part(suite: Suite, scores: int) -> Suite:
    count = min(scores, len(suite.items))
    return replace(suite, items=tuple(suite.items[n * len(suite.items) // count] for n in range(count)))


def _table(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    lines = ["## AAAD before and after", "", "| | AAAD |", "|---|---|"]
    lines += [f"| {name} | {_said(found[f'aaad_{name}'])} |" for name in ("base", "adapter")]
    lines += ["", f"{found['items']} scores of the standard suite, one face each, read by the evaluation estimator."]
    lines += [
        f"The adapter's is lower by {_said(found['difference'])} (95 % interval {_said(low)} to {_said(high)}, over"
    ]
    lines += [f"the {len(found['columns'])} channels that both have; below 0 it is higher)."]
    return "\n".join(lines)

"""Subcommands of ``auface`` that score faces: ``score``, ``evaluate`` and ``compare``. Each returns what it did."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from auface_diffusers.cli_models import load_pipeline, model_hash, plain_errors

Table = tuple[Sequence[str], Sequence[tuple[str, ...]]]
"""Titles and rows."""
SHOWN_UNITS = 12
"""Rows of the table of units at most."""


def add_parsers(commands: Any) -> None:  # noqa: ANN401 - argparse's class for this is private
    """Add the subcommands to the parser of ``auface``; ``make`` is the function that does one."""
    score = commands.add_parser("score", help="do pictures of faces show what was asked for?")
    score.add_argument("images", nargs="*", type=Path, help="pictures; those that auface drew say what they show")
    score.add_argument("--aus", metavar="CODES", help="the score that all pictures are asked for")
    score.add_argument("--text", help="the text that all pictures are asked for")
    score.add_argument("--manifest", type=Path, metavar="M.jsonl", help="a JSON line a picture: image, aus or text")
    score.add_argument(
        "--world",
        choices=("closed", "open"),
        help="open: unnamed units do not count (the default for texts)",
    )
    score.add_argument("--ceiling", action="store_true", help="also score exact renders of the same scores")
    _add_detector(score)
    score.add_argument("-o", "--output", type=Path, metavar="OUT.json", help="write the whole report")
    score.set_defaults(make=score_command)

    evaluate = commands.add_parser("evaluate", help="draw a suite of scores with a model, and score its faces")
    evaluate.add_argument("model", nargs="?", type=Path, help="a saved pipeline (default: the embedded one)")
    evaluate.add_argument("--suite", default="standard", help="standard, or a JSONL file")
    evaluate.add_argument("--images", type=int, default=0, help="of each score (default: as many as the suite has)")
    evaluate.add_argument("--steps", type=int, help="calls of the transformer (default: the model's)")
    evaluate.add_argument("--guidance", type=float, help="how much the score counts (default: the model's)")
    evaluate.add_argument("--gate", type=int, default=4, help="people who show that units can be read (0: nobody)")
    evaluate.add_argument("--no-ceiling", action="store_true", help="leave out the same scores as exact renders")
    evaluate.add_argument("--attention", default="auto", help="auto, native, xformers, ...")
    _add_detector(evaluate)
    evaluate.add_argument("-o", "--output", type=Path, default=Path("evaluation"), metavar="FOLDER")
    evaluate.set_defaults(make=evaluate_command)

    compare = commands.add_parser("compare", help="which of two evaluated models is better, and is it chance?")
    compare.add_argument("first", type=Path, help="folder of auface evaluate")
    compare.add_argument("second", type=Path, help="folder of auface evaluate")
    compare.add_argument("--least", type=int, default=20, help="items of either kind that a unit needs (default 20)")
    compare.set_defaults(make=compare_command)


def _add_detector(command: argparse.ArgumentParser) -> None:
    command.add_argument("--detector", default="auface", help="auface (default), or see the README for others")
    command.add_argument("--detector-weights", type=Path, metavar="PATH", help="folder or file of a tool's weights")
    command.add_argument("--photos", action="store_true", help="find and crop the face first; needs auface[photos]")
    command.add_argument("--least", type=int, default=20, help="items of either kind that a unit needs (default 20)")
    command.add_argument("--resamplings", type=int, default=2000, help="of the intervals (default 2000)")


def score_command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Score pictures."""
    from auface_diffusers.evaluation import entries, manifest, score_files

    if bool(arguments.images) == (arguments.manifest is not None):
        raise ValueError("give pictures, or --manifest with a JSONL file")
    if arguments.manifest is not None and (arguments.aus or arguments.text):
        raise ValueError("--manifest says what is asked for: leave out --aus and --text")
    asked = (
        manifest(arguments.manifest)
        if arguments.manifest
        else entries(arguments.images, arguments.aus, arguments.text)
    )
    detector = _detector(arguments)
    with plain_errors():
        scored = score_files(
            asked,
            detector,
            world=arguments.world or _world(asked),
            least=arguments.least,
            resamplings=arguments.resamplings,
            ceiling=arguments.ceiling,
        )
    if arguments.output:
        _write_json(arguments.output, {"faces": scored.rows, **scored.report})
    faces = [
        (
            Path(row["image"]).name,
            row["asked"],
            _said(row["units"]) or row["why"] or "-",
            _said(row["besides"]) or "-",
            _number(row["fit"]),
        )
        for row in scored.rows
    ]
    tables: list[Table] = [(("face", "asked", "how likely it is seen", "seen besides", "fit"), faces)]
    if scored.report["aaad"] is not None:
        tables.append(_summary(scored.report))
    return {"outputs": [], "faces": scored.rows, "report": scored.report, "tables": tables}


def evaluate_command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Evaluate a generator."""
    from auface_diffusers.evaluation import EvaluationConfig, evaluate_model
    from auface_diffusers.evaluation.page import write_html
    from auface_diffusers.metrics.suite import load_suite
    from auface_diffusers.models.au_estimator import WEIGHTS

    suite, detector = load_suite(arguments.suite), _detector(arguments)
    config = EvaluationConfig(
        steps=arguments.steps,
        guidance=arguments.guidance,
        images=arguments.images,
        ceiling=not arguments.no_ceiling,
        gate=arguments.gate,
        resamplings=arguments.resamplings,
        least=arguments.least,
    )
    with plain_errors():
        pipe = load_pipeline(arguments.model, arguments.attention)
        pipe.set_progress_bar_config(disable=True)
        name = model_hash(arguments.model or WEIGHTS / "default")
        with _progress(f"evaluating {suite.name}") as show:
            report = evaluate_model(pipe, name, suite, detector, arguments.output, config, show)
    pages = write_html(report, arguments.output)
    kinds = [
        (kind, str(one["n_items"]), _number(one["aaad"]), _number(one["ceiling"]))
        for kind, one in report["kinds"].items()
    ]
    tables = [_summary(report), (("kind", "items", "AAAD", "ceiling"), kinds)]
    return {"outputs": [str(page) for page in pages], "report": report, "tables": tables}


def compare_command(arguments: argparse.Namespace) -> dict[str, Any]:
    """Compare two evaluations."""
    from auface_diffusers.evaluation import compare_runs

    done, one = compare_runs(arguments.first, arguments.second, arguments.least)
    units = sorted(zip(one.columns, one.per_column, one.intervals, one.p_values, strict=True), key=lambda row: row[3])
    rows = [("all", _signed(one.difference), _span(one.interval), _number(one.p))]
    rows += [(name, _signed(d), _span(ci), _number(p)) for name, d, ci, p in units[:SHOWN_UNITS]]
    return {"outputs": [], "comparison": done, "tables": [(("unit", "first - second", "95 %", "p (Holm)"), rows)]}


def _world(asked: Sequence[Any]) -> Literal["closed", "open"]:
    """Who writes a text does not name all that is absent; a score does."""
    return "open" if any(one.text is not None for one in asked) else "closed"


def _detector(arguments: argparse.Namespace) -> Any:  # noqa: ANN401 - an AUDetector
    from auface_diffusers.metrics.detectors import DetectorError, load_detector

    try:
        return load_detector(arguments.detector, photos=arguments.photos, weights=arguments.detector_weights)
    except DetectorError as error:
        raise ValueError(str(error)) from None


def _progress(title: str) -> Any:  # noqa: ANN401 - a context of a function (done, all)
    """A bar on terminals."""
    import contextlib

    from rich.console import Console
    from rich.progress import Progress

    @contextlib.contextmanager
    def shown() -> Any:  # noqa: ANN401 - a generator
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
            task = bar.add_task(title)
            yield lambda done, total: bar.update(task, completed=done, total=total)

    return shown()


def _summary(report: dict[str, Any]) -> Table:
    """AAAD and what it has to be seen beside."""
    shuffled = report["shuffled"]
    rows = [
        ("AAAD (ours, v1)", _number(report["aaad"]), f"95 %: {_span(report['ci'])}"),
        ("chance", _number(report["chance"]), f"{report['fail_rate']:.1%} of the pictures without one face"),
        ("shuffled texts", _number(shuffled["mean"]), f"sd {_number(shuffled['sd'])}, p {_number(shuffled['p'])}"),
        ("ceiling: exact renders", _number(report["ceiling"]), f"of the way there: {_number(report['rel'])}"),
        ("mean AUC", _number(report["auc"]), f"{len(report['au_list'])} units, {report['n_items']} items"),
    ]
    if report["conflict"]:
        one = report["conflict"]
        rows.append(
            ("conflicting units", _number(one["res"]), f"{one['n']} items; matched control {_number(one['control'])}")
        )
    return ("", "value", ""), rows


def _write_json(path: Path, values: dict[str, Any]) -> None:
    from auface_diffusers.face_file import write_whole

    write_whole(path, json.dumps(values, indent=1, allow_nan=False).encode())


def _said(units: dict[str, float]) -> str:
    return " ".join(f"{name} {p:.0%}" for name, p in units.items())


def _number(value: float | None) -> str:
    return "n/a" if value is None or value != value else f"{value:.3f}"


def _signed(value: float) -> str:
    return f"{value:+.3f}"


def _span(ends: Sequence[float | None]) -> str:
    return f"{_number(ends[0])} to {_number(ends[1])}"

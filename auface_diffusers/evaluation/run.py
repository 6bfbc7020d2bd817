"""A generator before a suite: draw, read, score. A run that was stopped goes on where it was.

The folder of a run holds ``run.json`` (what it is), ``drawn.jsonl`` and ``rendered.jsonl`` (what the detector saw in
each image; the second is the ceiling), ``samples.png`` and ``worst.png``, and ``report.json``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from auface_diffusers.anatomy import Camera
from auface_diffusers.evaluation.faces import Wanted, dose_gate, draw, neutral_presence, pictures, rendered
from auface_diffusers.metrics.compare import Comparison, compare
from auface_diffusers.metrics.detectors import AUDetector, Detections
from auface_diffusers.metrics.evaluate import ScoredFaces, Setting, evaluate
from auface_diffusers.metrics.suite import Suite, SuiteItem, load_suite
from auface_diffusers.metrics.tally import overlap
from auface_diffusers.metrics.targets import ON, Targets, spec_targets

BATCH = 32
SAMPLES, WORST, ACROSS = 64, 16, 8
RUN, DRAWN, RENDERED, REPORT = "run.json", "drawn.jsonl", "rendered.jsonl", "report.json"
Show = Callable[[int, int], None]


@dataclass(frozen=True)
class EvaluationConfig:
    """How a generator is evaluated.

    Attributes:
        steps: of the generator; None takes the pipeline's. guidance: the same.
        images: of each item, at most as many as the suite has; 0 is all. ceiling: render the same scores as well.
        gate: people on whom every unit has to read stronger the stronger it is rendered, or else it is left out of the
            headline (property 17 of the definition); 0 leaves nothing out.
        resamplings, permutations, least: see `Setting`.
    """

    steps: int | None = None
    guidance: float | None = None
    images: int = 0
    ceiling: bool = True
    gate: int = 4
    resamplings: int = 2000
    permutations: int = 200
    least: int = 20


@dataclass
class Seen:
    """What a detector saw, by `Wanted.key`."""

    presence: dict[str, list[float]] = field(default_factory=dict)
    level: dict[str, list[float] | None] = field(default_factory=dict)
    found: dict[str, bool] = field(default_factory=dict)


def evaluate_model(
    pipe: Any,  # noqa: ANN401 - a VQAUFacePipeline; its type would make this module slow to import
    model_hash: str,
    suite: Suite,
    detector: AUDetector,
    out: Path,
    config: EvaluationConfig | None = None,
    show: Show | None = None,
) -> dict[str, Any]:
    """Draw a suite's faces, read them, score them and write the report.

    Args:
        pipe: the generator. model_hash: its name in the report. suite: what to draw. detector: who reads.
        out: folder of the run. show: called with (images done, all images).

    Returns:
        The report, see `metrics.evaluate.evaluate`.

    Raises:
        ValueError: ``out`` holds a run with other settings.
    """
    config = config or EvaluationConfig()
    out.mkdir(parents=True, exist_ok=True)
    _claim(out, config, model_hash, suite, detector)
    wanted = [Wanted(item, image) for item in suite.items for image in range(_count(item, config))]
    total = len(wanted) * (2 if config.ceiling else 1)
    done = 0

    def tell(count: int) -> None:
        nonlocal done
        done += count
        if show:
            show(done, total)

    drawn = _look(out / DRAWN, wanted, detector, lambda some: draw(pipe, some, config.steps, config.guidance), tell)
    camera = Camera.framed(pipe.config["framing"], pipe.face_tokenizer.config["image_size"])
    real = None
    if config.ceiling:
        real = _look(out / RENDERED, wanted, detector, lambda some: rendered(some, camera), tell)
    report = _report(suite, wanted, drawn, real, detector, camera, config)
    report |= {"model": model_hash, "suite": {"name": suite.path, "hash": suite.hash}, "config": asdict(config)}
    report |= {"columns": list(detector.columns), "coverage": list(detector.coverage)}
    _sheets(out, pipe, wanted, drawn, detector, config, camera)
    (out / REPORT).write_text(json.dumps(report, indent=1, allow_nan=False), encoding="utf-8")
    return report


def _count(item: SuiteItem, config: EvaluationConfig) -> int:
    return min(config.images or len(item.seeds), len(item.seeds))


def _claim(out: Path, config: EvaluationConfig, model: str, suite: Suite, detector: AUDetector) -> None:
    """Write what the folder's images are, or check that it is the same."""
    drawing = {"steps": config.steps, "guidance": config.guidance}
    run = {"model": model, "suite": suite.hash, "detector": [detector.name, detector.hash], **drawing}
    path = out / RUN
    if not path.exists():
        path.write_text(json.dumps(run, indent=1), encoding="utf-8")
    elif json.loads(path.read_text(encoding="utf-8")) != run:
        raise ValueError(f"{out} holds the run of another model, suite, detector or setting: name another folder")


def _look(
    path: Path,
    wanted: Sequence[Wanted],
    detector: AUDetector,
    make: Callable[[Sequence[Wanted]], Tensor],
    tell: Callable[[int], None],
) -> Seen:
    """What the detector sees in all images: read from ``path`` as far as that goes, the rest made and appended."""
    seen = Seen()
    for line in _whole_lines(path):
        _keep(seen, line["key"], line["presence"], line["level"], line["found"])
    tell(sum(one.key in seen.found for one in wanted))
    missing = [one for one in wanted if one.key not in seen.found]
    with path.open("a", encoding="utf-8") as file:
        for begin in range(0, len(missing), BATCH):
            some = missing[begin : begin + BATCH]
            found = detector(pictures(make(some)))
            for row, one in enumerate(some):
                line = {"key": one.key, **_row(found, row)}
                file.write(json.dumps(line) + "\n")
                _keep(seen, one.key, line["presence"], line["level"], line["found"])
            file.flush()
            tell(len(some))
    return seen


def _whole_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of an earlier run; what a kill left half-written is cut off."""
    if not path.exists():
        return
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    for line in whole.splitlines():
        yield json.loads(line)


def _row(found: Detections, row: int) -> dict[str, Any]:
    there = bool(found.found[row])
    level = None if found.level is None else found.level[row].tolist()
    return {"found": there, "presence": found.presence[row].tolist() if there else None, "level": level}


def _keep(seen: Seen, key: str, presence: Any, level: Any, found: bool) -> None:  # noqa: ANN401 - from JSON
    seen.presence[key], seen.level[key], seen.found[key] = presence, level if found else None, found


def compare_runs(first: Path, second: Path, least: int = 20) -> tuple[dict[str, Any], Comparison]:
    """The difference of two runs on the images that both have, and the same as plain values for JSON.

    Raises:
        ValueError: a folder without a run, or runs of other suites or detectors.
    """
    runs = []
    for folder in (first, second):
        if not (folder / RUN).is_file() or not (folder / REPORT).is_file():
            raise ValueError(f"{folder} holds no finished run: make one with auface evaluate MODEL -o {folder}")
        runs.append(json.loads((folder / RUN).read_text(encoding="utf-8")))
    for name in ("suite", "detector"):
        if runs[0][name] != runs[1][name]:
            raise ValueError(f"the runs have different {name}s: {runs[0][name]} and {runs[1][name]}")
    reports = [json.loads((folder / REPORT).read_text(encoding="utf-8")) for folder in (first, second)]
    suite = load_suite(reports[0]["suite"]["name"])
    columns, covered = reports[0]["columns"], reports[0]["coverage"]
    seen = [{line["key"]: line["presence"] for line in _whole_lines(folder / DRAWN)} for folder in (first, second)]
    states, both, clusters = [], [], []
    for item in suite.items:
        keys = [f"{item.id}-{image}" for image in range(len(item.seeds))]
        keys = [key for key in keys if all(key in one for one in seen)]
        if keys:
            states.append(spec_targets([item.aus], columns, covered=covered).states[0])
            both.append([_average([one[key] for key in keys], len(columns)) for one in seen])
            clusters.append(item.id)
    pairs = np.array(both)
    found = compare(np.array(states), pairs[:, 0], pairs[:, 1], columns, clusters=clusters, least=least)
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in vars(found).items()}
    return plain | {"models": [run["model"] for run in runs], "items": len(states)}, found


def _average(rows: Sequence[list[float] | None], columns: int) -> np.ndarray:
    """Mean presence (C,) of an item's images with a face; NaN without any."""
    known = [row for row in rows if row is not None]
    return np.mean(known, 0) if known else np.full(columns, np.nan)


# --- the report ------------------------------------------------------------------------------------------------------


def _report(
    suite: Suite,
    wanted: Sequence[Wanted],
    drawn: Seen,
    real: Seen | None,
    detector: AUDetector,
    camera: Camera,
    config: EvaluationConfig,
) -> dict[str, Any]:
    setting = Setting(
        columns=tuple(detector.columns),
        coverage=tuple(detector.coverage),
        dropped=dose_gate(detector, camera, config.gate),
        least=config.least,
        resamplings=config.resamplings,
        permutations=config.permutations,
        detector={"name": detector.name, "sha": detector.hash, "calibrated": detector.calibrated},
    )
    faces = _faces(suite.items, wanted, drawn, detector, config)
    top = None if real is None else _faces(suite.items, wanted, real, detector, config)
    report = evaluate(faces, setting, ceiling=top, neutral=neutral_presence(detector, camera))
    report["kinds"] = {}
    quick = Setting(**{**vars(setting), "resamplings": 0, "permutations": 0})
    for kind in dict.fromkeys([*(item.kind for item in suite.items), "new"]):
        rows = [r for r, item in enumerate(suite.items) if item.kind == kind or (kind == "new" and item.new)]
        if rows:
            part = evaluate(faces.rows(rows), quick, ceiling=None if top is None else top.rows(rows))
            report["kinds"][kind] = {
                name: part[name] for name in ("n_items", "aaad", "ceiling", "rel", "auc", "sides")
            }
    return report


def _faces(
    items: Sequence[SuiteItem], wanted: Sequence[Wanted], seen: Seen, detector: AUDetector, config: EvaluationConfig
) -> ScoredFaces:
    most = max(_count(item, config) for item in items)
    shape = (len(items), most, len(detector.columns))
    presence, level, found = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape[:2], dtype=bool)
    row = {item.id: number for number, item in enumerate(items)}
    for one in wanted:
        place = (row[one.item.id], one.image)
        found[place] = seen.found[one.key]
        if found[place]:
            presence[place] = seen.presence[one.key]
            level[place] = np.nan if seen.level[one.key] is None else seen.level[one.key]
    graded = any(value is not None for value in seen.level.values())
    return ScoredFaces(
        scores=[item.aus for item in items],
        presence=presence,
        found=found,
        clusters=[item.id for item in items],
        level=level if graded else None,
    )


def _sheets(
    out: Path,
    pipe: Any,  # noqa: ANN401 - as above
    wanted: Sequence[Wanted],
    seen: Seen,
    detector: AUDetector,
    config: EvaluationConfig,
    camera: Camera,
) -> None:
    """64 samples at even distances, and the 16 that fit worst, each above its render."""
    step = max(1, len(wanted) // SAMPLES)
    _sheet([draw(pipe, wanted[::step][:SAMPLES], config.steps, config.guidance)], out / "samples.png")
    order = sorted(wanted, key=lambda one: _fit(one, seen, detector))[:WORST]
    worst, real = draw(pipe, order, config.steps, config.guidance), rendered(order, camera)
    _sheet([side[i : i + ACROSS] for i in range(0, len(order), ACROSS) for side in (worst, real)], out / "worst.png")


def _fit(one: Wanted, seen: Seen, detector: AUDetector) -> float:
    """Mean overlap of one image over what it is asked for; 1 for one that is asked for nothing that can be seen."""
    if not seen.found[one.key]:
        return 0.0
    targets: Targets = spec_targets([one.item.aus], detector.columns, covered=detector.coverage)
    values = overlap(targets.states, np.array([seen.presence[one.key]]))[targets.states == ON]
    return float(values.mean()) if len(values) else 1.0


def _sheet(parts: Sequence[Tensor], path: Path) -> None:
    """Rows of `ACROSS` pictures."""
    shown = [one for part in parts for one in pictures(part)]
    width, height = shown[0].size
    sheet = Image.new("RGB", (width * ACROSS, height * -(-len(shown) // ACROSS)), "white")
    for place, picture in enumerate(shown):
        sheet.paste(picture, (place % ACROSS * width, place // ACROSS * height))
    sheet.save(path)

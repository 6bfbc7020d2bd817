"""The model card of exported weights: what they are, what they cannot do, how they were made, what was measured."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline
from PIL import Image

HEAD = """---
license: apache-2.0
library_name: diffusers
tags: [FACS, action-units, facial-expression]
---

# VQ-AUFace

Facial action units (FACS), or a text about them, to a face of {size} x {size} pixels. Load it with
`VQAUFacePipeline.from_pretrained(folder)`, what comes with the package with `VQAUFacePipeline.from_default()`.

## What it is, and what it is not

- The faces are **in the domain of rendered faces**: the models saw renders of a parametric head and nothing else. They
  do not look like photographs, and no photograph of a person was used.
- It draws one head before a plain scene. Hands, glasses, hats, several people or a profile it cannot draw.
- Generator and decoder are given a map of the parametric head as it does what is asked, down to the creases of its
  skin. The faces follow that map, and are as good as it is.
- What a still face does not show, such as movements in time, is left out. Which units an estimator can tell stands in
  the table below; of the others nothing is claimed.
- A text counts for the action units that it names. Words about anything else change little or nothing.
- Do not use it to judge what people feel, and do not take its faces for evidence about real people.

| part | parameters |
|---|---|
{parts}

Defaults: {steps} steps, guidance {guidance:g}, framing "{framing}".

Licence: Apache-2.0. Trained on renders of a head that is built from MakeHuman data, which is CC0; see NOTICE.
"""
PARTS = ("text_alignment", "transformer", "face_tokenizer")
SHEETS = {
    "samples": "64 drawn faces at even distances among the report's held-out scores, not chosen by eye. They look "
    "like renders, as all faces of this model do.",
    "worst": "The 16 that the evaluation estimator rates worst (rows 1 and 3), each above a render of what was asked.",
}
MEASURES = ("auc", "ece", "level_error")


def write_card(
    folder: Path,
    parts: Mapping[str, str],
    recipe: Sequence[str],
    report: str,
    pipeline: DiffusionPipeline,
    ablations: str = "",
) -> None:
    """Write ``README.md``, and the report's sheets as WebP, into the exported ``folder``.

    Args:
        folder: has the estimators' ``channels.csv``.
        parts: folder of each trained part; the log of its training lies one above.
        recipe: the commands that make the parts, as the configuration of the export has them.
        report: folder of the report; "" is none.
        pipeline: what was exported.
        ablations: folder of the ablations; "" is none.

    Raises:
        ValueError: ``report`` has no ``report.json``, or ``ablations`` no ``ablations.md``.
    """
    sections = [
        _head(pipeline),
        _report(Path(report), folder) if report else "## Measured\n\nNo report was given to this export.",
        _ablations(Path(ablations)) if ablations else "",
        _recipe(recipe),
        _training(parts),
        _coverage(folder),
    ]
    text = "\n\n".join(section.strip() for section in sections if section)
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")


def _head(pipeline: DiffusionPipeline) -> str:
    counts = {name: sum(p.numel() for p in getattr(pipeline, name).parameters()) for name in PARTS}
    config = pipeline.config
    return HEAD.format(
        size=pipeline.face_tokenizer.config["image_size"],
        parts="\n".join(f"| {name} | {count / 1e6:.2f} M |" for name, count in counts.items()),
        steps=config["num_inference_steps"],
        guidance=config["guidance_scale"],
        framing=config["framing"],
    )


def _report(report: Path, folder: Path) -> str:
    if not (report / "report.json").is_file():
        raise ValueError(
            f"report: {report} has no report.json; run python -m train_lora report first, or give report="
        )
    found: dict[str, Any] = json.loads((report / "report.json").read_text(encoding="utf-8"))
    lines = [
        "## Measured",
        "",
        f"AAAD (our definition, v1) of {found.get('n_images', 'the')} drawn faces with {found.get('n_items', 'the')} "
        "scores of the standard suite. It is read by the evaluation estimator, which no training used and which knows "
        "rendered faces only. The ceiling is what it reads from exact renders of the same people; 0.5 is chance. In "
        "the row `new` are the combinations of units that training never shows.",
    ]
    table = report / "report.md"
    lines += ["", table.read_text(encoding="utf-8").strip()] if table.is_file() else []
    for name, caption in SHEETS.items():
        if (report / f"{name}.png").is_file():
            with Image.open(report / f"{name}.png") as sheet:
                sheet.convert("RGB").save(folder / f"{name}.webp", quality=90)
            lines += ["", f"![{name}]({name}.webp)", "", caption]
    return "\n".join(lines)


def _ablations(folder: Path) -> str:
    if not (folder / "ablations.md").is_file():
        raise ValueError(
            f"ablations: {folder} has no ablations.md; run python -m train_lora ablate first, or give ablations="
        )
    table = (folder / "ablations.md").read_text(encoding="utf-8").strip()
    return f"""## What each source is worth

The same generator, trained more shortly and without some of its sources; balanced alignment of held-out faces, read by
the evaluation estimator. `conflict`: scores that a rule about two units speaks of.

{table}"""


def _recipe(recipe: Sequence[str]) -> str:
    return "\n".join(["## Recipe", "", "```sh", *recipe, "```"]) if recipe else ""


def _training(parts: Mapping[str, str]) -> str:
    """First and last validation of each part, from ``log.jsonl`` one above its folder."""
    lines = ["## Training", "", "| part | steps | held out | first | last |", "|---|---|---|---|---|"]
    empty = len(lines)
    for name, place in parts.items():
        found = [one for one in _entries(Path(place).parent / "log.jsonl") if any(k.startswith("val_") for k in one)]
        for key in (key for key in (found[-1] if found else {}) if key.startswith("val_")):
            first, last = found[0], found[-1]
            before = f"{first[key]:.4g} (step {first['step']})" if key in first else "-"
            lines.append(f"| {name} | {last['step']} | {key.removeprefix('val_')} | {before} | {last[key]:.4g} |")
    return "\n".join(lines) if len(lines) > empty else ""


def _entries(log: Path) -> list[dict[str, Any]]:
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _coverage(folder: Path) -> str:
    """What each estimator can tell, on held-out renders."""
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for path in sorted(folder.glob("*/channels.csv")):
        with path.open(encoding="utf-8", newline="") as file:
            tables[path.parent.name] = {row["channel"]: row for row in csv.DictReader(file)}
    if not tables:
        return ""
    lines = ["## Which units the estimators can tell", "", "On held-out renders; a dash is too few examples.", ""]
    for name, rows in tables.items():
        blind = [channel for channel, row in rows.items() if row["covered"] != "1"]
        told = f"{len(rows) - len(blind)} of {len(rows)} channels"
        lines.append(f"- `{name}` covers {told}; not: {', '.join(blind) or '-'}.")
    titles = [f"{name} {measure.replace('_', ' ')}" for name in tables for measure in MEASURES]
    lines += ["", f"| channel | {' | '.join(titles)} |", "|---" * (1 + len(titles)) + "|"]
    for channel in next(iter(tables.values())):
        cells = [_cell(rows.get(channel, {}), measure) for rows in tables.values() for measure in MEASURES]
        lines.append(f"| {channel} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Mapping[str, str], measure: str) -> str:
    value = row.get(measure, "nan")
    return "-" if value == "nan" else value

"""The report of an evaluation as one page that needs nothing else, and its plots where matplotlib is installed."""

from __future__ import annotations

import base64
import html
import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:left}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%;image-rendering:auto}"
)
SHEETS = {
    "samples.png": "Samples at even distances in the suite, not chosen by eye.",
    "worst.png": "The images that fit worst, each above an exact render of what was asked for.",
}
PLOTS = {
    "per_au.png": "AAAD of each unit with its 95 % interval; the mark is the ceiling, the line is chance.",
    "confusion.png": "Mean probability of each unit (across) among faces that were asked for each unit (down).",
    "reliability.png": "How often a unit is there by the probability that the detector gives it, at equal priors.",
}


def write_html(report: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``report.html`` into the folder of a run, and plots if matplotlib is there; returns the files.

    Args:
        report: of `evaluation.evaluate_model`. folder: of the run, with its sheets.
    """
    made = [_plot(report, folder / name) for name in PLOTS] if importlib.util.find_spec("matplotlib") else []
    page = folder / "report.html"
    page.write_text(_page(report, folder), encoding="utf-8")
    return [page, *made]


def _page(report: dict[str, Any], folder: Path) -> str:
    parts = [
        "<h1>AAAD report</h1>",
        "<p>Alignment Accuracy of AU probability Distributions, our definition (v1): of each unit the overlap of what "
        "was asked for and what a detector sees, balanced over presence and absence. 0.5 is chance. Values of ours do "
        "not compare with those of the paper that named it.</p>",
        _table(("", "value", ""), _summary(report)),
        "<h2>By kind</h2>",
        _table(
            ("kind", "items", "AAAD", "ceiling"),
            [(k, str(v["n_items"]), _number(v["aaad"]), _number(v["ceiling"])) for k, v in report["kinds"].items()],
        ),
        _conflict(report["conflict"]),
        _levels(report["levels"]),
        "<h2>By unit</h2>",
        *(_picture(folder / name, said) for name, said in PLOTS.items()),
        _table(("unit", "on", "off", "AAAD", "95 %", "AUC", "ceiling", ""), _units(report)),
        "<h2>Faces</h2>",
        *(_picture(folder / name, said) for name, said in SHEETS.items()),
        "<h2>What was measured with what</h2>",
        _table(("", ""), _sources(report)),
    ]
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>AAAD report</title><style>{STYLE}</style>"
    return head + "\n".join(parts) + "</html>\n"


def _summary(report: dict[str, Any]) -> list[tuple[str, ...]]:
    shuffled = report["shuffled"]
    return [
        ("AAAD", _number(report["aaad"]), f"95 % interval {_span(report['ci'])}"),
        ("skill", _number(report["skill"]), "2 AAAD - 1"),
        ("chance", _number(report["chance"]), f"{report['fail_rate']:.2%} of the images without one face"),
        ("ceiling", _number(report["ceiling"]), "exact renders of the same people and scores"),
        ("of the way from chance to the ceiling", _number(report["rel"]), "mean over units"),
        ("shuffled texts", _number(shuffled["mean"]), f"sd {_number(shuffled['sd'])}, p {_number(shuffled['p'])}"),
        ("shuffled among near specs", _number(report["hard_shuffled"]["mean"]), "differ in one or two columns"),
        ("mean AUC", _number(report["auc"]), "does not depend on calibration"),
        ("1 - JSD", _number(report["secondary"]["jsd"]), "balanced as AAAD"),
        ("Brier", _number(report["secondary"]["brier"]), "balanced as AAAD; 0 is best"),
        ("F1 at 0.5", _number(report["secondary"]["f1"]), "mean over units; rises with how often one is asked for"),
        ("mean overlap of items", _number(report["secondary"]["item_mean"]), "not balanced: empty faces do well"),
        ("items, images", str(report["n_items"]), str(report["n_images"])),
    ]


def _units(report: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            row["au"],
            str(row["n_on"]),
            str(row["n_off"]),
            _number(row["aaad"]),
            _span(row["ci"]),
            _number(row["auc"]),
            _number(row["ceiling"]),
            row["status"],
        )
        for row in report["per_au"]
    ]


def _sources(report: dict[str, Any]) -> list[tuple[str, ...]]:
    detector = report["detectors"][0]
    return [
        ("model", report["model"]),
        ("suite", f"{report['suite']['name']} {report['suite']['hash']}"),
        ("detector", f"{detector['name']} {detector['sha']}"),
        ("world, mode", f"{report['world']}, {report['mode']}"),
    ]


def _conflict(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    rows = [
        ("what is left after the rules", _number(found["res"]), f"{found['n']} items"),
        ("what was asked before the rules", _number(found["raw"]), ""),
        ("ceiling", _number(found["ceiling"]), ""),
        ("matched scores without a conflict", _number(found["control"]), f"difference {_span(found['diff_ci'])}"),
    ]
    rules = [
        (rule, str(one["items"]), _number(one["collapsed"]), _number(one["together"]))
        for rule, one in found["collapse"].items()
    ]
    return (
        "<h2>Conflicting units</h2>"
        + _table(("", "AAAD", ""), rows)
        + _table(("rule", "items", "exactly one is seen", "least chance of both"), rules)
    )


def _levels(found: dict[str, Any] | None) -> str:
    if not found:
        return ""
    rows = [(name, _number(row["alignment"]), _number(row["spearman"])) for name, row in found["per_au"].items()]
    return f"<h2>Levels</h2><p>Alignment {_number(found['alignment'])}.</p>" + _table(
        ("unit", "alignment", "rho"), rows
    )


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "".join("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _cell(value: str) -> str:
    number = value.replace(".", "", 1).replace("-", "", 1).isdigit()
    return f"<td{' class=n' if number else ''}>{html.escape(value)}</td>"


def _picture(path: Path, said: str) -> str:
    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<p>{html.escape(said)}</p><img alt='{html.escape(said)}' src='data:image/png;base64,{data}'>"


def _plot(report: dict[str, Any], path: Path) -> Path:
    """Draw one of `PLOTS`."""
    figure = importlib.import_module("matplotlib.figure").Figure(layout="constrained")  # an extra
    {"per_au.png": _bars, "confusion.png": _matrix, "reliability.png": _curves}[path.name](report, figure)
    figure.savefig(path, dpi=120)
    return path


def _bars(report: dict[str, Any], figure: Any) -> None:  # noqa: ANN401 - matplotlib's Figure
    """Bars of the units that have a value, best first."""
    rows = sorted((row for row in report["per_au"] if row["aaad"] is not None), key=lambda row: -row["aaad"])
    figure.set_size_inches(max(4.0, 0.28 * len(rows)), 3.2)
    axes = figure.add_subplot()
    places = range(len(rows))
    values = [row["aaad"] for row in rows]
    ends = [[row["ci"][end] if row["ci"][end] is not None else row["aaad"] for row in rows] for end in (0, 1)]
    spans = [[abs(v - e) for v, e in zip(values, side, strict=True)] for side in ends]
    axes.bar(places, values, yerr=spans, color="#7aa6c2", ecolor="#333344", capsize=2)
    tops = [(place, row["ceiling"]) for place, row in enumerate(rows) if row["ceiling"] is not None]
    axes.scatter([place for place, _ in tops], [top for _, top in tops], marker="_", color="#bb3333", zorder=3)
    axes.axhline(0.5, color="#888888", linewidth=0.8)
    axes.set_xticks(list(places), [row["au"] for row in rows], rotation=90)
    axes.set_ylim(0.4, 1.0)
    axes.set_ylabel("AAAD")


def _matrix(report: dict[str, Any], figure: Any) -> None:  # noqa: ANN401 - matplotlib's Figure
    """Units asked for against units seen."""
    names, values = report["confusion"]["units"], report["confusion"]["seen"]
    side = max(3.5, 0.2 * len(names))
    figure.set_size_inches(side + 0.8, side)
    axes = figure.add_subplot()
    if names:
        shown = axes.imshow(values, vmin=0, vmax=1, cmap="Blues")
        figure.colorbar(shown, shrink=0.6)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=7)
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.set_xlabel("seen")
    axes.set_ylabel("asked for")


def _curves(report: dict[str, Any], figure: Any) -> None:  # noqa: ANN401 - matplotlib's Figure
    """Reliability of the detector on the drawn faces and on the ceiling's."""
    figure.set_size_inches(3.6, 3.4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8)
    for name, label in (("faces", "drawn, as asked"), ("ceiling", "exact renders")):
        found = report["reliability"][name]
        if found:
            points = [(x, y) for x, y in zip(found["said"], found["so"], strict=True) if None not in (x, y)]
            axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=label)
    axes.set_xlabel("probability said")
    axes.set_ylabel("share with the unit")
    axes.legend(fontsize=8)


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _span(ends: Sequence[float | None]) -> str:
    return f"{_number(ends[0])} to {_number(ends[1])}"

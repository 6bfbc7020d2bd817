"""The ``auface`` command: a thin layer over the library. ``--json`` prints one JSON object a line."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from auface_diffusers import __version__, cli_faces, cli_images, cli_score
from auface_diffusers.facs import AUSet, NotationWarning, Subject, describe, preset, resolve, units
from auface_diffusers.facs.describe import STYLES
from auface_diffusers.facs.notation import split_name
from auface_diffusers.facs.presets import presets, sources
from auface_diffusers.facs.units import ActionUnit

if TYPE_CHECKING:
    from rich.console import Console

CHANGED = {"hidden": "red", "dropped": "red", "cancelled": "red", "balanced": "yellow", "dominated": "yellow"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status: 0 done, 1 the input is at fault, 2 the call is."""
    arguments = _parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _stop)  # ends like Ctrl-C: workers are told, the part stays
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("once", NotationWarning)
            status: int = arguments.run(arguments)
            if sys.stdout is not None:
                sys.stdout.flush()
        for warning in caught:
            print(f"auface: {warning.message}", file=sys.stderr)
        return status
    except BrokenPipeError:  # the reader of our output, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be flushed at exit
        return 0
    except (ValueError, OSError) as error:
        print(f"auface: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"auface: stopped; {getattr(arguments, 'stopped', 'the same call goes on from here')}", file=sys.stderr)
        return 130


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="auface", description="Facial action units (FACS) to anatomical text.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"auface {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _describe_parser(commands)

    explain = commands.add_parser("explain", help="the interaction rules that fire for a score")
    explain.add_argument("codes", help="FACS notation, such as 1C+2C+4B+L12D")
    explain.add_argument("--strict", action="store_true", help="fail if units exclude each other")
    explain.set_defaults(run=_explain)

    table = commands.add_parser("units", help="the table of FACS units, or one of them")
    table.add_argument("code", nargs="?", help="a code, such as 12 or M55")
    table.set_defaults(run=_units)

    prototypes = commands.add_parser("presets", help="emotion prototypes and their sources, or the score of one")
    prototypes.add_argument("name", nargs="?", help="such as sad, fear, 'happily surprised'")
    prototypes.add_argument("--strength", type=float, default=0.6, help="0 neutral, 0.6 = C (default), 1 = E")
    prototypes.add_argument("--source", choices=sorted(sources()), help="take the prototype of this source")
    prototypes.set_defaults(run=_presets)

    cli_images.add_parsers(commands)
    cli_faces.add_parsers(commands)
    cli_score.add_parsers(commands)
    for command in commands.choices.values():
        if command.get_default("make"):
            command.set_defaults(run=_make)
        command.add_argument("--json", action="store_true", help="print JSON")
    return parser


SUBJECT = {"age": "40", "gender": "woman", "skin": "brown", "hair": "short black"}


def _describe_parser(commands: Any) -> None:  # noqa: ANN401 - argparse's class for this is private
    command = commands.add_parser(
        "describe", help="text of a score, or of every row of an annotation file", description=_DESCRIBE_HELP
    )
    command.add_argument("codes", nargs="?", help="FACS notation such as 1C+2C+L12D; with --from, a file or folder")
    command.add_argument("--style", choices=STYLES, default="anatomical")
    command.add_argument("--seed", type=int, help="vary the wording of the anatomical style; else it is canonical")
    one = command.add_argument_group("for a score")
    one.add_argument("--emotion", action="store_true", help="name the emotion prototype that fits, if one does")
    for name, example in SUBJECT.items():
        one.add_argument(f"--{name}", default="", help=f"who is shown, such as '{example}'")
    one.add_argument("--pose", default="", help="words on the head's pose, such as 'head turned left'")
    one.add_argument("--gaze", default="", help="words on the gaze, such as 'looking up'")
    many = command.add_argument_group("for a file")
    many.add_argument("--from", dest="source", metavar="SOURCE", help="format of the file, or auto; ? lists them")
    many.add_argument("-o", "--output", metavar="OUT.jsonl", help="where to write, one JSON object a row")
    many.add_argument("--threshold", type=float, help="from where a unit counts as present, in the source's own scale")
    many.add_argument("--workers", type=int, help="processes (default: all cores for what is above 2 MB)")
    command.set_defaults(run=_describe)


_DESCRIBE_HELP = (
    "Describe a score, or with --from every row of an annotation file (OpenFace, py-feat, BP4D, DISFA). A file run "
    "that was stopped goes on with the same call; the output appears under its name when it is complete."
)


def _describe(arguments: argparse.Namespace) -> int:
    if arguments.source == "?":
        return _list_sources()
    if arguments.codes is None:
        return _refuse("describe needs a score such as 1C+2C+L12D, or --from SOURCE FILE -o OUT.jsonl")
    if arguments.source:
        return _describe_file(arguments)
    idle = [name for name in ("output", "threshold", "workers") if getattr(arguments, name) is not None]
    if idle:
        return _refuse(f"--{', --'.join(idle)} goes with --from only")
    subject = Subject(*(getattr(arguments, name) for name in ("age", "gender", "skin", "hair", "pose", "gaze")))
    said = describe(
        arguments.codes,
        arguments.style,
        arguments.seed,
        subject=subject if subject != Subject() else None,
        emotion=arguments.emotion,
    )
    if arguments.json:
        clauses = [
            {"text": c.text, "start": c.start, "end": c.end, "aus": c.aus, "rule": c.rule} for c in said.clauses
        ]
        done = said.resolution
        _print_json(
            {
                "aus": AUSet.parse(arguments.codes).format(),
                "effective": done.effective.format(),
                "style": said.style,
                "text": said.text,
                "clauses": clauses,
                "trace": [hit.to_dict() for hit in said.trace],
            }
        )
    else:
        print(said.text)
    return 0


def _refuse(message: str) -> int:
    print(f"auface: {message}", file=sys.stderr)
    return 2


def _list_sources() -> int:
    from auface_diffusers.facs.readers import sources as reader_sources

    for source in reader_sources().values():
        print(f"{source.name:10} {source.description}")
    return 0


def _describe_file(arguments: argparse.Namespace) -> int:
    from auface_diffusers.facs.captions import CaptionOptions, caption_file, quarantine_path

    idle = [name for name in (*SUBJECT, "pose", "gaze", "emotion") if getattr(arguments, name)]
    if arguments.output is None or idle:
        return _refuse(f"--{', --'.join(idle)} goes with a score" if idle else "name the output: -o OUT.jsonl")
    options = CaptionOptions(arguments.source, arguments.style, arguments.seed, arguments.threshold)
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} rows"), TimeElapsedColumn())
    console = _console(error=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"describing {escape(arguments.codes)}", total=None)
        report = caption_file(
            arguments.codes,
            arguments.output,
            options,
            workers=arguments.workers if arguments.workers is not None else _workers(Path(arguments.codes)),
            progress=lambda rows: progress.update(task, completed=rows),
        )
    if arguments.json:
        _print_json({"output": str(arguments.output), **report.__dict__})
    else:
        resumed = f" (went on after row {report.resumed_at})" if report.resumed_at else ""
        print(f"{report.rows} rows written to {arguments.output}{resumed}", file=sys.stderr)
        if report.without_text:
            print(f"{report.without_text} rows without a text: no face, or nothing but unknown units", file=sys.stderr)
        if report.quarantined or "odd" in report.summary:
            print(f"{report.summary}; see {quarantine_path(arguments.output)}", file=sys.stderr)
    return 0


def _workers(path: Path) -> int:
    """All cores that this process may use, unless starting processes would take longer than the work."""
    if path.is_file() and path.stat().st_size < 2_000_000:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _explain(arguments: argparse.Namespace) -> int:
    done = resolve(AUSet.parse(arguments.codes), strict=arguments.strict)
    if arguments.json:
        _print_json(
            {
                "aus": done.raw.format(),
                "effective": done.effective.format(),
                "trace": [hit.to_dict() for hit in done.trace],
            }
        )
        return 0
    rows = [
        (
            hit.id,
            f"[{CHANGED.get(hit.action, 'green')}]{hit.action}",
            " ".join(hit.aus),
            f"{hit.why}" + (f" ({', '.join(hit.detail)})" if hit.detail else ""),
            hit.reading,
            hit.grade,
        )
        for hit in done.trace
    ]
    console = _console()
    if rows:
        _print_table(console, ("rule", "action", "units", "why", "conflict", "grade"), rows)
    else:
        console.print("no rule fires")
    console.print(f"effective: {done.effective.format()}", highlight=False)
    return 0


def _units(arguments: argparse.Namespace) -> int:
    if arguments.code is None:
        if arguments.json:
            for unit in units.values():
                _print_json(_unit_data(unit))
            return 0
        rows = [(u.code, u.name, u.kind, u.region, u.parts, u.muscles) for u in units.values()]
        _print_table(_console(), ("code", "name", "kind", "region", "parts", "muscles"), rows)
        return 0
    unit = units[split_name(arguments.code)[0]]
    if arguments.json:
        _print_json(_unit_data(unit))
        return 0
    shown = ("kind", "region", "parts", "muscles", "direction", "appearance", "landmarks", "motion", "evidence")
    facts = [(name, str(getattr(unit, name))) for name in shown if getattr(unit, name)]
    facts += list(unit.levels.items())
    facts += [("labelled in", ", ".join(unit.labels))] if unit.labels else []
    facts += [(name, units.sources[name]) for name in unit.sources]
    _print_table(_console(), (unit.code, unit.name), facts)
    return 0


def _unit_data(unit: ActionUnit) -> dict[str, Any]:
    data = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(unit).items()}
    return {**data, "levels": dict(unit.levels)}


def _presets(arguments: argparse.Namespace) -> int:
    if arguments.name:
        aus = preset(arguments.name, arguments.strength, source=arguments.source)
        if arguments.json:
            _print_json({"name": arguments.name, "strength": arguments.strength, "aus": aus.format()})
        else:
            print(aus.format())
        return 0
    if arguments.json:
        for entry in presets():
            _print_json(
                {"name": entry.name, "source": entry.source, "aus": entry.aus.format(), "often": dict(entry.often)}
            )
        return 0
    rows = [
        (p.name, p.source, p.aus.format(), ", ".join(f"{code} {share:.0%}" for code, share in p.often.items()))
        for p in presets()
    ]
    console = _console()
    _print_table(console, ("name", "source", "core", "often also"), rows)
    for name, title in sources().items():
        console.print(f"{name}: {title}", highlight=False, soft_wrap=True)
    return 0


def _make(arguments: argparse.Namespace) -> int:
    """Run a subcommand that makes files; print their names, or as JSON all that it did."""
    done = arguments.make(arguments)
    tables = done.pop("tables", ())
    if arguments.json:
        _print_json(done)
        return 0
    names = [str(done[name]) for name in ("output", "keypoints") if name in done] or done["outputs"]
    for name in names:
        print(name)
    for titles, rows in tables:
        _print_table(_console(), titles, rows)
    if "readout" in done:
        rows = [(row["face"], row["shown"], _read_out(row["read"])) for row in done["readout"]]
        _print_table(_console(), ("face", "asked, after the rules", "the estimator reads"), rows)
    return 0


def _read_out(read: list[dict[str, Any]]) -> str:
    return " ".join(f"{one['unit']} {one['presence']:.0%}" for one in read) or "nothing"


def _print_json(data: dict[str, Any]) -> None:
    print(json.dumps(data, ensure_ascii=False))


def _print_table(console: Console, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _console(error: bool = False) -> Console:
    """Console of rich: colours on a terminal only, and NO_COLOR is heeded; files and pipes are not wrapped at 80."""
    from rich.console import Console

    console = Console(stderr=error, highlight=False)
    return console if console.is_terminal else Console(stderr=error, highlight=False, width=200, no_color=True)


if __name__ == "__main__":
    sys.exit(main())

"""``python -m train_lora COMMAND CONFIG.toml [key=value ...]``; training also under ``accelerate launch``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from train_lora.config import load_config

Show = Callable[[int, int], None]


def run_synth(config: str, overrides: Sequence[str], show: Show) -> dict[str, Any]:
    """Make faces."""
    from train_lora.data.synth import SynthConfig, synth

    return synth(load_config(SynthConfig, config, overrides), show)


def run_data(config: str, overrides: Sequence[str], show: Show) -> dict[str, Any]:
    """Make a data set of labelled pictures."""
    from train_lora.data.prepare import prepare
    from train_lora.data.prepare_config import PrepareConfig

    return prepare(load_config(PrepareConfig, config, overrides), show)


def run_tokenizer(config: str, overrides: Sequence[str], show: Show) -> dict[str, Any]:
    """Train faces to codes and back."""
    from train_lora.stages.tokenizer import TokenizerConfig, TokenizerStage

    return _train(TokenizerConfig, TokenizerStage, config, overrides)


def run_align(config: str, overrides: Sequence[str], show: Show) -> dict[str, Any]:
    """Train texts, action units and structure maps to agree."""
    from train_lora.stages.align import AlignConfig, AlignStage

    return _train(AlignConfig, AlignStage, config, overrides)


def run_generator(config: str, overrides: Sequence[str], show: Show) -> dict[str, Any]:
    """Train the transformer that draws codes."""
    from train_lora.stages.generator import GeneratorConfig, GeneratorStage

    return _train(GeneratorConfig, GeneratorStage, config, overrides)


def run_estimator(config: str, overrides: Sequence[str], show: Show) -> dict[str, Any]:
    """Train an estimator of action units."""
    from train_lora.stages.estimator import EstimatorConfig, EstimatorStage

    return _train(EstimatorConfig, EstimatorStage, config, overrides)


def run_adapter(config: str, overrides: Sequence[str], show: Show) -> dict[str, Any]:
    """Train an adapter of the generator."""
    from train_lora.stages.adapter import AdapterConfig, AdapterStage

    return _train(AdapterConfig, _fitting(AdapterStage), config, overrides)


def run_sd_adapter(config: str, overrides: Sequence[str], show: Show) -> dict[str, Any]:
    """Train a LoRA of a Stable Diffusion checkpoint."""
    from train_lora.stages.sd_adapter import SDAdapterConfig, SDAdapterStage

    return _train(SDAdapterConfig, _fitting(SDAdapterStage), config, overrides)


def run_report(config: str, overrides: Sequence[str], show: Show) -> dict[str, Any]:
    """Measure a generator."""
    from train_lora.report import ReportConfig, report

    return report(load_config(ReportConfig, config, overrides))


def run_ablate(config: str, overrides: Sequence[str], show: Show) -> dict[str, Any]:
    """Train generators without some of their sources, and compare."""
    from train_lora.ablate import AblateConfig, ablate

    return ablate(load_config(AblateConfig, config, overrides))


def run_export(config: str, overrides: Sequence[str], show: Show) -> dict[str, Any]:
    """Put trained parts together."""
    from train_lora.export import ExportConfig, export

    return export(load_config(ExportConfig, config, overrides))


def _fitting(kind: type[Any]) -> Callable[[Any], Any]:
    """Makes a stage of this kind, and looks whether its run fits into memory."""
    from train_lora.memory import check
    from train_lora.together import processes

    def make(settings: Any) -> Any:  # noqa: ANN401 - the kind's own configuration
        stage = kind(settings)
        if settings.memory:
            check(stage, settings.train, processes().num_processes, str(processes().device))
        return stage

    return make


def _train(kind: type[Any], stage: Callable[[Any], Any], path: str, overrides: Sequence[str]) -> dict[str, Any]:
    from train_lora.loop import train

    config = load_config(kind, path, overrides)
    description = {key: value for key, value in asdict(config).items() if key != "out"}
    return train(stage(config), config.train, Path(config.out), description)


COMMANDS = {
    "synth": run_synth,
    "data": run_data,
    "tokenizer": run_tokenizer,
    "align": run_align,
    "generator": run_generator,
    "estimator": run_estimator,
    "adapter": run_adapter,
    "sd-adapter": run_sd_adapter,
    "report": run_report,
    "ablate": run_ablate,
    "export": run_export,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m train_lora", description="Data and training.")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("config", help="TOML file; train_lora/configs has examples")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="values in place of the file's")
    parser.add_argument("--engine", help="what runs the work: local, or ray where it is installed; same as engine=...")
    arguments = parser.parse_intermixed_args(argv)
    overrides = [*arguments.overrides, *([f"engine={arguments.engine}"] if arguments.engine else [])]

    def show(done: int, all_of_them: int) -> None:
        sys.stderr.write(f"{arguments.command}: {done} of {all_of_them} shards\n")

    try:
        result = COMMANDS[arguments.command](arguments.config, overrides, show)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"train_lora: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("train_lora: stopped; the same call goes on where it was\n")
        return 130
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

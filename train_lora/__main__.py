"""``python -m train_lora COMMAND CONFIG.toml [key=value ...] [--engine local|ray]``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from train_lora.config import load_config


def run_synth(config: str, overrides: Sequence[str], show: Callable[[int, int], None]) -> dict[str, Any]:
    """Make faces."""
    from train_lora.data.synth import SynthConfig, synth

    return synth(load_config(SynthConfig, config, overrides), show)


COMMANDS = {"synth": run_synth}


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
        sys.stderr.write("train_lora: stopped; the same call goes on with the shards that are missing\n")
        return 130
    sys.stdout.write(json.dumps(result) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

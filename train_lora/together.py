"""What the processes of a run share beside training: measuring on held-out data."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from typing import TypeVar

from accelerate import PartialState
from accelerate.utils import gather_object, parse_flag_from_env

WAIT = timedelta(hours=12)
"""How long processes wait for each other. One of them exports, calibrates and draws for a report meanwhile; the usual
ten minutes would end such a run."""

Found = TypeVar("Found")


def processes() -> PartialState:
    """The processes of this run; the first call makes them known to each other."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"), timeout=WAIT)  # as `Accelerator` makes it


def check_launch() -> None:
    """Raise `ValueError` if processes were launched together and do not know of each other: all would write alike."""
    launched = int(os.environ.get("WORLD_SIZE", "1")) if "LOCAL_RANK" in os.environ else 1
    if processes().num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched, accelerate sees {processes().num_processes}: without GPUs, set "
            "ACCELERATE_USE_CPU=true"
        )


def alone(count: int, size: int, look: Callable[[range], Found]) -> list[Found]:
    """What ``look`` finds in each batch of the numbers 0 .. ``count``; ``size``: of a batch."""
    return [look(numbers) for numbers in _batches(count, size)]


def shared(count: int, size: int, look: Callable[[range], Found]) -> list[Found]:
    """As `alone`, and the same on every process, but each looks at its share of the batches.

    All processes have to call it. What is found travels between them: tensors on the CPU, numbers, or tuples of these.
    """
    state = processes()
    mine = [*enumerate(_batches(count, size))][state.process_index :: state.num_processes]
    found = [(place, look(numbers)) for place, numbers in mine]
    if state.num_processes == 1:
        return [one for _, one in found]
    return [one for _, one in sorted(gather_object(found), key=lambda pair: pair[0])]


def _batches(count: int, size: int) -> list[range]:
    return [range(begin, min(begin + size, count)) for begin in range(0, count, size)]

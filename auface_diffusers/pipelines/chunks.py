"""Many faces a few at a time, and fewer when memory runs out."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
MESSAGES = ("out of memory", "can't allocate memory")
"""How CUDA and the CPU say it."""


def in_chunks(count: int, limit: int, draw: Callable[[int, int], T | None]) -> list[T]:
    """Results of ``draw(begin, end)`` over ``count`` faces, at most ``limit`` at a time; None stops.

    Raises:
        torch.OutOfMemoryError: there is too little memory for one face.
    """
    done: list[T] = []
    begin = 0
    while begin < count:
        end = min(begin + limit, count)
        result, memory = _tried(draw, begin, end)
        if memory:
            limit = (end - begin) // 2
            if not limit:
                raise torch.OutOfMemoryError(
                    f"out of memory with a single face ({memory}): load with torch_dtype=torch.bfloat16, guide with "
                    "fewer scales, use enable_model_cpu_offload(), or free memory"
                )
            _release()
            continue
        if result is None:
            break
        done.append(result)
        begin = end
    return done


def _tried(draw: Callable[[int, int], T | None], begin: int, end: int) -> tuple[T | None, str]:
    """The result, or the message of an error about memory. The error itself would keep the tensors alive."""
    try:
        return draw(begin, end), ""
    except RuntimeError as error:
        text = str(error)
        if not isinstance(error, torch.OutOfMemoryError) and not any(part in text.lower() for part in MESSAGES):
            raise
        return None, text.splitlines()[0] if text else "no message"


def _release() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

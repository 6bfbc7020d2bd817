"""Spreading numbered pieces of work over processes or machines; each piece writes its own file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

ENGINES = ("local", "ray")


def spread(
    task: Callable[[Any, int], int], config: object, numbers: Sequence[int], workers: int, engine: str
) -> Iterator[int]:
    """Run ``task(config, number)`` for every number; yield the number of each when it is done.

    Args:
        task: a function of a module, as other processes import it by name.
        config: what it is given; can be pickled.
        numbers: the pieces.
        workers: processes of engine "local", >= 1.
        engine: one of `ENGINES`. "ray" takes the cluster that ``RAY_ADDRESS`` names, or this machine's cores.

    Raises:
        ModuleNotFoundError: engine "ray" without ray.
        OSError: a worker of "local" was killed.
    """
    if engine == "ray":
        try:
            import ray  # an optional way to spread the work over machines
        except ModuleNotFoundError:
            raise ModuleNotFoundError('engine "ray" needs ray: pip install ray, or engine "local"') from None

        remote = ray.remote(task)
        waiting = [remote.remote(config, number) for number in numbers]
        while waiting:
            (done,), waiting = ray.wait(waiting)
            yield ray.get(done)
    elif workers == 1 or len(numbers) < 2:
        for number in numbers:
            yield task(config, number)
    else:
        pool = ProcessPoolExecutor(min(workers, len(numbers)), get_context("spawn"))
        try:
            for job in as_completed([pool.submit(task, config, number) for number in numbers]):
                yield job.result()
        except BrokenProcessPool:
            raise OSError(
                "a worker was killed, perhaps for lack of memory; the same call goes on where it was"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)

"""Which samples a process sees when: it follows from the seed and the step alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from train_lora.loop import LoopConfig


class Numbers:
    """Sample numbers of each forward pass of a process: every epoch is a new order, each sample once."""

    def __init__(self, config: LoopConfig, length: int, rank: int, processes: int, start: int) -> None:
        if length < config.batch_size:
            raise ValueError(f"{length} samples are fewer than a batch of {config.batch_size}: lower train.batch_size")
        if config.batch_size % processes:
            raise ValueError(f"batch_size {config.batch_size} is not a multiple of the {processes} processes")
        self.config, self.length, self.rank, self.processes, self.start = config, length, rank, processes, start
        self.share = config.batch_size // processes
        self.micro = min(config.micro_batch or self.share, self.share)
        self.passes = math.ceil(self.share / self.micro)

    def __len__(self) -> int:
        return (self.config.steps - self.start) * self.passes

    def __iter__(self) -> Iterator[list[int]]:
        epoch, order = -1, torch.empty(0)
        for step in range(self.start, self.config.steps):
            first = step * self.config.batch_size + self.rank * self.share
            mine = []
            for place in range(first, first + self.share):
                if place // self.length != epoch:
                    epoch = place // self.length
                    generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
                    order = torch.randperm(self.length, generator=generator)
                mine.append(int(order[place % self.length]))
            for begin in range(0, self.share, self.micro):
                yield mine[begin : begin + self.micro]

    def seeds(self, step: int, part: int, count: int) -> tuple[int, ...]:
        """Seeds of the samples of a forward pass; they follow from the place in the run, not from the process."""
        first = step * self.config.batch_size + self.rank * self.share + part * self.micro
        return tuple(
            (self.config.seed * 7_368_787 + place) * 2_654_435_761 % 2**62 for place in range(first, first + count)
        )

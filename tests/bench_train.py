"""What training takes beside its computing, and an adapter beside full training: part of ``make bench``.

On 24 clay faces and the embedded weights; two runs of a different length, so that start and end are left out.

    python tests/bench_train.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from clay_faces import clay_shards

from train_lora.adapters import AdapterSpec
from train_lora.data.faces import FacesConfig
from train_lora.loop import LoopConfig, train
from train_lora.memory import step_bytes
from train_lora.stages.adapter import AdapterConfig, AdapterStage

SHORT, LONG = 12, 60
BATCH = 8
LOOP = LoopConfig(steps=SHORT, batch_size=BATCH, learning_rate=1e-3, validate_every=10**6, save_every=10**6)
TARGETS = ("to_q", "to_k", "to_v", "to_out", "mlp", "modulation", "from_attributes", "to_slots")
"""Those of configs/adapter-style.toml."""


class Clock:
    """Seconds that forward and backward passes and optimizers take."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def around(self, owner: Any, name: str) -> None:  # noqa: ANN401 - a class, or a stage
        """Count a method from now on."""
        call = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the method
            begun = time.perf_counter()
            out = call(*args, **kwargs)
            self.seconds += time.perf_counter() - begun
            return out

        setattr(owner, name, timed)

    def losses(self, stage: Any) -> None:  # noqa: ANN401 - as above
        """Count a stage's forward passes."""
        call = stage.losses

        def timed(batch: Any, step: Any) -> Any:  # noqa: ANN401 - as the method
            found = call(batch, step)
            while True:
                begun = time.perf_counter()
                one = next(found, None)
                self.seconds += time.perf_counter() - begun
                if one is None:
                    return
                yield one

        stage.losses = timed


def stage_of(folder: Path, shards: Path, loop: LoopConfig, **spec: Any) -> AdapterStage:
    data = FacesConfig(str(shards))
    chosen = AdapterSpec(targets=TARGETS, **spec)
    return AdapterStage(AdapterConfig(out=str(folder), train=loop, data=data, adapter=chosen, scores=0, report=0))


def overhead(root: Path, shards: Path) -> float:
    """Share of a step that is not computing."""
    clock = Clock()
    clock.around(torch.Tensor, "backward")
    clock.around(torch.optim.AdamW, "step")
    clock.around(torch.nn.utils, "clip_grad_norm_")
    runs = []
    for steps in (SHORT, LONG):
        loop = replace(LOOP, steps=steps)
        stage = stage_of(root / f"run{steps}", shards, loop)
        stage.source.__getitems__(list(range(len(stage.source))))  # codes and maps are worked out once
        clock.losses(stage)
        before, begun = clock.seconds, time.perf_counter()
        train(stage, loop, root / f"run{steps}", {})
        runs.append((time.perf_counter() - begun, clock.seconds - before))
    wall, computing = (long - short for short, long in zip(*runs, strict=True))
    return 1 - computing / wall


def needed(stage: Any, loop: LoopConfig) -> float:  # noqa: ANN401 - as above
    """Bytes of a step: tensors that come and go, gradients among them; two moments, two averages; the weights."""
    parameters = [(p.numel() * p.element_size(), p.requires_grad) for p in stage.pipe.transformer.parameters()]
    trained, weights = sum(size for size, trains in parameters if trains), sum(size for size, _ in parameters)
    return step_bytes(stage, loop, BATCH) + 4 * trained + weights


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        shards = clay_shards(root / "clay", 24, 128)
        share = overhead(root, shards)
        sys.stdout.write(f"{'time of a step that is no computing':50} {share:6.1%}   asked: < 5 %\n")
        stage = stage_of(root / "memory", shards, LOOP)
        adapter = needed(stage, replace(LOOP, gradient_checkpointing=True))
        plain = needed(stage, LOOP)
        for value in stage.pipe.transformer.parameters():
            value.requires_grad_(True)
        full = needed(stage, LOOP)
        for name, value in (("with gradient checkpointing, as configured", adapter), ("without", plain)):
            sys.stdout.write(f"{'memory of an adapter, ' + name:64} {value / full:6.1%}   asked: <= 40 %\n")


if __name__ == "__main__":
    main()

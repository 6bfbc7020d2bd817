"""What training takes beside its computing, and an adapter beside full training: part of ``make bench``.

On clay faces and the embedded weights; two runs of a different length, so that start and end are left out.

    python tests/bench_train.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from clay_faces import clay_shards

from auface_diffusers import VQAUFacePipeline
from train_lora.adapters import AdapterSpec
from train_lora.data.faces import FacesConfig
from train_lora.loop import LoopConfig, train
from train_lora.memory import step_bytes
from train_lora.stages.adapter import AdapterConfig, AdapterStage
from train_lora.stages.generator import GeneratorConfig, GeneratorStage

SHORT, LONG = 12, 60
BATCH, FULL_BATCH = 8, 32
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


def full_stage(folder: Path, shards: Path, loop: LoopConfig) -> GeneratorStage:
    """All of the transformer, with the embedded models as those of the stages before."""
    pipe, models = VQAUFacePipeline.from_default(), folder.parent / "models"
    if not models.exists():
        for model, name in (
            (pipe.face_tokenizer, "painter"),
            (pipe.text_alignment, "text"),
            (pipe.tokenizer, "tokenizer"),
        ):
            model.save_pretrained(models / name)
    data = FacesConfig(str(shards))
    places = {"tokenizer": str(models / "painter"), "alignment": str(models)}
    return GeneratorStage(GeneratorConfig(out=str(folder), train=loop, data=data, held_out=data, **places))


def overhead(root: Path, shards: Path, loop: LoopConfig, make: Callable[..., Any]) -> float:
    """Share of a step that is not computing."""
    clock = Clock()
    clock.around(torch.Tensor, "backward")
    clock.around(torch.optim.AdamW, "step")
    clock.around(torch.nn.utils, "clip_grad_norm_")
    runs = []
    for steps in (SHORT, LONG):
        chosen = replace(loop, steps=steps)
        stage = make(root / f"run{steps}", shards, chosen)
        stage.source.__getitems__(list(range(len(stage.source))))  # codes and maps are worked out once
        clock.losses(stage)
        before, begun = clock.seconds, time.perf_counter()
        train(stage, chosen, root / f"run{steps}", {})
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
        shards = clay_shards(root / "clay", 2 * FULL_BATCH, 128)
        full_loop = replace(LOOP, batch_size=FULL_BATCH, precision="auto")
        for name, loop, make in (("an adapter", LOOP, stage_of), ("all", full_loop, full_stage)):
            share = overhead(root / name, shards, loop, make)
            said = f"time of a step that is no computing, {name}, batch {loop.batch_size}"
            sys.stdout.write(f"{said:84} {share:6.1%}   asked: < 5 %\n")
        stage = stage_of(root / "memory", shards, LOOP)
        less = replace(LOOP, gradient_checkpointing=True)
        adapter, adapter_less = needed(stage, LOOP), needed(stage, less)
        for value in stage.pipe.transformer.parameters():
            value.requires_grad_(True)
        full, full_less = needed(stage, LOOP), needed(stage, less)
        for name, share in (
            ("with gradient checkpointing, as configured, of full without", adapter_less / full),
            ("both with", adapter_less / full_less),
            ("both without", adapter / full),
        ):
            sys.stdout.write(f"{'memory of an adapter, ' + name:84} {share:6.1%}   asked: <= 40 %\n")


if __name__ == "__main__":
    main()

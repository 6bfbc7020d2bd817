"""The one training loop: every stage runs through `train`, on one process or many (``accelerate launch``).

Nothing random lives between steps: which samples a step sees and what is drawn for each follows from the seed and the
step alone. So a run that was killed goes on to the same losses. Several processes, or several forward passes a step,
give those of one as far as a stage's losses are means over samples; losses that compare the samples of a pass with
each other, or weigh them by what the pass holds, come near.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from train_lora.card import card
from train_lora.checkpoint import Checkpoints, Saved, contents, new_folder
from train_lora.logs import Logs
from train_lora.optimizers import OPTIMIZERS, learning_rate, optimizer
from train_lora.order import Numbers
from train_lora.precision import PRECISIONS, has_bf16, settled
from train_lora.reading import batches, little_garbage
from train_lora.sharding import apart, asked_for, blank_copy, copied, in_one_piece, shard, whole
from train_lora.together import check_launch


@dataclass(frozen=True)
class LoopConfig:
    """How to train; table ``[train]`` of a configuration.

    Attributes:
        steps: optimizer steps of the whole run; the learning rate falls along a cosine over them.
        batch_size: samples a step, over all processes. micro_batch: samples a forward pass, 0 for all of a process;
            fewer take less memory; for the gradients see above.
        learning_rate: the highest. warmup: steps to get there. final_share: of it, at the end.
        optimizer: "adamw", or "adamw8bit", whose moments take a quarter of the memory (bitsandbytes).
        weight_decay: of matrices and kernels. betas: of AdamW. clip: largest norm of the gradients.
        ema: decay of the averaged weights, which are validated and exported; 0 is none.
        precision: "bf16" or "fp16" autocast, or "no"; "auto" is bf16 where the hardware has it, see `settled`.
        workers: processes that prepare samples, 0 for none.
        log_every, validate_every, save_every: in steps. keep: checkpoints that stay.
        max_hours: stop, save and export after so long, resumed time included; 0 is no limit.
        gradient_checkpointing: less memory, more time. compile: torch.compile the models.
        channels_last: memory format of kernels; convolutions are faster with it on most machines. FSDP and "adamw8bit"
            have their own.
    """

    steps: int
    batch_size: int = 32
    micro_batch: int = 0
    learning_rate: float = 3e-4
    warmup: int = 100
    final_share: float = 0.02
    optimizer: str = "adamw"
    weight_decay: float = 0.05
    betas: tuple[float, ...] = (0.9, 0.98)
    clip: float = 1.0
    ema: float = 0.998
    precision: str = "no"
    seed: int = 0
    workers: int = 0
    log_every: int = 20
    validate_every: int = 500
    save_every: int = 500
    keep: int = 2
    max_hours: float = 0.0
    gradient_checkpointing: bool = False
    compile: bool = False
    channels_last: bool = True

    def __post_init__(self) -> None:
        counts = (self.steps, self.batch_size, self.log_every, self.validate_every, self.save_every, self.keep)
        if min(counts) < 1 or min(self.micro_batch, self.warmup, self.workers) < 0:
            raise ValueError("steps, batch_size, keep and the three ..._every are at least 1, the rest not below 0")
        if self.precision not in PRECISIONS or len(self.betas) != 2 or not 0 <= self.ema < 1:
            raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, betas are two, ema lies in 0..1")
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer {self.optimizer!r} is none of {', '.join(OPTIMIZERS)}")
        if not (self.learning_rate > 0 and self.clip > 0 and min(self.max_hours, self.weight_decay) >= 0):
            raise ValueError("learning_rate and clip are above 0, max_hours and weight_decay not below it")


@dataclass(frozen=True)
class Step:
    """Where a run stands. ``seeds``: one a sample of the batch, for all that is drawn for it."""

    number: int
    progress: float
    seeds: tuple[int, ...]


class Stage(Protocol):
    """What is trained: a stage brings data, models and losses, and knows nothing of the loop.

    The model that the last three get is whole and has the averaged weights; sheet and export, on the first process.

    Attributes:
        source: ``len()`` and ``__getitems__(numbers)``, which gives the batch that `losses` gets.
        players: trained modules by name, each with an optimizer of its own; the first is the model, whose averaged
            weights are validated and exported. The loop puts wrapped ones in their place.
    """

    source: Any
    players: dict[str, nn.Module]

    def losses(self, batch: Any, step: Step) -> Iterator[tuple[str, Tensor, Mapping[str, float]]]:
        """Yield (player, loss, what to log); gradients are taken in this order, then every player makes its step."""

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Measure the model on held-out data. All processes do, and may share the work, see `together.shared`."""

    def sheet(self, model: nn.Module) -> Tensor | None:
        """A picture (3, H, W) in [0, 1] of what the model does, or None."""

    def export(self, model: nn.Module, folder: Path, report: Mapping[str, Any]) -> None:
        """Write the finished model, and what its card needs, to a new folder."""


def train(stage: Stage, config: LoopConfig, out: Path, description: Mapping[str, Any]) -> dict[str, Any]:
    """Run a stage to its end, or to ``max_hours``, SIGTERM or Ctrl-C; the same call goes on from the last checkpoint.

    Args:
        stage: what to train.
        config: how.
        out: folder for checkpoints, logs, sample sheets and, at the end, ``model``.
        description: the whole configuration, kept with each checkpoint; it may differ only in what `Checkpoints`
            allows when a run is resumed.

    Returns:
        A report: step, seconds, whether it is finished, the last validation.

    Raises:
        ValueError: too little data, a checkpoint of another configuration, or processes that do not see each other.
        OSError: no room to write, or not allowed to.
    """
    check_launch()
    # a player may sit a step out, and a model may have heads that its stage does not use
    wrapping = DistributedDataParallelKwargs(find_unused_parameters=True, broadcast_buffers=False)
    # precision is ours, whatever `accelerate launch` says: accelerate would rebuild the outputs of models, and cannot
    accelerator = Accelerator(mixed_precision="no", kwargs_handlers=[wrapping])
    return _Run(stage, config, out, description, accelerator).run()


class _Run:
    def __init__(
        self, stage: Stage, config: LoopConfig, out: Path, description: Mapping[str, Any], accelerator: Accelerator
    ) -> None:
        self.stage, self.config, self.out, self.accelerator = stage, config, out, accelerator
        self.description = description
        self.precision = settled(config.precision)
        self.names = list(stage.players)
        self.main = accelerator.is_main_process
        if self.main and self.precision == "bf16" and not has_bf16():
            sys.stderr.write('bf16 is emulated here, which is very slow: use train.precision = "auto" or "no"\n')
        self.stopped = False
        self.validation: dict[str, float] = {}
        sharded = asked_for(accelerator)
        if config.gradient_checkpointing:
            _checkpoint_gradients(stage.players[self.names[0]])
        for module in stage.players.values():
            module.to(accelerator.device).train()
            if config.channels_last and not sharded and config.optimizer != "adamw8bit":
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch's stubs lack it
        self.bare = dict(stage.players)
        model = self.bare[self.names[0]]
        self.blank = blank_copy(model) if sharded else None
        if sharded:
            shard(accelerator, model)
        for name, module in self.bare.items():
            wrapped: Any = torch.compile(module) if config.compile else module
            if not sharded:
                wrapped = accelerator.prepare_model(wrapped)
            elif module is not model:
                wrapped = copied(wrapped)
            stage.players[name] = wrapped
        self.optimizers = {name: optimizer(config, module) for name, module in self.bare.items()}
        self.ema = EMAModel(model.parameters(), decay=config.ema, use_ema_warmup=True, power=0.75, foreach=not sharded)
        self.checkpoints = Checkpoints(out / "checkpoints", description, config.keep)
        self.saved = self.checkpoints.load(self.bare, self.optimizers, self.ema)
        self.start, self.seconds = self.saved.step, self.saved.seconds
        self.scaler = torch.amp.GradScaler(
            accelerator.device.type, init_scale=self.saved.scale or 2.0**16, enabled=self.precision == "fp16"
        )

    def run(self) -> dict[str, Any]:
        numbers = Numbers(
            self.config,
            len(self.stage.source),
            self.accelerator.process_index,
            self.accelerator.num_processes,
            self.start,
        )
        logs = Logs(self.out, self.start, self.saved.sums) if self.main else None
        read = batches(self.stage.source, numbers, self.config.workers, self.accelerator.device)
        with _stop_on_signals(self), little_garbage():
            step = self._steps(read, numbers, logs)
        finished = step >= self.config.steps
        complete = finished or self._out_of_time()
        if complete and not self.validation:  # it was killed after its last step, or is out of time
            self.validation, _ = self._measure()
        report = {
            "step": step,
            "seconds": round(self.seconds, 1),
            "finished": finished,
            "validation": self.validation,
        }
        if complete:
            self._export(report)
        self.accelerator.wait_for_everyone()
        if logs:
            logs.close()
        return report

    def _steps(self, read: Iterator[Any], numbers: Numbers, logs: Logs | None) -> int:
        """All steps, or those until it has to stop; returns how many there are now."""
        config, step, mark = self.config, self.start, time.monotonic()
        stopping = self._stopping()
        while step < config.steps and not stopping:
            begun = time.monotonic()
            values = self._step(step, read, numbers)
            step += 1
            last = step == config.steps
            if logs:
                logs.add(values, config.batch_size, time.monotonic() - begun)
                if step % config.log_every == 0 or last:
                    logs.write(step)
            if step % config.validate_every == 0 or last:
                self._validate(step, logs)
            now = time.monotonic()
            self.seconds, mark = self.seconds + now - mark, now
            stopping = self._stopping()
            if step % config.save_every == 0 or last or stopping:
                self._save(step, logs)
        return step

    def _step(self, step: int, read: Iterator[Any], numbers: Numbers) -> dict[str, float]:
        """One optimizer step of every player; what to log, averaged over the forward passes."""
        rate = learning_rate(self.config, step)
        total: dict[str, float] = {}
        for part in range(numbers.passes):
            batch = next(read)
            count = min(numbers.micro, numbers.share - part * numbers.micro)
            where = Step(step, step / self.config.steps, numbers.seeds(step, part, count))
            weight = count / numbers.share
            last = part == numbers.passes - 1
            with contextlib.ExitStack() as stack:
                if not last:  # gradients meet those of the other processes once a step
                    for module in self.stage.players.values():
                        stack.enter_context(apart(module))
                stack.enter_context(self._autocast())
                torch.manual_seed(where.seeds[0])  # what models draw, such as dropout
                for name, loss, values in self.stage.losses(batch, where):
                    with torch.autocast(self.accelerator.device.type, enabled=False):
                        self.scaler.scale(loss * weight).backward()
                    for key, value in {f"loss_{name}": loss.detach(), **values}.items():
                        total[key] = total.get(key, 0.0) + weight * float(value)
        for name, one in self.optimizers.items():
            self._descend(name, one, rate)
        self.scaler.update()
        self.ema.step(self.bare[self.names[0]].parameters())
        return self._mean(total) | {"learning_rate": rate}

    def _mean(self, values: dict[str, float]) -> dict[str, float]:
        """Over the processes."""
        if self.accelerator.num_processes == 1:
            return values
        own = torch.tensor(list(values.values()), device=self.accelerator.device)
        return dict(zip(values, self.accelerator.reduce(own, "mean").tolist(), strict=True))  # type: ignore[union-attr] # a tensor

    def _descend(self, name: str, one: torch.optim.Optimizer, rate: float) -> None:
        parameters = [p for p in self.bare[name].parameters() if p.grad is not None]
        if not parameters:
            return
        for group in one.param_groups:
            group["lr"] = rate
        self.scaler.unscale_(one)
        norm = whole(torch.nn.utils.clip_grad_norm_(parameters, self.config.clip))
        if not self.scaler.is_enabled() and not norm.isfinite():  # with fp16 the scaler leaves such a step out
            raise ValueError(
                f"the gradients of {name} are not finite: lower train.learning_rate, or use precision bf16; the same "
                f"call goes on from the last checkpoint in {self.checkpoints.folder}"
            )
        self.scaler.step(one)
        one.zero_grad(set_to_none=True)

    def _validate(self, step: int, logs: Logs | None) -> None:
        self.validation, sheet = self._measure()
        if logs:
            logs.validation(step, self.validation, sheet)
        self.accelerator.wait_for_everyone()

    def _measure(self) -> tuple[dict[str, float], Tensor | None]:
        """The validation; and a sample sheet, on the first process."""
        with self._averaged() as model, torch.no_grad():
            model.eval()
            measured = self.stage.validate(model), self.stage.sheet(model) if self.main else None
            model.train()
        return measured

    def _save(self, step: int, logs: Logs | None) -> None:
        weights = contents(self.bare, self.optimizers, self.ema, keep=self.main)  # by all, for what is in shards
        if logs:
            scale = self.scaler.get_scale() if self.scaler.is_enabled() else 0.0
            now = Saved(step, self.seconds, scale, logs.sums)
            self.checkpoints.save(now, weights, self.ema.optimization_step)
        self.accelerator.wait_for_everyone()

    def _export(self, report: Mapping[str, Any]) -> None:
        """``model``: the averaged weights and a card, which the stage may write itself."""
        name = type(self.stage).__name__.removesuffix("Stage").lower()
        with self._averaged() as model:
            if not self.main:
                return
            with new_folder(self.out / "model") as folder:
                self.stage.export(model, folder, {**report, "train": self.description.get("train")})
                if not (folder / "README.md").exists():  # a stage may know more
                    (folder / "README.md").write_text(card(name, self.description, report), encoding="utf-8")

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[nn.Module]:
        """The model, with the averaged weights in the place of its own for a while; whole, so by all processes."""
        model = self.bare[self.names[0]]
        parameters = list(model.parameters())
        if self.config.ema:
            self.ema.store(parameters)
            self.ema.copy_to(parameters)
        try:
            with in_one_piece(model, self.blank) as shown:
                yield shown
        finally:
            if self.config.ema:
                self.ema.restore(parameters)

    def _autocast(self) -> torch.autocast:
        kind = torch.float16 if self.precision == "fp16" else torch.bfloat16
        return torch.autocast(self.accelerator.device.type, kind, enabled=self.precision != "no")

    def _out_of_time(self) -> bool:
        return 0 < self.config.max_hours <= self.seconds / 3600

    def _stopping(self) -> bool:
        """Whether any process was asked to stop, or time is up: all agree, or some would wait for ever."""
        if self.accelerator.num_processes > 1:
            own = torch.tensor([float(self.stopped), self.seconds], device=self.accelerator.device)
            stopped, self.seconds = self.accelerator.reduce(own, "mean").tolist()
            self.stopped = stopped > 0
        return self.stopped or self._out_of_time()


@contextlib.contextmanager
def _stop_on_signals(run: _Run) -> Iterator[None]:
    """Let SIGTERM and the first Ctrl-C end the run after the step that is being made."""

    def stop(number: int, frame: object) -> None:
        sys.stderr.write(f"{signal.Signals(number).name}: saving after this step\n")
        run.stopped = True
        if number == signal.SIGINT:
            signal.signal(number, before[number])

    before = {one: signal.signal(one, stop) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _checkpoint_gradients(module: nn.Module) -> None:
    able = [one for one in module.modules() if getattr(one, "_supports_gradient_checkpointing", False)]
    for one in able:
        one.enable_gradient_checkpointing()  # type: ignore[operator] # diffusers' ModelMixin
    if not able:
        raise ValueError(f"train.gradient_checkpointing: {type(module).__name__} cannot do it")

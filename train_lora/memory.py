"""How much memory the training of an adapter needs, found out before it begins.

Two small steps, of two samples and of three, are made where the run will be, while the memory of tensors is counted;
the rest of a step grows with the samples. (One sample alone can take kernels of its own.) To this come the weights,
their gradients, the optimizer's two moments and the averaged weights, and what the process has beside tensors. (In
full training the gradients hide what a sample takes at so few samples: this is for adapters.) It is an estimate:
kernels keep room of their own. A CPU that has to emulate half precision makes the steps in float32, whose samples took
1.3 to 1.45 times as much: then it is on the safe side.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from train_lora.loop import LoopConfig, Step
from train_lora.optimizers import moment_bytes
from train_lora.precision import cpu_has_bf16, settled

GB = 1e9
CPU = torch.device("cpu")
PROCESS = {"cpu": 0.8 * GB, "cuda": 0.6 * GB}
"""Of Python and its libraries on a CPU, where a smoke run took 0.97 GB in all; of a GPU's context, a usual value, also
for other devices.
"""
WORKER = 0.6 * GB
"""A process that prepares samples has libraries and models of its own."""
ROOM = 0.95
"""Share of what is free that a run may take."""


@dataclass(frozen=True)
class Memory:
    """Bytes that a run needs.

    Attributes:
        fixed: whatever the batch. sample: more for each sample of a forward pass. batch: samples of a forward pass.
        free: on the device, for this process.
    """

    fixed: float
    sample: float
    batch: int
    free: float

    @property
    def needed(self) -> float:
        """For the batch of the configuration."""
        return self.fixed + self.sample * self.batch

    @property
    def fits(self) -> bool:
        """Whether there is room."""
        return self.needed <= self.free * ROOM

    @property
    def largest(self) -> int:
        """The batch, halved until it fits; 0 if not even one sample does."""
        batch = self.batch
        while batch and self.fixed + self.sample * batch > self.free * ROOM:
            batch //= 2
        return batch

    def said(self) -> str:
        """One line for people."""
        line = f"memory: needs about {self.needed / GB:.1f} GB, {self.free / GB:.1f} GB are free"
        if self.fits:
            return line
        if not self.largest:
            return f"{line}; not even one sample a forward pass fits"
        smaller = self.fixed + self.sample * self.largest
        return f"{line}; batch {self.batch} -> {self.largest} fits ({smaller / GB:.1f} GB)"


def estimate(stage: Any, config: LoopConfig, processes: int = 1, device: str = "") -> Memory:  # noqa: ANN401 - an AdapterStage
    """What a run needs on a device.

    Args:
        stage: of an adapter, as its constructor left it, and as it is left.
        config: how it is trained. processes: that share a batch.
        device: such as "cpu" or "cuda:1"; "" is what training would take.

    Raises:
        ValueError: fewer than three samples, or these do not fit.
    """
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    kind = where.type
    share = max(1, config.batch_size // processes)
    batch = min(config.micro_batch or share, share)
    if len(stage.source) < 3:
        raise ValueError("memory: three samples are needed to estimate it")
    model = stage.players[next(iter(stage.players))]
    free = free_bytes(where)  # before the models are there
    with _moved(stage, where):
        counts = (2, 3) if kind == "cpu" else (2, 2, 3)  # the first one wakes a GPU's libraries, which keep some room
        *_, two, three = (step_bytes(stage, config, samples, where) for samples in counts)
    sample = three - two
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    averaged = 2 if config.ema else 0  # the average, and the weights that it stands in for in validation
    state = moment_bytes(config, model) + trained * averaged  # gradients are in the steps
    weights = sum(_size(one) for one in held(stage).values())
    workers = config.workers * WORKER * processes if kind == "cpu" else 0.0
    fixed = (
        (weights + state) * (processes if kind == "cpu" else 1)
        + PROCESS.get(kind, PROCESS["cuda"])
        + workers
        + max(0.0, two - 2 * sample)
    )
    return Memory(fixed, max(1.0, sample), batch, free / (processes if kind == "cpu" else 1))


def check(stage: Any, config: LoopConfig, processes: int = 1, device: str = "") -> Memory:  # noqa: ANN401 - as above
    """Say on stderr what a run needs; see `estimate`.

    Raises:
        ValueError: it does not fit; says what would.
    """
    found = estimate(stage, config, processes, device)
    if not found.fits:
        way = f"train.micro_batch={found.largest} gives the same steps" if found.largest else "use a larger machine"
        raise ValueError(f"{found.said()}: {way}; memory=false begins all the same")
    sys.stderr.write(found.said() + "\n")
    return found


@contextlib.contextmanager
def _moved(stage: Any, where: torch.device) -> Iterator[None]:  # noqa: ANN401 - as above
    """All models of a stage on a device, and afterwards where they were."""
    were = [(one, next((p.device for p in one.parameters()), None)) for one in held(stage).values()]
    try:
        if where.type != "cpu":
            for one, _ in were:
                one.to(where)
        yield
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"memory: not even three samples fit on {where} ({str(error).splitlines()[0]}): "
            "train.gradient_checkpointing=true or a smaller base; memory=false begins all the same"
        ) from None
    finally:
        if where.type != "cpu":
            for one, place in were:
                one.to(place)
            torch.get_device_module(where).empty_cache()


def step_bytes(stage: Any, config: LoopConfig, samples: int, where: torch.device = CPU) -> float:  # noqa: ANN401 - as above
    """Most bytes of tensors that a forward and backward pass adds to those before it, gradients included."""
    half = settled(config.precision) != "no"
    quick = half and (where.type != "cpu" or cpu_has_bf16())
    batch = stage.source.__getitems__(list(range(samples)))
    player = stage.players[next(iter(stage.players))]
    was = player.training
    checkpointing = config.gradient_checkpointing and hasattr(player, "enable_gradient_checkpointing")
    if checkpointing:
        player.enable_gradient_checkpointing()
    player.train()

    def step() -> None:
        with torch.autocast(where.type, torch.bfloat16, enabled=quick):
            for _, loss, _ in stage.losses(batch, Step(0, 0.0, tuple(range(samples)))):
                loss.backward()

    try:
        found = peak(step, where)
        copies = sum(_size(one) for one in held(stage).values()) / 2  # of weights in half, which autocast keeps
        return found + (copies if half and not quick else 0.0)
    finally:
        player.train(was)
        player.zero_grad(set_to_none=True)
        if checkpointing:
            _leave_checkpointing(player)


def _leave_checkpointing(player: nn.Module) -> None:
    for module in (player, *getattr(player, "held", ())):
        if hasattr(module, "disable_gradient_checkpointing"):
            module.disable_gradient_checkpointing()


def peak(action: Callable[[], None], where: torch.device = CPU) -> float:
    """Most bytes of a device's tensors that are alive at once during an action, beyond those before it."""
    if where.type != "cpu":
        module = torch.get_device_module(where)
        module.synchronize(where)
        module.reset_peak_memory_stats(where)
        before = module.memory_allocated(where)
        action()
        module.synchronize(where)
        return float(module.max_memory_allocated(where) - before)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        action()
    events = [one for one in found.profiler.kineto_results.events() if one.name() == "[memory]"]
    now = most = 0
    for one in sorted(events, key=lambda one: one.start_ns()):
        now += one.nbytes()
        most = max(most, now)
    return float(most)


def held(stage: Any) -> dict[int, nn.Module]:  # noqa: ANN401 - as above
    """The models that a stage keeps, each once."""
    found = [one for one in vars(stage).values() if isinstance(one, nn.Module)]
    pipe = getattr(stage, "pipe", None)
    if pipe is not None:
        found += [one for one in pipe.components.values() if isinstance(one, nn.Module)]
    else:
        found += list(stage.players.values())
    return {id(one): one for one in found}


def _size(model: nn.Module) -> float:
    return float(sum(x.numel() * x.element_size() for x in (*model.parameters(), *model.buffers())))


def free_bytes(where: torch.device) -> float:
    """Memory that a process may have: of the GPU, or of the machine and its container."""
    if where.type != "cpu":
        return float(torch.get_device_module(where).mem_get_info(where)[0])
    there = [float("inf")]
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text(encoding="utf-8").splitlines() if ":" in line)
        there.append(float(lines["MemAvailable"].split()[0]) * 1024)
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        if Path(limit).is_file() and Path(used).is_file():
            most = Path(limit).read_text(encoding="utf-8").strip()
            if most.isdigit():
                there.append(float(most) - float(Path(used).read_text(encoding="utf-8")))
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0  # what this process has already counts as free
    return min(there) + own


__all__ = ["Memory", "check", "estimate", "free_bytes", "held", "peak", "step_bytes"]

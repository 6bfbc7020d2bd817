"""A stage that trains in a second; and, as a script, runs that are killed or that several processes share."""

import json
import os
import random
import resource
import signal
import socket
import sys
import time
import traceback
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from train_lora.loop import LoopConfig, train

FSDP = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
}
"""What `accelerate launch` tells the processes of a model in shards."""


class ToySource:
    """Number n is always the same point of a small problem."""

    def __init__(self, length=64):
        self.length = length

    def __len__(self):
        return self.length

    def __getitems__(self, numbers):
        draws = [torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(n)) for n in numbers]
        images = torch.stack(draws)
        return images, images.mean((2, 3)) * 3 + 0.5


class ToyModel(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), nn.Flatten(), nn.Dropout(dropout))
        self.out = nn.Linear(128, 3)
        self.unused = nn.Linear(2, 2)  # as the heads of the transformer's structure encoder

    def forward(self, images):
        return self.out(self.features(images))


class ToyStage:
    """See `train_lora.loop.Stage`; the critic joins at half of the run. Losses are means over samples."""

    def __init__(self, dropout=0.0, source=None, fail_at=None):
        torch.manual_seed(0)
        self.source = source or ToySource()
        self.players = {"model": ToyModel(dropout), "critic": nn.Linear(3, 1)}
        self.fail_at, self.seen, self.gradients = fail_at, [], []

    def losses(self, batch, step):
        images, wanted = batch
        model, critic = self.players["model"], self.players["critic"]
        self.seen.append((step.number, step.seeds))
        out = model(images)
        fit = (out - wanted).square().mean()
        late = step.progress >= 0.5
        loss = fit
        if late:
            critic.requires_grad_(False)
            loss = fit - 0.01 * critic(out).mean()
            critic.requires_grad_(True)
        yield "model", loss, {"fit": float(fit.detach())}
        if late:
            told = (critic(wanted) - 1).square().mean() + (critic(out.detach()) + 1).square().mean()
            yield "critic", told, {}
        if self.fail_at == step.number:
            os.kill(os.getpid(), signal.SIGTERM)

    def validate(self, model):
        images, wanted = self.source.__getitems__(list(range(32)))
        return {"error": float((model(images) - wanted).abs().mean())}

    def sheet(self, model):
        return torch.full((3, 4, 4), 0.5)

    def export(self, model, folder, report):
        folder.mkdir(exist_ok=True)
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "toy.safetensors")


def free_port():
    """Of this machine, for processes to meet at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def toy_config(**values):
    defaults = {"steps": 12, "batch_size": 8, "learning_rate": 0.01, "warmup": 2, "log_every": 1}
    return LoopConfig(**{**defaults, "validate_every": 6, "save_every": 4, **values})


def run_toy(out, stage=None, **values):
    config = toy_config(**values)
    return train(stage or ToyStage(), config, Path(out), {"train": vars(config)})


def last_step(log):
    if not log.exists():
        return 0
    lines = [line for line in log.read_text().splitlines() if line.endswith("}")]
    return max((json.loads(line)["step"] for line in lines), default=0)


def forked(action):
    """Start `action` in a process of its own, with everything imported; returns its number."""
    child = os.fork()
    if child:
        return child
    status = 70  # whatever is raised
    try:
        status = action()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def killed(kills, seed, steps, command):
    """Run a command of train_lora, killed at random steps and moments, and at last to its end."""
    from train_lora.__main__ import main

    rng = random.Random(seed)
    log = Path(next(part for part in command if part.startswith("out=")).removeprefix("out=")) / "log.jsonl"
    done = 0
    for target in sorted(rng.sample(range(1, steps), kills)):
        child = forked(lambda: main(command))
        while last_step(log) < target:
            time.sleep(0.001)
            assert os.waitpid(child, os.WNOHANG) == (0, 0), "it ended before it was killed"
        time.sleep(rng.random() * 0.03)
        os.kill(child, signal.SIGKILL)
        done += os.waitpid(child, 0)[1] == signal.SIGKILL
    return {"kills": done, "status": os.waitpid(forked(lambda: main(command)), 0)[1]}


def several(processes, port, environment, action):
    """Start ``action(rank)`` in several processes that know of each other, without the launcher; their numbers."""

    def one(rank):
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
        os.environ |= dict(environment)
        return action(rank) or 0

    return [forked(lambda rank=rank: one(rank)) for rank in range(processes)]


def by_several(processes, port, environment, action):
    """``action(rank)`` in several processes to its end; the worst exit status."""
    children = several(processes, port, environment, action)
    return {"status": max(os.waitpid(child, 0)[1] for child in children)}


def killed_together(processes, kills, seed, steps, command, environment=()):
    """A command by several processes, killed at random steps and moments, and at last run to its end.

    Every other time a single one is killed: then the rest has to end by itself, and not by success.
    """
    from train_lora.__main__ import main

    rng = random.Random(seed)
    log = Path(next(part for part in command if part.startswith("out=")).removeprefix("out=")) / "log.jsonl"
    statuses = []
    for number, target in enumerate(sorted(rng.sample(range(1, steps), kills))):
        children = several(processes, free_port(), environment, lambda rank: main(command))
        while last_step(log) < target:
            time.sleep(0.001)
            assert all(os.waitpid(child, os.WNOHANG) == (0, 0) for child in children), "one ended before it was killed"
        time.sleep(rng.random() * 0.03)
        for child in children if number % 2 else [rng.choice(children)]:
            os.kill(child, signal.SIGKILL)
        statuses.append(min(os.waitpid(child, 0)[1] for child in children))
    return {"kills": len(statuses), "survived": statuses.count(0)} | commanded(
        processes, free_port(), command, environment
    )


def shared(processes, port, out, values, environment=()):
    """One toy run of several processes; ``environment``: what a launcher would set beside."""

    def one(rank):
        stage = ToyStage()
        run_toy(out, stage, **values)
        parameters = dict(stage.players["model"].named_parameters())
        local = {name: getattr(value, "to_local", lambda value=value: value)() for name, value in parameters.items()}
        sizes = {name: [local[name].numel(), value.numel()] for name, value in parameters.items()}
        Path(out, f"sizes-{rank}.json").write_text(json.dumps(sizes))

    return by_several(processes, port, environment, one)


def commanded(processes, port, command, environment=()):
    """One command of train_lora by several processes."""
    from train_lora.__main__ import main

    return by_several(processes, port, environment, lambda rank: main(command))


def crowded(out, room):
    """A toy run by the command line that may write files of `room` bytes; its errors go to ``out``.err."""
    from train_lora.__main__ import COMMANDS, main

    def one():
        sys.stderr = open(f"{out}.err", "w", buffering=1)
        COMMANDS["tokenizer"] = lambda *_: run_toy(out)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
        return main(["tokenizer", "none.toml"])

    return {"status": os.waitstatus_to_exitcode(os.waitpid(forked(one), 0)[1])}


JOBS = {
    "killed": killed,
    "killed together": killed_together,
    "shared": shared,
    "commanded": commanded,
    "crowded": crowded,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "launched":  # under `accelerate launch`
        run_toy(sys.argv[2], **json.loads(sys.argv[3]))
    else:
        import train_lora.stages.tokenizer  # noqa: F401 - before the first fork

        results = [JOBS[name](*values) for name, *values in json.loads(sys.argv[1])]
        sys.stdout.write("\n" + json.dumps(results) + "\n")

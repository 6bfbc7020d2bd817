"""AdamW with moments of 8 bits: it trains, saves and goes on, takes what the estimate says, and says what it lacks."""

import importlib.util
import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from toy_stage import ToyStage, run_toy, toy_config

from train_lora.loop import LoopConfig
from train_lora.memory import estimate
from train_lora.optimizers import OPTIMIZERS, SMALLEST, moment_bytes, optimizer

needs_it = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="pip install 'auface[8bit]': moments of 8 bits are untested",
)


class WideStage(ToyStage):
    """With a layer that is large enough for moments of 8 bits, behind a convolution."""

    def __init__(self, fail_at=None):
        super().__init__(fail_at=fail_at)
        torch.manual_seed(3)
        self.players["model"].out = nn.Sequential(nn.Linear(128, 64), nn.SiLU(), nn.Linear(64, 3))


def log(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in lines]


def losses(out):
    return [line["loss_model"] for line in log(out) if "loss_model" in line]


def test_unknown_optimizers_are_errors():
    with pytest.raises(ValueError, match="optimizer 'sgd' is none of adamw, adamw8bit"):
        LoopConfig(1, optimizer="sgd")


def test_without_bitsandbytes_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not there
    with pytest.raises(
        ModuleNotFoundError, match=r"needs bitsandbytes: pip install 'auface\[8bit\]', or use \"adamw\""
    ):
        optimizer(toy_config(optimizer="adamw8bit"), nn.Linear(2, 2))


@pytest.mark.parametrize("side", [8, 64, 65])
def test_the_estimate_of_moments_is_what_they_take(side):
    module = nn.Linear(side, side).requires_grad_(True)
    made = optimizer(toy_config(), module)
    taken = _step_and_count(made, module)
    assert moment_bytes(toy_config(), module) == taken
    assert taken == 2 * 4 * (side * side + side)


def _step_and_count(made, module):
    module(torch.ones(1, module.in_features)).sum().backward()
    made.step()
    values = [v for state in made.state.values() for name, v in state.items() if "qmap" not in name and name != "step"]
    return sum(value.numel() * value.element_size() for value in values)


def test_frozen_parameters_have_no_moments():
    module = nn.Linear(64, 64)
    module.weight.requires_grad_(False)
    assert moment_bytes(toy_config(), module) == 2 * 4 * 64


def test_the_memory_of_a_run_counts_them():
    plain, packed = (estimate(WideStage(), toy_config(optimizer=name), device="cpu") for name in OPTIMIZERS)
    model = WideStage().players["model"]
    saved = moment_bytes(toy_config(), model) - moment_bytes(toy_config(optimizer="adamw8bit"), model)
    assert saved > 0
    assert plain.needed - packed.needed == saved


@needs_it
@pytest.mark.parametrize("side", [8, 64, 65])
def test_the_estimate_of_moments_of_8_bits_is_what_they_take(side):
    config, module = toy_config(optimizer="adamw8bit"), nn.Linear(side, side)
    taken = _step_and_count(optimizer(config, module), module)
    assert moment_bytes(config, module) == taken
    assert (taken < moment_bytes(toy_config(), module) / 3) == (side * side >= SMALLEST)


@needs_it
def test_it_learns_as_adamw_does_but_not_the_same(tmp_path):
    for name in ("adamw", "adamw8bit"):
        run_toy(tmp_path / name, WideStage(), optimizer=name, steps=40, save_every=40, validate_every=40)
    one, other = losses(tmp_path / "adamw"), losses(tmp_path / "adamw8bit")
    assert one != other
    assert other[-1] < 0.5 * other[0]
    assert other == pytest.approx(one, rel=0.25, abs=0.05)


@needs_it
@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path, step):
    run_toy(tmp_path / "whole", WideStage(), optimizer="adamw8bit")
    run_toy(tmp_path / "stopped", WideStage(fail_at=step), optimizer="adamw8bit")
    assert log(tmp_path / "stopped")[-1]["step"] == step + 1
    saved = load_file(tmp_path / "stopped" / "checkpoints" / f"step-{step + 1:08d}" / "model.optimizer.safetensors")
    assert torch.uint8 in {value.dtype for value in saved.values()}
    run_toy(tmp_path / "stopped", WideStage(), optimizer="adamw8bit")
    assert log(tmp_path / "stopped") == log(tmp_path / "whole")
    whole, stopped = (load_file(tmp_path / name / "model" / "toy.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(value, stopped[name]) for name, value in whole.items())


@needs_it
def test_a_run_keeps_its_optimizer(tmp_path):
    run_toy(tmp_path, WideStage(fail_at=4), optimizer="adamw8bit")
    with pytest.raises(ValueError, match=r"other values of train\.optimizer"):
        run_toy(tmp_path, WideStage())


@needs_it
def test_a_build_that_cannot_run_here_is_said(monkeypatch):
    import bitsandbytes

    def missing(*_, **__):
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr(bitsandbytes.optim.AdamW8bit, "step", missing)
    with pytest.raises(
        ValueError, match=r"cannot run on cpu \(no kernel .*\): pip install -U bitsandbytes, or use \"ad"
    ):
        optimizer(toy_config(optimizer="adamw8bit"), nn.Linear(2, 2))


def test_checkpoints_from_before_there_was_a_choice_go_on(tmp_path):
    run_toy(tmp_path, ToyStage(fail_at=4))
    (state,) = (tmp_path / "checkpoints").glob("step-00000005/state.json")
    written = json.loads(state.read_text())
    del written["description"]["train"]["optimizer"]
    state.write_text(json.dumps(written))
    assert run_toy(tmp_path)["finished"]

"""Several processes: a run goes on with another number of them, and the shipped accelerate configurations are read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_stage
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file
from toy_stage import ToyStage, free_port, run_toy

pytestmark = pytest.mark.usefixtures("one_thread")
SCRIPT = toy_stage.__file__
ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "train_lora" / "configs" / "accelerate"
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def by_two(out, **values):
    """A toy run of two gloo processes."""
    jobs = json.dumps([["shared", 2, free_port(), str(out), values]])
    done = subprocess.run([sys.executable, SCRIPT, jobs], env=ALONE, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [{"status": 0}]


def losses(out):
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row["loss_model"] for row in rows if "loss_model" in row}


def assert_same(out, alone):
    assert losses(out) == pytest.approx(losses(alone), rel=1e-5, abs=1e-6)
    (one,), (other,) = ([*(folder / "model").glob("*.safetensors")] for folder in (out, alone))
    for name, value in load_file(one).items():
        torch.testing.assert_close(load_file(other)[name], value, atol=1e-5, rtol=1e-4)


def test_a_run_of_one_process_goes_on_with_two(tmp_path):
    run_toy(tmp_path / "alone")
    assert run_toy(tmp_path / "more", ToyStage(fail_at=6))["step"] == 7
    by_two(tmp_path / "more")
    assert_same(tmp_path / "more", tmp_path / "alone")


def test_a_run_of_two_processes_goes_on_with_one(tmp_path):
    run_toy(tmp_path / "alone")
    by_two(tmp_path / "fewer", max_hours=1e-9)
    assert max(losses(tmp_path / "fewer")) == 1
    assert run_toy(tmp_path / "fewer")["finished"]
    assert_same(tmp_path / "fewer", tmp_path / "alone")


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_configurations_are_read(path):
    config = load_config_from_file(str(path))
    assert config.num_processes >= 2
    assert config.mixed_precision == "no", "train.precision decides"
    assert f"accelerate launch --config_file train_lora/configs/accelerate/{path.name}" in path.read_text()


@pytest.mark.slow
def test_the_shipped_cpu_configuration_launches(tmp_path):
    run_toy(tmp_path / "alone")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "ddp-cpu.yaml")]
    launch += ["--main_process_port", free_port(), SCRIPT, "launched", str(tmp_path / "two"), "{}"]
    subprocess.run(launch, check=True, env=ALONE, timeout=300, stderr=subprocess.PIPE)
    assert_same(tmp_path / "two", tmp_path / "alone")

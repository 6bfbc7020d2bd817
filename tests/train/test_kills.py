"""Kill -9 ten times, at random steps and moments: the run ends with the losses and the weights of an unbroken one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_pipeline
import toy_stage
from clay_faces import clay_shards
from safetensors.torch import load_file
from toy_stage import FSDP

from train_lora.__main__ import main

ROOT = Path(__file__).parents[2]
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
STEPS = 24
TRAIN = f"""
[train]
steps = {STEPS}
batch_size = 4
warmup = 2
learning_rate = 3e-3
ema = 0.9
log_every = 1
validate_every = 12
save_every = 3
"""
GENERATOR = """
tokenizer = "{tokenizer}"
alignment = "{alignment}"
[data]
shards = "{faces}"
[held_out]
shards = "{faces}"
[model]
width = 32
layers = 1
heads = 2
code_dim = 16
structure_width = 32
"""
ADAPTER = """
base = "{base}"
scores = 0
memory = false
[data]
shards = "{clay}"
[adapter]
rank = 2
dropout = 0.2
"""


def files(out):
    return {path.name: load_file(path) for path in sorted((out / "model").rglob("*.safetensors"))}


def rows(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "samples_per_second"} for line in lines]


def assert_the_same_run(killed, whole):
    assert rows(killed) == rows(whole)
    assert sum(any(name.startswith("loss_") for name in row) for row in rows(killed)) == STEPS
    ours, theirs = files(killed), files(whole)
    assert ours.keys() == theirs.keys()
    assert ours
    for name, values in theirs.items():
        assert values.keys() == ours[name].keys()
        assert all(torch.equal(value, ours[name][key]) for key, value in values.items())


@pytest.fixture(scope="module")
def configs(faces, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kills")
    given = toy_pipeline.save_parts(folder / "trained") | {"faces": faces.out}
    given |= {"base": toy_pipeline.save_weights(folder / "weights"), "clay": clay_shards(folder / "clay", 12, 64)}
    for name, text in (("generator", GENERATOR), ("adapter", ADAPTER)):
        (folder / f"{name}.toml").write_text('out = "unset"\n' + text.format(**given) + TRAIN)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["generator", "adapter"])
def test_killed_ten_times_it_ends_the_same(configs, tmp_path, stage):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main([stage, str(configs / f"{stage}.toml"), f"out={tmp_path / 'whole'}"]) == 0
    finally:
        torch.set_num_threads(before)
    command = [stage, str(configs / f"{stage}.toml"), f"out={tmp_path / 'killed'}"]
    job = json.dumps([["killed", 10, 7, STEPS, command]])
    done = subprocess.run(
        [sys.executable, toy_stage.__file__, job], env=ALONE, timeout=550, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [{"kills": 10, "status": 0}]
    assert_the_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["copies", "shards"])
def test_two_processes_killed_ten_times_end_the_same(configs, tmp_path, how):
    """Both at once, and one of them: the other ends then, and does not wait for ever."""
    environment = list({"copies": {}, "shards": FSDP}[how].items())
    commands = {
        name: ["generator", str(configs / "generator.toml"), f"out={tmp_path / name}"] for name in ("whole", "killed")
    }
    jobs = [["commanded", 2, toy_stage.free_port(), commands["whole"], environment]]
    jobs += [["killed together", 2, 10, 7, STEPS, commands["killed"], environment]]
    done = subprocess.run(
        [sys.executable, toy_stage.__file__, json.dumps(jobs)], env=ALONE, timeout=900, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == [{"status": 0}, {"kills": 10, "survived": 0, "status": 0}]
    assert_the_same_run(tmp_path / "killed", tmp_path / "whole")

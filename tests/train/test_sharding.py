"""Models in shards (FSDP 2, gloo): the losses, checkpoints and exports of one process, whatever the number."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_pipeline
import toy_stage
from accelerate import Accelerator
from clay_faces import clay_shards
from safetensors.torch import load_file
from toy_stage import FSDP, ToyStage, free_port, run_toy

from train_lora.adapters import AdaptedTransformer, AdapterSpec, begin_adapter
from train_lora.sharding import shard

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "train_lora" / "configs" / "accelerate" / "fsdp-cpu.yaml"
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run_jobs(*jobs):
    """Jobs of `toy_stage`, their results, and what they wrote to stderr."""
    command = [sys.executable, toy_stage.__file__, json.dumps(jobs)]
    done = subprocess.run(command, env=ALONE, timeout=550, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def toy(out, **values):
    return ["shared", 2, free_port(), str(out), values, FSDP]


def succeed(*jobs):
    results, errors = run_jobs(*jobs)
    assert results == [{"status": 0}] * len(jobs), errors[-3000:]


def log(out, name):
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {row["step"]: row[name] for row in rows if name in row}


def assert_same(out, other, rel=1e-5, atol=1e-5):
    for name in ("loss_model", "loss_critic", "val_error"):
        assert log(out, name) == pytest.approx(log(other, name), rel=rel, abs=1e-6)
        assert log(out, name)
    ours, theirs = (load_file(folder / "model" / "toy.safetensors") for folder in (out, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], atol=atol, rtol=1e-4)


# --- the toy: a sharded player, and one beside it of which all have a copy -------------------------------------------


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """Toy runs of two processes, by name; all in one process that imports once."""
    folder = tmp_path_factory.mktemp("toys")
    options = {
        "plain": {},
        "passes": {"micro_batch": 3},
        "bf16": {"precision": "bf16"},
        "fp16": {"precision": "fp16"},
        "unaveraged": {"ema": 0.0},
        "stopped": {"max_hours": 1e-9},
    }
    succeed(*(toy(folder / name, **values) for name, values in options.items()))
    return folder


def test_every_process_keeps_a_part_of_every_parameter(toys):
    sizes = [json.loads((toys / "plain" / f"sizes-{rank}.json").read_text()) for rank in range(2)]
    assert len(sizes[0]) == 6
    for name, (first, all_of_it) in sizes[0].items():
        second = sizes[1][name][0]
        assert first + second == all_of_it
        assert 0 < second <= first < all_of_it


@pytest.mark.parametrize(
    ("name", "values", "close"),
    [
        ("plain", {}, {}),
        ("passes", {"micro_batch": 3}, {}),
        ("unaveraged", {"ema": 0.0}, {}),
        ("bf16", {"precision": "bf16"}, {"rel": 1e-2, "atol": 2e-3}),
        ("fp16", {"precision": "fp16"}, {"rel": 2e-3, "atol": 2e-3}),
    ],
)
def test_the_losses_and_the_model_are_those_of_one_process(toys, tmp_path, name, values, close):
    run_toy(tmp_path, **values)
    assert_same(toys / name, tmp_path, **close)


def test_a_checkpoint_is_whole(toys, tmp_path):
    run_toy(tmp_path)
    for name in ("model", "model.optimizer", "critic.optimizer", "ema"):
        place = Path("checkpoints") / "step-00000012" / f"{name}.safetensors"
        sharded, whole = load_file(toys / "plain" / place), load_file(tmp_path / place)
        assert {key: value.shape for key, value in sharded.items()} == {k: v.shape for k, v in whole.items()}
        for key, value in sharded.items():
            torch.testing.assert_close(value, whole[key], atol=1e-5, rtol=1e-4)


def test_a_run_goes_from_two_processes_to_one_and_back(toys, tmp_path):
    run_toy(tmp_path / "alone")
    out = tmp_path / "run"
    (toys / "stopped").rename(out)
    assert max(log(out, "loss_model")) == 1
    assert run_toy(out, ToyStage(fail_at=6))["step"] == 7
    succeed(toy(out))
    assert_same(out, tmp_path / "alone")


@pytest.mark.slow
def test_the_shipped_configuration_launches_on_cpus(tmp_path):
    run_toy(tmp_path / "alone")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG)]
    launch += ["--main_process_port", free_port(), toy_stage.__file__, "launched", str(tmp_path / "two"), "{}"]
    asked = {"ACCELERATE_USE_CPU": "true"}
    subprocess.run(launch, check=True, env=ALONE | asked, timeout=300, stderr=subprocess.PIPE)
    assert_same(tmp_path / "two", tmp_path / "alone")


@pytest.mark.slow
def test_compiled_models_in_shards_give_the_same_losses(tmp_path):
    run_toy(tmp_path / "alone")
    succeed(toy(tmp_path / "two", compile=True))
    assert_same(tmp_path / "two", tmp_path / "alone", rel=1e-3, atol=1e-3)


def test_what_cannot_be_is_said(tmp_path):
    jobs = [
        ["shared", 2, free_port(), str(tmp_path / "old"), {}, FSDP | {"FSDP_VERSION": "1"}],
        ["shared", 2, free_port(), str(tmp_path / "packed"), {"optimizer": "adamw8bit"}, FSDP],
    ]
    said = ["FSDP 1 is not supported: set fsdp_version: 2", '"adamw8bit" cannot train a model in shards (FSDP)']
    if not torch.cuda.is_available():
        jobs.append(["shared", 2, free_port(), str(tmp_path / "apart"), {}, {"ACCELERATE_USE_CPU": "false"}])
        said.append("2 processes were launched, accelerate sees 1: without GPUs, set ACCELERATE_USE_CPU=true")
    results, errors = run_jobs(*jobs)
    assert all(result["status"] for result in results)
    assert all(one in errors for one in said)
    assert not [*tmp_path.rglob("*.safetensors")]


# --- the stages ------------------------------------------------------------------------------------------------------

TRAIN = """
[train]
steps = 4
batch_size = 8
micro_batch = 3
warmup = 1
learning_rate = 3e-3
ema = 0.5
log_every = 1
validate_every = 4
save_every = 4
channels_last = false
"""
HELD_OUT = '\n[data]\nshards = "{faces}"\n[held_out]\nshards = "{faces}"\n'
TOMLS = {
    "align": """
words = "{parts}/align/tokenizer"
rows = 64
image_size = 64
structure = {{ width = 32, embedding_dim = 32 }}
[text]
hidden_size = 32
num_layers = 1
num_heads = 2
intermediate_size = 32
max_length = 96
projection_dim = 32
reader_dim = 64
"""
    + TRAIN,
    "estimator": 'strength = 0.5\n[calibration]\nshards = "{faces}"\n'
    + HELD_OUT
    + "[model]\nimage_size = 32\nwidths = [8, 8, 16, 16]\ndepths = [1, 1, 1, 1]\n"
    + TRAIN,
    "generator": """
tokenizer = "{parts}/tokenizer"
alignment = "{parts}/align"
estimator = "{parts}/estimator"
"""
    + HELD_OUT
    + "[model]\nwidth = 32\nlayers = 3\nheads = 2\ncode_dim = 16\nstructure_width = 32\n"
    + TRAIN
    + "gradient_checkpointing = true\n",
    "tokenizer": HELD_OUT
    + """
[model]
image_size = 64
channels = [8, 16, 16]
levels = [5, 5]
code_groups = 1
decoder_blocks = 1
[losses]
adversarial_from = 0.4
"""
    + TRAIN,
    "adapter": """
base = "{base}"
scores = 8
held_out = 2
[data]
shards = "{clay}"
"""
    + TRAIN.replace("3e-3", "1e-2").replace("batch_size = 8", "batch_size = 4"),
}


@pytest.fixture(scope="module")
def parts(faces, tmp_path_factory):
    """What the configurations name."""
    folder = tmp_path_factory.mktemp("parts")
    toy_pipeline.save_parts(folder / "trained")
    (folder / "parts").mkdir()
    for name in ("tokenizer", "align", "estimator"):
        (folder / "trained" / name / "model").rename(folder / "parts" / name)
    base = toy_pipeline.save_weights(folder / "weights")
    return {"faces": faces.out, "parts": folder / "parts", "base": base, "clay": clay_shards(folder / "clay", 12, 64)}


def train_stage(parts, folder, name, *kinds):
    """A stage by one process, "one", by two with copies, "copies", or with shards, "shards": folders by kind."""
    jobs = []
    for kind in kinds:
        path = folder / f"{kind}.toml"
        path.write_text(f'out = "{folder / kind}"\n' + TOMLS[name].format(**parts))
        environment = FSDP if kind == "shards" else {}
        jobs.append(["commanded", 1 if kind == "one" else 2, free_port(), [name, str(path)], environment])
    succeed(*jobs)
    return [folder / kind for kind in kinds]


def assert_same_stage(out, other, rel):
    first, second = ((folder / "log.jsonl").read_text().splitlines() for folder in (out, other))
    assert len(first) == len(second) == 5
    for ours, theirs in zip(first, second, strict=True):
        ours, theirs = ({k: v for k, v in json.loads(row).items() if "_per_" not in k} for row in (ours, theirs))
        assert ours == pytest.approx(theirs, rel=rel, abs=rel)


SLOW = {name: pytest.param(name, marks=pytest.mark.slow) for name in TOMLS}


@pytest.mark.parametrize("name", ["generator", *(SLOW[name] for name in ("align", "estimator", "tokenizer"))])
def test_shards_train_a_stage_as_copies_do(parts, tmp_path, name):
    shards, copies = train_stage(parts, tmp_path, name, "shards", "copies")
    assert_same_stage(shards, copies, 1e-3)
    files = sorted(path.relative_to(copies / "model") for path in (copies / "model").rglob("*.safetensors"))
    assert files
    for file in files:
        ours, theirs = load_file(shards / "model" / file), load_file(copies / "model" / file)
        assert ours.keys() == theirs.keys()
        # all values as one: AdamW takes a full step where a gradient is rounding alone, as of biases before a norm
        one, other = (torch.cat([values[key].float().flatten() for key in ours]) for values in (ours, theirs))
        assert (one - other).norm() < 0.001 * other.norm()


@pytest.mark.parametrize(
    "name", ["adapter", *(SLOW[name] for name in ("align", "estimator", "generator", "tokenizer"))]
)
def test_two_processes_train_and_validate_as_one_does(parts, tmp_path, name):
    """Losses of some stages weigh what a pass holds, so these differ a little."""
    both = (folder / "log.jsonl" for folder in train_stage(parts, tmp_path, name, "one", "copies"))
    one, two = (json.loads(path.read_text().splitlines()[-1]) for path in both)
    assert one.keys() == two.keys()
    assert any(key.startswith("val_") for key in one)
    assert two == pytest.approx(one, rel=0.1, abs=0.1)


def test_an_adapter_in_shards_is_refused():
    pipe = toy_pipeline.toy_pipeline()
    begin_adapter(pipe, AdapterSpec(), {"data": {}, "sample": {}, "steps": 1})
    with pytest.raises(
        ValueError, match="an adapter trains little of one: use DDP, such as --config_file train_lora/co"
    ):
        shard(Accelerator(), AdaptedTransformer(pipe.transformer))

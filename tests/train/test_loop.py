"""The training loop: stopped, killed, split or shared, it makes the same losses and the same model."""

import dataclasses
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import toy_stage
from safetensors.torch import load_file
from toy_stage import ToySource, ToyStage, free_port, run_toy, toy_config

from auface_diffusers.facs import units
from auface_diffusers.models.face_tokenizer import FaceTokenizer
from train_lora import loop, precision
from train_lora.__main__ import COMMANDS, main
from train_lora.ablate import AblateConfig
from train_lora.config import ConfigError, load_config
from train_lora.data.prepare_config import PrepareConfig
from train_lora.data.synth import SynthConfig
from train_lora.export import ExportConfig
from train_lora.loop import LoopConfig
from train_lora.optimizers import learning_rate
from train_lora.report import ReportConfig
from train_lora.stages.adapter import AdapterConfig
from train_lora.stages.align import AlignConfig
from train_lora.stages.estimator import EstimatorConfig
from train_lora.stages.generator import GeneratorConfig
from train_lora.stages.sd_adapter import SDAdapterConfig
from train_lora.stages.tokenizer import TokenizerConfig

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "train_lora" / "configs"
SCRIPT = toy_stage.__file__
ALONE = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
SLOW_WORKERS = pytest.param({"workers": 2}, marks=pytest.mark.slow)  # which import everything
UNSTEADY = ("samples_per_second",)
CONFIG = """
[data]
shards = "{faces}"
[held_out]
shards = "{faces}"
faces = 8
[model]
image_size = 64
channels = [8, 16, 16]
levels = [5, 5]
code_groups = 1
decoder_blocks = 1
[losses]
adversarial_from = 0.4
[train]
steps = 24
batch_size = 4
warmup = 4
learning_rate = 2e-3
log_every = 1
validate_every = 12
save_every = 5
"""


@pytest.fixture(scope="session")
def tokenizer_toml(faces, tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tokenizer.toml"
    path.write_text('out = "unset"\n' + CONFIG.format(faces=faces.out))
    return str(path)


@pytest.fixture(scope="session")
def unbroken(tokenizer_toml, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken") / "run"
    torch.set_num_threads(1)
    assert main(["tokenizer", tokenizer_toml, f"out={out}"]) == 0
    return out


def run_outside(jobs):
    """Jobs of `toy_stage`, in a process from which others can be started, and killed, without importing all again."""
    command = [sys.executable, SCRIPT, json.dumps(jobs)]
    done = subprocess.run(command, env=ALONE, timeout=300, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def outside(tokenizer_toml, tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    jobs = [
        ["killed", 3, 0, 24, ["tokenizer", tokenizer_toml, f"out={folder / 'killed'}"]],
        ["shared", 2, free_port(), str(folder / "shared"), {"micro_batch": 2}],
        ["crowded", str(folder / "crowded"), 4000],
    ]
    return folder, dict(zip(("killed", "shared", "crowded"), run_outside(jobs), strict=True))


def log(out, *, steady=True):
    lines = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if not steady or k not in UNSTEADY} for line in lines]


def losses(out, name="loss_model"):
    return [line[name] for line in log(out) if name in line]


def weights(out):
    (file,) = (Path(out) / "model").glob("*.safetensors")
    return load_file(file)


def assert_same_run(one, other):
    assert log(one) == log(other)
    assert len(weights(one)) > 3
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name


def on_card(out, name):
    lines = (Path(out) / "model" / "README.md").read_text().splitlines()
    return next(float(line.split("|")[2]) for line in lines if line.startswith(f"| {name} |"))


def checkpoints(out):
    return sorted(path.name for path in (Path(out) / "checkpoints").iterdir())


def stop_at(step):
    return ToyStage(fail_at=step - 1)


# --- learning --------------------------------------------------------------------------------------------------------


def test_toy_learns_and_leaves_all_it_should(tmp_path):
    report = run_toy(tmp_path, steps=60, save_every=20, validate_every=30)
    assert report["finished"]
    assert report["step"] == 60
    assert report["validation"].keys() == {"error"}
    assert losses(tmp_path)[-1] < 0.3 * losses(tmp_path)[0]
    assert [line["step"] for line in log(tmp_path) if "val_error" in line] == [30, 60]
    assert checkpoints(tmp_path) == ["step-00000040", "step-00000060"]
    assert sorted(path.name for path in (tmp_path / "samples").iterdir()) == ["step-00000030.png", "step-00000060.png"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["README.md", "toy.safetensors"]
    assert not list(tmp_path.rglob("*.part"))


def test_tokenizer_learns_and_is_exported(unbroken):
    fits = [line["pixel"] + line["detail"] for line in log(unbroken) if "pixel" in line]
    assert len(fits) == 24
    assert sum(fits[-4:]) < 0.8 * sum(fits[:4])
    assert "loss_critic" not in log(unbroken)[8]
    assert "loss_critic" in log(unbroken)[10]
    model = FaceTokenizer.from_pretrained(unbroken / "model")
    assert model.config["image_size"] == 64
    assert {value.dtype for value in weights(unbroken).values()} == {torch.float16}
    card = (unbroken / "model" / "README.md").read_text()
    for part in ("license: apache-2.0", "# AUFace tokenizer", "Steps: 24,", "CC0", '"learning_rate": 0.002'):
        assert part in card
    psnr = next(line["val_psnr"] for line in reversed(log(unbroken)) if "val_psnr" in line)
    assert on_card(unbroken, "psnr") == pytest.approx(psnr, rel=1e-3)
    assert hashlib.sha256("\n".join(units.channels).encode()).hexdigest()[:12] in card


def test_learning_rate_rises_and_falls():
    config = toy_config(steps=100, warmup=10, learning_rate=1.0, final_share=0.1)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1, abs=0.01)


def test_averaged_weights_are_what_is_exported(tmp_path):
    for ema in (0.0, 0.9):
        run_toy(tmp_path / str(ema), ema=ema)
    last = load_file(tmp_path / "0.0" / "checkpoints" / "step-00000012" / "model.safetensors")
    plain, averaged = weights(tmp_path / "0.0"), weights(tmp_path / "0.9")
    assert all(torch.equal(plain[name], value) for name, value in last.items())
    assert losses(tmp_path / "0.0") == losses(tmp_path / "0.9"), "training itself does not see them"
    assert any(not torch.equal(plain[name], value) for name, value in averaged.items())
    after = load_file(tmp_path / "0.9" / "checkpoints" / "step-00000012" / "model.safetensors")
    assert all(torch.equal(after[name], value) for name, value in last.items()), "validating gave the weights back"


@pytest.mark.parametrize(
    ("option", "value"),
    [("clip", 1e-3), ("weight_decay", 0.9), ("seed", 1), ("betas", (0.5, 0.6)), ("warmup", 8), ("final_share", 0.9)],
)
def test_every_option_counts(tmp_path, option, value):
    run_toy(tmp_path / "a")
    run_toy(tmp_path / "b", **{option: value})
    assert losses(tmp_path / "a") != losses(tmp_path / "b")


# --- one step, made in other ways ------------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [{"micro_batch": 3}, {"micro_batch": 1}, {"channels_last": False}, SLOW_WORKERS])
def test_the_same_losses_otherwise(tmp_path, values):
    run_toy(tmp_path / "a")
    run_toy(tmp_path / "b", **values)
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), rel=1e-4)
    for name, value in weights(tmp_path / "a").items():
        torch.testing.assert_close(weights(tmp_path / "b")[name], value, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("low", ["bf16", "fp16"])
def test_low_precision_is_near_and_resumes(tmp_path, low):
    run_toy(tmp_path / "a")
    run_toy(tmp_path / "b", precision=low)
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), rel=0.02 if low == "bf16" else 0.2)
    assert losses(tmp_path / "b") != losses(tmp_path / "a")
    run_toy(tmp_path / "c", stop_at(7), precision=low)
    run_toy(tmp_path / "c", precision=low)
    assert_same_run(tmp_path / "b", tmp_path / "c")


@pytest.mark.parametrize(("hardware", "same"), [(True, "bf16"), (False, "no")])
def test_auto_precision_is_what_the_machine_has(tmp_path, monkeypatch, capfd, hardware, same):
    for module in (precision, loop):
        monkeypatch.setattr(module, "has_bf16", lambda: hardware)
    run_toy(tmp_path / "a", precision="auto")
    assert "emulated" not in capfd.readouterr().err
    run_toy(tmp_path / "b", precision=same)
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    run_toy(tmp_path / "c", precision="bf16", steps=1)
    assert ("emulated" in capfd.readouterr().err) is not hardware


def test_gradient_checkpointing_gives_the_same_losses(tokenizer_toml, unbroken, tmp_path):
    overrides = [f"out={tmp_path}", "train.gradient_checkpointing=true", "train.save_every=100"]
    assert main(["tokenizer", tokenizer_toml, *overrides]) == 0
    assert losses(tmp_path, "loss_tokenizer") == pytest.approx(losses(unbroken, "loss_tokenizer"), rel=1e-4)


def test_gradient_checkpointing_that_cannot_be_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"train\.gradient_checkpointing: ToyModel cannot"):
        run_toy(tmp_path, gradient_checkpointing=True)


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("gcc") or shutil.which("clang")), reason="torch.compile needs a compiler")
def test_compiled_models_give_the_same_losses(tmp_path):
    run_toy(tmp_path / "a")
    run_toy(tmp_path / "b", compile=True)
    assert losses(tmp_path / "b") == pytest.approx(losses(tmp_path / "a"), rel=1e-3)
    assert weights(tmp_path / "b").keys() == weights(tmp_path / "a").keys()


def assert_shared(out, alone):
    for name in ("loss_model", "loss_critic", "fit", "val_error"):
        assert losses(out, name) == pytest.approx(losses(alone, name), rel=1e-5, abs=1e-6)
        assert losses(out, name)
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(out)[name], value, atol=1e-5, rtol=1e-4)


def test_two_processes_make_the_losses_of_one(outside, tmp_path):
    run_toy(tmp_path / "one", micro_batch=2)
    folder, results = outside
    assert results["shared"] == {"status": 0}
    assert_shared(folder / "shared", tmp_path / "one")


@pytest.mark.slow
def test_accelerate_launch_makes_the_losses_of_one_process(tmp_path):
    run_toy(tmp_path / "one")
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--cpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "bf16", "--gradient_accumulation_steps", "4"]  # the configuration decides
    launch += ["--main_process_port", free_port(), SCRIPT, "launched", str(tmp_path / "two"), "{}"]
    subprocess.run(launch, check=True, env=ALONE, timeout=300, stderr=subprocess.PIPE)
    assert_shared(tmp_path / "two", tmp_path / "one")


# --- stopped and killed ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1, 4, 7, 11, 12])
@pytest.mark.parametrize("log_every", [1, 5])
def test_stopped_by_a_signal_it_goes_on_the_same(tmp_path, step, log_every):
    run_toy(tmp_path / "a", log_every=log_every)
    report = run_toy(tmp_path / "b", stop_at(step), log_every=log_every)
    assert report["step"] == step
    assert report["finished"] == (step == 12)
    assert f"step-{step:08d}" in checkpoints(tmp_path / "b")
    assert (tmp_path / "b" / "model").exists() == report["finished"]
    again = run_toy(tmp_path / "b", log_every=log_every)
    assert again["finished"]
    assert again["validation"].keys() == {"error"}
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_what_models_draw_is_the_same_after_a_stop(tmp_path):
    run_toy(tmp_path / "a", ToyStage(dropout=0.5))
    stage = ToyStage(dropout=0.5)
    stage.fail_at = 6
    run_toy(tmp_path / "b", stage)
    torch.rand(17)
    run_toy(tmp_path / "b", ToyStage(dropout=0.5))
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_signals_have_their_handlers_back(tmp_path):
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    run_toy(tmp_path, stop_at(3))
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


def test_terminated_command_goes_on_to_the_same_model(tokenizer_toml, unbroken, tmp_path):
    out = tmp_path / "run"
    command = ["tokenizer", tokenizer_toml, f"out={out}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "train_lora", *command],
        cwd=ROOT,
        env=ALONE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while toy_stage.last_step(out / "log.jsonl") < 7:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    report = json.loads(stdout)
    assert process.returncode == 0
    assert not report["finished"]
    assert b"SIGTERM: saving after this step" in stderr
    assert checkpoints(out)[-1] == f"step-{report['step']:08d}"
    assert log(out) == [line for line in log(unbroken) if line["step"] <= report["step"]]
    assert main(command) == 0
    assert_same_run(unbroken, out)


def assert_killed(result, kills, unbroken, out):
    assert result == {"kills": kills, "status": 0}
    assert_same_run(unbroken, out)
    steps = [line["step"] for line in log(out) if "loss_tokenizer" in line]
    assert steps == list(range(1, 25)), "none twice"


def test_killed_three_times_it_ends_the_same(unbroken, outside):
    folder, results = outside
    assert_killed(results["killed"], 3, unbroken, folder / "killed")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_ten_times_it_ends_the_same(tokenizer_toml, unbroken, tmp_path, seed):
    command = ["tokenizer", tokenizer_toml, f"out={tmp_path / 'run'}"]
    (result,) = run_outside([["killed", 10, seed, 24, command]])
    assert_killed(result, 10, unbroken, tmp_path / "run")


def test_gradients_that_are_no_numbers_stop_the_run(tmp_path):
    class Broken(ToyStage):
        def losses(self, batch, step):
            for name, loss, values in super().losses(batch, step):
                yield name, loss * (float("nan") if step.number == 3 else 1.0), values

    with pytest.raises(ValueError, match="gradients of model are not finite: lower train.learning_rate"):
        run_toy(tmp_path, Broken())
    assert not (tmp_path / "model").exists()


def test_time_that_is_up_stops_saves_and_exports(tmp_path):
    report = run_toy(tmp_path, max_hours=1e-9)
    assert not report["finished"]
    assert report["step"] == 1
    assert checkpoints(tmp_path) == ["step-00000001"]
    assert (tmp_path / "model" / "toy.safetensors").exists()
    again = run_toy(tmp_path, max_hours=1e-9)
    assert again["step"] == 1, "earlier time counts"
    assert run_toy(tmp_path)["finished"]


def test_validation_and_saving_count_as_time(tmp_path):
    class Slow(ToyStage):
        def validate(self, model):
            time.sleep(0.1)
            return super().validate(model)

    assert run_toy(tmp_path, Slow(), validate_every=2)["seconds"] >= 0.6


def test_run_that_was_killed_while_it_exported_has_its_numbers(tmp_path):
    first = run_toy(tmp_path)
    before = log(tmp_path)
    shutil.move(tmp_path / "model", tmp_path / "model.part")
    (tmp_path / "model.part" / "half.txt").touch()
    again = run_toy(tmp_path)
    assert again["validation"] == first["validation"]
    assert log(tmp_path) == before
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["README.md", "toy.safetensors"]
    assert on_card(tmp_path, "error") == pytest.approx(first["validation"]["error"], rel=1e-3)
    assert not (tmp_path / "model.part").exists()


def test_export_takes_the_place_of_an_older_one(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").touch()
    run_toy(tmp_path)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["README.md", "toy.safetensors"]
    assert not (tmp_path / "model.old").exists()


def test_export_that_fails_leaves_the_older_one(tmp_path):
    class Failing(ToyStage):
        def export(self, model, folder, report):
            super().export(model, folder, report)
            raise OSError("no room")

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "old.txt").touch()
    with pytest.raises(OSError, match="no room"):
        run_toy(tmp_path, Failing())
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["old.txt"]
    assert not (tmp_path / "model.part").exists()
    assert run_toy(tmp_path)["finished"]


# --- resumed otherwise, damaged --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"learning_rate": 0.02}, "learning_rate"),
        ({"steps": 13}, "steps"),
        ({"seed": 2, "ema": 0.5}, "ema, train.seed"),
    ],
)
def test_another_configuration_is_refused_by_name(tmp_path, values, name):
    run_toy(tmp_path, stop_at(5))
    before = checkpoints(tmp_path), log(tmp_path)
    with pytest.raises(ValueError, match=rf"other values of train\.{name}: use them, or another out="):
        run_toy(tmp_path, **values)
    assert (checkpoints(tmp_path), log(tmp_path)) == before


def test_what_changes_no_loss_may_change(tmp_path):
    run_toy(tmp_path / "a")
    run_toy(tmp_path / "b", stop_at(5))
    assert run_toy(tmp_path / "b", max_hours=1.0, log_every=2, save_every=3, validate_every=4, keep=1)["finished"]
    assert checkpoints(tmp_path / "b") == ["step-00000012"]
    kept = {line["step"]: line["loss_model"] for line in log(tmp_path / "b") if "loss_model" in line}
    whole = losses(tmp_path / "a")
    assert kept[4] == whole[3]
    assert kept[8] == pytest.approx(sum(whole[6:8]) / 2, rel=1e-5)


def test_other_command_line_value_is_refused(tokenizer_toml, unbroken, tmp_path, capsys):
    shutil.copytree(unbroken, tmp_path / "run")
    assert main(["tokenizer", tokenizer_toml, f"out={tmp_path / 'run'}", "losses.detail=2.0"]) == 1
    assert "losses.detail" in capsys.readouterr().err


FILES = ("model.safetensors", "critic.optimizer.safetensors", "ema.safetensors", "state.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_damaged_checkpoint_gives_way_to_the_one_before(tmp_path, capsys, name, damage):
    run_toy(tmp_path / "a")
    run_toy(tmp_path / "b", stop_at(10))
    file = tmp_path / "b" / "checkpoints" / "step-00000010" / name
    if damage == "cut":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    else:
        file.unlink()
    capsys.readouterr()
    assert run_toy(tmp_path / "b", save_every=9)["finished"]
    error = capsys.readouterr().err
    assert f"warning: checkpoint file {file} cannot be read" in error
    assert "going on from" in error
    assert "step-00000008" in error
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert checkpoints(tmp_path / "b") == ["step-00000009", "step-00000012"], "the damaged one is no more"


def test_damaged_checkpoint_is_written_anew(tmp_path):
    run_toy(tmp_path, stop_at(10))
    file = tmp_path / "checkpoints" / "step-00000010" / "model.safetensors"
    file.write_bytes(b"")
    run_toy(tmp_path, stop_at(10))
    assert load_file(file)
    run_toy(tmp_path)


def test_only_damaged_checkpoints_are_an_error_with_a_way_out(tmp_path):
    run_toy(tmp_path, stop_at(3))
    file = tmp_path / "checkpoints" / "step-00000003" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:50])
    with pytest.raises(ValueError, match=r"step-00000003.model\.safetensors cannot be read .*delete .*checkpoints to"):
        run_toy(tmp_path)


def test_weights_of_another_model_are_an_error(tmp_path):
    run_toy(tmp_path, stop_at(3))
    stage = ToyStage()
    stage.players["model"].out = torch.nn.Linear(128, 3, bias=False)
    with pytest.raises(ValueError, match="weights of another model"):
        run_toy(tmp_path, stage)


def test_leftovers_of_a_killed_run_are_ignored(tmp_path):
    run_toy(tmp_path / "a")
    run_toy(tmp_path / "b", stop_at(6))
    left = tmp_path / "b" / "checkpoints" / "step-00000099.part"
    left.mkdir()
    (left / "model.safetensors").write_bytes(b"half")
    (tmp_path / "b" / "checkpoints" / "notes.txt").touch()
    with (tmp_path / "b" / "log.jsonl").open("a") as file:
        file.write('{"step": 7, "loss_model": 1.0}\n{"step": 8, "loss_mod')
    run_toy(tmp_path / "b")
    assert_same_run(tmp_path / "a", tmp_path / "b")
    assert not left.exists()


# --- places that cannot be written -----------------------------------------------------------------------------------


def test_full_disk_is_said_and_nothing_is_half_written(outside):
    """A limit on the size of files stands for a disk without room: the system refuses the same writes."""
    folder, results = outside
    assert results["crowded"] == {"status": 1}
    errors = (folder / "crowded.err").read_text()
    assert errors.splitlines()[-1].startswith("train_lora: ")
    assert "step-00000004 cannot be written" in errors
    assert "File too large" in errors
    assert "Traceback" not in errors
    assert checkpoints(folder / "crowded") == []
    assert run_toy(folder / "crowded")["finished"]


def test_place_that_is_no_folder_is_said(tmp_path, tokenizer_toml, capsys):
    (tmp_path / "file").touch()
    assert main(["tokenizer", tokenizer_toml, f"out={tmp_path / 'file' / 'run'}"]) == 1
    assert "Not a directory" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_said(tmp_path, tokenizer_toml, capsys):
    tmp_path.chmod(0o500)
    assert main(["tokenizer", tokenizer_toml, f"out={tmp_path / 'run'}"]) == 1
    assert "Permission denied" in capsys.readouterr().err


# --- logs ------------------------------------------------------------------------------------------------------------


def test_a_value_is_averaged_over_the_steps_that_have_it(tmp_path):
    """The critic joins at step 7 of 12."""
    run_toy(tmp_path / "each")
    run_toy(tmp_path / "some", log_every=8)
    each = losses(tmp_path / "each", "loss_critic")
    assert losses(tmp_path / "some", "loss_critic")[0] == pytest.approx(sum(each[:2]) / 2, rel=1e-5)


def test_runs_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr("train_lora.logs.find_spec", lambda name: None)
    run_toy(tmp_path)
    assert not (tmp_path / "tensorboard").exists()
    assert losses(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_has_each_step_once(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_toy(tmp_path, stop_at(6))
    run_toy(tmp_path)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss_model")] == list(range(1, 13))
    values = [event.value for event in events.Scalars("loss_model")]
    assert values == pytest.approx(losses(tmp_path), rel=1e-4)
    assert [event.step for event in events.Images("samples")] == [6, 12]


# --- configurations --------------------------------------------------------------------------------------------------

KINDS = {"align": AlignConfig, "estimator": EstimatorConfig, "generator": GeneratorConfig}
KINDS |= {"synth": SynthConfig, "tokenizer": TokenizerConfig, "faces": SynthConfig, "decoder": TokenizerConfig}
KINDS |= {"bp4d": PrepareConfig, "folder": PrepareConfig}
KINDS |= {"adapter": AdapterConfig, "smoke": AdapterConfig, "sd-adapter": SDAdapterConfig}
KINDS |= {"report": ReportConfig, "export": ExportConfig, "ablate": AblateConfig}
TOMLS = [path for path in sorted(CONFIGS.rglob("*.toml")) if path.name != "aus.toml"]  # a table, no configuration


@pytest.mark.parametrize("path", TOMLS, ids=lambda path: path.stem)
def test_shipped_configurations_can_be_read(path):
    (kind,) = [kind for name, kind in KINDS.items() if path.stem.startswith(name)]
    config = load_config(kind, path)
    assert config.out
    for override in (
        "nothing=1",
        "out=1",
        *(["train.nothing=1", "train.steps=0"] if hasattr(config, "train") else []),
    ):
        with pytest.raises(ConfigError):
            load_config(kind, path, [override])


def test_every_training_command_has_a_configuration():
    for name in {"tokenizer", "align", "generator", "estimator", "synth", "sd-adapter"} & COMMANDS.keys():
        assert (CONFIGS / f"{name}.toml").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=5", "unknown key stepz; known: steps"),
        ("losses.hair=1", "unknown key hair"),
        ("nothing.at.all=1", "unknown key nothing"),
        ("train.steps=1.5", "steps: 1.5 is no int"),
        ("train.steps=0", "steps, batch_size"),
        ("train.compile=1", "compile: 1 is no bool"),
        ("train.precision=fp8", "auto, bf16, fp16, no"),
        ("train.betas=[0.9]", "betas are two"),
        ("train.ema=1.0", "ema lies in"),
        ("train.clip=0.0", "clip are above 0"),
        ("train.learning_rate=nan", "learning_rate and clip are above 0"),
        ("train.max_hours=-1", "max_hours and weight_decay not below"),
        ("train.steps.more=1", "override train.steps.more: steps is a value, not a table"),
        ("steps", "write key=value"),
        ("losses.readout=0.5", "needs losses.estimator"),
        ("train.batch_size=64", "32 samples are fewer than a batch of 64: lower train.batch_size"),
        ("data.faces=99", "holds 32 faces, 99 are asked for"),
        ("data.shards=/none", "/none holds no shards"),
    ],
)
def test_bad_value_is_named(tokenizer_toml, tmp_path, capsys, override, message):
    assert main(["tokenizer", tokenizer_toml, f"out={tmp_path / 'run'}", override]) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_missing_file_and_table_are_named(tokenizer_toml, tmp_path, capsys):
    assert main(["tokenizer", str(tmp_path / "none.toml")]) == 1
    assert "none.toml cannot be read" in capsys.readouterr().err
    (tmp_path / "bare.toml").write_text('out = "x"\n')
    assert main(["tokenizer", str(tmp_path / "bare.toml")]) == 1
    assert "missing key train, data, held_out" in capsys.readouterr().err


def test_overrides_reach_nested_values(tokenizer_toml):
    config = load_config(TokenizerConfig, tokenizer_toml, ["train.steps=7", "model.levels=[3, 3]", "out=/a b/c"])
    assert config.train.steps == 7
    assert config.model["levels"] == [3, 3]
    assert config.model["image_size"] == 64
    assert config.out == "/a b/c"
    assert dataclasses.replace(config.train, steps=24) == load_config(TokenizerConfig, tokenizer_toml).train


def test_a_batch_larger_than_the_data_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"4 samples are fewer than a batch of 8"):
        run_toy(tmp_path, ToyStage(source=ToySource(4)))


def test_steps_see_their_own_seeds(tmp_path):
    stage = ToyStage()
    run_toy(tmp_path, stage, micro_batch=4)
    assert [number for number, _ in stage.seen] == [step for step in range(12) for _ in range(2)]
    assert len({seed for _, seeds in stage.seen for seed in seeds}) == 12 * 8
    assert isinstance(toy_config(), LoopConfig)

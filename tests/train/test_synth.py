"""Made faces with exact labels: deterministic, resumable, and the labels are of the picture."""

import dataclasses
import io
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from auface_diffusers.anatomy import Appearance, Camera, HeadModel, project_points
from auface_diffusers.facs import AUSet, read_text, resolve, units
from train_lora.__main__ import main
from train_lora.config import ConfigError, load_config
from train_lora.data.sample_aus import KINDS, SHARES, sample_aus
from train_lora.data.shards import read_shard, write_shard
from train_lora.data.synth import SynthConfig, plan, synth

EXAMPLE = Path(__file__).parents[2] / "train_lora" / "configs" / "synth.toml"


def small(tmp_path, **values):
    defaults = {"shards": 2, "per_shard": 6, "size": 64, "people": 50}
    return SynthConfig(out=str(tmp_path / "faces"), **{**defaults, **values})


def contents(config):
    return {path.name: path.read_bytes() for path in sorted(Path(config.out).iterdir())}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    config = small(tmp_path_factory.mktemp("made"), per_shard=10)
    synth(config)
    samples = [sample for path in sorted(Path(config.out).glob("*.tar")) for sample in read_shard(path)]
    return config, samples


def test_samples_are_whole_and_none_is_doubled(made):
    config, samples = made
    assert [key for key, _ in samples] == [f"{number:09d}" for number in range(20)]
    for _, sample in samples:
        assert set(sample) == {"webp", "json", "parts.png"}
        image = np.asarray(Image.open(io.BytesIO(sample["webp"])))
        parts = np.asarray(Image.open(io.BytesIO(sample["parts.png"])))
        assert image.shape == (64, 64, 3)
        assert parts.shape == (64, 64)
        assert 0.1 < (parts == 1).mean() < 0.9, "skin"


def test_labels_are_of_the_picture(made):
    config, samples = made
    head = HeadModel.from_default()
    for _, sample in samples:
        label = json.loads(sample["json"])
        effective = AUSet.parse(label["effective"])
        assert effective == resolve(AUSet.parse(label["aus"])).effective
        assert AUSet.from_vector(list(label["effective_levels"].values())) == effective
        assert list(label["levels"]) == list(units.channels)
        for text in (label["texts"]["anatomical"], label["texts"]["compact"], *label["texts"]["varied"]):
            assert read_text(text) == effective.round()
        assert read_text(label["texts"]["coder"]) == effective
        points = np.array(label["landmarks"]["ibug68"])
        assert points.shape == (68, 2)
        assert len(label["landmarks"]["mesh468"]) == 468
        parts = np.asarray(Image.open(io.BytesIO(sample["parts.png"])))
        nose = points[30].round().astype(int)
        assert parts[nose[1], nose[0]] == 1, "the tip of the nose is on skin"
        again = head(torch.tensor(label["identity"]), effective, pose=label["pose"], gaze=label["gaze"])
        look = Appearance.from_dict(label["attributes"])
        redrawn = project_points(again.landmarks468, [look], Camera(config.size))[0, :, :2]
        assert np.abs(redrawn.numpy() - np.array(label["landmarks"]["mesh468"])).max() < 0.05, "the label says it all"


def test_shards_do_not_depend_on_workers_or_order(tmp_path):
    one = small(tmp_path / "one")
    two = small(tmp_path / "two", workers=2)
    synth(one)
    synth(two)
    assert contents(one) == contents(two)


def test_ray_is_asked_for_by_option_and_named_when_missing(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # import ray fails, whether it is installed or not
    arguments = ["synth", str(EXAMPLE), f"out={tmp_path / 'faces'}", "--engine", "ray", "shards=1", "per_shard=2"]
    assert main(arguments) == 1
    assert "pip install ray" in capsys.readouterr().err


@pytest.mark.slow
def test_ray_makes_the_same_shards(tmp_path):
    folder = Path(__file__).parents[2] / ".cache" / "ray"
    if not (folder / "ready").exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", folder, "--upgrade", "ray"]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode and not os.environ.get("CI"):
            pytest.skip(f"ray cannot be installed: {done.stderr[-200:]}")
        assert done.returncode == 0, done.stderr
        (folder / "ready").touch()
    local = small(tmp_path / "local", shards=3)
    synth(local)
    spread = small(tmp_path / "ray", shards=3)
    values = [f"{name}={getattr(spread, name)!r}" for name in ("shards", "per_shard", "size", "people")]
    command = [
        sys.executable,
        "-m",
        "train_lora",
        "synth",
        str(EXAMPLE),
        f"out={spread.out}",
        *values,
        "--engine",
        "ray",
    ]
    paths = os.pathsep.join([str(folder), str(EXAMPLE.parents[2])])
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "PYTHONPATH": paths})
    assert contents(spread) == contents(local)


def test_a_second_run_makes_what_is_missing_only(tmp_path):
    config = small(tmp_path)
    synth(config)
    before = contents(config)
    (Path(config.out) / "faces-000001.tar").unlink()
    calls = []
    assert synth(config, lambda done, of: calls.append((done, of)))["made_now"] == 1
    assert calls == [(2, 2)]
    assert contents(config) == before
    more = synth(dataclasses.replace(config, shards=3))
    assert more["made_now"] == 1


def test_kill_dash_nine_loses_and_doubles_nothing(tmp_path):
    config = small(tmp_path, shards=3, per_shard=12, size=96)
    values = [f"{name}={getattr(config, name)!r}" for name in ("shards", "per_shard", "size", "people")]
    command = [sys.executable, "-m", "train_lora", "synth", str(EXAMPLE), f"out={config.out}", *values, "workers=1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(Path(config.out).glob("*.tar")):
        time.sleep(0.02)
    process.kill()
    process.wait()
    subprocess.run(command, check=True, capture_output=True)
    keys = [key for path in sorted(Path(config.out).glob("*.tar")) for key, _ in read_shard(path)]
    assert keys == [f"{number:09d}" for number in range(36)]
    assert not list(Path(config.out).glob("*.part"))


def test_a_full_disk_leaves_the_finished_shards(tmp_path):
    def samples():
        yield "000", {"json": b"{}"}
        raise OSError(28, "No space left on device")

    write_shard(tmp_path / "good.tar", [("000", {"json": b"{}"})])
    with pytest.raises(OSError, match="No space"):
        write_shard(tmp_path / "bad.tar", samples())
    assert [path.name for path in tmp_path.iterdir()] == ["good.tar"]
    assert list(read_shard(tmp_path / "good.tar")) == [("000", {"json": b"{}"})]


def test_a_damaged_shard_is_named(tmp_path):
    (tmp_path / "bad.tar").write_bytes(b"no tar")
    with pytest.raises(ValueError, match=r"bad.tar.*delete it"):
        list(read_shard(tmp_path / "bad.tar"))


def test_another_configuration_needs_another_folder(tmp_path):
    config = small(tmp_path, shards=1, per_shard=1)
    synth(config)
    with pytest.raises(ValueError, match="another configuration"):
        synth(dataclasses.replace(config, seed=1))


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"size": 80}, {"image_format": "png"}, {"texts": 1}, {"posed": 0.0}, {"people": 2}]
)
def test_every_option_changes_the_samples(tmp_path, change):
    def shard(name, **values):
        config = small(tmp_path / name, shards=1, per_shard=8, **values)
        synth(config)
        return contents(config)["faces-000000.tar"]

    assert shard("a") != shard("b", **change)


def test_scores_come_in_the_shares_asked_for():
    config = SynthConfig(out="nowhere")
    kinds = Counter(plan(config, number).kind for number in range(6000))
    assert set(kinds) == set(KINDS)
    for kind, share in SHARES.items():
        assert abs(kinds[kind] / 6000 - share) < 0.02
    rng = random.Random(0)
    drawn = [sample_aus(rng) for _ in range(4000)]
    assert all(len(aus.codes) == 1 for kind, aus in drawn if kind == "single")
    singles = {code for kind, aus in drawn if kind == "single" for code in aus.codes}
    assert singles == {unit.code for unit in units.values() if unit.still and unit.kind.startswith("action")}
    conflicts = [bool(resolve(aus).conflicts()) for kind, aus in drawn if kind == "conflict"]
    assert np.mean(conflicts) > 0.98


def test_the_example_loads_and_overrides_count():
    config = load_config(SynthConfig, EXAMPLE, ["seed=5", "shares.neutral=0", 'out="elsewhere"', "image_format=png"])
    assert (config.seed, config.shares["neutral"], config.out, config.image_format) == (5, 0.0, "elsewhere", "png")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sed=5", "unknown key sed; known: out, shards"),
        ("seed=x", "'x' is no int"),
        ("size=10", r"size 10: 64\.\.1024"),
        ("image_format=gif", "webp, png"),
        ("engine=spark", "local, ray"),
        ("shares.smiles=1", "neutral, single"),
        ("seed", "write key=value"),
    ],
)
def test_bad_configurations(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(SynthConfig, EXAMPLE, [override])


def test_the_command(tmp_path, capsys):
    arguments = [f"out={tmp_path / 'faces'}", "shards=1", "per_shard=2", "size=64", "workers=1"]
    assert main(["synth", str(EXAMPLE), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 2
    assert main(["synth", str(tmp_path / "no.toml")]) == 1
    assert "no.toml" in capsys.readouterr().err


def test_training_and_evaluation_share_no_combination():
    def names(evaluation, kind, count):
        rng = random.Random(5)
        drawn = [sample_aus(rng, {kind: 1.0}, evaluation=evaluation)[1] for _ in range(count)]
        return {tuple(aus.parts) for aus in drawn if len(aus.codes) > 1}

    for kind in ("sided", "natural", "conflict"):
        trained, kept = names(False, kind, 2000), names(True, kind, 100)
        assert kept
        assert not trained & kept


def test_single_units_are_not_trained_at_whole_levels():
    rng = random.Random(6)
    levels = [level for _ in range(3000) for _, level in sample_aus(rng, {"single": 1.0})[1].items()]
    assert not [level for level in levels if level == int(level)]
    assert {round(level) for level in levels} >= {1, 2, 3, 4, 5}


def test_people_of_different_ranges_do_not_meet(tmp_path):
    one, other = (small(tmp_path, first_person=first) for first in (0, 50))
    people = [{plan(config, number).person for number in range(200)} for config in (one, other)]
    assert max(people[0]) < 50 <= min(people[1])
    assert max(people[1]) < 100

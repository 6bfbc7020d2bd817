"""The run as a whole: the same bytes however it is cut up, clear errors before work starts, every option acts."""

import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from facs import reader_trees
from train import picture_trees as trees

from train_lora.__main__ import main
from train_lora.config import ConfigError, load_config
from train_lora.data.prepare import prepare
from train_lora.data.prepare_config import PrepareConfig
from train_lora.data.shards import DATA_FILE, REPEATS

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "train_lora" / "configs"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """32 pictures of 4 people with codes beside them."""
    return trees.folder(tmp_path_factory.mktemp("people") / "faces")


def settings(people, out, **values):
    given = {"images": str(people), "source": "sidecar", "subjects": "folder", "unnamed": "absent", "per_shard": 4}
    given["split"] = {"by": "seed", "validation": 0.25, "test": 0.25}
    return trees.config(out, **{**given, **values})


@pytest.fixture(scope="module")
def unbroken(people, tmp_path_factory):
    """What one process makes of `people` in one go."""
    out = tmp_path_factory.mktemp("unbroken") / "out"
    prepare(settings(people, out))
    return trees.contents(out)


def command(people, out):
    """The same run as a command."""
    toml = out.with_suffix(".toml")
    config = dataclasses.asdict(settings(people, out))
    lines = [f"{key} = {json.dumps(value)}" for key, value in config.items() if not isinstance(value, dict)]
    for name in ("quality", "split"):
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in config[name].items())]
    toml.parent.mkdir(parents=True, exist_ok=True)
    toml.write_text("\n".join(lines))
    return [sys.executable, "-m", "train_lora", "data", str(toml)]


# --- the same bytes --------------------------------------------------------------------------------------------------


def test_a_run_leaves_splits_a_card_and_nothing_else(unbroken):
    names = {name.partition("/")[0] for name in unbroken}
    assert names == {
        "README.md", "card.json", "data.json", "bad_rows.jsonl", "skipped.jsonl", "train", "validation", "test",
    }  # fmt: skip
    assert not [name for name in unbroken if name.endswith(".part")]
    assert f"train/{REPEATS}" in unbroken
    assert f"validation/{REPEATS}" not in unbroken


def test_nobody_is_in_two_splits_and_no_picture_comes_twice(people, tmp_path):
    result = prepare(settings(people, tmp_path / "out"))
    splits = {split: trees.samples(tmp_path / "out" / split) for split in ("train", "validation", "test")}
    seen = {split: {label["subject"] for label, _ in some} for split, some in splits.items()}
    assert [len(seen[split]) for split in ("train", "validation", "test")] == [2, 1, 1]
    assert sum(len(some) for some in seen.values()) == len(set.union(*seen.values())) == 4
    pictures = [label["picture"] for some in splits.values() for label, _ in some]
    assert len(pictures) == len(set(pictures)) == result["listed"] == result["kept"] == 32
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    twelve = card["splits"]["train"]["units"]["12"]
    assert (twelve["present"], twelve["absent"], twelve["unknown"]) == (4, 12, 0)
    assert twelve["levels"] == {"D": 2, "E": 2}
    assert card["splits"]["train"]["rules"]["N2"] == 2, "1+2"
    assert card["splits"]["train"]["units"]["43"]["share_balanced"] > card["splits"]["train"]["units"]["43"]["share"]


def test_workers_make_the_same_bytes(people, unbroken, tmp_path):
    prepare(settings(people, tmp_path / "out", workers=2))
    assert trees.contents(tmp_path / "out") == unbroken


def test_a_killed_run_goes_on(people, unbroken, tmp_path):
    """Killed after a few chunks and after the first shards; a .part file at most stays until the next call."""
    out = tmp_path / "out"
    for wanted in ("work/chunk-00000[2-9].tar", "train/faces-*.tar"):
        process = subprocess.Popen(
            command(people, out), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not list(out.glob(wanted)):
            time.sleep(0.01)
        process.kill()
        process.wait()
    prepare(settings(people, out))
    assert trees.contents(out) == unbroken


def test_a_full_disk_is_named_and_the_next_call_goes_on(people, unbroken, tmp_path):
    out = tmp_path / "out"
    smallest = min(len(content) for name, content in unbroken.items() if name.endswith(".tar"))
    full = subprocess.run(
        command(people, out),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (smallest // 2, smallest // 2)),
    )
    assert full.returncode == 1
    assert "train_lora: [Errno 27] File too large" in full.stderr
    assert not list(out.rglob("*.part"))
    prepare(settings(people, out))
    assert trees.contents(out) == unbroken


def test_a_second_call_does_nothing(people, tmp_path):
    config = settings(people, tmp_path / "out")
    first, before = prepare(config), trees.contents(tmp_path / "out")
    again = prepare(config)
    assert (first["chunks_made_now"], again["chunks_made_now"]) == (8, 0)
    assert {**again, "chunks_made_now": 8} == first
    assert trees.contents(tmp_path / "out") == before
    with pytest.raises(ValueError, match=r"another configuration.*data\.json"):
        prepare(dataclasses.replace(config, seed=1))


def test_progress_is_told(people, tmp_path):
    calls = []
    prepare(settings(people, tmp_path / "out"), lambda done, every: calls.append((done, every)))
    assert calls == [(number, 8) for number in range(1, 9)]


@pytest.mark.slow
def test_ray_makes_the_same_bytes(people, unbroken, tmp_path):
    folder = ROOT / ".cache" / "ray"
    if not (folder / "ready").exists():
        pip = [sys.executable, "-m", "pip", "install", "-q", "--target", folder, "--upgrade", "ray"]
        done = subprocess.run(pip, capture_output=True, text=True, check=False)
        if done.returncode and not os.environ.get("CI"):
            pytest.skip(f"ray cannot be installed: {done.stderr[-200:]}")
        assert done.returncode == 0, done.stderr
        (folder / "ready").touch()
    paths = os.pathsep.join([str(folder), str(ROOT)])
    arguments = [*command(people, tmp_path / "out"), "--engine", "ray"]
    done = subprocess.run(
        arguments, env={**ENVIRONMENT, "PYTHONPATH": paths}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert trees.contents(tmp_path / "out") == unbroken


# --- what is wrong is said before a picture is looked at -------------------------------------------------------------


def fails(config, message):
    """The run fails, claims nothing and looks at nothing, so that a mended configuration can use the folder."""
    with pytest.raises((ValueError, OSError), match=message):
        prepare(config)
    out = Path(config.out)
    assert not list(out.rglob("*.tar"))
    assert not (out / DATA_FILE).exists()


def test_missing_labels_and_pictures(people, tmp_path):
    fails(trees.config(tmp_path / "a", labels=str(tmp_path / "no")), "does not exist")
    fails(settings(tmp_path / "no", tmp_path / "b"), "no' is no folder")
    (tmp_path / "empty").mkdir()
    fails(settings(tmp_path / "empty", tmp_path / "c"), "holds no pictures")
    root = reader_trees.bp4d(tmp_path / "labels only")
    fails(trees.config(tmp_path / "d", labels=str(root)), r"no folder Sequences\(2D\+3D\) or 2D\+3D or 2D .*images=")
    trees.save(root / "2D" / "X001" / "1.jpg", 1, "0")
    fails(trees.config(tmp_path / "e", labels=str(root)), "can be used: no picture 6; first: F001/T1/2440.jpg is not")


def test_unknown_units_and_torn_rows(tmp_path):
    trees.save(tmp_path / "1.png", 1, "12E")
    trees.save(tmp_path / "2.png", 1, "0")
    path = trees.table(tmp_path / "labels.csv", [{"image": "1.png", "subject": "a", "AU12": 5, "AU99": 1}])
    fails(trees.config(tmp_path / "out", labels=str(path)), "source='csv'")
    fails(trees.config(tmp_path / "out", labels=str(path), source="csv"), "AU99")
    rows = [{"image": f"{number}.png", "subject": "a", "12": level} for number, level in ((1, 5), (2, 0), (1, 7))]
    path = trees.table(tmp_path / "other.csv", rows)
    result = prepare(trees.config(tmp_path / "out", labels=str(path)))
    assert result["kept"] == 2
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["label_rows"]["left_out"] == {"out of range": 1}
    assert "level 7" in (tmp_path / "out" / "bad_rows.jsonl").read_text()


def test_one_class_only(people, tmp_path):
    root = trees.folder(tmp_path / "smiles", people=4, scores=("12E",))
    fails(settings(root, tmp_path / "out"), r"one class only: of 4 pictures.*there: 12")
    fails(settings(people, tmp_path / "out", unnamed="unknown"), r'one class only.*unnamed = "absent"')


def test_three_pictures(tmp_path):
    root = trees.folder(tmp_path / "faces", people=1, scores=("0", "12E", "4D"))
    config = settings(root, tmp_path / "out")
    fails(config, r"1 subject\(s\) cannot be shared out to 3 splits")
    result = prepare(settings(root, tmp_path / "out", split={"by": "none"}))
    assert (result["train"], result["test"]) == (3, 0)


def test_nobody_says_who_is_seen(people, tmp_path):
    fails(settings(people, tmp_path / "out", subjects="label"), 'do not say who is seen.*"folder".*"picture"')
    flat = trees.folder(tmp_path / "one", people=1)
    fails(settings(flat / "p0", tmp_path / "out", subjects="folder"), "lies in no folder")
    assert prepare(settings(people, tmp_path / "out", subjects="picture"))["kept"] == 32


def test_no_place_to_write(people, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        prepare(settings(people, tmp_path / "file" / "out"))
    assert main([*command(people, tmp_path / "file2")[3:], f"out={tmp_path / 'file' / 'out'}"]) == 1
    assert "train_lora: [Errno" in capsys.readouterr().err
    usage = namedtuple("usage", "total used free")(10**6, 10**6 - 1000, 1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    fails(settings(people, tmp_path / "out"), r"32 pictures need about 0\.0 GB while they are made, 0\.0 GB are free")


def test_a_finder_that_cannot_run(people, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    fails(settings(people, tmp_path / "out", faces="find"), r'auface\[photos\].*faces = "cropped"')
    given = {"faces": "find", "finder": "no_such_module:Finder"}
    fails(settings(people, tmp_path / "out", **given), "no_such_module:Finder' cannot be made")


def test_nothing_left_is_said_with_reasons(people, tmp_path):
    config = settings(people, tmp_path / "out", quality={"side": 1000})
    with pytest.raises(ValueError, match=r"no training picture is left.*too small 32"):
        prepare(config)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("source=affectnet", "source 'affectnet': one of auto, bp4d"),
        ("source=csv", "labels= is needed"),
        ("labels=x", "reads the folder images= and no labels="),
        ("images=''", "reads the folder images="),
        ("unnamed=no", "unnamed 'no': one of unknown, absent"),
        ("faces=maybe", "find, cropped"),
        ("finder=retina", '"mediapipe", or module:name'),
        ("pattern='{person}.png'", r"allowed are \{subject\}"),
        ("size=16", r"size 16: 32\.\.1024"),
        ("sure=0.4", r"sure 0\.4: 0\.5\.\.1"),
        ("every=0", "every >= 1"),
        ("engine=spark", "local, ray"),
        ("split.fold=4", "fold 4 is 1, 2 or 3"),
        ("split.test=1.0", "leave something for training"),
        ("quality.blur=-1", "not below 0"),
        ("quality.yaw=120", "at most 90"),
        ("quality.glare=1", "unknown key glare"),
    ],
)
def test_bad_configurations(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(PrepareConfig, CONFIGS / "folder.toml", [override])


def test_shipped_configurations_say_what_they_are_for():
    bp4d = load_config(PrepareConfig, CONFIGS / "bp4d.toml")
    assert (bp4d.source, bp4d.split.by, bp4d.unnamed) == ("bp4d", "published", "unknown")
    assert load_config(PrepareConfig, CONFIGS / "folder.toml").source == "sidecar"


# --- every option acts -----------------------------------------------------------------------------------------------

CHANGES = {
    "size": 48, "image_format": "webp", "texts": 0, "seed": 5, "unnamed": "absent", "threshold": 3.0, "every": 2,
    "offset": 1, "balance": 0.9, "per_shard": 3, "licence": "CC0", "subjects": "folder", "split": {"by": "none"},
}  # fmt: skip


@pytest.fixture(scope="module")
def coded(people, tmp_path_factory):
    """A table of some pictures of `people`, with frames that number them."""
    rows = [
        {"subject": f"s{person}", "task": f"p{person}", "frame": frame, "12": level, "4": 0}
        for person in range(4)
        for frame, level in ((0, 2), (1, 5), (3, 0), (5, 4))
    ]
    return trees.table(tmp_path_factory.mktemp("coded") / "labels.csv", rows)


def outcome(coded, people, out, **values):
    given = {"labels": str(coded), "images": str(people), "pattern": "{task}/{frame}", "seed": 1}
    given["split"] = {"by": "seed", "validation": 0.0, "test": 0.25}
    prepare(trees.config(out, **{**given, **values}))
    found = trees.contents(out)
    return {name: content for name, content in found.items() if name != DATA_FILE}


@pytest.fixture(scope="module")
def plain(coded, people, tmp_path_factory):
    return outcome(coded, people, tmp_path_factory.mktemp("plain") / "out")


@pytest.mark.parametrize("option", CHANGES)
def test_every_option_changes_what_is_made(coded, people, plain, tmp_path, option):
    found = outcome(coded, people, tmp_path / "out", **{option: CHANGES[option]})
    changed = {name for name in plain.keys() | found.keys() if plain.get(name) != found.get(name)}
    assert changed
    if option == "balance":
        assert changed == {f"train/{REPEATS}", "card.json", "README.md"}
        assert np.load(tmp_path / "out" / "train" / REPEATS).max() > 1
    if option == "licence":
        assert changed == {"card.json", "README.md"}
        assert b"CC0" in found["README.md"]

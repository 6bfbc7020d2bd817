"""Faces for training: shards and drawn ones are the same, each sample comes once an epoch, damage is named."""

import dataclasses
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from auface_diffusers.anatomy import Appearance
from auface_diffusers.anatomy.render_tables import PARTS
from auface_diffusers.facs import AUSet, units
from train_lora.data.faces import FaceBatch, FacesConfig, RenderSource, ShardSource
from train_lora.data.shards import read_shard, write_shard
from train_lora.data.synth import CONFIG_FILE, plan
from train_lora.loop import LoopConfig
from train_lora.order import Numbers


@pytest.fixture
def copied(faces, tmp_path):
    shutil.copytree(faces.out, tmp_path / "copy")
    return tmp_path / "copy"


def drawn(faces, count=32):
    return RenderSource(dataclasses.replace(faces, out=""), count)


def assert_same(one: FaceBatch, other: FaceBatch, rounding=0.0):
    for name, value in vars(one).items():
        if rounding and name == "parts":
            assert (value == other.parts).float().mean() > 0.999
        elif isinstance(value, torch.Tensor):
            loose = rounding if name == "images" else 0
            torch.testing.assert_close(value, getattr(other, name), atol=loose, rtol=0, msg=name)
    assert one.labels == other.labels


def test_shards_hold_what_is_drawn(faces):
    shards = ShardSource(Path(faces.out))
    assert len(shards) == 32
    eight = list(range(8, 16))  # drawn beside the same ones as in the shard
    assert_same(shards.__getitems__(eight), drawn(faces).__getitems__(eight))
    mixed = [17, 3, 30]
    assert_same(shards.__getitems__(mixed), drawn(faces).__getitems__(mixed), rounding=4 / 255)


def test_a_number_is_always_the_same_face(faces):
    for source in (ShardSource(Path(faces.out)), drawn(faces)):
        both, one = source.__getitems__([5, 9]), source.__getitems__([9])
        for name in ("landmarks", "levels", "identity", "pose", "gaze"):
            assert torch.equal(getattr(both, name)[1:], getattr(one, name))
        torch.testing.assert_close(both.images[1:], one.images, atol=4 / 255, rtol=0)


def test_configuration_opens_either(faces):
    shards = FacesConfig(shards=faces.out).open()
    made = FacesConfig(faces=32, size=64, people=50).open()
    assert isinstance(shards, ShardSource)
    assert isinstance(made, RenderSource)
    eight = list(range(8))  # drawn beside the same ones as in the shard
    assert_same(shards.__getitems__(eight), made.__getitems__(eight))
    assert len(FacesConfig(shards=faces.out, faces=5).open()) == 5
    other = FacesConfig(faces=32, size=64, people=50, seed=1).open()
    assert not torch.equal(other.__getitems__([4]).images, made.__getitems__([4]).images)


def test_batch_holds_what_was_planned(faces):
    batch = ShardSource(Path(faces.out)).__getitems__(list(range(16)))
    assert batch.images.shape == (16, 3, 64, 64)
    assert 0 <= batch.images.min() < 0.2
    assert 0.6 < batch.images.max() <= 1
    assert batch.parts.max() < len(PARTS)
    for row in range(16):
        planned = plan(faces, row)
        assert batch.pose[row].tolist() == pytest.approx(planned.pose, abs=1e-4)
        assert batch.gaze[row].tolist() == pytest.approx(planned.gaze, abs=1e-4)
        effective = AUSet.parse(batch.labels[row]["effective"])
        assert batch.levels[row].tolist() == pytest.approx(list(effective.vector()), abs=1e-4)
    assert batch.levels.shape == (16, len(units.channels))
    assert all(isinstance(look, Appearance) for look in batch.appearances)
    moved = batch.to(torch.device("meta"))
    assert moved.images.is_meta
    assert moved.labels == batch.labels


def test_landmarks_lie_on_the_picture(faces):
    """iBUG points: eyes lie around the eye parts of the map, and the mouth around teeth and tongue."""
    batch = ShardSource(Path(faces.out)).__getitems__(list(range(32)))
    grid = (torch.arange(64) + 0.5) / 64
    right, left, mouth = slice(36, 42), slice(42, 48), slice(48, 60)
    where = {PARTS.index("right eye"): right, PARTS.index("left eye"): left, PARTS.index("upper teeth"): mouth}
    seen = dict.fromkeys(where, 0)
    for row in range(32):
        for part, points in where.items():
            inside = (batch.parts[row] == part).float()
            if inside.sum() < 6:
                continue
            seen[part] += 1
            center = torch.stack([(inside.sum(0) * grid).sum(), (inside.sum(1) * grid).sum()]) / inside.sum()
            low, high = batch.landmarks[row, points].aminmax(dim=0)
            assert (center > low - 0.02).all(), (row, PARTS[part])
            assert (center < high + 0.02).all(), (row, PARTS[part])
    assert min(seen.values()) >= 3
    mouths = batch.landmarks[:, mouth].mean(1)
    pixels = (mouths * 64).long()
    parts = {PARTS[int(batch.parts[row, y, x])] for row, (x, y) in enumerate(pixels.tolist())}
    assert parts <= {"skin", "upper teeth", "lower teeth", "tongue"}
    lips = batch.landmarks[:, [51, 57]]  # middle of the upper and of the lower lip: redder than the cheeks
    x, y = (lips * 64).long().clamp(0, 63).unbind(-1)
    colour = batch.images[torch.arange(32)[:, None], :, y, x].mean(1)
    cheek = ((batch.landmarks[:, 2] + batch.landmarks[:, 31]) / 2 * 64).long()
    skin = batch.images[torch.arange(32), :, cheek[:, 1], cheek[:, 0]]
    redness = (colour[:, 0] / colour.sum(1).clamp(min=0.05)) - (skin[:, 0] / skin.sum(1).clamp(min=0.05))
    assert redness.median() > 0.01


# --- damage ----------------------------------------------------------------------------------------------------------


def test_no_shards_is_said(tmp_path):
    for config in (FacesConfig(shards=str(tmp_path)), FacesConfig(shards=str(tmp_path / "none"))):
        with pytest.raises(ValueError, match="holds no shards: make them"):
            config.open()
    with pytest.raises(ValueError, match="how many faces"):
        FacesConfig().open()
    with pytest.raises(ValueError, match="below 0"):
        FacesConfig(faces=-1).open()


def test_fewer_faces_than_asked_for_is_said(faces):
    with pytest.raises(ValueError, match="holds 32 faces, 33 are asked for"):
        FacesConfig(shards=faces.out, faces=33).open()


def test_missing_shard_is_said(copied):
    os.remove(copied / "faces-000000.tar")
    with pytest.raises(ValueError, match=r"faces-000000\.tar is missing"):
        FacesConfig(shards=str(copied)).open()


def test_other_units_are_refused(copied):
    settings = json.loads((copied / CONFIG_FILE).read_text())
    settings["channels"] = settings["channels"][::-1]
    (copied / CONFIG_FILE).write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="other action units"):
        FacesConfig(shards=str(copied)).open()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.97])
def test_shard_that_ends_early_is_named(copied, share):
    path = copied / "faces-000001.tar"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=r"faces-000001\.tar is damaged .*delete it"):
        FacesConfig(shards=str(copied)).open()


def test_shard_that_ends_between_files_is_named(copied):
    path = copied / "faces-000000.tar"
    source = ShardSource(copied)
    begins = source.entries[7]["json"][1] - 512
    path.write_bytes(path.read_bytes()[:begins])
    with pytest.raises(ValueError, match=r"faces-000000\.tar is damaged"):
        FacesConfig(shards=str(copied)).open()


def test_damaged_header_in_the_middle_is_no_end(copied):
    path = copied / "faces-000000.tar"
    begins = ShardSource(copied).entries[7]["json"][1] - 512
    content = bytearray(path.read_bytes())
    content[begins : begins + 200] = b"x" * 200
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"faces-000000\.tar is damaged"):
        FacesConfig(shards=str(copied)).open()


@pytest.mark.parametrize("ending", ["json", "png", "parts.png"])
def test_damaged_file_in_a_shard_is_named(copied, ending):
    path = copied / "faces-000001.tar"
    _, begins, size = ShardSource(copied).entries[20][ending]
    content = bytearray(path.read_bytes())
    content[begins : begins + size] = b"\0" * size
    path.write_bytes(content)
    source = ShardSource(copied)
    source.__getitems__([0, 19, 21])
    with pytest.raises(ValueError, match=r"faces-000001\.tar is damaged \(face 20: "):
        source.__getitems__([0, 20])


def test_sample_without_a_file_is_named(copied):
    path = copied / "faces-000000.tar"
    samples = list(read_shard(path))
    del samples[3][1]["parts.png"]
    write_shard(path, samples)
    with pytest.raises(ValueError, match=r"faces-000000\.tar is damaged \(face 3: "):
        ShardSource(copied).__getitems__([2, 3])


def test_labels_are_told_without_pictures(copied):
    source = ShardSource(copied)
    whole, told = source.__getitems__([5, 2]), source.told([5, 2])
    for name, value in vars(told).items():
        assert torch.equal(getattr(whole, name), value) if isinstance(value, torch.Tensor) else value == whole.labels
    path = copied / "faces-000000.tar"
    samples = list(read_shard(path))
    del samples[3][1]["parts.png"], samples[4][1]["json"]
    write_shard(path, samples)
    damaged = ShardSource(copied)
    assert damaged.told([3]).labels == source.told([3]).labels
    with pytest.raises(ValueError, match=r"faces-000000\.tar is damaged \(face 4: "):
        damaged.told([2, 4])


# --- order -----------------------------------------------------------------------------------------------------------


def numbers(rank=0, processes=1, start=0, length=24, **values):
    config = LoopConfig(**{"steps": 12, "batch_size": 8, **values})
    return Numbers(config, length, rank, processes, start)


def test_every_sample_comes_once_an_epoch_in_a_new_order():
    drawn = [n for part in numbers() for n in part]
    epochs = [drawn[begin : begin + 24] for begin in range(0, 96, 24)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert [n for part in numbers(seed=1) for n in part] != drawn


def test_epochs_need_not_divide_into_batches():
    drawn = [n for part in numbers(length=11, steps=11) for n in part]
    assert all(sorted(drawn[begin : begin + 11]) == list(range(11)) for begin in range(0, 88, 11))


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.parametrize("micro", [0, 3])
def test_processes_share_a_batch(processes, micro):
    whole = numbers()
    parts = [numbers(rank, processes, micro_batch=micro) for rank in range(processes)]
    for step, batch in enumerate(whole):
        mine = []
        for one in parts:
            passes = list(one)[step * one.passes : (step + 1) * one.passes]
            assert all(len(some) == min(one.micro, one.share - i * one.micro) for i, some in enumerate(passes))
            mine += [n for some in passes for n in some]
        assert mine == batch
        assert len(set(mine)) == 8
        counts = [(i, min(one.micro, one.share - i * one.micro), one) for one in parts for i in range(one.passes)]
        seeds = [seed for i, count, one in counts for seed in one.seeds(step, i, count)]
        assert seeds == list(whole.seeds(step, 0, 8))


def test_a_later_start_goes_on_as_if_nothing_was():
    everything = list(numbers(micro_batch=3))
    late = numbers(start=5, micro_batch=3)
    assert list(late) == everything[5 * 3 :]
    assert len(late) == len(list(late)) == 7 * 3


def test_seeds_are_all_different():
    one = numbers(steps=200)
    seeds = [seed for step in range(200) for seed in one.seeds(step, 0, 8)]
    assert len(set(seeds)) == 1600
    assert all(0 <= seed < 2**62 for seed in seeds)
    assert not set(seeds) & {seed for step in range(200) for seed in numbers(seed=1).seeds(step, 0, 8)}


def test_batches_that_cannot_be_are_named():
    with pytest.raises(ValueError, match=r"7 samples are fewer than a batch of 8"):
        numbers(length=7)
    with pytest.raises(ValueError, match=r"batch_size 8 is not a multiple of the 3 processes"):
        numbers(processes=3)

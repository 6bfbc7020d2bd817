"""Which files are adapters, where they are found, and what is said about those that are none."""

import dataclasses
import os
import shutil
import time

import pytest
import torch
from safetensors.torch import save_file
from toy_adapters import make_adapter
from toy_pipeline import toy_pipeline

from auface_diffusers.anatomy.identity import neutral_code
from auface_diffusers.pipelines.adapter_files import HEADER, AdapterInfo, write_adapter
from comfyui_auface.adapter_files import KEY, NO_FILE, about, file_stamp, find_adapter, is_adapter, list_adapters


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "clay.safetensors"
    write_adapter(path, make_adapter(toy_pipeline()))
    return path


@pytest.fixture
def places(tmp_path):
    ours, stock = tmp_path / "auface" / "loras", tmp_path / "loras"
    ours.mkdir(parents=True)
    stock.mkdir()
    return {"auface/loras": [str(ours), str(tmp_path / "gone")], "loras": [str(stock)]}


def foreign(path, **header):
    save_file({"lora_unet_down.lora_up.weight": torch.zeros(2, 2)}, path, header or None)


def test_the_key_is_that_of_the_library():
    assert KEY == f'"{HEADER}"'.encode()


def test_only_ours_are_listed_from_both_places(adapter, places, tmp_path):
    assert list_adapters(places) == {}
    (tmp_path / "auface" / "loras" / "style").mkdir()
    for name in ("auface/loras/style/clay.safetensors", "loras/clay.safetensors", "loras/toon.SAFETENSORS"):
        shutil.copy(adapter, tmp_path / name)
    shutil.copy(adapter, tmp_path / "loras" / "clay.ckpt")
    foreign(tmp_path / "loras" / "sd.safetensors", ss_network_dim="8")
    foreign(tmp_path / "loras" / "near.safetensors", comment='no "auface_adapter" of ours')
    found = list_adapters(places)
    assert list(found) == [
        "auface/loras/style/clay.safetensors",
        "loras/clay.safetensors",
        "loras/toon.SAFETENSORS",
    ]
    assert found["loras/clay.safetensors"] == tmp_path / "loras" / "clay.safetensors"


def test_a_name_stays_when_another_file_of_it_appears(adapter, places, tmp_path):
    second = tmp_path / "loras" / "clay.safetensors"
    shutil.copy(adapter, second)
    assert find_adapter("loras/clay.safetensors", places) == second
    first = tmp_path / "auface" / "loras" / "clay.safetensors"
    shutil.copy(adapter, first)
    assert find_adapter("loras/clay.safetensors", places) == second
    assert find_adapter("auface/loras/clay.safetensors", places) == first


def test_of_two_folders_of_a_place_the_first_with_an_adapter_counts(adapter, places, tmp_path):
    more = tmp_path / "gone"
    more.mkdir()
    shutil.copy(adapter, more / "clay.safetensors")
    foreign(tmp_path / "auface" / "loras" / "clay.safetensors")
    assert find_adapter("auface/loras/clay.safetensors", places) == more / "clay.safetensors"
    shutil.copy(adapter, tmp_path / "auface" / "loras" / "clay.safetensors")
    assert find_adapter("auface/loras/clay.safetensors", places) == tmp_path / "auface" / "loras" / "clay.safetensors"


def test_links_are_followed_and_a_circle_ends(adapter, places, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(adapter, tmp_path / "elsewhere" / "clay.safetensors")
    os.symlink(tmp_path / "elsewhere", tmp_path / "loras" / "more")
    os.symlink(tmp_path / "loras", tmp_path / "loras" / "round")
    assert list(list_adapters(places)) == ["loras/more/clay.safetensors"]


def test_files_that_are_damaged_or_gone_are_none(adapter, tmp_path):
    whole = adapter.read_bytes()
    for content in (b"", whole[:5], whole[:8], whole[:100], b"\xff" * 64, (1 << 40).to_bytes(8, "little") + whole[8:]):
        path = tmp_path / "a.safetensors"
        path.write_bytes(content)
        assert not is_adapter(path)
    assert not is_adapter(tmp_path / "gone.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    assert not is_adapter(tmp_path / "folder.safetensors")
    os.symlink(tmp_path / "nowhere", tmp_path / "dead.safetensors")
    assert not is_adapter(tmp_path / "dead.safetensors")


def test_a_file_that_could_not_be_read_is_looked_at_again(adapter, places, tmp_path, monkeypatch):
    path = tmp_path / "loras" / "clay.safetensors"
    shutil.copy(adapter, path)

    def unreachable(*args):
        raise OSError("the network is away")

    monkeypatch.setattr("builtins.open", unreachable)
    assert list_adapters(places) == {}
    monkeypatch.undo()
    assert list(list_adapters(places)) == ["loras/clay.safetensors"]


def test_a_file_is_read_once_and_again_when_it_has_changed(adapter, places, tmp_path, monkeypatch):
    path = tmp_path / "loras" / "clay.safetensors"
    path.write_bytes(adapter.read_bytes()[:300])  # while it is being copied
    assert list_adapters(places) == {}
    shutil.copy(adapter, path)
    assert list(list_adapters(places)) == ["loras/clay.safetensors"]
    opened = []
    real = open
    monkeypatch.setattr("builtins.open", lambda *args, **kwargs: opened.append(args[0]) or real(*args, **kwargs))
    assert list(list_adapters(places)) == ["loras/clay.safetensors"]
    assert not opened
    before = file_stamp(path)
    os.utime(path, ns=(1, 1))
    assert file_stamp(path) != before
    assert is_adapter(path)
    assert opened == [path]


def test_many_foreign_files_cost_little(places, tmp_path):
    foreign(tmp_path / "one.safetensors")
    for number in range(500):
        os.link(tmp_path / "one.safetensors", tmp_path / "loras" / f"{number}.safetensors")
    list_adapters(places)
    started = time.perf_counter()
    assert list_adapters(places) == {}
    assert time.perf_counter() - started < 0.5


def test_a_missing_file_is_told_with_the_folders_and_what_to_do(adapter, places, tmp_path):
    with pytest.raises(
        ValueError, match="'loras/a.safetensors': there is no adapter in .*train_lora adapter"
    ) as error:
        find_adapter("loras/a.safetensors", places)
    ours, stock = (str(tmp_path / name) for name in ("auface/loras", "loras"))
    assert f"put it into {ours} and press R" in str(error.value)
    assert stock in str(error.value)
    for number in range(10):
        shutil.copy(adapter, tmp_path / "loras" / f"{number}.safetensors")
    with pytest.raises(ValueError, match="is not in .*; there are loras/0.safetensors, .* and 2 more"):
        find_adapter("loras/a.safetensors", places)
    with pytest.raises(ValueError, match=f"'{NO_FILE}' is not in"):
        find_adapter(NO_FILE, places)


def test_a_file_that_is_no_adapter_is_for_its_reader_to_refuse(places, tmp_path):
    foreign(tmp_path / "loras" / "sd.safetensors")
    (tmp_path / "loras" / "old.ckpt").write_bytes(b"")
    for name in ("sd.safetensors", "old.ckpt"):
        assert find_adapter(f"loras/{name}", places) == tmp_path / "loras" / name


@pytest.mark.parametrize(
    "name",
    [
        "loras/../secret.safetensors",
        "loras/",
        "loras//etc/passwd",
        "/etc/passwd",
        "loras/a\0b",
        "",
        "secret.safetensors",
    ],
)
def test_nothing_outside_the_places_is_looked_at(adapter, places, tmp_path, name):
    shutil.copy(adapter, tmp_path / "secret.safetensors")
    with pytest.raises(ValueError, match="there is no adapter in"):
        find_adapter(name, places)


def test_what_an_adapter_is():
    info = AdapterInfo("dora", 8, 8.0, ("to_q",), {"transformer": ("a",)}, {"transformer": "0"}, ("1",))
    assert about(info, 0.5) == "dora, rank 8, strength 0.5"
    told = {"pictures": 24, "people": 8, "units": {"1": 3, "12": 4}, "origins": {"made": 24}}
    full = AdapterInfo(
        "lora", 16, 16.0, ("to_q",), {"transformer": ("a",)}, {"transformer": "0"}, ("1",), "clay", told, {}, 60
    )
    assert about(full, -1.0).split("\n") == [
        "lora, rank 16, strength -1",
        "trained on 24 pictures of 8 people; 60 steps; units 1, 12",
        "trigger: clay (stands before each text by itself)",
    ]
    anna = dataclasses.replace(info, person=tuple(neutral_code().tolist()))
    assert about(anna, 1).split("\n")[1:] == ["person: drawn where VQ-AUFace Generate has identity -1"]
    strange = {"pictures": "many", "units": [1]}
    assert about(AdapterInfo(*["loha", 1, 1.0, (), {"transformer": ()}, {"transformer": "0"}, (), "", strange]), 1)

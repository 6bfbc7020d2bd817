"""What adapters add to a model of the nodes: computed from its files, as the library does. No ComfyUI."""

import os

import pytest
import torch
from toy_adapters import make_adapter
from toy_pipeline import save_weights

from auface_diffusers import VQAUFacePipeline
from auface_diffusers.pipelines.adapter_files import write_adapter
from comfyui_auface.adapter_files import file_stamp
from comfyui_auface.adapting import Worn, changes
from comfyui_auface.model_files import stamp


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def pipe(folder):
    return VQAUFacePipeline.from_pretrained(folder, torch_dtype=torch.float32)


@pytest.fixture
def wear(pipe, tmp_path):
    """`wear("a", 0.5, kind="dora")`: an adapter of this name on a model."""

    def write(name, strength=1.0, **values):
        path = tmp_path / f"{name}.safetensors"
        write_adapter(path, make_adapter(pipe, targets=("to_q", "to_codes"), **values))
        return Worn(path, file_stamp(path), strength)

    return write


def of_library(pipe, *adapters):
    names = [pipe.load_lora_weights(one.file) for one in adapters]
    pipe.set_adapters(names, [one.strength for one in adapters])
    return pipe.adapter_deltas()


def equal(found, wanted):
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_they_are_those_of_the_library_in_their_order(pipe, folder, wear):
    first, second = wear("a", 0.5, kind="lokr", trigger="clay"), wear("b", -0.3, kind="dora", seed=2)
    found, info = changes(folder, stamp(folder), (first, second))
    assert info.kind == "dora"
    assert equal(found, of_library(pipe, first, second))
    other, info = changes(folder, stamp(folder), (second, first))
    assert info.trigger == "clay"
    assert not equal(other, found)


def test_none_add_nothing(folder):
    assert changes(folder, stamp(folder), ()) == ({}, None)


def test_they_are_computed_where_comfyui_runs_nodes(folder, wear):
    """ComfyUI runs nodes in inference mode, in which there are no gradients."""
    adapter = wear("a", kind="dora")
    with torch.inference_mode():
        found, _ = changes(folder, stamp(folder), (adapter,))
        weight = torch.zeros_like(found["transformer.to_codes.weight"])
        weight += found["transformer.to_codes.weight"]
    changes.cache_clear()
    assert equal(found, changes(folder, stamp(folder), (adapter,))[0])


def test_they_are_kept_until_a_file_changes_and_not_for_ever(folder, wear):
    adapter = wear("a")
    first = changes(folder, stamp(folder), (adapter,))
    assert changes(folder, stamp(folder), (adapter,)) is first
    os.utime(adapter.file, ns=(1, 1))
    changed = Worn(adapter.file, file_stamp(adapter.file), 1.0)
    assert changes(folder, stamp(folder), (changed,)) is not first
    assert changes(folder, stamp(folder), (Worn(adapter.file, adapter.version, 0.5),)) is not first
    assert changes.cache_info().currsize == changes.cache_info().maxsize == 2


def test_what_cannot_be_is_the_librarys_error(folder, wear, tmp_path):
    other = wear("a", base={"transformer": "0" * 16})
    with pytest.raises(ValueError, match="trained on another base"):
        changes(folder, stamp(folder), (other,))
    damaged = tmp_path / "b.safetensors"
    damaged.write_bytes(wear("c").file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="is damaged"):
        changes(folder, stamp(folder), (Worn(damaged, (0, 0), 1.0),))
    with pytest.raises(ValueError, match="weight nan"):
        changes(folder, stamp(folder), (wear("d", float("nan")),))

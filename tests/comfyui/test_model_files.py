"""Where models are found, and what is said about those that are none."""

import json
import os

import pytest

from comfyui_auface.model_files import EMBEDDED, INDEX, find_model, list_models, stamp


def put(folder, kind="VQAUFacePipeline"):
    folder.mkdir(parents=True)
    (folder / INDEX).write_text(json.dumps({"_class_name": kind}))
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text("{}")
    return folder


@pytest.fixture
def roots(tmp_path):
    first, second = tmp_path / "models" / "auface", tmp_path / "shared"
    first.mkdir(parents=True)
    put(second / "mine")
    put(second / "people" / "old")
    return [str(first), str(second), str(tmp_path / "gone")]


def test_models_are_listed_by_folder_and_of_two_the_first_counts(roots, tmp_path):
    assert list(list_models(roots)) == ["mine", "people/old"]
    assert find_model("mine", roots) == tmp_path / "shared" / "mine"
    put(tmp_path / "models" / "auface" / "mine")
    assert find_model("mine", roots) == tmp_path / "models" / "auface" / "mine"
    assert find_model(EMBEDDED, roots) is None


def test_links_are_followed_and_a_circle_ends(roots, tmp_path):
    put(tmp_path / "elsewhere" / "linked")
    os.symlink(tmp_path / "elsewhere", tmp_path / "shared" / "more")
    os.symlink(tmp_path / "shared", tmp_path / "shared" / "people" / "round")
    assert list(list_models(roots)) == ["mine", "more/linked", "people/old"]


def test_a_missing_model_is_told_with_the_folder_and_what_belongs_there(roots):
    with pytest.raises(
        ValueError, match="'gone' is not in .*auface or .*there are embedded, mine, people/old"
    ) as error:
        find_model("gone", roots)
    assert f"put it into {roots[0]} and press R" in str(error.value)
    assert "save_pretrained" in str(error.value)


def test_files_and_other_folders_are_told_apart(roots, tmp_path):
    (tmp_path / "shared" / "a.safetensors").write_bytes(b"")
    (tmp_path / "shared" / "empty").mkdir()
    with pytest.raises(ValueError, match="'a.safetensors' is a single file"):
        find_model("a.safetensors", roots)
    with pytest.raises(ValueError, match="'empty' is a folder without model_index.json"):
        find_model("empty", roots)


def test_another_programs_model_is_refused(roots, tmp_path):
    put(tmp_path / "shared" / "sd", "StableDiffusionPipeline")
    with pytest.raises(ValueError, match="'sd' in .* is a StableDiffusionPipeline"):
        find_model("sd", roots)
    (tmp_path / "shared" / "mine" / INDEX).write_text("{")
    with pytest.raises(ValueError, match="model_index.json is damaged"):
        find_model("mine", roots)


@pytest.mark.parametrize("name", ["../shared/mine", "/etc/passwd", "a\0b", ""])
def test_nothing_outside_the_folders_is_looked_at(roots, name):
    with pytest.raises(ValueError, match="is not in"):
        find_model(name, roots)


def test_a_changed_file_is_another_model(tmp_path):
    folder = put(tmp_path / "mine")
    before = stamp(folder)
    assert stamp(folder) == before
    os.utime(folder / "transformer" / "config.json", ns=(1, 1))
    assert stamp(folder) != before

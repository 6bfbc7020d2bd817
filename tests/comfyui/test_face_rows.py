"""Rows of annotation files in the input folder, without ComfyUI."""

import shutil
from pathlib import Path

import pytest

from comfyui_auface.face_rows import SOURCES, find_file, list_files, read_rows

OPENFACE = Path(__file__).parent.parent / "data" / "openface_like.csv"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "input"
    (root / "films").mkdir(parents=True)
    shutil.copy(OPENFACE, root / "films" / "one.csv")
    (root / "face.png").touch()
    (tmp_path / "secret.csv").touch()
    (tmp_path / "input2").mkdir()
    (tmp_path / "input2" / "secret.csv").touch()
    return str(root)


def test_files_are_listed_by_their_ending(folder):
    assert list_files(folder) == ["films/one.csv"]
    assert find_file(folder, "films/one.csv").read_bytes() == OPENFACE.read_bytes()


@pytest.mark.parametrize(
    "name", ["../secret.csv", "films/../../secret.csv", "../input2/secret.csv", "", ".", "a\0b.csv"]
)
def test_nothing_outside_the_folder_is_read(folder, name):
    with pytest.raises(ValueError, match="outside ComfyUI's input folder"):
        find_file(folder, name)
    with pytest.raises(ValueError, match="outside ComfyUI's input folder"):
        find_file(folder, str(Path(folder).parent / "secret.csv"))


def test_a_missing_file_is_named_with_what_there_is(folder):
    with pytest.raises(ValueError, match=r"'gone.csv' is not in ComfyUI's input folder .*in it: films/one.csv"):
        find_file(folder, "gone.csv")
    with pytest.raises(ValueError, match="annotations end with .csv"):
        find_file(folder, "face.png")


def test_rows_become_frames():
    read = read_rows(OPENFACE, "auto", 4, 1, 1)
    assert str(read.expression) == "6=2.4+12=3.3+25=1.9"
    assert read.report == "openface_like.csv (openface): frame 4"


def test_count_and_step_choose_the_rows():
    all_rows = read_rows(OPENFACE, "openface", 1, 0, 1).expression.frames
    assert len(all_rows) > 4
    assert read_rows(OPENFACE, "openface", 2, 2, 1).expression.frames == all_rows[1:3]
    assert read_rows(OPENFACE, "openface", 1, 2, 3).expression.frames == all_rows[0:4:3]


def test_rows_without_a_face_are_left_out_and_told():
    read = read_rows(OPENFACE, "openface", 1, 0, 1)
    assert "no face was found in frame" in read.report
    total = len(read.expression) + 1  # the last row of the file has no face
    with pytest.raises(ValueError, match="no face was found in frame .*choose another first_row"):
        read_rows(OPENFACE, "openface", total, 1, 1)
    with pytest.raises(ValueError, match=f"first_row {total + 1}: openface_like.csv has rows 1..{total}"):
        read_rows(OPENFACE, "openface", total + 1, 1, 1)


def test_rows_that_cannot_be_read_are_counted(tmp_path):
    path = tmp_path / "some.jsonl"
    path.write_text('{"frame": 1, "aus": "12D"}\n{"frame": 2, "aus": "99"}\n{"frame": 3, "aus": "6C"}\n')
    read = read_rows(path, "jsonl", 1, 0, 1)
    assert str(read.expression) == "12D\n6C"
    assert len(read.report.splitlines()) == 2


def test_a_file_of_another_source_is_refused():
    with pytest.raises(ValueError, match="pyfeat|py-feat"):
        read_rows(OPENFACE, "pyfeat", 1, 1, 1)
    assert {"auto", "openface", "pyfeat", "jsonl"} <= set(SOURCES)
    assert "disfa" not in SOURCES  # a folder tree

"""Subcommands of ``auface`` that make pictures."""

import json

import numpy as np
import pytest
from PIL import Image

from auface_diffusers import cli_images
from auface_diffusers.anatomy import HeadModel, control
from auface_diffusers.cli import main
from auface_diffusers.facs import AUSet, resolve


def test_the_kinds_are_those_of_the_library():
    assert cli_images.CONTROL_KINDS == tuple(control.KINDS)


@pytest.mark.parametrize("kind", cli_images.CONTROL_KINDS)
def test_control(kind, tmp_path, capsys):
    out = tmp_path / "out.png"
    assert main(["control", "12D+1C", "--kind", kind, "--size", "128", "-o", str(out)]) == 0
    image = np.asarray(Image.open(out))
    assert image.shape == (128, 128, 3)
    assert image.std() > 1
    assert capsys.readouterr().out == f"{out}\n"
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_every_option_changes_the_picture(tmp_path, capsys):
    def picture(*options):
        out = tmp_path / "out.png"
        assert main(["control", "12D", "--kind", "normal", "--size", "96", "-o", str(out), *options]) == 0
        return out.read_bytes()

    plain = picture()
    assert plain == picture()
    for options in (["--identity", "3"], ["--pose", "20,0,0"], ["--gaze", "30,0"], ["--size", "100"]):
        assert picture(*options) != plain


@pytest.mark.parametrize("command", ["control", "preview"])
def test_pictures_show_what_the_texts_say(command, tmp_path, capsys):
    def picture(codes):
        out = tmp_path / "out.png"
        assert main([command, codes, "--size", "64", "-o", str(out), "--json"]) == 0
        return json.loads(capsys.readouterr().out)["effective"], out.read_bytes()

    effective, conflict = picture("24D+25E+1C")
    assert effective == resolve(AUSet.parse("24D+25E+1C")).effective.format() != "1C+24D+25E"
    assert conflict == picture(effective)[1] != picture("1C")[1]


def test_control_over_a_photo(tmp_path, capsys):
    points = HeadModel.from_default()(None, None).landmarks68[0]
    seen = points[:, :2] * points.new_tensor([60.0, -60.0]) + points.new_tensor([140.0, 120.0])
    file, out = tmp_path / "points.json", tmp_path / "out.png"
    arguments = ["control", "12D", "--size", "256", "-o", str(out), "--keypoints", str(tmp_path / "k.json")]
    file.write_text(json.dumps(seen.tolist()))
    assert main([*arguments, "--landmarks", str(file)]) == 0
    face = np.array(json.loads((tmp_path / "k.json").read_text())["people"][0]["face_keypoints_2d"]).reshape(70, 3)
    moved = np.abs(face[:68, :2] - seen.numpy()).max(1)
    assert moved[48] > 3, "the lip corner acts"
    assert moved[27] < 0.1, "the bridge of the nose stays where the photo has it"
    for bad in ("[1, 2]", "no JSON", "[[1, 2], [3]]", '{"a": 1}'):
        file.write_text(bad)
        assert main([*arguments, "--landmarks", str(file)]) == 1
        assert "points.json" in capsys.readouterr().err


def test_key_points(tmp_path, capsys):
    arguments = ["control", "12D", "-o", str(tmp_path / "a.png"), "--keypoints", str(tmp_path / "a.json"), "--json"]
    assert main(arguments) == 0
    done = json.loads(capsys.readouterr().out)
    frame = json.loads((tmp_path / "a.json").read_text())
    assert done["keypoints"] == str(tmp_path / "a.json")
    assert (frame["canvas_width"], frame["canvas_height"]) == (512, 512)
    assert len(frame["people"][0]["face_keypoints_2d"]) == 3 * 70


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["12F"], "12F"),
        (["U12C"], "choose_side"),
        (["12C", "--pose", "1,2"], "--pose '1,2'"),
        (["12C", "--pose", "nan,0,0"], "-90..90"),
        (["12C", "--size", "0"], "size"),
    ],
)
def test_bad_input_leaves_no_file(tmp_path, capsys, options, message):
    out = tmp_path / "out.png"
    assert main(["control", *options, "-o", str(out)]) == 1
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_outputs_that_cannot_be_written(tmp_path, capsys):
    assert main(["control", "12C", "-o", str(tmp_path)]) == 1
    assert "name a file" in capsys.readouterr().err
    assert main(["control", "12C", "-o", str(tmp_path / "no" / "out.png")]) == 1
    assert "no" in capsys.readouterr().err


def test_preview(tmp_path, capsys):
    def picture(*options):
        out = tmp_path / "out.png"
        assert main(["preview", "12D", "--size", "64", "-o", str(out), *options]) == 0
        return out.read_bytes()

    plain = picture()
    assert plain == picture()
    for options in (["--identity", "3"], ["--seed", "1"], ["--pose", "20,0,0"], ["--gaze", "30,0"], ["--size", "66"]):
        assert picture(*options) != plain


def test_sheet(tmp_path, capsys):
    out = tmp_path / "sheet.png"
    options = ["--levels", "A,E", "--identities", "1,2", "--size", "48"]
    assert main(["sheet", "12", "1C+L4B", *options, "-o", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 2
    grid = np.asarray(Image.open(out)).astype(float)
    assert grid.shape == (18 + 2 * 48, 96 + 4 * 48, 3)
    faces = grid[18:66, 96:].reshape(48, 4, 48, 3).transpose(1, 0, 2, 3)
    assert all(face.std() > 5 for face in faces)
    assert np.abs(faces[0] - faces[2]).mean() > 0.5, "the levels differ"
    assert np.abs(faces[0] - faces[1]).mean() > 5, "the people differ"
    assert (grid[66:, 96 + 2 * 48 :] == 255).all(), "a score with levels is drawn once"


def test_sheets_that_cannot_be(tmp_path, capsys):
    out = str(tmp_path / "sheet.png")
    assert main(["sheet", "12F", "-o", out]) == 1
    assert main(["sheet", "12", "--levels", "F", "-o", out]) == 1
    assert main(["sheet", "12", "--identities", "x", "-o", out]) == 1
    assert main(["sheet", "12", "--size", "8", "-o", out]) == 1
    assert list(tmp_path.iterdir()) == []


def test_every_unit_of_a_still_has_a_row():
    from auface_diffusers.anatomy.sheet import every_unit
    from auface_diffusers.facs import units

    assert len(every_unit()) == sum(unit.still for unit in units.values())

"""Subcommands of ``auface`` that draw faces, with a toy pipeline."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_pipeline
from PIL import Image, ImageSequence
from toy_adapters import make_adapter

from auface_diffusers import cli_faces
from auface_diffusers.anatomy import sample_identity
from auface_diffusers.cli import main
from auface_diffusers.cli_faces import read_attributes
from auface_diffusers.cli_models import load_pipeline, model_hash
from auface_diffusers.face_file import face_bytes, read_face, save_face, write_all
from auface_diffusers.models import AUEstimator, au_estimator
from auface_diffusers.pipelines import VQAUFacePipeline, animation, base
from auface_diffusers.pipelines.adapter_files import write_adapter

EMBEDDED = au_estimator.WEIGHTS / "default"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return toy_pipeline.save_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def call(model, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, status=0):
        assert main([*map(str, arguments), "--model", str(model)]) == status
        return capsys.readouterr()

    return run


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB"))


def test_generate_writes_a_face_that_says_how_it_was_made(call, model, tmp_path):
    shown = call("generate", "1C+24D+25E", "--identity", 7, "--seed", 3, "--steps", 3, "--guidance", 1.5)
    assert (shown.out, shown.err) == ("face.png\n", "")
    info = read_face("face.png")
    assert (info["asked"], info["identity"], info["seed"], info["steps"]) == ("1C+24D+25E", 7, 3, 3)
    assert (info["guidance_scale"], info["model"], info["format"]) == (1.5, model_hash(model), 1)
    assert info["aus"] != info["asked"], "a rule acted"
    assert info["text"]
    assert len(info["identity_code"]) == 46
    assert pixels("face.png").shape == (64, 64, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["face.png"]
    data = (tmp_path / "face.png").read_bytes()
    assert b"tEXtauface\0{" in data


def test_what_a_file_says_draws_the_same_face_again(call, model):
    call("generate", "1C+2C", "--seed", 5, "--pose", "20,0,0", "--attributes", "age=70,hair=short black")
    info = read_face("face.png")
    pipe = load_pipeline(model)
    code = torch.tensor([info["identity_code"]])
    again = pipe(info["aus"], identity=code, attributes=info["attributes"], seed=info["seed"]).images[0]
    assert (np.asarray(again) == pixels("face.png")).all()


def test_every_option_of_generate_changes_the_face(call):
    def face(*options):
        call("generate", "12D", *options)
        return (pixels("face.png")).tobytes()

    plain = face()
    assert plain == face()
    options = (
        ["--identity", "3"], ["--seed", "1"], ["--steps", "1"], ["--guidance", "5"], ["--pose", "30,0,0"],
        ["--attributes", "skin=dark,light=left, warm"], ["--negative", "1E+4E"], ["--gaze", "30,0"],
    )  # fmt: skip
    same = [" ".join(option) for option in options if face(*option) == plain]
    assert not same
    assert face("--attention", "native") == plain


def test_adapters(call, model, tmp_path):
    pipe, who = VQAUFacePipeline.from_pretrained(model), sample_identity(11)
    files = [tmp_path / "anna.safetensors", tmp_path / "a=b.v2.safetensors", tmp_path / "more" / "anna.safetensors"]
    (tmp_path / "more").mkdir()
    for seed, (file, values) in enumerate(zip(files, ({"person": tuple(who.tolist())}, {}, {}), strict=True)):
        write_adapter(file, make_adapter(pipe, seed=seed, **values))

    def face(*given, command=("generate", "12D")):
        call(*command, "--seed", 3, *(part for one in given for part in ("--adapter", one)), "-o", "a.png")
        return pixels("a.png").tobytes(), read_face("a.png")

    (plain, info), (worn, shown) = face(), face(files[0])
    assert info["adapters"] == {}
    assert (shown["adapters"], shown["identity_code"]) == ({"anna": 1.0}, who.tolist())
    pipe.load_lora_weights(files[0])
    assert np.asarray(pipe("12D", seed=3).images[0]).tobytes() == worn
    assert face(f"{files[0]}=0")[0] == plain
    mixed, shown = face(f"{files[0]}=0.5", files[1], f"{files[2]}=-1")
    assert shown["adapters"] == {"anna": 0.5, "a=b_v2": 1.0, "anna_2": -1.0}
    assert len({plain, worn, mixed}) == 3
    edits = []
    for some in ([files[0]], [files[0], files[1]]):
        face(files[0])
        edits.append(face(*some, command=("edit", "a.png", "4D"))[0])
    assert edits[0] != edits[1]
    face(files[0])
    assert "a.png was drawn with --adapter anna, which is not on" in call("edit", "a.png", "4D", "-o", "b.png").err
    films = []
    for some in ([], ["--adapter", files[1]]):
        call("animate", "0", "12D", "--frames", 2, "-o", "film.gif", *some)
        films.append((tmp_path / "film.gif").read_bytes())
    assert films[0] != films[1]


def test_several_faces_become_numbered_files(call):
    out = call("generate", "12D", "1C+2C", "--count", 2, "--identity", 7, "--steps", 1, "-o", "a.png").out.split()
    assert out == ["a-1.png", "a-2.png", "a-3.png", "a-4.png"]
    infos = [read_face(path) for path in out]
    assert [(info["asked"], info["seed"]) for info in infos] == [("12D", 0), ("12D", 1), ("1C+2C", 0), ("1C+2C", 1)]
    call("generate", "1C+2C", "--seed", 1, "--identity", 7, "--steps", 1, "-o", "b.png")
    # Sums round otherwise in batches of another size, and a code can tip, which in one step changes no other one.
    alike = [(pixels(f"a-{i}.png") == pixels("b.png")).mean() for i in (1, 2, 3, 4)]
    assert alike[3] > 0.9 > max(alike[:3]), "a face does not depend on its neighbours"


def test_a_sheet_with_a_read_out(call):
    shown = call("generate", "12D", "She smiles", "--identity", "1,2", "--sheet", "--readout", "-o", "s.png")
    assert pixels("s.png").shape == (2 * (64 + 18), 2 * 64, 3)
    assert "12D, person 2" in shown.out
    assert len(read_face("s.png")["sheet"]) == 4
    assert "sheet" in call("edit", "s.png", "0", status=1).err
    found = json.loads(call("generate", "12D", "--readout", "--json").out)
    assert found["readout"][0]["face"] == "face.png"
    assert found["faces"][0]["asked"] == "12D"


def test_edit_keeps_the_person_of_our_own_files(call):
    call("generate", "0", "--identity", 7, "--seed", 4, "--pose", "10,0,0", "-o", "a.png")
    assert call("edit", "a.png", "12D+25C").out == "a-edited.png\n"
    before, after = read_face("a.png"), read_face("a-edited.png")
    for name in ("identity", "identity_code", "attributes", "seed", "model"):
        assert before[name] == after[name], name
    assert (after["asked"], after["edited"]) == ("12D+25C", "a.png")
    changed = (pixels("a.png") != pixels("a-edited.png")).any(-1)
    assert changed.any()
    assert not changed.all()
    call("edit", "a-edited.png", "0", "-o", "back.png")
    assert read_face("back.png")["identity_code"] == before["identity_code"]
    call("edit", "a.png", "12D+25C", "--strength", 0, "-o", "none.png")
    assert (pixels("none.png") == pixels("a.png")).all()
    assert [read_face(name)["strength"] for name in ("none.png", "a-edited.png")] == [0, 1]
    for option in (["--identity", "3"], ["--source", "0"], ["--attributes", "age=40"], ["--pose", "1,2,3"]):
        assert "leave out" in call("edit", "a.png", "12D", *option, status=1).err


def test_edit_of_other_pictures(call):
    call("generate", "0", "--identity", 7, "-o", "a.png")
    Image.fromarray(pixels("a.png")).resize((100, 100)).save("b.jpg")
    assert read_face("b.jpg") is None
    call("edit", "b.jpg", "12D", "-o", "c.png")
    assert read_face("c.png")["foreign"]
    call("edit", "b.jpg", "12D", "-o", "d.png", "--source", "1C", "--identity", "7")
    call("edit", "c.png", "0", "-o", "e.png", "--source", "12D")  # what was guessed is not taken for known
    Image.fromarray((np.arange(64 * 64).reshape(64, 64) % 64 < 20).astype("uint8") * 255).save("mask.png")
    call("edit", "b.jpg", "12D", "-o", "f.png", "--mask", "mask.png")
    assert (pixels("f.png")[:, :16] != pixels("c.png")[:, :16]).any()
    assert [read_face(name)["mask"] for name in ("c.png", "f.png")] == [None, "mask.png"]
    Image.new("RGB", (64, 80)).save("wide.png")
    assert "square" in call("edit", "wide.png", "12D", status=1).err


@pytest.mark.parametrize("ending", ["gif", "webp"])
def test_animate(call, tmp_path, ending):
    out = f"film.{ending}"
    assert call("animate", "0", "12E+25C", "--frames", 4, "--identity", 7, "-o", out).out == f"{out}\n"
    with Image.open(out) as film:
        assert film.n_frames >= 2
        assert film.size == (64, 64)
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(film)]
    assert np.abs(frames[0] - frames[-1]).max() > 20
    assert [path.name for path in tmp_path.iterdir()] == [out]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["generate", "12F"], "12F"),
        (["generate", "12D", "--identity", "x"], "--identity 'x'"),
        (["generate", "12D", "--identity=-1"], "--identity '-1'"),
        (["generate", "12D", "--count", "0"], "--count 0"),
        (["generate", "12D", "--steps", "0"], "num_inference_steps 0"),
        (["generate", "12D", "--guidance=-1"], "guidance_scale -1"),
        (["generate", "12D", "--pose", "1,2"], "--pose '1,2'"),
        (["generate", "12D", "--attributes", "tall"], "key=value"),
        (["generate", "12D", "--attributes", "height=3"], "height"),
        (["generate", "12D", "--attributes", "{"], "JSON"),
        (["generate", "12D", "--attention", "nonsense"], "nonsense"),
        (["generate", "12D", "--adapter", "none.safetensors"], "none.safetensors is no file"),
        (
            ["generate", "12D", "--adapter", "none.safetensors=much"],
            "--adapter 'none.safetensors=much': FILE or FILE=",
        ),
        (["animate", "0", "12D", "--adapter", "none.safetensors=nan"], "none.safetensors is no file"),
        (["generate", "12D", "-o", "a.jpg"], "a.jpg"),
        (["generate", "12D", "-o", "no/a.png"], "no"),
        (["edit", "none.png", "12D"], "none.png"),
        (["animate", "0", "12D", "--frames", "1"], "frames 1"),
        (["animate", "0", "12D", "-o", "a.avi"], ".gif"),
        (["animate", "0", "12D", "--fps", "0"], "fps 0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_no_file(call, tmp_path, arguments, message):
    shown = call(*arguments, status=1)
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_faces(tmp_path, call):
    (tmp_path / "a.png").write_text("no picture")
    assert "no image" in call("edit", "a.png", "12D", status=1).err
    whole = face_bytes(Image.effect_noise((64, 64), 50), {"aus": "0"})
    (tmp_path / "a.png").write_bytes(whole[:600])
    assert "a.png" in call("edit", "a.png", "12D", status=1).err
    (tmp_path / "a.png").write_bytes(whole)
    assert "lacks identity_code" in call("edit", "a.png", "12D", status=1).err
    bad = {"aus": "0", "identity_code": ["x"], "attributes": {}, "seed": 0}
    save_face(Image.new("RGB", (64, 64)), "a.png", bad)
    assert "identity_code" in call("edit", "a.png", "12D", status=1).err
    save_face(Image.new("RGB", (64, 64)), "a.png", bad | {"identity_code": [0.0] * 5})
    assert "46" in call("edit", "a.png", "12D", status=1).err
    save_face(Image.new("RGB", (64, 64)), "a.png", {"format": 9})
    with pytest.raises(ValueError, match="later version"):
        read_face("a.png")
    with pytest.raises(ValueError, match="JSON"):
        save_face(Image.new("RGB", (64, 64)), "a.png", {"x": float("nan")})


def test_all_files_or_none(tmp_path):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder"):
        write_all({tmp_path / "a.png": b"1", tmp_path / "folder": b"2"})
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_endings_are_those_of_the_library():
    assert (*animation.PILLOW, *animation.VIDEO) == cli_faces.FILMS


README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line, comments=True)[1:]
    for line in README.splitlines()
    if line.startswith(("auface generate", "auface edit", "auface animate")) and "--model" not in line
]


def test_the_commands_of_the_readme(call):
    assert {command[0] for command in COMMANDS} == {"generate", "edit", "animate"}
    for command in COMMANDS:
        shown = call(*command)
        assert shown.err.count("auface:") <= ("She" in shown.err), shown.err
        assert all(Path(line).is_file() for line in shown.out.splitlines())


def test_attributes():
    assert read_attributes("age=40, light=soft, left,melanin=0.5") == {
        "age": 40, "light": "soft, left", "melanin": 0.5,
    }  # fmt: skip
    assert read_attributes('{"age": 40, "head_pose": [1, 2, 3]}') == {"age": 40, "head_pose": [1, 2, 3]}
    assert read_attributes(None, "1,2,3", "4,5") == {"head_pose": [1, 2, 3], "gaze": [4, 5]}
    assert read_attributes(None) is None
    with pytest.raises(ValueError, match="one of them"):
        read_attributes('{"gaze": [1, 2]}', None, "1,2")
    with pytest.raises(ValueError, match="twice"):
        read_attributes("age=3,age=4")


@pytest.mark.parametrize("command", ["generate 12D", "edit a.png 12D", "animate 0 12D"])
def test_stopped_midway_nothing_is_left(call, command, tmp_path, monkeypatch):
    call("generate", "0", "-o", "a.png")

    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(VQAUFacePipeline.__mro__[1], "decode", stop)
    assert call(*command.split(), status=130).err == "auface: stopped; nothing was written\n"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_ctrl_c_in_a_process(model, tmp_path):
    code = "import sys; from auface_diffusers.cli import main; sys.exit(main())"
    options = ["animate", "0", "12D", "--steps", "20000", "--model", str(model)]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *options],
        cwd=tmp_path,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(toy_pipeline.__file__).parent.parent)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    while not list(tmp_path.iterdir()) and process.poll() is None:
        time.sleep(0.1)  # until the part of the film is there
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, said) == (130, "auface: stopped; nothing was written\n")
    assert list(tmp_path.iterdir()) == []


def test_estimators_that_come_with_the_package(tmp_path, monkeypatch):
    monkeypatch.setattr(au_estimator, "WEIGHTS", tmp_path)
    for evaluation in (False, True):
        with pytest.raises(FileNotFoundError, match="reinstall"):
            AUEstimator.from_default(evaluation)
    toy_pipeline.save_weights(tmp_path)
    assert AUEstimator.from_default().config["architecture"] == "conv"
    assert AUEstimator.from_default(evaluation=True).config["architecture"] == "patch"


def test_without_embedded_weights_the_error_says_what_to_do(tmp_path, monkeypatch, capsys):
    assert base.DEFAULT_WEIGHTS == EMBEDDED, "whose hash the files have"
    monkeypatch.setattr(base, "DEFAULT_WEIGHTS", tmp_path / "none")
    assert main(["generate", "12D", "-o", str(tmp_path / "a.png")]) == 1
    assert "from_pretrained" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not (EMBEDDED / "model_index.json").is_file(), reason="no embedded weights in this checkout")
def test_the_embedded_model(tmp_path, capsys):
    out = tmp_path / "a.png"
    assert main(["generate", "12D", "--readout", "--json", "-o", str(out)]) == 0
    done = json.loads(capsys.readouterr().out)
    assert done["readout"][0]["read"]

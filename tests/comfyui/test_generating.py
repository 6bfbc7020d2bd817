"""The generating nodes in a real ComfyUI, on every version that `make comfyui` prepared: see real_comfyui.py.

That every workflow runs to its end is tested in test_server.py.
"""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file
import real_comfyui
import signatures
from real_comfyui import ROOT, Server

WEIGHTS = ROOT / "auface_diffusers" / "weights" / "default"
CHECKOUTS = real_comfyui.checkouts()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not WEIGHTS.exists(), reason="no embedded weights here")]
OURS = {"AUFaceLoader", "AUFaceGenerate", "AUFaceEdit"}


def broken_models(folder):
    """Folders and files that are no models of ours, beside one that is."""
    shutil.copytree(WEIGHTS, folder / "mine")
    shutil.copytree(WEIGHTS, folder / "damaged")
    next((folder / "damaged" / "transformer").glob("*.safetensors")).write_bytes(b"no weights")
    shutil.copytree(WEIGHTS, folder / "lacking")
    shutil.rmtree(folder / "lacking" / "transformer")
    (folder / "sd").mkdir()
    (folder / "sd" / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (folder / "single.safetensors").write_bytes(b"")


@pytest.fixture(scope="module", params=CHECKOUTS or [None], ids=lambda one: one.name if one else "none")
def server(request, tmp_path_factory):
    if request.param is None:
        pytest.skip(real_comfyui.MISSING)
    base, other = tmp_path_factory.mktemp("comfyui"), tmp_path_factory.mktemp("elsewhere")
    broken_models(base / "models" / "auface")
    shutil.copytree(WEIGHTS, other / "faces" / "shared")
    # a key that ComfyUI knows before our nodes are loaded: the default folder has to stay
    (other / "paths.yaml").write_text(f"more:\n  base_path: {other}\n  auface: faces\n")
    arguments = ["--extra-model-paths-config", str(other / "paths.yaml")]
    with Server(request.param, base, arguments=arguments) as running:
        yield running


def node(kind, /, **inputs):
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture(scope="module")
def make(server):
    """A node with its defaults; few steps and no guidance, to be quick."""
    info = server.json("/object_info")

    def made(kind, /, **inputs):
        specs = info[kind]["input"]["required"]
        plain = {id: spec[1]["default"] for id, spec in specs.items() if len(spec) > 1 and "default" in spec[1]}
        plain |= {"steps": 2, "guidance": 1.0} if "steps" in specs else {}
        plain |= {"model": ["loader", 0]} if "model" in specs and kind != "AUFaceLoader" else {}
        return node(kind, **(plain | inputs))

    return made


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def shown(run, id):
    """(B, H, W, 3) of a preview."""
    return np.stack([pixels(data) for data in run.images(id)])


def base(make, **nodes):
    """A prompt with a loader, a smile, two expressions, and ``nodes``, each with a preview named after it."""
    prompt = {"loader": make("AUFaceLoader"), "smile": make("AUFaceCodes", codes="6C+12D")}
    prompt |= {"two": make("AUFaceCodes", codes="0\n1C+2C+26D")}
    for name, one in nodes.items():
        prompt |= {name: one, f"{name} seen": node("PreviewImage", images=[name, 0])}
    return prompt


def reference(server, folder, wanted):
    """Pictures (B, H, W, 3) by name, drawn by the library in the server's Python; see reference_faces.py."""
    command = [real_comfyui.python_of(server.checkout), Path(__file__).with_name("reference_faces.py"), folder]
    lines = "\n".join(json.dumps({"name": name, **one}) for name, one in wanted.items())
    subprocess.run(command, input=lines, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    found = {}
    for name in wanted:
        paths = sorted(folder.glob(f"{name}-*.png"), key=lambda path: int(path.stem.rsplit("-", 1)[1]))
        found[name] = np.stack([pixels(path.read_bytes()) for path in paths])
    return found


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_faces_are_those_of_the_library(server, make, tmp_path):
    fast = {"num_inference_steps": 2, "guidance_scale": 1.0, "identity": 1}
    smile, two = ["6C+12D"], ["0", "1C+2C+26D"]
    sixteen = "\n".join(["12A", "12B", "12C", "12D"] * 4)
    looks = {"age": 70, "hair": "long red", "head_pose": [20.0, 0.0, 0.0], "light": "warm"}
    look = {"age": 70, "hair_style": "long", "hair_color": "red", "yaw": 20.0, "light": "warm"}
    before = fast | {"aus": smile, "seed": [0]}
    change = {"aus": ["4D+15C"], "seed": [0], "num_inference_steps": 2, "guidance_scale": 1.0}
    lower = [[int(row >= 8)] * 16 for row in range(16)]
    wanted = {
        "one": {"call": "faces", "options": before},
        "own": {"call": "faces", "options": {"aus": two, "identity": 1, "seed": [5, 5]}},
        "look": {"call": "faces", "options": before | {"attributes": looks}},
        "copies": {"call": "faces", "options": fast | {"aus": two, "num_images_per_prompt": 2, "seed": [3, 4, 5, 6]}},
        "film": {"call": "film", "options": fast | {"aus": two, "seed": 0}},
        "text": {"call": "faces", "options": fast | {"prompt": "smiling with raised brows", "seed": [0]}},
        "many": {"call": "faces", "options": fast | {"aus": sixteen.split("\n"), "seed": [0] * 16}},
        "edit": {"call": "edit", "before": before, "options": change, "fit": False},
        "photo": {"call": "edit", "before": before, "options": change | {"strength": 0.5}, "fit": True},
        "where": {"call": "edit", "before": before, "options": change | {"mask": lower, "paste": False}, "fit": False},
    }
    own = {"steps": 0, "guidance": 0.0, "seed": 5}
    edit = {"image": ["one", 0], "expression": ["frown", 0]}
    prompt = base(
        make,
        one=make("AUFaceGenerate", expression=["smile", 0]),
        own=make("AUFaceGenerate", expression=["two", 0], **own),
        look=make("AUFaceGenerate", expression=["smile", 0], **look),
        copies=make("AUFaceGenerate", expression=["two", 0], copies=2, batch="own scenes", seed=3),
        film=make("AUFaceGenerate", expression=["two", 0], batch="film"),
        text=make("AUFaceGenerate", prompt="smiling with raised brows"),
        many=make("AUFaceGenerate", expression=["sixteen", 0]),
        edit=make("AUFaceEdit", **edit, people=["one", 3]),
        photo=make("AUFaceEdit", **edit, strength=0.5),
        where=make("AUFaceEdit", **edit, people=["one", 3], mask=["white", 0], keep_rest=False),
    )
    prompt |= {"frown": make("AUFaceCodes", codes="4D+15C"), "sixteen": make("AUFaceCodes", codes=sixteen)}
    prompt["black"] = node("SolidMask", value=0.0, width=128, height=128)
    prompt["half"] = node("SolidMask", value=1.0, width=128, height=64)
    prompt["white"] = node("MaskComposite", destination=["black", 0], source=["half", 0], x=0, y=64, operation="add")
    run = server.run(prompt)
    assert run.error is None
    drawn = reference(server, tmp_path, wanted)
    for name in wanted:
        assert np.array_equal(shown(run, f"{name} seen"), drawn[name]), name
    assert len({drawn[name].tobytes() for name in wanted}) == len(wanted)
    assert run.texts["copies"] == "0\n0\n1C+2C+26D\n1C+2C+26D"


CHANGES = {  # each alone changes the picture
    "identity": {"identity": 2},
    "age": {"age": 80},
    "gender": {"gender": "female"},
    "skin": {"skin": "dark"},
    "hair_style": {"hair_style": "bun"},
    "hair_color": {"hair_color": "white"},
    "light": {"light": "dim"},
    "background": {"background": "red"},
    "yaw": {"yaw": 30.0},
    "pitch": {"pitch": 20.0},
    "roll": {"roll": 20.0},
    "gaze_yaw": {"gaze_yaw": 30.0},
    "gaze_pitch": {"gaze_pitch": 25.0},
    "steps": {"steps": 4},
    "guidance": {"guidance": 3.0},
    "seed": {"seed": 1},
    "avoid": {"guidance": 3.0, "avoid": ["two", 0]},
    "prompt": {"prompt": "smiling"},
    "dtype": {"model": ["half", 0]},
}


def test_every_option_changes_the_picture(server, make):
    plain = {"expression": ["smile", 0]}
    nodes = {name: make("AUFaceGenerate", **(plain | change)) for name, change in CHANGES.items()}
    nodes["avoid"]["inputs"]["avoid"] = ["calm", 0]
    prompt = base(make, plain=make("AUFaceGenerate", **plain), **nodes)
    prompt |= {"half": make("AUFaceLoader", dtype="fp16"), "calm": make("AUFaceCodes", codes="15D")}
    run = server.run(prompt)
    assert run.error is None
    first = shown(run, "plain seen")
    for name in CHANGES:
        assert not np.array_equal(shown(run, f"{name} seen"), first), name
    assert not np.array_equal(shown(run, "avoid seen"), shown(run, "guidance seen"))
    assert "float16" in run.texts["half"]


def test_half_precision_draws_about_the_same(server, make):
    prompt = base(make, full=make("AUFaceGenerate", expression=["smile", 0]))
    for name in ("fp16", "bf16"):
        prompt[f"{name} loader"] = make("AUFaceLoader", dtype=name)
        prompt[name] = make("AUFaceGenerate", model=[f"{name} loader", 0], expression=["smile", 0])
        prompt[f"{name} seen"] = node("PreviewImage", images=[name, 0])
    run = server.run(prompt)
    assert run.error is None
    full = shown(run, "full seen").astype(float)
    for name in ("fp16", "bf16"):
        away = np.abs(shown(run, f"{name} seen") - full).mean()
        assert 0 < away < 25, name  # of 255; other people are farther


# --- models ----------------------------------------------------------------------------------------------------------


def test_folders_are_in_the_menu_the_embedded_model_first(server):
    spec = server.json("/object_info")["AUFaceLoader"]["input"]["required"]["model"]
    choices = spec[0] if isinstance(spec[0], list) else spec[1]["options"]
    assert choices == ["embedded", "damaged", "lacking", "mine", "sd", "shared"]


def test_models_of_all_folders_draw(server, make):
    prompt = base(make, embedded=make("AUFaceGenerate", expression=["smile", 0]))
    for name in ("mine", "shared"):
        prompt[f"{name} loader"] = make("AUFaceLoader", model=name)
        prompt[name] = make("AUFaceGenerate", model=[f"{name} loader", 0], expression=["smile", 0])
        prompt[f"{name} seen"] = node("PreviewImage", images=[name, 0])
    run = server.run(prompt)
    assert run.error is None
    for name in ("mine", "shared"):
        assert np.array_equal(shown(run, f"{name} seen"), shown(run, "embedded seen"))
    assert run.texts["mine loader"].startswith("mine: 128 x 128 pixels")


def test_a_model_that_changed_is_loaded_again(server, make):
    prompt = base(make, face=make("AUFaceGenerate", expression=["smile", 0]))
    prompt["loader"] = make("AUFaceLoader", model="mine")
    server.run(prompt, "changing")
    assert not server.run(prompt, "changing").executed
    os.utime(server.base / "models" / "auface" / "mine" / "transformer" / "config.json", ns=(1, 1))
    assert set(server.run(prompt, "changing").executed) == {"loader", "face", "face seen"}


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"model": "gone"}, "model 'gone' is not in {models} or .*put it into {models} and press R"),
        ({"model": "../../input"}, "is not in {models}"),
        ({"model": "single.safetensors"}, "is a single file, which is no model of VQ-AUFace"),
        ({"model": "sd"}, "model 'sd' in .* is a StableDiffusionPipeline, which this node cannot use"),
        ({"attention": "xformers"}, "attention 'xformers' needs an NVIDIA GPU, and ComfyUI runs on cpu: choose auto"),
    ],
)
def test_a_model_that_cannot_be_is_told_before_the_run(server, make, inputs, said):
    prompt = base(make, face=make("AUFaceGenerate", expression=["smile", 0]))
    prompt["loader"] = make("AUFaceLoader", **inputs)
    refused = "\n".join(server.refusal(prompt)["loader"])
    folder = str(server.base / "models" / "auface")
    for part in said.format(models=folder).split(".*"):
        assert part in refused


@pytest.mark.parametrize(("name", "said"), [("damaged", "is damaged"), ("lacking", "transformer is missing")])
def test_a_damaged_model_is_told_with_its_file(server, make, name, said):
    prompt = base(make, face=make("AUFaceGenerate", expression=["smile", 0]))
    prompt["loader"] = make("AUFaceLoader", model=name)
    run = server.run(prompt)
    assert run.error["node_id"] == "loader"
    message = run.error["exception_message"]
    assert message.startswith(f"model '{name}': {server.base / 'models' / 'auface' / name}")
    assert said in message


def test_attention_can_be_chosen(server, make):
    prompt = base(make, face=make("AUFaceGenerate", expression=["smile", 0]))
    prompt["loader"] = make("AUFaceLoader", attention="native")
    run = server.run(prompt)
    assert run.error is None
    assert "attention native" in run.texts["loader"]


# --- running ---------------------------------------------------------------------------------------------------------


def test_a_second_run_does_nothing_and_a_changed_widget_runs_what_depends_on_it(server, make):
    prompt = base(make, face=make("AUFaceGenerate", expression=["smile", 0]))
    edit = make("AUFaceEdit", image=["face", 0], expression=["two", 0], people=["face", 3])
    prompt |= {"edit": edit, "edit seen": node("PreviewImage", images=["edit", 0])}
    server.run(prompt, "cache")
    assert not server.run(prompt, "cache").executed
    prompt["edit"]["inputs"]["strength"] = 0.5
    assert set(server.run(prompt, "cache").executed) == {"edit", "edit seen"}
    prompt["face"]["inputs"]["seed"] = 1
    assert set(server.run(prompt, "cache").executed) == {"face", "face seen", "edit", "edit seen"}


def test_inputs_stay_as_they_are(server, make):
    """An edit of an image leaves that image to the other nodes that use it."""
    prompt = base(make, face=make("AUFaceGenerate", expression=["smile", 0]))
    first = shown(server.run(prompt, "same"), "face seen")
    edit = make("AUFaceEdit", image=["face", 0], expression=["two", 0], people=["face", 3])
    prompt |= {"edit": edit, "edit seen": node("PreviewImage", images=["edit", 0])}
    prompt["again"] = node("PreviewImage", images=["later", 0])
    prompt["later"] = node("ImageFromBatch", image=["face", 0], batch_index=0, length=1)
    run = server.run(prompt, "same")
    assert run.error is None
    assert np.array_equal(shown(run, "again"), first)


def test_a_preview_is_shown_while_faces_are_drawn(server, make):
    prompt = base(make, face=make("AUFaceGenerate", expression=["smile", 0], copies=16, steps=24))
    run = server.run(prompt)
    assert run.error is None
    assert [one["value"] for one in run.progress][-1] == run.progress[-1]["max"] == 24
    assert run.previews
    assert pixels(run.previews[0]).shape == (128, 128, 3)


@pytest.mark.parametrize("batch", ["same scene", "film"])
def test_a_run_is_cancelled_within_a_step(server, make, batch):
    prompt = base(make, face=make("AUFaceGenerate", expression=["long", 0], batch=batch, steps=128))
    prompt["long"] = make("AUFaceCodes", codes="\n".join(["0", "12E"] * 64))
    run = server.run(prompt, at_progress=lambda: server.post("/interrupt", {}))
    assert run.error["node_type"] == "AUFaceGenerate"
    assert "exception_message" not in run.error  # interrupted, not failed
    assert "face seen" not in run.outputs
    assert run.progress[-1]["value"] < 0.01 * run.progress[-1]["max"]
    prompt["long"] = make("AUFaceCodes", codes="12D")
    prompt["face"] = make("AUFaceGenerate", expression=["long", 0])
    assert server.run(prompt).error is None


def test_an_edit_can_be_cancelled(server, make):
    prompt = base(make, face=make("AUFaceGenerate", expression=["smile", 0]))
    edit = make("AUFaceEdit", image=["face", 0], expression=["two", 0], people=["face", 3], steps=128)
    prompt |= {"edit": edit, "edit seen": node("PreviewImage", images=["edit", 0])}
    server.run(prompt | {"edit": edit | {"inputs": edit["inputs"] | {"steps": 1}}}, "edits")
    run = server.run(prompt, "edits", at_progress=lambda: server.post("/interrupt", {}))
    assert run.error["node_type"] == "AUFaceEdit"
    assert "exception_message" not in run.error
    assert run.progress[-1]["value"] < run.progress[-1]["max"]


# --- errors ----------------------------------------------------------------------------------------------------------


def test_words_that_are_unknown_are_told_before_the_run(server, make):
    prompt = base(make, face=make("AUFaceGenerate", expression=["smile", 0], light="moon"))
    assert "'moon' is unknown; there are soft, hard" in "\n".join(server.refusal(prompt)["face"])


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({}, "nothing to draw: connect an expression, or write a prompt"),
        ({"expression": ["two", 0], "prompt": "smiling"}, "one prompt for the 2 expressions of a batch"),
        ({"expression": ["smile", 0], "age": 5}, "age 5: give 18 to 90 years"),
        ({"expression": ["smile", 0], "avoid": ["two", 0]}, "avoid has 2 expressions and there are 1 to draw"),
        ({"prompt": "12F"}, "'12F' at column 1: F is no intensity"),
    ],
)
def test_what_is_wrong_with_a_wish_is_said_in_the_run(server, make, inputs, said):
    run = server.run(base(make, face=make("AUFaceGenerate", **inputs)))
    assert run.error["node_id"] == "face"
    assert said in run.error["exception_message"]


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ({"image": ["wide", 0]}, "image is 256 x 128 pixels: it has to be square"),
        ({"image": ["tiny", 0]}, "at least 32 x 32; crop it"),
        ({"mask": ["small", 0]}, "mask is 64 x 64 pixels and image 128 x 128"),
        ({"mask": ["black", 0]}, "mask is empty: nothing would be drawn"),
        ({"image": ["three", 0]}, "batches differ: image has 3, expression has 2"),
    ],
)
def test_what_is_wrong_with_a_picture_is_said_in_the_run(server, make, inputs, said):
    color = {"color": 0x808080, "batch_size": 1}
    prompt = base(make, edit=make("AUFaceEdit", **({"image": ["good", 0], "expression": ["two", 0]} | inputs)))
    prompt |= {
        "good": node("EmptyImage", width=128, height=128, **color),
        "wide": node("EmptyImage", width=256, height=128, **color),
        "tiny": node("EmptyImage", width=16, height=16, **color),
        "three": node("EmptyImage", width=128, height=128, **(color | {"batch_size": 3})),
        "small": node("SolidMask", value=1.0, width=64, height=64),
        "black": node("SolidMask", value=0.0, width=128, height=128),
    }
    run = server.run(prompt)
    assert run.error["node_id"] == "edit"
    assert said in run.error["exception_message"]


# --- without the server, and without packages ------------------------------------------------------------------------


def test_models_are_managed_whole_and_shared(server):
    command = [real_comfyui.python_of(server.checkout), Path(__file__).with_name("inside_comfyui.py"), server.checkout]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {
        "patched differs": True,
        "the first is as before": True,
        "noise taken away": True,
        "notes": [[], ["noise"], ["noise", "noise taken away"]],
        "managed": 1,
        "said": "a style: model 'embedded' has no weight transformer.gone",
        "unloaded in part": 0,
        "loaded of all": 1.0,
        "loads in part": False,
    }


def test_without_diffusers_the_other_nodes_load(server, tmp_path):
    with Server(server.checkout, tmp_path, lacks=("diffusers", "peft")) as lacking:
        there = {name for name in lacking.json("/object_info") if name.startswith("AUFace")}
        assert signatures.golden().keys() - there >= OURS
        assert {"AUFaceCodes", "AUFaceSliders", "AUFaceText", "AUFaceControlImage"} <= there
        (line,) = [line for line in lacking.text().splitlines() if "nodes_generate are left out" in line]
        assert line.endswith("Install it into ComfyUI's Python: python -m pip install diffusers peft")
        assert "IMPORT FAILED" not in lacking.text()
        prompt = {"1": node("AUFaceCodes", codes="12D"), "2": node("PreviewAny", source=["1", 1])}
        assert lacking.run(prompt).text("2") == ["12D"]

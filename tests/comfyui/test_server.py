"""The pack in a real ComfyUI, on every version that `make comfyui` prepared: see real_comfyui.py."""

import io
import json
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_adapters import write_adapters

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file
import real_comfyui
import signatures
from real_comfyui import DOWNLOADS, PACK, ROOT, TWINS, Server

from auface_diffusers.facs import AUSet, describe, resolve
from comfyui_auface.saying import negative

pytestmark = pytest.mark.slow
CHECKOUTS = real_comfyui.checkouts()
if not CHECKOUTS:
    warnings.warn(real_comfyui.MISSING, stacklevel=1)


@pytest.fixture(scope="module", params=CHECKOUTS or [None], ids=lambda one: one.name if one else "none")
def server(request, tmp_path_factory):
    if request.param is None:
        pytest.skip(real_comfyui.MISSING)
    base = tmp_path_factory.mktemp("comfyui")
    (base / "models" / "auface" / "loras").mkdir(parents=True)
    write_adapters(base / "models" / "auface" / "loras", adapter={"trigger": "clay"})  # for workflow 10
    with Server(request.param, base) as running:
        yield running


@pytest.fixture(scope="module")
def runs(server):
    """Every workflow, run once."""
    return {name: server.run(prompt, client=name) for name, prompt in TWINS.items() if name not in DOWNLOADS}


def node(kind, /, **inputs):
    return {"class_type": kind, "inputs": inputs}


def shown(name):
    return [id for id, one in TWINS[name].items() if "Preview" in one["class_type"] or "Save" in one["class_type"]]


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def reference(server, folder, wanted):
    """Pictures by name, drawn by the library in the server's Python."""
    command = [real_comfyui.python_of(server.checkout), Path(__file__).with_name("reference.py"), folder]
    lines = "\n".join(json.dumps({"name": name, **one}) for name, one in wanted.items())
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run(command, input=lines, text=True, check=True, env=environment)
    return {name: pixels((folder / f"{name}.png").read_bytes()) for name in wanted}


# --- loading ---------------------------------------------------------------------------------------------------------


def test_all_nodes_load_and_the_log_has_no_error(server):
    log = server.text()
    assert not [line for line in log.splitlines() if "auface" in line.lower() and "left out" in line]
    assert "IMPORT FAILED" not in log
    assert "Cannot import" not in log
    assert f"custom_nodes/{PACK}" in log.replace("\\", "/")
    signatures.check(server.json("/object_info"))


def test_every_input_and_output_has_a_tooltip(server):
    for name, info in server.json("/object_info").items():
        if name.startswith("AUFace"):
            inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
            assert not [id for id, spec in inputs.items() if not spec[1].get("tooltip")], name
            assert all(info["output_tooltips"]), name
            assert info["description"], name


def test_help_translations_and_workflows_are_served(server):
    for name in signatures.golden():
        assert server.get(f"/extensions/{PACK}/docs/{name}.md").startswith(b"# ")
    assert server.get(f"/extensions/{PACK}/docs/images/AU12.webp").startswith(b"RIFF")
    assert server.json("/i18n")["fr"]["nodeDefs"]["AUFaceCodes"]["display_name"] == "AUFace Codes"
    assert sorted(server.json("/workflow_templates")[PACK]) == sorted(TWINS)
    for name in TWINS:
        assert server.json(f"/api/workflow_templates/{PACK}/{name}.json")["nodes"]
        assert server.get(f"/api/workflow_templates/{PACK}/{name}.jpg").startswith(b"\xff\xd8")


def test_english_is_what_the_nodes_say(server):
    english = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text("utf-8"))
    for name, info in server.json("/object_info").items():
        if name.startswith("AUFace"):
            inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
            outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
            assert english[name] == {
                "display_name": info["display_name"],
                "description": info["description"],
                "inputs": {
                    id: {"name": spec[1].get("display_name", id), "tooltip": spec[1]["tooltip"]}
                    for id, spec in inputs.items()
                },
                "outputs": {str(place): {"name": one, "tooltip": tip} for place, (one, tip) in enumerate(outputs)},
            }


# --- running ---------------------------------------------------------------------------------------------------------


def test_every_workflow_runs_to_its_end(runs):
    for name, run in runs.items():
        assert run.error is None, name
        # equal nodes run once: two of a workflow, and the loaded model of several
        there = [json.dumps(TWINS[name][id]) for id in (*run.executed, *run.cached)]
        assert set(there) == {json.dumps(one) for one in TWINS[name].values()}, name
        assert run.executed, name
        assert set(run.outputs) >= set(shown(name)), name


def test_texts_are_those_of_the_library(runs):
    run = runs["01_codes_to_text"]
    said = describe("1C+2C+4B+L12D", subject="a 40-year-old woman with short black hair")
    assert run.text("3") == [said.text]
    assert run.text("4") == [negative(said.resolution.effective)]
    assert run.text("5")[0].startswith("1C+2C+4B+L12D -> 1C+2C+4B+L12D\n  F1 ")
    assert run.texts["1"] == "1C+2C+4B+L12D"
    assert run.texts["2"] == said.text


def test_pictures_are_those_of_the_library(server, runs, tmp_path):
    conflict = "12D+15D+24C+25D"
    wanted = {
        "01_codes_to_text-6": {"draw": "head", "codes": "1C+2C+4B+L12D", "identity": 1, "size": 384},
        "04_conflicting_units-5": {"draw": "head", "codes": conflict, "identity": 1, "size": 384},
        "04_conflicting_units-6": {"draw": "head", "codes": conflict, "identity": 1, "size": 384, "resolved": False},
    }
    for id, kind in zip("6789", ("openpose", "mediapipe_face", "normal", "depth"), strict=True):
        wanted[f"11_control_images-{id}"] = {"draw": kind, "codes": "1C+2C+5C+25C+26C", "size": 512}
    drawn = reference(server, tmp_path, wanted)
    for place, picture in drawn.items():
        name, id = place.rsplit("-", 1)
        (data,) = runs[name].images(id)
        assert np.array_equal(pixels(data), picture), place
    assert not np.array_equal(drawn["04_conflicting_units-5"], drawn["04_conflicting_units-6"])
    assert resolve(AUSet.parse(conflict)).effective != AUSet.parse(conflict)


def test_a_preview_carries_the_expression_in_its_metadata(runs):
    (data,) = runs["01_codes_to_text"].images("6")
    prompt = json.loads(Image.open(io.BytesIO(data)).info["prompt"])
    assert prompt["1"]["inputs"]["codes"] == "1C+2C+4B+L12D"


def test_an_animation_is_a_film_with_a_frame_for_each_expression(runs):
    (data,) = runs["12_head_animation"].images("4")
    film = Image.open(io.BytesIO(data))
    assert film.n_frames == len(runs["12_head_animation"].images("3")) == 16


def test_a_second_run_does_nothing_and_a_changed_widget_runs_what_depends_on_it(server):
    prompt = json.loads(json.dumps(TWINS["01_codes_to_text"]))
    client = "cache"
    server.run(prompt, client)  # ComfyUI keeps the results of the last workflow only
    again = server.run(prompt, client)
    assert not again.executed
    prompt["2"]["inputs"]["style"] = "tags"
    assert set(server.run(prompt, client).executed) == {"2", "3", "4", "5"}
    prompt["6"]["inputs"]["yaw"] = 20.0
    assert set(server.run(prompt, client).executed) == {"6"}
    prompt["1"]["inputs"]["codes"] = "12E"
    assert set(server.run(prompt, client).executed) == set(prompt)


ALL = {  # every node that no workflow has, with what it should give
    "sliders": ("AUFaceSliders", {"AU12_left": 4.0, "AU12_right": 1.0, "AU26": 2.5}, "12D+26=2.5"),
    "sliders apart": ("AUFaceSliders", {"link_sides": False, "AU12_left": 4.0, "AU12_right": 1.0}, "L12D+R12A"),
    "sliders at zero": ("AUFaceSliders", {}, "0"),
    "text": ("AUFaceReadText", {"text": describe("1C+2C+L12D").text}, "1C+2C+L12D"),
    "file": ("AUFaceFromFile", {"file": "openface_like.csv", "first_row": 4}, "6=2.4+12=3.3+25=1.9"),
    "mirror": ("AUFaceMirror", {"expression": ["a", 0]}, "R12D"),
    "combine": ("AUFaceCombine", {"first": ["a", 0], "second": ["b", 0], "how": "max"}, "1C+L12D"),
    "blend": ("AUFaceBlend", {"start": ["b", 0], "end": ["b", 0], "amount": 0.3}, "1C"),
}


def test_every_other_node_runs(server):
    info = server.json("/object_info")
    prompt = {"a": node("AUFaceCodes", codes="L12D"), "b": node("AUFaceCodes", codes="1C")}
    for name, (kind, inputs, _) in ALL.items():
        specs = info[kind]["input"]["required"]
        defaults = {id: spec[1]["default"] for id, spec in specs.items() if "default" in spec[1]}
        prompt[name] = node(kind, **(defaults | inputs))
        prompt[f"{name} seen"] = node("PreviewAny", source=[name, 1])
        prompt[f"{name} expression"] = node("PreviewAny", source=[name, 0])
    run = server.run(prompt)
    assert run.error is None
    for name, (_, _, codes) in ALL.items():
        assert run.text(f"{name} seen") == [codes], name
        assert run.text(f"{name} expression") == [codes], name  # it is text wherever somebody looks at it


def test_a_batch_gives_a_text_and_an_image_for_each(server):
    size = {"width": 64, "height": 128, "kind": "openpose_face", "identity": -1}
    place = {key: TWINS["11_control_images"]["2"]["inputs"][key] for key in ("conflicts", "one_side")}
    place |= dict.fromkeys(("yaw", "pitch", "roll", "gaze_yaw", "gaze_pitch"), 0.0)
    prompt = {
        "1": node("AUFaceCodes", codes="12D\nU12D\n0"),
        "2": node("AUFaceText", expression=["1", 0], style="compact", seed=0, subject="", emotion=False),
        "3": node("PreviewAny", source=["2", 0]),
        "4": node("AUFaceControlImage", expression=["1", 0], **size, **place),
        "5": node("PreviewImage", images=["4", 0]),
        "6": node("PreviewAny", source=["4", 1]),
    }
    run = server.run(prompt)
    assert run.error is None
    assert len(run.text("3")) in (1, 3)  # newer versions join what a node shows, older ones keep the last
    pictures = [pixels(data) for data in run.images("5")]
    assert [picture.shape for picture in pictures] == [(128, 64, 3)] * 3
    frames = json.loads(run.text("6")[-1])
    assert [len(frame["people"]) for frame in frames] == [1, 1, 1]
    assert frames[0]["canvas_height"] == 128


OPTIONS = {  # a node, its inputs, a change to them, the output that changes
    "style": ("AUFaceText", {}, {"style": "tags"}, 0),
    "seed": ("AUFaceText", {}, {"seed": 3}, 0),
    "subject": ("AUFaceText", {}, {"subject": "an old man"}, 0),
    "emotion": ("AUFaceText", {}, {"emotion": True}, 0),
    "negative": ("AUFaceText", {}, {"style": "compact"}, 1),
    "strength": ("AUFacePreset", {}, {"strength": 1.0}, 1),
    "preset": ("AUFacePreset", {}, {"preset": "sad (Du 2014)"}, 1),
    "min_share": ("AUFacePreset", {"preset": "sad (Du 2014)"}, {"min_share": 0.5}, 1),
    "easing": ("AUFaceAnimate", {}, {"easing": "hold"}, 1),
    "bounce": ("AUFaceAnimate", {}, {"bounce": True}, 2),
    "how": ("AUFaceCombine", {"first": ["smile", 0], "second": ["smile", 0], "how": "max"}, {"how": "add"}, 1),
    "amount": ("AUFaceBlend", {"start": ["calm", 0], "end": ["smile", 0]}, {"amount": 0.9}, 1),
    "rows": ("AUFaceFromFile", {"file": "openface_like.csv"}, {"rows": 3}, 1),
    "first_row": ("AUFaceFromFile", {"file": "openface_like.csv"}, {"first_row": 3}, 1),
    "every": ("AUFaceFromFile", {"file": "openface_like.csv", "rows": 2}, {"every": 3}, 1),
}


def test_every_option_reaches_the_library(server):
    info = server.json("/object_info")
    prompt = {"smile": node("AUFaceCodes", codes="6C+12C"), "calm": node("AUFaceCodes", codes="0")}
    for name, (kind, inputs, change, output) in OPTIONS.items():
        specs = info[kind]["input"]["required"]
        plain = {id: spec[1]["default"] for id, spec in specs.items() if "default" in spec[1]}
        plain |= {"expression": ["smile", 0]} if "expression" in specs else {}
        for label, values in (("plain", plain | inputs), ("changed", plain | inputs | change)):
            prompt[f"{name} {label}"] = node(kind, **values)
            prompt[f"{name} {label} seen"] = node("PreviewAny", source=[f"{name} {label}", output])
    run = server.run(prompt)
    assert run.error is None
    for name in OPTIONS:
        assert run.text(f"{name} plain seen") != run.text(f"{name} changed seen"), name


def test_points_of_a_photo_are_moved_by_the_units(server):
    place = TWINS["11_control_images"]["2"]["inputs"]
    prompt = {
        "face": node("AUFaceCodes", codes="0"),
        "open": node("AUFaceCodes", codes="27E"),
        "photo": node("AUFaceControlImage", **(place | {"expression": ["face", 0], "yaw": 20.0})),
        "moved": node("AUFaceControlImage", **(place | {"expression": ["open", 0], "photo_points": ["photo", 1]})),
        "1": node("PreviewAny", source=["photo", 1]),
        "2": node("PreviewAny", source=["moved", 1]),
    }
    run = server.run(prompt)
    assert run.error is None
    before, after = (
        np.reshape(json.loads(run.text(id)[0])[0]["people"][0]["face_keypoints_2d"], (-1, 3))[:68, :2] for id in "12"
    )
    away = np.linalg.norm(after - before, axis=1)
    assert away[8] > 20  # the chin
    assert away[27] < 1  # the nose's root


def test_a_run_can_be_cancelled_in_the_middle(server):
    prompt = json.loads(json.dumps(TWINS["12_head_animation"]))
    prompt["2"]["inputs"]["keyframes"] = "0: 0\n2000: 12E"
    started = time.monotonic()
    run = server.run(prompt, at_progress=lambda: server.post("/interrupt", {}))
    assert run.error["node_type"] == "AUFaceHeadPreview"
    assert "exception_message" not in run.error  # interrupted, not failed
    assert not run.outputs
    assert time.monotonic() - started < 30  # 2001 frames take minutes
    assert server.run(TWINS["01_codes_to_text"]).error is None


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "inputs", "said"),
    [
        ("AUFaceCodes", {"codes": "12D+99"}, "'99' at column 5: FACS has no unit 99"),
        ("AUFaceCodes", {"codes": "12D\n12F"}, "line 2: '12F' at column 1: F is no intensity"),
        ("AUFaceAnimate", {"keyframes": "0: 0\n12 6C"}, "line 2: '12 6C' is no key; write FRAME: CODES"),
        ("AUFaceFromFile", {"file": "../server.log"}, "is outside ComfyUI's input folder"),
        ("AUFaceFromFile", {"file": "gone.csv"}, "in it: openface_like.csv"),
        ("AUFacePreset", {"strength": 2.0}, "Value 2.0 bigger than max of 1.0"),
    ],
)
def test_what_is_wrong_is_said_before_the_run(server, kind, inputs, said):
    specs = server.json("/object_info")[kind]["input"]["required"]
    defaults = {id: spec[1]["default"] for id, spec in specs.items() if "default" in spec[1]}
    refused = server.refusal({"1": node(kind, **(defaults | inputs)), "2": node("PreviewAny", source=["1", 1])})
    assert said in "\n".join(refused["1"])


def test_what_is_wrong_is_said_in_the_run(server):
    prompt = {
        "1": node("AUFaceCodes", codes="12D\n6C\n0"),
        "2": node("AUFaceCodes", codes="12D\n6C"),
        "3": node("AUFaceBlend", start=["1", 0], end=["2", 0], amount=0.5),
        "4": node("PreviewAny", source=["3", 1]),
    }
    run = server.run(prompt)
    assert run.error["node_id"] == "3"
    assert "start has 3 frames and end has 2: give both the same number" in run.error["exception_message"]


def test_codes_that_come_through_a_link_are_checked_when_the_node_runs(server):
    prompt = {
        "1": node("AUFaceText", expression=["0", 0], style="coder", seed=0, subject="", emotion=False),
        "0": node("AUFaceCodes", codes="12D"),
        "2": node("AUFaceCodes", codes=["1", 0]),
        "3": node("PreviewAny", source=["2", 1]),
    }
    run = server.run(prompt)
    assert run.error["node_id"] == "2"
    assert "at column" in run.error["exception_message"]


def test_a_choice_that_is_none_is_refused(server):
    prompt = json.loads(json.dumps(TWINS["12_head_animation"]))
    prompt["2"]["inputs"]["easing"] = "bouncy"
    status, answer = server.post("/prompt", {"prompt": prompt})
    if status == 400:  # newer versions check it themselves
        assert "bouncy" in json.dumps(answer)
    else:
        assert (
            "easing 'bouncy' is unknown; choose smooth, linear, hold" in server.run(prompt).error["exception_message"]
        )


def test_a_file_that_changed_is_read_again(server):
    path = server.base / "input" / "changing.jsonl"
    path.write_text('{"frame": 1, "aus": "12D"}\n')
    prompt = {
        "1": node("AUFaceFromFile", file=path.name, source="jsonl", first_row=1, rows=1, every=1),
        "2": node("PreviewAny", source=["1", 1]),
    }
    assert server.run(prompt).text("2") == ["12D"]
    assert not server.run(prompt).executed
    path.write_text('{"frame": 1, "aus": "15E+17B"}\n')
    assert server.run(prompt).text("2") == ["15E+17B"]

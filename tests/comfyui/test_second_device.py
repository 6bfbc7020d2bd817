"""ComfyUI as on a GPU, with what nodes hand on kept there (--gpu-only): every workflow shows what it shows on a CPU.

The device is that of tests/second_device.py, put into a real ComfyUI by the pack second_device_node.
"""

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toy_adapters import write_adapters

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file
import real_comfyui
from real_comfyui import DOWNLOADS, TWINS, Server

pytestmark = pytest.mark.slow
CHECKOUTS = real_comfyui.checkouts()
if not CHECKOUTS:
    warnings.warn(real_comfyui.MISSING, stacklevel=1)


@pytest.fixture(scope="module", params=CHECKOUTS or [None], ids=lambda one: one.name if one else "none")
def servers(request, tmp_path_factory):
    """The same version on the CPU and on the second device."""
    if request.param is None:
        pytest.skip(real_comfyui.MISSING)
    started = []
    for install in (real_comfyui.clone, real_comfyui.clone_with_second_device):
        base = tmp_path_factory.mktemp("comfyui")
        (base / "models" / "auface" / "loras").mkdir(parents=True)
        write_adapters(base / "models" / "auface" / "loras", adapter={"trigger": "clay"})
        started.append(Server(request.param, base, install))
    with started[0] as here, started[1] as there:
        yield here, there


def shown(run):
    """What the page gets to see: texts, and pictures as arrays, by node."""
    told = {id: output or {} for id, output in run.outputs.items()}
    pictures = {
        id: [np.asarray(Image.open(io.BytesIO(data))) for data in run.images(id)]
        for id, output in told.items()
        if "images" in output
    }
    return {id: output.get("text") for id, output in told.items()} | run.texts, pictures


@pytest.mark.parametrize("name", sorted(TWINS.keys() - DOWNLOADS))
def test_workflows_show_the_same_on_both(servers, name):
    runs = [server.run(TWINS[name], client=name) for server in servers]
    assert [run.error for run in runs] == [None, None]
    (texts, pictures), (wanted_texts, wanted) = (shown(run) for run in reversed(runs))
    assert texts == wanted_texts
    assert pictures.keys() == wanted.keys()
    for id, images in pictures.items():
        for image, other in zip(images, wanted[id], strict=True):
            assert np.abs(image.astype(int) - other).max() <= 1, f"node {id}"


def test_faces_control_images_and_masks_stay_on_the_device(servers):
    there = servers[1]
    info = there.json("/object_info")

    def node(kind, **inputs):
        specs = info[kind]["input"]["required"]
        plain = {id: spec[1]["default"] for id, spec in specs.items() if len(spec) > 1 and "default" in spec[1]}
        return {"class_type": kind, "inputs": plain | inputs}

    prompt = {
        "loader": node("AUFaceLoader"),
        "smile": node("AUFaceCodes", codes="6C+12D"),
        "face": node("AUFaceGenerate", model=["loader", 0], expression=["smile", 0], steps=2),
        "edited": node("AUFaceEdit", model=["loader", 0], image=["face", 0], expression=["smile", 0], steps=2),
        "mask": node("MaskToImage", mask=["edited", 3]),
        "control": node("AUFaceControlImage", expression=["smile", 0]),
        "head": node("AUFaceHeadPreview", expression=["smile", 0]),
        "detected": node("AUFaceDetect", image=["face", 0]),
    }
    outputs = {"face": 0, "edited": 0, "mask": 0, "control": 0, "head": 0, "detected": 3}
    for name, place in outputs.items():
        prompt[f"{name} is"] = node("WhichDevice", images=[name, place])
        prompt[f"{name} seen"] = node("PreviewAny", source=[f"{name} is", 0])
    run = there.run(prompt)
    assert run.error is None, run.error
    assert {name: run.text(f"{name} seen") for name in outputs} == dict.fromkeys(outputs, ["second:0"])

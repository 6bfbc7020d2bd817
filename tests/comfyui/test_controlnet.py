"""Workflow 08 in a real ComfyUI: action units steer a Stable Diffusion checkpoint by its ControlNet and by text.

No published weights are downloaded. Checkpoint and ControlNet have the real sizes and names, and random weights: what
comes out is noise, but the same graph runs, and each of its wires can be seen to matter.
"""

import io
import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file
import real_comfyui
from real_comfyui import Server

pytestmark = pytest.mark.slow
TWIN = json.loads((Path(__file__).parent / "api" / "08_au_controlnet_sd15.json").read_text("utf-8"))
CHECKOUTS = real_comfyui.checkouts()
if not CHECKOUTS:
    warnings.warn(real_comfyui.MISSING, stacklevel=1)


def only(kind):
    [found] = [id for id, one in TWIN.items() if one["class_type"] == kind]
    return found


@pytest.fixture(scope="module", params=CHECKOUTS or [None], ids=lambda one: one.name if one else "none")
def server(request, tmp_path_factory):
    if request.param is None:
        pytest.skip(real_comfyui.MISSING)
    base = tmp_path_factory.mktemp("comfyui")
    names = [TWIN[only("CheckpointLoaderSimple")]["inputs"]["ckpt_name"]]
    names += [TWIN[only("ControlNetLoader")]["inputs"]["control_net_name"]]
    for folder in ("checkpoints", "controlnet"):
        (base / "models" / folder).mkdir(parents=True)
    command = [real_comfyui.python_of(request.param), Path(__file__).with_name("random_checkpoint.py")]
    subprocess.run([*command, request.param, base / "models", *names], check=True)
    with Server(request.param, base) as running:
        yield running
    for file in (base / "models").glob("*/*.safetensors"):  # three gigabytes, which pytest would keep
        file.unlink()


@pytest.fixture(scope="module")
def draw(server):
    """Runs the workflow at 128 pixels, two steps, with changes by kind of node; returns what it saves."""

    def run(**changes):
        small = {"EmptyLatentImage": {"width": 128, "height": 128}, "KSampler": {"steps": 2}}
        small |= {"AUFaceControlImage": {"width": 128, "height": 128}}
        prompt = {id: {**one, "inputs": dict(one["inputs"])} for id, one in TWIN.items()}
        for told in (small, changes):
            for kind, values in told.items():
                prompt[only(kind)]["inputs"].update(values)
        done = server.run(prompt)
        assert done.error is None, done.error
        assert {*done.executed, *done.cached} == set(TWIN)
        [file] = done.images(only("SaveImage"))
        return np.asarray(Image.open(io.BytesIO(file)).convert("RGB")).astype(float)

    return run


@pytest.fixture(scope="module")
def first(draw):
    return draw()


def test_it_runs_to_its_end(first):
    assert first.shape == (128, 128, 3)
    assert first.std() > 5, "flat: the random weights say nothing"


@pytest.mark.parametrize(
    "changes",
    [
        {"ControlNetApplyAdvanced": {"strength": 0.0}},
        {"AUFaceControlImage": {"kind": "depth"}},
        {"AUFaceText": {"style": "tags"}},
        {"AUFaceCodes": {"codes": "4D+5C+7C+23B"}},
    ],
    ids=["strength", "control image", "text", "codes"],
)
def test_every_wire_from_the_action_units_counts(first, draw, changes):
    assert np.abs(draw(**changes) - first).mean() > 0.02  # of 255; seen: .12 of another control image, 17 to 30

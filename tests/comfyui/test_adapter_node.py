"""VQ-AUFace LoRA in a real ComfyUI, on every version that `make comfyui` prepared: see real_comfyui.py."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clay_faces import clay_shards
from PIL import Image
from safetensors.torch import save_file
from toy_adapters import write_adapters

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file
import real_comfyui
from real_comfyui import ROOT, Server

from auface_diffusers.anatomy.identity import sample_identity
from auface_diffusers.facs import units
from train_lora.__main__ import main as train

WEIGHTS = ROOT / "auface_diffusers" / "weights" / "default"
CHECKOUTS = real_comfyui.checkouts()
WORKFLOW = json.loads(Path(__file__).with_name("api").joinpath("10_adapter.json").read_text("utf-8"))
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not WEIGHTS.exists(), reason="no embedded weights here")]
RUN = """
out = "{out}"
scores = 0
memory = false
data.shards = "{shards}"
adapter = {{rank = 4, alpha = 4.0, trigger = "clay"}}
[train]
steps = 6
batch_size = 2
learning_rate = 0.03
weight_decay = 0.0
warmup = 1
ema = 0.5
save_every = 6
validate_every = 6
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Adapters for the embedded weights: one that was trained for a moment, and others of random weights."""
    folder = tmp_path_factory.mktemp("adapters")
    config = folder / "run.toml"
    config.write_text(RUN.format(out=folder / "run", shards=clay_shards(folder, 6)))
    assert train(["adapter", str(config)]) == 0
    shutil.copy(folder / "run" / "model" / "adapter.safetensors", folder / "clay.safetensors")
    write_adapters(
        folder,
        dora={"kind": "dora", "seed": 2},
        loha={"kind": "loha", "seed": 3},
        lokr={"kind": "lokr", "seed": 4},
        words={"text": ("q_proj",), "seed": 5, "trigger": "toon"},
        anna={"seed": 6, "person": tuple(sample_identity(11).tolist())},
        base={"base": {"transformer": "0" * 16}},
        channels={"channels": tuple(units.channels)[:-1]},
    )
    return folder


@pytest.fixture(scope="module", params=CHECKOUTS or [None], ids=lambda one: one.name if one else "none")
def server(request, tmp_path_factory, files):
    if request.param is None:
        pytest.skip(real_comfyui.MISSING)
    base, other = tmp_path_factory.mktemp("comfyui"), tmp_path_factory.mktemp("elsewhere")
    ours, stock, more = base / "models" / "auface" / "loras", base / "models" / "loras", other / "faces" / "loras"
    for folder in (ours, stock, more):
        folder.mkdir(parents=True)
    for name in ("anna", "dora", "loha", "lokr", "words"):
        shutil.copy(files / f"{name}.safetensors", ours)
    shutil.copy(files / "clay.safetensors", ours / "adapter.safetensors")
    shutil.copy(files / "dora.safetensors", stock / "adapter.safetensors")  # of the same name
    shutil.copy(files / "clay.safetensors", more / "shared.safetensors")
    for name in ("base", "channels"):
        shutil.copy(files / f"{name}.safetensors", stock)
    save_file({"lora_unet_down.lora_up.weight": torch.zeros(2, 2)}, stock / "sd.safetensors", {"ss_network_dim": "2"})
    torch.save({}, stock / "old.pt")
    (stock / "damaged.safetensors").write_bytes((files / "clay.safetensors").read_bytes()[:-1000])
    (other / "paths.yaml").write_text(f"more:\n  base_path: {other}\n  auface: faces\n")
    arguments = ["--extra-model-paths-config", str(other / "paths.yaml")]
    with Server(request.param, base, arguments=arguments) as running:
        yield running


def node(kind, /, **inputs):
    return {"class_type": kind, "inputs": inputs}


@pytest.fixture(scope="module")
def make(server):
    """`make(name=model, ...)`: a prompt with a loader, and a face of two expressions drawn by each of the models.

    A model is the name of a node; ``worn`` are nodes by name: the model before, the file and its strength.
    """
    info = server.json("/object_info")

    def plain(kind, /, **inputs):
        specs = info[kind]["input"]["required"]
        return {
            id: spec[1]["default"] for id, spec in specs.items() if len(spec) > 1 and "default" in spec[1]
        } | inputs

    def made(worn=None, loader=None, **faces):
        prompt = {"loader": node("AUFaceLoader", **(plain("AUFaceLoader") | (loader or {})))}
        prompt["two"] = node("AUFaceCodes", codes="6C+12D\n1C+2C+26D")
        for name, (model, file, strength) in (worn or {}).items():
            prompt[name] = node("AUFaceLoRA", model=[model, 0], lora=file, strength=strength)
        for name, model in faces.items():
            inputs = plain("AUFaceGenerate", steps=2, guidance=1.0, expression=["two", 0], model=[model, 0])
            prompt |= {name: node("AUFaceGenerate", **inputs), f"{name} seen": seen(name)}
        return prompt

    made.plain = plain
    return made


def seen(name):
    return node("PreviewImage", images=[name, 0])


def shown(run, id):
    """(B, H, W, 3) of a preview."""
    return np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in run.images(id)])


def reference(server, folder, wanted):
    """Pictures (B, H, W, 3) by name, drawn by the library in the server's Python; see reference_faces.py."""
    command = [real_comfyui.python_of(server.checkout), Path(__file__).with_name("reference_faces.py"), folder]
    lines = "\n".join(json.dumps({"name": name, **one}) for name, one in wanted.items())
    subprocess.run(command, input=lines, text=True, check=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    return {
        name: np.stack([np.asarray(Image.open(folder / f"{name}-{number}.png")) for number in range(2)])
        for name in wanted
    }


def away(some, other):
    """Largest difference of two pictures, of 255."""
    return np.abs(some.astype(int) - other.astype(int)).max()


# --- the menu --------------------------------------------------------------------------------------------------------


def test_our_files_of_all_folders_are_in_the_menu(server):
    spec = server.json("/object_info")["AUFaceLoRA"]["input"]["required"]["lora"]
    choices = spec[0] if isinstance(spec[0], list) else spec[1]["options"]
    ours = [
        f"auface/loras/{name}.safetensors" for name in ("adapter", "anna", "dora", "loha", "lokr", "shared", "words")
    ]
    assert choices == [*ours, *(f"loras/{name}.safetensors" for name in ("adapter", "base", "channels", "damaged"))]


# --- what is drawn ---------------------------------------------------------------------------------------------------


def test_the_workflow_draws_what_the_library_draws(server, files, tmp_path):
    run = server.run(WORKFLOW)
    assert run.error is None
    options = {"aus": ["6C+12D", "1C+2C+5C+26C"], "identity": 7, "seed": [0, 0]}
    wanted = {"5": {"call": "faces", "options": options}}
    wanted["7"] = wanted["5"] | {"adapters": [[str(files / "clay.safetensors"), 1.0]]}
    drawn = reference(server, tmp_path, wanted)
    for id, picture in drawn.items():
        assert away(shown(run, id), picture) <= 1, id
    assert away(drawn["5"], drawn["7"]) > 50
    lines = run.texts["3"].split("\n")
    assert lines[0] == "lora, rank 4, strength 1"
    assert lines[1].startswith("trained on 6 pictures of ")
    assert "6 steps" in lines[1]
    assert lines[2] == "trigger: clay (stands before each text by itself)"


WORN = {  # a node: the model before, the file and its strength
    "clay": ("loader", "auface/loras/adapter.safetensors", 0.7),
    "dora": ("loader", "loras/adapter.safetensors", 0.5),
    "loha": ("loader", "auface/loras/loha.safetensors", -1.0),
    "lokr": ("loader", "auface/loras/lokr.safetensors", 0.4),
    "words": ("loader", "auface/loras/words.safetensors", 1.0),
    "chain": ("clay", "auface/loras/words.safetensors", 0.6),
    "three": ("chain", "auface/loras/dora.safetensors", 0.3),
    "off": ("loader", "auface/loras/words.safetensors", 0.0),
    "still": ("clay", "auface/loras/words.safetensors", 0.0),
}
ADAPTERS = {  # the same for the library
    "clay": [("clay", 0.7)],
    "dora": [("dora", 0.5)],
    "loha": [("loha", -1.0)],
    "lokr": [("lokr", 0.4)],
    "words": [("words", 1.0)],
    "chain": [("clay", 0.7), ("words", 0.6)],
    "three": [("clay", 0.7), ("words", 0.6), ("dora", 0.3)],
    "still": [("clay", 0.7)],
    "off": [],
}


def test_every_kind_and_chains_draw_what_the_library_draws(server, make, files, tmp_path):
    first = server.run(make(plain="loader"))
    assert first.error is None
    options = {"aus": ["6C+12D", "1C+2C+26D"], "identity": 1, "seed": [0, 0]}
    options |= {"num_inference_steps": 2, "guidance_scale": 1.0}
    wanted = {
        name: {
            "call": "faces",
            "options": options,
            "adapters": [[str(files / f"{file}.safetensors"), weight] for file, weight in adapters],
        }
        for name, adapters in ADAPTERS.items()
    }
    change = {"aus": ["4D+15C"] * 2, "seed": [0, 0], "num_inference_steps": 2, "guidance_scale": 1.0}
    wanted["edit"] = wanted["chain"] | {"call": "edit", "before": options, "options": change, "fit": False}
    prompt = make(WORN, **{f"{name} face": name for name in WORN})
    prompt["frown"] = node("AUFaceCodes", codes="4D+15C")
    inputs = {"model": ["chain", 0], "image": ["chain face", 0], "people": ["chain face", 3], "steps": 2}
    edit = make.plain("AUFaceEdit", **inputs, guidance=1.0, expression=["frown", 0])
    prompt |= {"edit face": node("AUFaceEdit", **edit), "edit face seen": seen("edit face")}
    run = server.run(prompt)
    assert run.error is None
    drawn = reference(server, tmp_path, wanted)
    for name in wanted:
        assert away(shown(run, f"{name} face seen"), drawn[name]) <= 1, name
    alike = {"off", "still"}
    assert len({drawn[name].tobytes() for name in wanted}) == len(wanted) - 1  # still is clay
    assert all(away(drawn[name], drawn["off"]) > 20 for name in wanted.keys() - alike)
    assert np.array_equal(shown(run, "off face seen"), shown(first, "plain seen"))  # to the bit
    assert np.array_equal(shown(run, "still face seen"), shown(run, "clay face seen"))
    assert run.texts["off"] == "strength 0: the model as it was"
    assert run.texts["three"].endswith(
        "on the model: auface/loras/adapter.safetensors at 0.7, auface/loras/words.safetensors at 0.6, "
        "auface/loras/dora.safetensors at 0.3"
    )
    again = server.run(make(plain="loader"))
    assert "plain" in again.executed
    assert "loader" not in again.executed  # the same weights, which were patched meanwhile
    assert np.array_equal(shown(again, "plain seen"), shown(first, "plain seen"))


def test_a_person_is_drawn_where_no_identity_is_named(server, make, files, tmp_path):
    worn = {
        "anna": ("loader", "auface/loras/anna.safetensors", 1.0),
        "both": ("anna", "auface/loras/dora.safetensors", 0.5),
    }
    prompt = make(worn, on="anna", behind="both", named="anna", plain="loader")
    for name in ("on", "behind", "plain"):
        prompt[name]["inputs"]["identity"] = -1
    run = server.run(prompt)
    assert run.error is None
    assert run.texts["anna"].split("\n")[1] == "person: drawn where VQ-AUFace Generate has identity -1"
    options = {"aus": ["6C+12D", "1C+2C+26D"], "seed": [0, 0], "num_inference_steps": 2, "guidance_scale": 1.0}
    anna, dora = ([str(files / f"{name}.safetensors"), weight] for name, weight in (("anna", 1.0), ("dora", 0.5)))
    adapters = {"on": [anna], "behind": [anna, dora], "named": [anna], "plain": []}
    wanted = {name: {"call": "faces", "options": options, "adapters": some} for name, some in adapters.items()}
    wanted["named"] = wanted["named"] | {"options": options | {"identity": 1}}
    drawn = reference(server, tmp_path, wanted)
    for name, picture in drawn.items():
        assert away(shown(run, f"{name} seen"), picture) <= 1, name
    assert len({picture.tobytes() for picture in drawn.values()}) == len(drawn)


def test_a_node_without_it_in_the_same_run_is_unaffected(server, make):
    worn = {"clay": ("loader", "auface/loras/adapter.safetensors", 1.0)}
    alone = server.run(make(first="loader"))
    prompt = make(worn, first="loader", on="clay", last="loader")
    prompt["two again"] = node("AUFaceCodes", codes="6C+12D\n1C+2C+26D ")  # or ComfyUI runs equal nodes once
    prompt["last"]["inputs"]["expression"] = ["two again", 0]
    run = server.run(prompt)
    assert {"on", "last"} <= set(run.executed)
    for name in ("first", "last"):
        assert np.array_equal(shown(run, f"{name} seen"), shown(alone, "first seen")), name
    assert away(shown(run, "on seen"), shown(run, "first seen")) > 20


def test_half_precision_draws_about_the_same(server, make):
    worn = {"clay": ("loader", "auface/loras/adapter.safetensors", 1.0)}
    full, half = (
        shown(server.run(make(worn, {"dtype": kind}, on="clay")), "on seen").astype(float) for kind in ("fp32", "fp16")
    )
    assert 0 < np.abs(full - half).mean() < 25


# --- running ---------------------------------------------------------------------------------------------------------


def test_a_change_runs_only_what_depends_on_it(server, make):
    worn = {"first": ("loader", "auface/loras/adapter.safetensors", 1.0)}
    worn["second"] = ("first", "auface/loras/shared.safetensors", 1.0)
    prompt = make(worn, on="second", plain="loader")
    server.run(prompt, "cache")
    assert not server.run(prompt, "cache").executed
    prompt["second"]["inputs"]["strength"] = 0.5
    assert set(server.run(prompt, "cache").executed) == {"second", "on", "on seen"}
    prompt["second"]["inputs"]["lora"] = "auface/loras/lokr.safetensors"
    assert set(server.run(prompt, "cache").executed) == {"second", "on", "on seen"}
    os.utime(server.base / "models" / "auface" / "loras" / "adapter.safetensors", ns=(1, 1))
    assert set(server.run(prompt, "cache").executed) == {"first", "second", "on", "on seen"}


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("auface/loras/gone.safetensors", "auface/loras/adapter.safetensors, auface/loras/anna.safetensors, "),
        ("auface/loras/gone.safetensors", "train_lora adapter` writes: put it into {models}/auface/loras and press R"),
        ("loras/../../input/openface_like.csv", "is not in {models}/auface/loras or "),
        ("no adapter yet", "'no adapter yet' is not in"),
    ],
)
def test_a_file_that_is_missing_is_told_before_the_run(server, make, file, said):
    prompt = make({"clay": ("loader", file, 1.0)}, on="clay")
    assert said.format(models=server.base / "models") in "\n".join(server.refusal(prompt)["clay"])


@pytest.mark.parametrize("strength", [4.5, -5.0])
def test_a_strength_out_of_range_is_told_before_the_run(server, make, strength):
    prompt = make({"clay": ("loader", "auface/loras/adapter.safetensors", strength)}, on="clay")
    assert str(strength) in "\n".join(server.refusal(prompt)["clay"])


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("sd.safetensors", "sd.safetensors is no adapter for AUFace: its header has no"),
        ("old.pt", "old.pt is a pickle, which can run code"),
        ("damaged.safetensors", "damaged.safetensors is damaged"),
        ("base.safetensors", "was trained on another base: transformer 0000000000000000"),
        ("channels.safetensors", f"has other action units than this pipeline: {units.channels[-1]}"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_its_name(server, make, file, said):
    run = server.run(make({"clay": ("loader", f"loras/{file}", 1.0)}, on="clay"))
    assert run.error["node_id"] == "clay"
    message = run.error["exception_message"]
    assert message.startswith(f"adapter 'loras/{file}' on model 'embedded': ")
    assert said in message
    assert server.run(make(on="loader")).error is None

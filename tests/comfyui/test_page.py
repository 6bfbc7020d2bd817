"""ComfyUI's page in a real browser, on every version that `make comfyui` prepared: see browser.py.

AUFACE_SCREENSHOTS=folder keeps a picture of every workflow.
"""

import json
import os
import sys
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file
import browser
import real_comfyui
from browser import Page
from real_comfyui import PACK, ROOT, Server

from auface_diffusers.pipelines.adapter_files import HEADER

pytestmark = pytest.mark.slow
TWINS = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(Path(__file__).parent.glob("api/*.json"))}
CHECKOUTS = real_comfyui.checkouts()
LACKING = browser.missing() or (None if CHECKOUTS else real_comfyui.MISSING)
if LACKING:
    warnings.warn(LACKING, stacklevel=1)


@pytest.fixture(scope="session", params=CHECKOUTS or [None], ids=lambda one: one.name if one else "none")
def server(request, tmp_path_factory):
    if LACKING:
        pytest.skip(LACKING)
    base = tmp_path_factory.mktemp("comfyui")
    for one in wanted_models():  # empty files: the page asks for models that are not there
        folder = base / "models" / one["directory"]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / one["name"]).touch()
    adapters = base / "models" / "auface" / "loras"  # workflow 10 has one of the user's own
    adapters.mkdir(parents=True)
    save_file({"none": torch.zeros(1)}, adapters / "adapter.safetensors", {HEADER: "{}"})
    with Server(request.param, base) as running:
        yield running


def wanted_models():
    """Model files that workflows say they need."""
    workflows = [json.loads(path.read_text("utf-8")) for path in (ROOT / "workflows").glob("*.json")]
    return [
        one for workflow in workflows for node in workflow["nodes"] for one in node["properties"].get("models", ())
    ]


def has_vue_nodes(server):
    version = server.json("/system_stats")["system"]["comfyui_version"]
    return tuple(map(int, version.split("."))) >= browser.FIRST_WITH_VUE_NODES


@pytest.fixture(scope="module", params=["classic", "nodes 2.0"])
def page(server, request):
    if request.param != "classic" and not has_vue_nodes(server):
        pytest.skip("this version of ComfyUI has no Nodes 2.0")
    with Page(server, vue=request.param != "classic") as opened:
        yield opened


@pytest.mark.parametrize("name", TWINS)
def test_a_workflow_opens_from_the_template_browser(page, name, request):
    page.open_template(PACK, name)
    assert page.troubles() == []
    assert page.prompt() == TWINS[name]
    assert page.too_small() == []
    assert page.overlaps() == []
    folder = os.environ.get("AUFACE_SCREENSHOTS")
    if folder:
        mode = "vue" if page.vue else "classic"
        page.picture(Path(folder) / f"{page.server.checkout.name}-{mode}-{name}.png")


def test_what_is_wrong_with_a_workflow_is_seen(page):
    """The checks above can fail: a node that no pack has, and one on top of another."""
    workflow = json.loads((ROOT / "workflows" / "01_codes_to_text.json").read_text("utf-8"))
    workflow["nodes"][1]["type"] = workflow["nodes"][1]["properties"]["Node name for S&R"] = "AUFaceNoSuchNode"
    workflow["nodes"][2]["pos"] = workflow["nodes"][3]["pos"]
    page.load(workflow)
    assert "AUFaceNoSuchNode is unknown" in page.troubles()
    assert page.overlaps()

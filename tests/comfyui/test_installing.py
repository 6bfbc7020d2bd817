"""The ways to install the pack, and what happens when a part of it cannot be loaded, in a real ComfyUI."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file
import real_comfyui
import signatures
from real_comfyui import PACK, Server

pytestmark = pytest.mark.slow
CHECKOUTS = real_comfyui.checkouts()


@pytest.fixture(params=CHECKOUTS or [None], ids=lambda one: one.name if one else "none")
def checkout(request):
    if request.param is None:
        pytest.skip(real_comfyui.MISSING)
    return request.param


def test_the_small_folder_beside_pip_install(checkout, tmp_path):
    with Server(checkout, tmp_path, real_comfyui.copy_folder, pip=True) as server:
        signatures.check(server.json("/object_info"))
        assert "IMPORT FAILED" not in server.text()
        assert "sys.path" not in server.text()
        assert server.get("/extensions/comfyui_auface/docs/AUFaceCodes.md")
        assert server.json("/i18n")["ja"]["nodeDefs"]["AUFaceCodes"]
        assert server.json("/workflow_templates")["comfyui_auface"]


def test_two_copies_do_not_interfere(checkout, tmp_path):
    def twice(custom_nodes):
        real_comfyui.clone(custom_nodes)
        real_comfyui.clone(custom_nodes, "auface.copy")

    with Server(checkout, tmp_path, twice) as server:
        signatures.check(server.json("/object_info"))
        assert "IMPORT FAILED" not in server.text()
        prompt = {
            "1": {"class_type": "AUFaceCodes", "inputs": {"codes": "12D"}},
            "2": {"class_type": "PreviewAny", "inputs": {"source": ["1", 0]}},
        }
        assert server.run(prompt).text("2") == ["12D"]
        wanted = {"levels": {"AU12_left": 5}, "size": 64}
        status, picture = real_comfyui.request(server.address, "/auface/preview", wanted)
        assert (status, picture[:4]) == (200, b"RIFF"), "one of them draws beside the sliders"


def test_a_part_that_lacks_a_package_leaves_the_others(checkout, tmp_path):
    def broken(custom_nodes):
        real_comfyui.clone(custom_nodes)
        path = custom_nodes / PACK / "comfyui_auface" / "nodes_text.py"
        path.write_text("import a_package_that_nobody_has.part\n" + path.read_text("utf-8"), "utf-8")

    with Server(checkout, tmp_path, broken) as server:
        there = {name for name in server.json("/object_info") if name.startswith("AUFace")}
        assert there == signatures.golden().keys() - {"AUFaceText"}
        (line,) = [line for line in server.text().splitlines() if "left out" in line]
        assert line.endswith("Install it into ComfyUI's Python: python -m pip install a_package_that_nobody_has")

"""The blueprints in subgraphs/: checked as files, and opened from the node search of a real page."""

import json
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file
from signatures import golden
from test_page import PACK, ROOT, Page, has_vue_nodes, server  # noqa: F401 (a fixture: one server for this file)

PATHS = sorted((ROOT / "subgraphs").glob("*.json"))
NODES = golden()
INSIDE = {  # the class whose inputs say what a blueprint makes, and one that has been promoted
    "Expression to prompt": ("AUFaceText", {"codes": "4C+5C", "style": "tags"}),
    "Expression to control image": ("AUFaceControlImage", {"codes": "12D", "kind": "depth"}),
}


def test_there_is_what_is_tested():
    assert {path.stem for path in PATHS} == set(INSIDE)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_links_and_nodes_of_a_blueprint_agree(path):
    whole = json.loads(path.read_text("utf-8"))
    (sub,) = whole["definitions"]["subgraphs"]
    (outer,) = whole["nodes"]
    assert (outer["type"], sub["name"], outer["title"]) == (sub["id"], path.stem, path.stem)
    assert [one["name"] for one in outer["inputs"]] == [one["name"] for one in sub["inputs"]]
    assert [one["name"] for one in outer["outputs"]] == [one["name"] for one in sub["outputs"]]
    nodes = {node["id"]: node for node in sub["nodes"]}
    for node in nodes.values():
        assert [one["name"] for one in node["inputs"]] == [one["id"] for one in NODES[node["type"]]["inputs"]]
        assert [one["name"] for one in node["outputs"]] == [one["name"] for one in NODES[node["type"]]["outputs"]]
        assert len(node["widgets_values"]) == sum("widget" in one for one in node["inputs"])
        assert node["properties"]["cnr_id"] == "auface"
    for link in sub["links"]:
        source, target = link["origin_id"], link["target_id"]
        start = sub["inputs"] if source == -10 else nodes[source]["outputs"]
        end = sub["outputs"] if target == -20 else nodes[target]["inputs"]
        ids = start[link["origin_slot"]]["linkIds" if source == -10 else "links"]
        assert link["id"] in ids
        there = end[link["target_slot"]]
        assert there["linkIds"] == [link["id"]] if target == -20 else there["link"] == link["id"]
        assert start[link["origin_slot"]]["type"] == link["type"] == there["type"]
    values = {}
    for node in nodes.values():
        widgets = [one["name"] for one in node["inputs"] if "widget" in one]
        values |= dict(zip(widgets, node["widgets_values"], strict=True))
    promoted = [name for _, name in outer["properties"]["proxyWidgets"]]
    assert outer["widgets_values"] == [values[name] for name in promoted]


@pytest.mark.slow
def test_the_server_lists_the_blueprints(server):  # noqa: F811 (the fixture)
    if not has_vue_nodes(server):
        pytest.skip("this version of ComfyUI has no blueprints of packs")
    listed = server.json("/global_subgraphs")
    ours = {one["name"]: id for id, one in listed.items() if one["info"]["node_pack"] == f"custom_nodes.{PACK}"}
    assert set(ours) == set(INSIDE)
    for path in PATHS:
        assert server.json(f"/global_subgraphs/{ours[path.stem]}")["data"] == path.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["classic", "nodes 2.0"])
def test_a_blueprint_becomes_a_node_whose_widgets_reach_inside(server, mode):  # noqa: F811 (the fixture)
    if not has_vue_nodes(server):
        pytest.skip("this version of ComfyUI has no blueprints of packs")
    with Page(server, vue=mode != "classic") as page:
        for name, (inside, widgets) in INSIDE.items():
            page.run("() => app.graph.clear()")
            page.find_node(name)
            page.settle()
            assert page.troubles() == []
            page.run(
                "widgets => { for (const one of app.graph.nodes[0].widgets)"
                " if (one.name in widgets) one.value = widgets[one.name] }",
                widgets,
            )
            made = {one["class_type"]: one["inputs"] for one in page.prompt().values()}
            assert made.keys() == {"AUFaceCodes", inside}
            assert all(({**made["AUFaceCodes"], **made[inside]})[id] == value for id, value in widgets.items())

"""What ships beside the nodes: help pages, translations, workflows; compared with the golden copy of the nodes."""

import ast
import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).parent))  # the helpers beside this file
from signatures import broken, golden

from auface_diffusers.anatomy.appearance import BACKGROUNDS
from auface_diffusers.anatomy.control import KINDS
from auface_diffusers.cli_images import CONTROL_KINDS
from auface_diffusers.facs import AUSet, units
from auface_diffusers.facs.describe import STYLES
from comfyui_auface.parts import PARTS, load_nodes, what_to_do

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent.parent
NODES = golden()
LANGUAGES = ("en", "zh", "zh-TW", "ja", "ko", "fr", "es", "ru", "ar")
DOCS = ROOT / "comfyui_auface" / "web" / "docs"
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
TWINS = sorted(Path(__file__).parent.glob("api/*.json"))
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")


def load(path):
    return json.loads(path.read_text("utf-8"))


# --- translations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_node_is_translated_whole(language):
    said = load(ROOT / "locales" / language / "nodeDefs.json")
    assert set(said) == set(NODES)
    for name, node in NODES.items():
        assert said[name]["display_name"], name
        assert said[name]["description"], name
        assert set(said[name]["inputs"]) == {one["id"] for one in node["inputs"]}, name
        assert list(said[name]["outputs"]) == [str(number) for number in range(len(node["outputs"]))], name
        for one in (*said[name]["inputs"].values(), *said[name]["outputs"].values()):
            assert set(one) == {"name", "tooltip"}, name
            assert all(one.values()), name
            assert "{" not in one["tooltip"], name


@pytest.mark.parametrize("language", LANGUAGES)
def test_categories_are_translated(language):
    assert set(load(ROOT / "locales" / language / "main.json")["nodeCategories"]) == {
        "AUFace",
        "expression",
        "structure",
        "score",
        "generate",
    }


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_what_the_face_says_is_translated(language):
    script = (ROOT / "comfyui_auface" / "web" / "js" / "auface_face.js").read_text("utf-8")
    english = set(re.findall(r'say\((?:part\.down \? )?"([^"]+)"', script)) | {"Drag, or click for the next level"}
    english |= set(re.findall(r'{ id: "([^"]+)", pair', script)) | {"left", "right"}
    words = load(ROOT / "locales" / language / "main.json")["auface"]["faceWidget"]
    assert set(words) == english
    for one, said in words.items():
        assert said != one
        assert re.findall(r"{\w+}", said) == re.findall(r"{\w+}", one)


@pytest.mark.parametrize("language", LANGUAGES[1:])
def test_a_translation_is_none_of_english(language):
    english, said = (load(ROOT / "locales" / one / "nodeDefs.json") for one in ("en", language))
    for name in NODES:
        assert said[name]["description"] != english[name]["description"]
        for id, one in said[name]["inputs"].items():
            assert one["tooltip"] != english[name]["inputs"][id]["tooltip"], (name, id)
            for code in re.findall(
                r"\b(?:max|add|replace|smooth|linear|hold|resolved|mediapipe_face)\b", one["tooltip"]
            ):
                assert code in english[name]["inputs"][id]["tooltip"], (name, id)  # choices keep their names


def test_there_are_no_other_languages():
    assert sorted(path.name for path in (ROOT / "locales").iterdir()) == sorted(LANGUAGES)


# --- help pages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NODES)
def test_every_node_has_a_page_whose_pictures_are_there(name):
    page = (DOCS / f"{name}.md").read_text("utf-8")
    title = load(ROOT / "locales" / "en" / "nodeDefs.json")[name]["display_name"]
    assert page.startswith(f"# {title}\n")
    for link in re.findall(r"!\[[^]]+\]\(([^)]+)\)", page):
        assert (DOCS / link).is_file(), link


def test_no_page_or_picture_is_left_over():
    assert {path.stem for path in DOCS.glob("*.md")} == set(NODES)
    pages = "".join(path.read_text("utf-8") for path in DOCS.glob("*.md"))
    assert not [path.name for path in (DOCS / "images").iterdir() if f"images/{path.name}" not in pages]


def test_every_unit_that_can_be_seen_has_a_picture():
    page = (DOCS / "AUFaceCodes.md").read_text("utf-8")
    shown = [unit for unit in units.values() if unit.still]
    assert not [unit.code for unit in shown if f"| {unit.code} | {unit.name} |" not in page]
    assert not [unit.code for unit in shown if f"(images/AU{unit.code}.webp)" not in page]


def test_pictures_are_small():
    paths = list((DOCS / "images").iterdir())
    assert {path.suffix for path in paths} == {".webp"}
    assert sum(path.stat().st_size for path in paths) < 1_500_000


# --- workflows -------------------------------------------------------------------------------------------------------


def test_every_workflow_has_a_twin():
    assert [path.stem for path in WORKFLOWS] == [path.stem for path in TWINS]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_says_where_its_nodes_come_from(path):
    workflow = load(path)
    assert any(node["type"] == "MarkdownNote" for node in workflow["nodes"])
    for node in workflow["nodes"]:
        if node["type"] == "MarkdownNote":
            continue
        ours = node["type"] in NODES
        assert node["properties"]["cnr_id"] == ("auface" if ours else "comfy-core")
        assert re.fullmatch(r"\d+\.\d+\.\d+", node["properties"]["ver"])
        assert node["properties"]["Node name for S&R"] == node["type"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_is_its_twin(path):
    """Widget values by position, links by number: brought to API format they give the twin, node by node."""
    workflow, twin = load(path), load(path.parent.parent / "tests" / "comfyui" / "api" / path.name)
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    nodes = {str(node["id"]): node for node in workflow["nodes"] if node["type"] != "MarkdownNote"}
    assert nodes.keys() == twin.keys()
    for id, node in nodes.items():
        assert node["type"] == twin[id]["class_type"]
        values = iter(node["widgets_values"])
        signature = NODES.get(node["type"], {"inputs": []})
        controlled = [one["id"] for one in signature["inputs"] if one.get("control_after_generate")]
        controlled += ["seed"] if node["type"] == "KSampler" else []
        found = {}
        for place in node["inputs"]:
            value = next(values) if "widget" in place else None
            if place["name"] in controlled:
                assert next(values) == "fixed"  # the page's own widget after it: a workflow gives the same twice
            value = links[place["link"]] if place["link"] is not None else value
            if "widget" in place or place["link"] is not None:
                found[place["name"]] = value
        assert found == twin[id]["inputs"]
        assert next(values, None) is None
        if node["type"] in NODES:
            assert [one["name"] for one in node["inputs"]] == [one["id"] for one in NODES[node["type"]]["inputs"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_links_agree_from_both_ends(path):
    workflow = load(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for number, source, slot, target, place, kind in workflow["links"]:
        assert number in nodes[source]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][place]["link"] == number
        assert nodes[source]["outputs"][slot]["type"] == kind
    assert workflow["last_node_id"] == max(nodes)
    assert workflow["last_link_id"] == max((link[0] for link in workflow["links"]), default=0)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_has_a_thumbnail(path):
    with Image.open(path.with_suffix(".jpg")) as image:
        assert image.format == "JPEG"
        assert min(image.size) >= 150


# --- what must never change ------------------------------------------------------------------------------------------


def test_nodes_hold_to_what_old_versions_of_comfyui_can_do():
    for name, node in NODES.items():
        ids = [one["id"] for one in node["inputs"]]
        assert len(set(ids)) == len(ids), name
        assert not {one["name"] for one in node["outputs"]} & {"INT", "FLOAT", "STRING", "IMAGE"}, name


def changed():
    new = json.loads(json.dumps(NODES))
    return new["AUFaceBlend"], new


def test_an_input_may_be_added_at_the_end_if_it_is_optional():
    node, new = changed()
    node["inputs"].append({"id": "more", "type": "FLOAT", "optional": True})
    assert not broken(NODES, new)
    node["inputs"][-1]["optional"] = False
    assert broken(NODES, new) == ["AUFaceBlend: the new input more has to be optional: saved workflows have no value"]


def test_what_shifts_saved_workflows_is_named():
    node, new = changed()
    node["inputs"].insert(0, {"id": "more", "type": "FLOAT", "optional": True})
    assert "AUFaceBlend: input 0 was start (AUFACE_EXPRESSION), now it is more" in broken(NODES, new)
    node, new = changed()
    node["inputs"][2]["max"] = 0.5
    node["outputs"].reverse()
    del new["AUFaceText"]
    new["AUFacePreset"]["inputs"][0]["choices"].pop()
    said = broken(NODES, new)
    assert any("max was 1.0, now it is 0.5" in line for line in said)
    assert any("outputs were" in line for line in said)
    assert any("AUFaceText is gone" in line for line in said)
    assert any("is no choice any more" in line for line in said)
    assert not broken(NODES, NODES)


def choices(node, name):
    return next(tuple(one["choices"]) for one in NODES[node]["inputs"] if one["id"] == name)


def test_choices_that_the_nodes_spell_out_are_those_of_the_library():
    assert choices("AUFaceControlImage", "kind") == CONTROL_KINDS == KINDS
    assert choices("AUFaceHeadPreview", "background") == (*BACKGROUNDS, "any")
    assert choices("AUFaceText", "style") == STYLES
    merged = [AUSet.parse("12B").merge(AUSet.parse("12A"), how).format() for how in choices("AUFaceCombine", "how")]
    assert merged == ["12B", "12C", "12A"]


# --- loading and the registry ----------------------------------------------------------------------------------------


def test_a_part_that_fails_leaves_the_others(tmp_path, monkeypatch, caplog):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "part_good.py").write_text("class Good:\n    GET_SCHEMA = staticmethod(lambda: 0)\nNODES = (Good,)\n")
    (tmp_path / "part_lacking.py").write_text("import no_such_package.part\n")
    (tmp_path / "part_broken.py").write_text("class Bad:\n    pass\nNODES = (Bad,)\n")
    found = load_nodes(("part_lacking", "part_broken", "part_good"))
    assert [node.__name__ for node in found] == ["Good"]
    lacking, bad = caplog.messages
    assert lacking.endswith("python -m pip install no_such_package")
    assert "part_broken are left out" in bad
    assert "GET_SCHEMA" in bad


def test_an_error_becomes_one_line():
    assert what_to_do(ValueError("a\nb")).startswith("a b. Update auface")
    assert what_to_do(ValueError()).startswith("ValueError. ")


def test_every_part_is_listed():
    there = {f"comfyui_auface.{path.stem}" for path in (ROOT / "comfyui_auface").glob("nodes_*.py")}
    assert set(PARTS) == there


def test_the_registry_gets_what_it_needs():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    comfy = project["tool"]["comfy"]
    assert comfy["requires-comfyui"] == ">=0.3.64"
    assert "web" not in comfy  # WEB_DIRECTORY registers it: both would load its scripts twice
    assert not project["project"]["name"][0].isdigit()
    ignored = (ROOT / ".comfyignore").read_text("utf-8").splitlines()
    assert {"tests/", "train_lora/"} <= set(ignored)


def shipped():
    """Python files in the registry's archive: what .comfyignore leaves of the packages and the folder itself."""
    ignored = [line for line in (ROOT / ".comfyignore").read_text("utf-8").splitlines() if not line.startswith("#")]
    folders = ["auface_diffusers", "comfyui_auface", "demo", "tests", "train_lora"]
    kept = [ROOT / name for name in folders if f"{name}/" not in ignored]
    return sorted([*ROOT.glob("*.py"), *(path for folder in kept for path in folder.rglob("*.py"))])


@pytest.mark.parametrize("path", shipped(), ids=lambda path: str(path.relative_to(ROOT)))
def test_what_ships_does_nothing_that_the_scanner_bans(path):
    source = path.read_text("utf-8")
    found = banned(source)
    assert not found
    if "comfyui_auface" in path.parts:
        source.encode("cp1252")  # what a Windows console and old tools read


def banned(source):
    """Imports and calls that keep a pack out of the registry."""
    tree = ast.parse(source)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    tops = {name.partition(".")[0] for name in imported}
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    modules = {"subprocess", "pickle", "dill", "marshal", "shelve", "urllib", "http", "requests", "socket", "ctypes"}
    calls = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load"}
    return tops & modules | called & calls


@pytest.mark.parametrize(
    "source",
    ["import subprocess", "from urllib.request import urlopen", "eval('1')", "os.system('x')", "import pickle"],
)
def test_what_the_scanner_bans_is_found(source):
    assert banned(source)


def test_the_page_needs_no_address_of_another_server():
    for path in (ROOT / "comfyui_auface" / "web").rglob("*.js"):
        source = path.read_text("utf-8")
        assert not re.findall(r"\b(?:eval|Function|importScripts)\(|innerHTML|document\.write", source)
        assert set(re.findall(r"https?://[^\"'\s]+", source)) <= {"http://www.w3.org/2000/svg"}
        source.encode("ascii")


def test_the_icon_is_small_and_square():
    text = (ROOT / "comfyui_auface" / "web" / "icon.svg").read_text("utf-8")
    width, height = (int(re.search(rf'{side}="(\d+)"', text)[1]) for side in ("width", "height"))
    assert width == height <= 400

"""What saved workflows hold on to: inputs and outputs of every node, in one form for all versions of ComfyUI.

``signatures.json`` is the golden copy. Saved workflows keep widget values by position, so it may only be added to:
`broken` says what an unallowed change would do to them. To accept an addition, run the tests with UPDATE_GOLDEN=1.
"""

import json
import os
from pathlib import Path

GOLDEN = Path(__file__).with_name("signatures.json")
KEPT = ("default", "min", "max", "step", "round", "multiline")
MENUS_OF_FILES = {("AUFaceFromFile", "file"), ("AUFaceLoader", "model"), ("AUFaceLoRA", "lora")}
"""Choices that depend on the machine."""


def signatures(object_info) -> dict:
    """Inputs and outputs by node of ``/object_info``, for the nodes of this pack."""
    return {name: _signature(name, info) for name, info in sorted(object_info.items()) if name.startswith("AUFace")}


def _signature(node, info):
    inputs = []
    for need in ("required", "optional"):
        for name, spec in info["input"].get(need, {}).items():
            kind, options = spec[0], dict(spec[1]) if len(spec) > 1 else {}
            one = {"id": name, "type": kind, "optional": need == "optional"}
            choices = kind if isinstance(kind, list) else options.get("options")
            if choices is not None:
                one |= {"type": "COMBO", "choices": list(choices)}
            one |= {key: options[key] for key in KEPT if options.get(key) is not None}
            if options.get("control_after_generate"):  # the page adds a widget, which has a value of its own
                one["control_after_generate"] = True
            if (node, name) in MENUS_OF_FILES:
                one = {key: value for key, value in one.items() if key not in ("choices", "default")}
            inputs.append(one)
    outputs = [
        {"type": kind, "name": name, "list": is_list}
        for kind, name, is_list in zip(info["output"], info["output_name"], info["output_is_list"], strict=True)
    ]
    return {"inputs": inputs, "outputs": outputs, "output_node": info["output_node"]}


def golden() -> dict:
    """The golden copy."""
    return json.loads(GOLDEN.read_text("utf-8"))


def broken(old, new) -> list[str]:
    """What would happen to workflows saved with ``old`` if the nodes were ``new``."""
    said = []
    for node, before in old.items():
        if node not in new:
            said.append(f"{node} is gone: keep it, as is_deprecated")
            continue
        after = new[node]
        for place, one in enumerate(before["inputs"]):
            found = after["inputs"][place] if place < len(after["inputs"]) else {"id": "nothing", "type": ""}
            if (found["id"], found["type"]) != (one["id"], one["type"]):
                said.append(f"{node}: input {place} was {one['id']} ({one['type']}), now it is {found['id']}")
            if one.get("control_after_generate") != found.get("control_after_generate"):
                said.append(f"{node}: after input {place} a widget comes or goes: control_after_generate has changed")
            gone = set(one.get("choices", ())) - set(found.get("choices", one.get("choices", ())))
            said += [f"{node}.{one['id']}: {choice!r} is no choice any more" for choice in sorted(gone)]
            for key, worse in (("min", lambda a, b: b > a), ("max", lambda a, b: b < a)):
                if key in one and key in found and worse(one[key], found[key]):
                    said.append(f"{node}.{one['id']}: {key} was {one[key]}, now it is {found[key]}")
        for new_one in after["inputs"][len(before["inputs"]) :]:
            if not new_one["optional"]:
                said.append(f"{node}: the new input {new_one['id']} has to be optional: saved workflows have no value")
        kinds = [[one["type"] for one in side["outputs"]] for side in (before, after)]
        if kinds[1][: len(kinds[0])] != kinds[0]:
            said.append(f"{node}: outputs were {kinds[0]}, now they are {kinds[1]}")
    return said


def check(object_info):
    """Compare a server's nodes with the golden copy, which UPDATE_GOLDEN=1 adds to."""
    new = signatures(object_info)
    if os.environ.get("UPDATE_GOLDEN"):
        old = golden() if GOLDEN.is_file() else {}
        assert not broken(old, new)
        GOLDEN.write_text(json.dumps(new, indent=1, ensure_ascii=False) + "\n", "utf-8")
    assert not broken(golden(), new)
    assert new == golden(), "the nodes have more than signatures.json: run the tests with UPDATE_GOLDEN=1"

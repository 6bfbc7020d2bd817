"""The parts of the pack, loaded so that one that cannot be loaded takes no other with it. Needs no ComfyUI."""

from __future__ import annotations

import importlib
import importlib.util
import logging
from collections.abc import Sequence

logger = logging.getLogger("auface")

PARTS = (
    "comfyui_auface.nodes_expression",
    "comfyui_auface.nodes_expression_tools",
    "comfyui_auface.nodes_text",
    "comfyui_auface.nodes_structure",
    "comfyui_auface.nodes_generate",
    "comfyui_auface.nodes_adapter",
    "comfyui_auface.nodes_edit",
    "comfyui_auface.nodes_score",
)
"""Modules with a tuple ``NODES`` each, in the order of the node menu."""


def load_nodes(parts: Sequence[str]) -> list[type]:
    """Import modules and collect their nodes; a module that fails is left out, with one line in the log."""
    found: list[type] = []
    for part in parts:
        try:
            nodes = importlib.import_module(part).NODES
            for node in nodes:
                node.GET_SCHEMA()  # ComfyUI would drop the whole list for one schema that fails
            found += nodes
        except Exception as error:  # whatever it is, the other parts work without this one
            logger.warning("AUFace: the nodes of %s are left out: %s", part, what_to_do(error))
    return found


def require(packages: Sequence[str]) -> None:
    """Raise `ModuleNotFoundError` for packages that are not installed; importing them would take seconds."""
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    if missing:
        raise ModuleNotFoundError(f"no package {', '.join(missing)}", name=" ".join(missing))


def what_to_do(error: Exception) -> str:
    """One line that says what is wrong, and what to install if a package is missing."""
    said = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        return f"{said}. Install it into ComfyUI's Python: python -m pip install {package}"
    return f"{said}. Update auface and ComfyUI; if that does not help, please report it"

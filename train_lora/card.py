"""The model card of one trained part: what it is, its configuration, and what was measured on held-out faces."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from auface_diffusers.facs import units

HEAD = """---
license: apache-2.0
library_name: diffusers
tags: [FACS, action-units, facial-expression]
---
"""


def card(name: str, description: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Markdown of the part ``name``.

    Args:
        name: of the player that was trained.
        description: the whole configuration.
        report: of `loop.train`: step, seconds, validation.
    """
    channels = hashlib.sha256("\n".join(units.channels).encode()).hexdigest()[:12]
    lines = [HEAD, f"# AUFace {name}", ""]
    lines += ["Licence: Apache-2.0. Trained on renders and structure maps of a parametric head made from MakeHuman's"]
    lines += ["CC0 data and, where it reads text, on texts of our own phrase tables; on nothing else.", ""]
    lines += [f"- Steps: {report['step']}, in {report['seconds'] / 3600:.2f} h.", f"- AU channels: {channels}."]
    lines += ["", "## Held-out faces", "", "| what | value |", "|---|---|"]
    lines += [f"| {key} | {value:.5g} |" for key, value in report["validation"].items()]
    lines += ["", "## Configuration", "", "```json", json.dumps(description, indent=1), "```", ""]
    return "\n".join(lines)

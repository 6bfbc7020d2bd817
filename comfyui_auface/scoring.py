"""Faces before a detector: what is seen in them, and how well it fits what was asked for. Needs no ComfyUI.

Shapes: N images, H and W pixels, C columns of a detector such as ``"L12"``, K rendered people. The formulas are those
of `auface_diffusers.metrics`; torch and the metrics are imported when something is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from auface_diffusers.facs import AUSet, read_text, units
from auface_diffusers.facs.units import channel_name
from comfyui_auface.drawing import CONFLICTS, SIDES
from comfyui_auface.expression import Expression, choose

if TYPE_CHECKING:
    from torch import Tensor

    from auface_diffusers.metrics.detectors import AUDetector, Detections
    from auface_diffusers.metrics.targets import Reading, Targets, World

DETECTORS = ("auface", "auface-training", "mediapipe")
"""Detectors whose weights come with this package, or with packages: nothing has to be downloaded by hand."""
FACES = ("as they are", "find")
WORLDS = ("auto", "closed", "open")
CHUNK = 16
"""Images looked at together: few enough to be cancelled soon."""
CEILING_PERSON = 97_000_000
"""The people who are rendered; nobody else uses these numbers."""
CLEAR = 0.1
"""A ceiling has to be that far from chance, or nothing is said relative to it."""
SEEN = 0.5
"""Presence from which a unit counts as seen, at equal priors."""


@dataclass(frozen=True)
class Asked:
    """What N images are asked for.

    Attributes:
        scores: N scores, one side chosen. targets: their targets in the detector's columns.
        world: closed (what is not named is absent) or open (it is not spoken of).
        not_judged: units that were asked for and do not count, with the reason, each once.
    """

    scores: tuple[AUSet, ...]
    targets: Targets
    world: World
    not_judged: tuple[str, ...]


# --- images ----------------------------------------------------------------------------------------------------------


def pictures(images: Tensor) -> list[Image.Image]:
    """Images (N, H, W, C) in [0, 1] as plain RGB pictures; the images themselves stay as they are.

    C is 3; 1 is grey, and 4 has an alpha, which is laid over white.

    Raises:
        ValueError: for another shape, or values that are no numbers.
    """
    from auface_diffusers.pictures import plain_rgb

    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if images.ndim != 4 or images.shape[-1] not in modes or not images.numel():
        raise ValueError(
            f"image {tuple(images.shape)}: give images (N, H, W, 3); 1 channel (grey) and 4 (with alpha) will do too"
        )
    values = images.detach().float().cpu()
    bad = (~values.isfinite().flatten(1).all(1)).nonzero()
    if len(bad):
        raise ValueError(
            f"image {int(bad[0]) + 1} of {len(images)} has values that are no numbers (NaN): decode it with "
            "--fp32-vae, or leave it out"
        )
    pixels = (values.clamp(0, 1) * 255).round().byte().numpy()
    shown = pixels[..., 0] if images.shape[-1] == 1 else pixels
    return [plain_rgb(Image.fromarray(one, modes[images.shape[-1]])) for one in shown]


def look(detector: AUDetector, images: Tensor) -> Iterator[Detections]:
    """What the detector sees, up to `CHUNK` images at a time."""
    for begin in range(0, len(images), CHUNK):
        yield detector(pictures(images[begin : begin + CHUNK]))


def joined(parts: Sequence[Detections]) -> Detections:
    """Detections of several chunks as one."""
    from auface_diffusers.metrics.detectors import Detections

    def whole(name: str) -> np.ndarray | None:
        values = [getattr(part, name) for part in parts]
        return None if values[0] is None else np.concatenate(values)

    return Detections(**{name: whole(name) for name in vars(parts[0])})


def why_not(seen: Detections, row: int) -> str:
    """Why an image was not read, ``""`` if it was."""
    if seen.found[row]:
        return ""
    return "no face" if seen.faces[row] <= 0 else f"{seen.faces[row]} faces"


# --- what is asked for -----------------------------------------------------------------------------------------------


def ask(
    detector: AUDetector,
    images: int,
    expression: Expression | None = None,
    text: str = "",
    *,
    world: str = "auto",
    conflicts: str = "resolved",
    one_side: str = "left",
) -> Asked:
    """What images are asked for, by an expression or a text.

    Args:
        detector: who will look, by name, columns and coverage. images: how many images there are.
        expression: one frame for all images, or one for each. text: the same in words, a line each.
        world: "closed", "open", or "auto": closed for an expression, open for a text.
        conflicts: "resolved" asks for what is left after the rules, "as written" for every unit.
        one_side: where a unit is looked for that is scored on one side without saying which (U12), the person's.

    Raises:
        ValueError: both or neither, a number of frames that does not fit, or nothing that can be judged.
    """
    from auface_diffusers.metrics.targets import spec_targets

    given = bool(text.strip())
    if given == (expression is not None):
        raise ValueError(f"{'both' if given else 'neither'} expression and text: connect one, or write the other")
    found = read_lines(text) if expression is None else list(expression)
    if len(found) not in (1, images):
        raise ValueError(
            f"{'text has' if given else 'expression has'} {len(found)} {'lines' if given else 'frames'} and image has "
            f"{images} images: give one for all, or one for each image"
        )
    choose("world", world, WORLDS)
    letter: Literal["L", "R"] = "L" if choose("one_side", one_side, SIDES) == "left" else "R"
    reading: Reading = "resolved" if choose("conflicts", conflicts, CONFLICTS) == "resolved" else "raw"
    settled: World = "open" if world == "open" or (world == "auto" and given) else "closed"
    scores = [aus.choose_side(letter) for aus in found]
    targets = spec_targets(scores, detector.columns, world=settled, reading=reading, covered=detector.coverage)
    reasons: dict[str, None] = {}
    for row, aus in enumerate(scores):
        told, judged = _left_out(aus, targets.states[row], detector)
        reasons |= dict.fromkeys(told)
        if aus and not judged:
            raise ValueError(
                f"frame {row + 1}, {aus.format()}: nothing of it can be judged ({'; '.join(told)}). "
                f"The detector {detector.name} can tell {', '.join(detector.coverage)}"
            )
    rows = [0] * images if len(found) == 1 else range(images)
    return Asked(tuple(scores[row] for row in rows), targets.rows(list(rows)), settled, tuple(reasons))


def read_lines(text: str) -> list[AUSet]:
    """Scores of texts, a line each. Raises `ValueError` for a line in which nothing is found."""
    found = []
    for number, line in enumerate((line for line in text.splitlines() if line.strip()), 1):
        read = read_text(line)
        if not read and read.confidence == 0:
            raise ValueError(f"text, line {number}: no action unit is found in {line.strip()[:80]!r}")
        found.append(AUSet.from_keys(read.parts, read.unscored))
    return found


def _left_out(aus: AUSet, states: np.ndarray, detector: AUDetector) -> tuple[list[str], bool]:
    """Why units of a score do not count, and whether any does."""
    from auface_diffusers.metrics.targets import MASKED, TRACE

    told, judged = [], False
    state = dict(zip(detector.columns, states, strict=True))
    for (code, part), level in aus.parts.items():
        channel = channel_name(code, part) if units[code].still else code
        column = channel if channel in state else code
        if column not in detector.coverage:
            told.append(f"{channel}: {detector.name if units[code].still else 'a still'} cannot tell it")
        elif state[column] != MASKED:
            judged = True
        elif TRACE[0] < level < TRACE[1]:
            told.append(f"{channel}: a trace (A) counts neither way")
        else:
            told.append(f"{channel}: hidden by another unit, or on one side for a detector without sides")
    return told, judged


# --- the ceiling -----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def rendered_faces(detector: AUDetector, aus: AUSet, people: int) -> tuple[np.ndarray, np.ndarray]:
    """What the detector sees in exact renders of a score: presence (K, C) and found (K,). Kept for the next time.

    Args:
        people: K of them are rendered, in different scenes.
    """
    from auface_diffusers.anatomy import Camera
    from auface_diffusers.evaluation.faces import Wanted, rendered
    from auface_diffusers.evaluation.faces import pictures as drawn
    from auface_diffusers.metrics.suite import SuiteItem

    who = tuple(range(CEILING_PERSON, CEILING_PERSON + people))
    item = SuiteItem(aus.format(), "single", aus, who, who, new=False)
    finds = getattr(detector, "finder", None) is not None or not hasattr(detector, "finder")
    camera = Camera.framed("face", 256 if finds else 128)  # finders overlook smaller faces; the estimator sees 128
    seen = detector(drawn(rendered([Wanted(item, image) for image in range(people)], camera)))
    return seen.presence, seen.found


def renders(detector: AUDetector, scores: Sequence[AUSet], people: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`rendered_faces` of each of the scores, which may be many that are alike."""
    for aus in scores:
        yield rendered_faces(detector, aus, people)

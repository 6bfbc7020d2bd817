"""What a detector reads from faces, as expressions and in lines for people. Needs no ComfyUI.

Shapes: N images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from PIL import Image

from auface_diffusers.facs import AUSet, units
from auface_diffusers.facs.notation import split_name
from auface_diffusers.metrics.detectors import AUDetector, Detections
from comfyui_auface.scoring import CHUNK, pictures, why_not

if TYPE_CHECKING:
    from torch import Tensor


def frames(detector: AUDetector, seen: Detections, threshold: float) -> dict[int, AUSet]:
    """The score that is seen in each image with one face, by its number from 0."""
    rows = [row for row in range(len(seen.found)) if seen.found[row]]
    return {row: expression_of(detector, seen, row, threshold) for row in rows}


def expression_of(detector: AUDetector, seen: Detections, row: int, threshold: float) -> AUSet:
    """The score that is seen in one image: covered units whose presence reaches ``threshold``, at their level.

    Args:
        threshold: 0.5..1; `Detections.level` has no level of what is less likely.
    """
    levels: dict[str, float | None] = {}
    for column, name in enumerate(detector.columns):
        if name in detector.coverage and seen.presence[row, column] >= threshold:
            levels[name] = None if seen.level is None else round(float(seen.level[row, column]), 2)
    return AUSet(levels)


def failures(seen: Detections) -> list[str]:
    """A line for each image without one face."""
    return [f"image {row + 1}: {why_not(seen, row)}" for row in range(len(seen.found)) if not seen.found[row]]


def check_faces(seen: Detections, *, stop: bool) -> None:
    """Refuse images without one face.

    Args:
        stop: whether one such image is enough; if not, all of them have to be.

    Raises:
        ValueError: names the images.
    """
    told = failures(seen)
    if told and (stop or not seen.found.any()):
        raise ValueError(
            f"{'; '.join(told)} (of {len(seen.found)}). Give images with one face of 32 pixels or more, crop them, "
            "or choose 'leave out' for the others"
        )


def name_of(detector: AUDetector) -> str:
    """Name and hash, and whether its numbers are probabilities."""
    return f"{detector.name} {detector.hash}" + ("" if detector.calibrated else " (not calibrated: no probabilities)")


def table(detector: AUDetector, seen: Detections, scores: Mapping[int, AUSet], threshold: float) -> str:
    """For each image its codes, and each unit that is seen with its probability and level."""
    lines = [f"read by {name_of(detector)}"]
    for row in range(len(seen.found)):
        if row not in scores:
            lines.append(f"image {row + 1}: {why_not(seen, row)}")
            continue
        lines.append(f"image {row + 1}: {scores[row].format()}")
        for column, name in enumerate(detector.columns):
            p = float(seen.presence[row, column])
            if name in detector.coverage and p >= threshold:
                level = "" if seen.level is None else f"  level {seen.level[row, column]:.1f}"
                lines.append(f"  {name:5} {p:.2f}{level}  {units[split_name(name)[0]].name}")
    return "\n".join(lines)


def chunks(seen: Detections, images: Tensor) -> Iterator[tuple[Detections, list[Image.Image]]]:
    """Detections and pictures, a few at a time."""
    for begin in range(0, len(images), CHUNK):
        rows = slice(begin, begin + CHUNK)
        part = {name: None if value is None else value[rows] for name, value in vars(seen).items()}
        yield Detections(**part), pictures(images[rows])

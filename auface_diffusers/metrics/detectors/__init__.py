"""Detectors of action units behind one protocol."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from auface_diffusers.metrics.detectors.auface import AUFaceDetector, embedded
from auface_diffusers.metrics.detectors.base import AUDetector, Detections, DetectorError
from auface_diffusers.metrics.detectors.finder import FaceCrop, FaceFinder, MediaPipeFaceFinder
from auface_diffusers.metrics.detectors.libreface import LibreFaceDetector
from auface_diffusers.metrics.detectors.mediapipe_blendshapes import MediaPipeDetector
from auface_diffusers.metrics.detectors.openface3 import OpenFace3Detector
from auface_diffusers.metrics.detectors.pyfeat import PyFeatDetector
from auface_diffusers.metrics.detectors.safetensors_model import TransformersDetector, load_model_file

CROPPED: dict[str, Callable[..., AUDetector]] = {
    "auface": AUFaceDetector,
    "auface-training": lambda **options: AUFaceDetector(embedded(evaluation=False), "auface-training", **options),
    "libreface": LibreFaceDetector,
}
"""Detectors that can be told to use a finder of faces."""
WHOLE: dict[str, Callable[..., AUDetector]] = {
    "pyfeat": PyFeatDetector,
    "openface3": OpenFace3Detector,
    "mediapipe": MediaPipeDetector,
}
"""Detectors that find and count faces themselves."""
WEIGHTS = {"libreface": "weights_folder", "openface3": "weights_folder", "pyfeat": "weights_file", "mediapipe": "task"}
"""Option that says where a detector's weights lie, of those that have it: a folder, or a file."""
NAMES = (*CROPPED, *WHOLE)


def load_detector(
    name: str | Path = "auface",
    *,
    photos: bool = False,
    weights: str | Path | None = None,
    **options: Any,  # noqa: ANN401 - those of the detector
) -> AUDetector:
    """A detector by name, an `AUEstimator` in a folder, or what a file describes.

    Args:
        name: one of `NAMES`: "auface", the embedded estimator that only evaluation uses; "auface-training", the other
            embedded one; or a tool that is installed, with its weights. Or the folder of an `AUEstimator`, or the path
            of a file as in `safetensors_model`.
        photos: find and crop the face first, see `MediaPipeFaceFinder`; needs ``auface[photos]``. Detectors that find
            faces themselves do so anyway.
        weights: where the weights of a tool in `WEIGHTS` lie, if not where it looks by itself.
        **options: of the detector, such as ``output`` or ``device``; a ``finder`` of your own.

    Raises:
        DetectorError: no detector of this name, something that it needs is missing, or weights of one that has its
            own.
    """
    text = str(name)
    if weights is not None:
        if text not in WEIGHTS:
            raise DetectorError(
                f"detector {text!r} has its own weights: leave {str(weights)!r} out. Weights may be given for "
                f"{', '.join(WEIGHTS)}; a model of your own is a folder or file that takes the place of the name"
            )
        options[WEIGHTS[text]] = weights
    if text in WHOLE:
        return WHOLE[text](**options)
    make = CROPPED.get(text) or _from_files(Path(name))
    if photos and "finder" not in options:
        options["finder"] = MediaPipeFaceFinder()
    return make(**options)


def _from_files(path: Path) -> Callable[..., AUDetector]:
    if path.suffix in (".toml", ".json") and path.is_file():
        return partial(load_model_file, path)
    if (path / "config.json").is_file() and _is_estimator(path / "config.json"):
        return partial(AUFaceDetector.from_folder, path)
    raise DetectorError(
        f"detector {str(path)!r}: one of {', '.join(NAMES)}, the folder of an AUEstimator, or a TOML or JSON file "
        "that describes a model of safetensors"
    )


def _is_estimator(config: Path) -> bool:
    try:
        return bool(json.loads(config.read_text(encoding="utf-8")).get("_class_name") == "AUEstimator")
    except (ValueError, AttributeError):
        return False


__all__ = [
    "AUDetector",
    "AUFaceDetector",
    "DetectorError",
    "Detections",
    "FaceCrop",
    "FaceFinder",
    "LibreFaceDetector",
    "MediaPipeDetector",
    "MediaPipeFaceFinder",
    "OpenFace3Detector",
    "PyFeatDetector",
    "TransformersDetector",
    "load_detector",
    "load_model_file",
]

"""Detectors of action units behind one protocol."""

from pathlib import Path

from auface_diffusers.metrics.detectors.auface import AUFaceDetector
from auface_diffusers.metrics.detectors.base import AUDetector, Detections, DetectorError

NAMES = ("auface",)


def load_detector(name: str | Path = "auface", *, photos: bool = False) -> AUDetector:
    """A detector by name, or an `AUEstimator` in a folder.

    Raises:
        DetectorError: no detector of this name.
    """
    if str(name) == "auface":
        return AUFaceDetector()
    if (Path(name) / "config.json").is_file():
        return AUFaceDetector.from_folder(name)
    raise DetectorError(f"detector {str(name)!r}: one of {', '.join(NAMES)}, or the folder of an AUEstimator")


__all__ = ["AUDetector", "AUFaceDetector", "DetectorError", "Detections", "load_detector"]

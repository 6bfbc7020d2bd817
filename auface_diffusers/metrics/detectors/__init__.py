"""Detectors of action units behind one protocol."""

from auface_diffusers.metrics.detectors.base import AUDetector, Detections, DetectorError

__all__ = ["AUDetector", "DetectorError", "Detections"]

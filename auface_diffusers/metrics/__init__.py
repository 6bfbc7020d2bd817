"""AAAD and what belongs to it: does a face show what its text says?"""

from auface_diffusers.metrics.aaad import AAAD, AAADScore, MetricError, aaad
from auface_diffusers.metrics.targets import Targets, spec_targets, text_targets

__all__ = ["AAAD", "AAADScore", "MetricError", "Targets", "aaad", "spec_targets", "text_targets"]

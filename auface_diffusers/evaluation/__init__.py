"""Generators before a suite, pictures before a detector, and their reports: what `auface score` and `evaluate` do."""

from auface_diffusers.evaluation.files import entries, manifest, score_files
from auface_diffusers.evaluation.run import EvaluationConfig, compare_runs, evaluate_model

__all__ = ["EvaluationConfig", "compare_runs", "entries", "evaluate_model", "manifest", "score_files"]

"""FACS: action units, notation, interaction rules, text and annotation files. Pure Python, cheap to import."""

from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.describe import Description, Subject, describe
from auface_diffusers.facs.levels import level_letter, level_to_weight, weight_to_level
from auface_diffusers.facs.notation import NotationError, NotationWarning
from auface_diffusers.facs.presets import preset
from auface_diffusers.facs.read_text import TextReading, read_text
from auface_diffusers.facs.resolution import ConflictError, Resolution, RuleHit
from auface_diffusers.facs.resolve import resolve
from auface_diffusers.facs.units import ActionUnit, units

__all__ = [
    "AUSet",
    "ActionUnit",
    "ConflictError",
    "Description",
    "NotationError",
    "NotationWarning",
    "Resolution",
    "RuleHit",
    "Subject",
    "TextReading",
    "describe",
    "level_letter",
    "level_to_weight",
    "preset",
    "read_text",
    "resolve",
    "units",
    "weight_to_level",
]

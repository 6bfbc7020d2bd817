"""One sample of a data set of real pictures: the crop, what is known of its units, and texts in every style.

A sample has ``webp`` or ``png`` and ``json``, with the keys of a made face (`train_lora.data.synth`) as far as a
photograph has them. There is no part map, no identity, no look, no pose of the head, and there are landmarks only if a
finder has given them: `train_lora.data.faces` gives NaN for these (-1 for parts), and no stage takes NaN for a number.
``effective_levels`` is null where nobody knows: what was not coded, not scorable (9), cannot be seen beside the rest,
or what the rules took out of the text although a coder saw it. Unknown is never absent.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from auface_diffusers.facs import AUSet, describe, resolve, units
from auface_diffusers.facs.describe import STYLES
from auface_diffusers.facs.levels import MAX_LEVEL
from auface_diffusers.facs.notation import parse_name
from auface_diffusers.facs.units import channel_name
from auface_diffusers.metrics.detectors.auface import TILTS, embedded
from auface_diffusers.metrics.detectors.base import DetectorError
from auface_diffusers.metrics.targets import spec_targets
from auface_diffusers.models.au_estimator import AUEstimator
from train_lora.data.face_crops import FRAMING
from train_lora.data.items import Item
from train_lora.data.prepare_config import PrepareConfig

_SIDES = {"L": "R", "R": "L"}
_DETECTORS = ("openface", "openface3", "pyfeat", "libreface", "imotions")


@dataclass(frozen=True)
class Known:
    """What is known of the units of a picture: notation of those that are there, and names of the rest."""

    aus: str
    absent: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def upright(known: Known) -> Known:
    """What a crop shows that a finder has turned upright: that the head was tilted (55, 56) cannot be seen in it."""
    aus = AUSet.parse(known.aus).without(TILTS).format()
    absent, unknown = (tuple(name for name in some if name not in TILTS) for some in (known.absent, known.unknown))
    return Known(aus, absent, (*unknown, *TILTS))


def origin(source: str) -> str:
    """Who has labelled: ``"annotated"``, ``"detector"`` or ``"estimator"``; in every sample and on the card."""
    if source == "estimator":
        return "estimator"
    return "detector" if source in _DETECTORS else "annotated"


@dataclass(frozen=True)
class Wording:
    """What follows from `Known`: levels by channel (None is unknown), channels without a scored level, and texts."""

    effective: str
    levels: dict[str, float | None]
    unscored: tuple[str, ...]
    rules: tuple[str, ...]
    texts: dict[str, str]


@lru_cache(maxsize=4096)
def worded(known: Known, unnamed: str) -> Wording:
    """Levels and texts. Frames of a video repeat: this is kept."""
    given = AUSet.parse(known.aus)
    sided = AUSet.from_keys({key: x for key, x in given.parts.items() if key[1] not in ("U", "A")}, given.unscored)
    vague = tuple({code for code, part in given.parts if part in ("U", "A")})  # one side, and nobody says which
    unknown = (*_channels(known.unknown), *_channels(vague))
    absent = set(_channels(known.absent)) | {
        channel_name(code, _SIDES[part]) for code, part in sided.parts if part in _SIDES
    }
    if unnamed == "absent":
        absent |= set(units.channels) - set(_channels(known.unknown)) - set(_channels(vague))
    there = {channel_name(*key) for key in sided.parts}
    absent = absent & set(units.channels) - there
    targets = spec_targets([sided], world="open", absent=[sorted(absent)], unknown=[unknown])
    levels = {
        name: None if math.isnan(level) else float(level)
        for name, level in zip(targets.columns, targets.levels[0].tolist(), strict=True)
    }
    resolution = resolve(given)
    return Wording(
        effective=resolution.effective.format(),
        levels=levels,
        unscored=tuple(name for name in sorted(channel_name(*key) for key in given.unscored) if name in levels),
        rules=tuple(dict.fromkeys(resolution.rule_ids)),
        texts={style: describe(given, style).text for style in STYLES},
    )


def label_of(config: PrepareConfig, source: str, item: Item, known: Known, number: int) -> dict[str, Any]:
    """The JSON of a sample, but for what is measured on its picture."""
    words = worded(known, config.unnamed)
    aus = AUSet.parse(known.aus)
    first = (config.seed * 1_000_003 + number) * 16
    varied = [describe(aus, seed=first + extra).text for extra in range(config.texts)]
    return {
        "kind": source,
        "origin": origin(source),
        "aus": known.aus,
        "effective": words.effective,
        "effective_levels": words.levels,
        "unscored": list(words.unscored),
        "absent": list(known.absent),
        "unknown": list(known.unknown),
        "rules": list(words.rules),
        "texts": {**words.texts, "varied": varied},
        "split": item.split,
        "subject": item.subject,
        "task": item.task,
        "frame": item.frame,
        "picture": item.picture,
        "size": config.size,
        "framing": FRAMING,
    }


def encoded(label: dict[str, Any]) -> bytes:
    """A label as a file."""
    return json.dumps(label, ensure_ascii=False).encode()


def _channels(names: Sequence[str]) -> tuple[str, ...]:
    """Channels of codes and channels; those that a still cannot show have none."""
    return tuple(channel for name in names for key in parse_name(name) if (channel := channel_name(*key)) in _all())


@lru_cache(maxsize=1)
def _all() -> frozenset[str]:
    return frozenset(units.channels)


# --- labels of our own -----------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def estimator() -> AUEstimator:
    """The embedded estimator that training may use. Raises `ValueError` where it is missing."""
    try:
        return embedded(evaluation=False)
    except DetectorError as error:
        raise ValueError(str(error)) from None


def estimated(images: Tensor, sure: float) -> tuple[list[Known], Tensor]:
    """What our estimator knows of pictures (B, 3, S, S) in [0, 1], and their iBUG points (B, 68, 2) as shares.

    A channel is there from the calibrated presence ``sure`` on, absent up to 1 - sure, and unknown between, or where
    the estimator cannot tell it.
    """
    model = estimator()
    with torch.no_grad():
        seen = model(images)
    covered = set(model.coverage)
    found = []
    for presence, level in zip(seen.presence.tolist(), seen.level.tolist(), strict=True):
        there = {
            name: min(MAX_LEVEL, max(0.1, round(height, 1)))
            for name, share, height in zip(model.channels, presence, level, strict=True)
            if name in covered and share >= sure
        }
        absent = tuple(n for n, p in zip(model.channels, presence, strict=True) if n in covered and p <= 1 - sure)
        unknown = tuple(n for n in model.channels if n not in there and n not in set(absent))
        found.append(Known(AUSet(there).format(), absent, unknown))
    return found, seen.landmarks


def crops_tensor(images: Sequence[Image.Image]) -> Tensor:
    """PIL crops of one size as (B, 3, S, S) in [0, 1]."""
    stacked = np.stack([np.asarray(image) for image in images])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 255

"""`resolve_attributes`: what a user says about people and pictures, to identity codes, appearances, pose and gaze."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from auface_diffusers.anatomy.appearance import BACKGROUNDS, HAIR_STYLES, Appearance
from auface_diffusers.anatomy.head import _angles
from auface_diffusers.anatomy.identity import PHENOTYPE
from auface_diffusers.anatomy.identity import identity_codes as checked_codes
from auface_diffusers.anatomy.tables import table

Attributes = Appearance | Mapping[str, Any]
Fields = dict[str, Any]


class PeopleAttributes(NamedTuple):
    """B people before the camera: identity codes (B, 46), an appearance each, pose (B, 3) and gaze (B, 2) in degrees,
    as `HeadModel.forward` takes them.
    """

    codes: Tensor
    appearances: list[Appearance]
    pose: Tensor
    gaze: Tensor


def resolve_attributes(
    identity_codes: Tensor,
    attributes: Attributes | Sequence[Attributes | None] | None = None,
    scene_seed: int = 0,
) -> PeopleAttributes:
    """Fill in what the user leaves open: it follows the person, and the picture's seed.

    A mapping holds fields of `Appearance` and any of:

    - ``age``: years, 18..90, linearly to the code's 0..1; ``gender``: ``"female"``, ``"male"`` or 0..1.
    - ``skin``: ``"fair"``, ``"light"``, ``"medium"``, ``"olive"``, ``"brown"``, ``"dark"``, or melanin, 0..1.
    - ``hair``: a style of `HAIR_STYLES`, a colour, or both: ``"long light brown"``.
    - ``light``: words such as ``"soft, left, warm"``; left is the person's.
    - ``background``: one of `BACKGROUNDS`, or a plain one as a colour, ``"blue"`` or ``"#3355aa"``.
    - ``head_pose``: (yaw, pitch, roll) and ``gaze``: (yaw, pitch), degrees, as in `HeadModel.forward`.

    The words and what they mean stand in ``attributes.toml``. Where a field of `Appearance` and a word set the same,
    the later one of the mapping counts.

    Args:
        identity_codes: (B, 46); ``age`` and ``gender`` change copies of them.
        attributes: for all people, or one each, where None is nothing said. An `Appearance` is taken as it is.
        scene_seed: of light, clothes, camera and background.

    Raises:
        ValueError: for a key, a word or a number that is not allowed, or batch sizes that differ.
    """
    codes = checked_codes(identity_codes)
    batch = len(codes)
    people = [person_seed(code) for code in codes]  # as given: the same skin, hair and eyes at another age
    wishes = _each(attributes, batch)
    if len(wishes) != batch:
        raise ValueError(f"{len(wishes)} attributes for {batch} people: give one each")
    rows = [_one(*each, scene_seed) for each in zip(codes, wishes, people, strict=True)]
    return PeopleAttributes(
        codes=torch.stack([row[0] for row in rows]),
        appearances=[row[1] for row in rows],
        pose=torch.cat([row[2] for row in rows]).to(codes),
        gaze=torch.cat([row[3] for row in rows]).to(codes),
    )


def person_seed(code: Tensor) -> int:
    """The seed of a person's skin, hair and eyes, made from the identity code (46,)."""
    return zlib.crc32((code * 1000).round().int().cpu().numpy().tobytes())


def sample_look(person: int, code: Tensor | None, seed: int) -> Appearance:
    """A random appearance: the person's part follows seed ``person`` and code (46,), the scene's ``seed`` as well."""
    return Appearance.sample(person, code, scene=seed * 1_000_003 + person)


def _each(attributes: Attributes | Sequence[Attributes | None] | None, batch: int) -> list[Attributes | None]:
    if attributes is None or isinstance(attributes, Appearance | Mapping):
        return [attributes] * batch
    if isinstance(attributes, str) or not isinstance(attributes, Sequence):
        raise ValueError(f"attributes {attributes!r}: give an Appearance, a mapping, or a list with one a person")
    wishes = list(attributes)
    for wish in wishes:
        if wish is not None and not isinstance(wish, Appearance | Mapping):
            raise ValueError(f"attributes {wish!r}: give an Appearance, a mapping or None for each person")
    return wishes * batch if len(wishes) == 1 else wishes


def _one(
    code: Tensor, wish: Attributes | None, person: int, scene_seed: int
) -> tuple[Tensor, Appearance, Tensor, Tensor]:
    """One person: code (46,), appearance, pose (1, 3) and gaze (1, 2)."""
    if isinstance(wish, Appearance):
        return code, wish, _angles(None, 3, "head_pose"), _angles(None, 2, "gaze")
    given = dict(wish or {})
    names = [field.name for field in fields(Appearance)]
    unknown = [str(key) for key in given if key not in names and key not in KEYS]
    if unknown:
        allowed = f"{', '.join(KEYS)}, and fields of an appearance: {', '.join(names)}"
        raise ValueError(f"unknown attributes: {', '.join(unknown)}; there are {allowed}")
    code = code.clone()
    for key, share in _PHENOTYPE.items():
        if key in given:
            code[PHENOTYPE.index(key)] = share(given[key])
    said: Fields = {}
    for key, value in given.items():  # in the order given: of a word and a field that it sets, the later one counts
        if key in _WORDS:
            said |= _WORDS[key](value)
        elif key in names:
            said[key] = value
    look = Appearance.from_dict(sample_look(person, code.cpu(), scene_seed).to_dict() | said)
    pose, gaze = (_turn(given.get(key), count, key) for key, count in _TURNS.items())
    return code, look, pose, gaze


def _turn(value: Any, count: int, name: str) -> Tensor:  # noqa: ANN401 - whatever the user gave
    try:
        angles = _angles(value, count, name)
    except (TypeError, RuntimeError):
        raise ValueError(f"{name} {value!r}: give {count} angles in degrees") from None
    if len(angles) != 1:
        raise ValueError(f"{name} {tuple(angles.shape)}: give {count} angles in degrees for each person's own mapping")
    return angles


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    return table("attributes.toml")


def _number(name: str, value: object, low: float, high: float, besides: str = "") -> float:
    """A number that lies in a range."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} {value!r}: give a number in {low:g}..{high:g}{besides}")
    return float(value)


def _named(name: str, value: object, rows: Mapping[str, Any]) -> Any:  # noqa: ANN401 - what the table holds
    """The row that a text names; None for what is no text."""
    if not isinstance(value, str):
        return None
    if value.strip().lower() not in rows:
        raise ValueError(f"{name} {value!r}: one of {', '.join(rows)}")
    return rows[value.strip().lower()]


def _age(value: object) -> float:
    years: dict[str, float] = _tables()["age"]
    low, high = years["young"], years["old"]
    return (_number("age", value, low, high, " years") - low) / (high - low)


def _gender(value: object) -> float:
    rows = _tables()["gender"]
    share = _named("gender", value, rows)
    return _number("gender", value, 0, 1, f", or {' or '.join(rows)}") if share is None else float(share)


def _skin(value: object) -> Fields:
    rows = _tables()["skin"]
    row = _named("skin", value, rows)
    return dict(row) if row else {"melanin": _number("skin", value, 0, 1, f", or one of {', '.join(rows)}")}


def _hair(value: object) -> Fields:
    colors = _tables()["hair_colors"]
    rows: dict[str, Fields] = {style: {"hair_style": style} for style in HAIR_STYLES} | colors
    return _phrases("hair", value, rows, f"styles {', '.join(HAIR_STYLES)}; colours {', '.join(colors)}", ("hair",))


def _light(value: object) -> Fields:
    rows = _tables()["light"]
    return _phrases("light", value, rows, ", ".join(rows))


def _background(value: object) -> Fields:
    colors = _tables()["background_colors"]
    text = value.strip().lower() if isinstance(value, str) else ""
    if text in BACKGROUNDS:
        return {"background": text}
    if re.fullmatch("#[0-9a-f]{6}", text):
        color = [int(text[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    elif text in colors:
        color = colors[text]
    else:
        allowed = f"one of {', '.join(BACKGROUNDS)}; a colour {', '.join(colors)}; or #rrggbb"
        raise ValueError(f"background {value!r}: {allowed}")
    return {"background": "plain", "background_color": color}


def _phrases(
    name: str, value: object, rows: Mapping[str, Fields], allowed: str, silent: tuple[str, ...] = ()
) -> Fields:
    """Fields of all phrases of a text, the longest first; ``silent`` words say nothing."""
    words = re.findall(r"[^\s,]+", value.lower()) if isinstance(value, str) else []
    result: Fields = {}
    said = False
    while words:
        for count in range(min(len(words), 3), 0, -1):
            phrase = " ".join(words[:count])
            if phrase in rows or phrase in silent:
                break
        else:
            raise ValueError(f"{name} {value!r}: {words[0]!r} is unknown; there are {allowed}")
        for key, setting in rows.get(phrase, {}).items():
            if result.setdefault(key, setting) != setting:
                raise ValueError(f"{name} {value!r}: {phrase!r} contradicts a word before it; leave one out")
            said = True
        words = words[count:]
    if not said:
        raise ValueError(f"{name} {value!r}: give a text with some of {allowed}")
    return result


_PHENOTYPE: dict[str, Callable[[object], float]] = {"age": _age, "gender": _gender}
_WORDS: dict[str, Callable[[object], Fields]] = {
    "skin": _skin,
    "hair": _hair,
    "light": _light,
    "background": _background,
}
_TURNS = {"head_pose": 3, "gaze": 2}
KEYS = (*_PHENOTYPE, *_WORDS, *_TURNS)
"""What a mapping of attributes may hold besides the fields of `Appearance`."""

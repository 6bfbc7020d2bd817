"""`attribute_vector`: what a picture shows besides the anatomy, as columns for a network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from functools import lru_cache, partial

import torch
from torch import Tensor

from auface_diffusers.anatomy.appearance import _CHOICES as CHOICES
from auface_diffusers.anatomy.appearance import _RANGES as RANGES
from auface_diffusers.anatomy.appearance import Appearance
from auface_diffusers.anatomy.tables import table

_LEFT_OUT = ("texture_seed",)  # places strands and spots: its number says nothing about how they look

Read = Callable[[Appearance], float]


def attribute_vector(appearances: Sequence[Appearance]) -> Tensor:
    """Every field of appearances but ``texture_seed``, in the order of `ATTRIBUTE_NAMES`.

    Numbers go linearly to [-1, 1]: from what `Appearance.sample` draws for fields of ``[spread]`` in
    ``attributes.toml``, whose extremes then lie beyond it; else from the field's whole range. A colour is three such
    numbers. A choice is one 1 among zeros.

    Args:
        appearances: B of them; none gives an empty (0, ATTRIBUTE_SIZE).

    Returns:
        (B, ATTRIBUTE_SIZE) float32, on the CPU.

    Raises:
        ValueError: for something that is no `Appearance`.
    """
    for look in appearances:
        if not isinstance(look, Appearance):
            raise ValueError(f"{look!r} is no Appearance: make one with Appearance(...) or Appearance.from_dict(...)")
    reads = [read for _, read in _columns()]
    rows = [[read(look) for read in reads] for look in appearances]
    return torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(reads))


@lru_cache(maxsize=1)
def _columns() -> tuple[tuple[str, Read], ...]:
    spread: dict[str, list[float]] = table("attributes.toml")["spread"]
    return tuple(
        column for field in fields(Appearance) for column in _field_columns(field.name, field.default, spread)
    )


def _field_columns(name: str, default: object, spread: dict[str, list[float]]) -> Iterator[tuple[str, Read]]:
    """The columns of one field, each with its name and how it is read."""
    if name in _LEFT_OUT:
        return
    if name in CHOICES:
        for choice in CHOICES[name]:
            yield f"{name}={choice}", partial(_is, name, choice)
    elif isinstance(default, tuple):
        for index, channel in enumerate(("red", "green", "blue")):
            yield f"{name}.{channel}", partial(_channel, name, index)
    else:
        low, high = spread.get(name) or RANGES.get(name, (0.0, 1.0))
        yield name, partial(_scaled, name, low, high)


def _is(name: str, choice: str, look: Appearance) -> float:
    return float(getattr(look, name) == choice)


def _channel(name: str, index: int, look: Appearance) -> float:
    return 2.0 * float(getattr(look, name)[index]) - 1


def _scaled(name: str, low: float, high: float, look: Appearance) -> float:
    return (2.0 * float(getattr(look, name)) - low - high) / (high - low)


ATTRIBUTE_NAMES = tuple(name for name, _ in _columns())
"""One name a column: ``"melanin"``, ``"hair_color.red"``, ``"hair_style=bun"``."""
ATTRIBUTE_SIZE = len(ATTRIBUTE_NAMES)

"""`Expression`: what travels between the nodes. One score of action units, or several: the frames of a batch.

It is plain text at heart: ``str(expression)`` has one line of FACS notation a frame, and `Expression.parse` reads it.
No part of this file needs ComfyUI or torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from auface_diffusers.facs import AUSet, NotationError, NotationWarning

MAX_FRAMES = 4096
"""Frames of one expression: nearly three minutes of film; more is a slip of the keyboard."""


@dataclass(frozen=True)
class Expression:
    """One or more scores.

    Args:
        frames: 1..`MAX_FRAMES` scores.

    Raises:
        ValueError: there are none, or too many.
    """

    frames: tuple[AUSet, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.frames) <= MAX_FRAMES:
            raise ValueError(f"an expression has 1..{MAX_FRAMES} frames, not {len(self.frames)}")

    @classmethod
    def parse(cls, text: str) -> Expression:
        """Read lines of FACS notation, one a frame; empty lines do not count.

        Raises:
            NotationError: names the token, its column and, if there are several lines, the line.
            ValueError: more than `MAX_FRAMES` lines.
        """
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if not lines:
            return cls((AUSet.parse(text),))  # which says what an empty score needs
        return cls(tuple(parse_line(line, number if len(lines) > 1 else 0) for number, line in lines))

    def __str__(self) -> str:
        return "\n".join(aus.format() for aus in self.frames)

    def __len__(self) -> int:
        return len(self.frames)

    def __iter__(self) -> Iterator[AUSet]:
        return iter(self.frames)

    def map(self, change: Callable[[AUSet], AUSet]) -> Expression:
        """The same number of frames, each changed."""
        return Expression(tuple(change(aus) for aus in self.frames))


def parse_line(line: str, number: int) -> AUSet:
    """Read one score. Raises `NotationError`, which names line ``number`` too, unless that is 0."""
    try:
        return AUSet.parse(line)
    except NotationError as error:
        if not number:
            raise
        told = NotationError(f"line {number}: {error}")
        told.token, told.column = error.token, error.column
        raise told from None


def read_codes(text: str) -> tuple[Expression, tuple[str, ...]]:
    """`Expression.parse`, and what the notation warns of, each once."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", NotationWarning)
        expression = Expression.parse(text)
    notes = [str(one.message) for one in caught if issubclass(one.category, NotationWarning)]
    return expression, tuple(dict.fromkeys(notes))


def pair(
    first: Expression, second: Expression, join: Callable[[AUSet, AUSet], AUSet], names: Sequence[str]
) -> Expression:
    """Join two expressions frame by frame; one frame goes with every frame of the other.

    Args:
        names: what the two are called in the error message.

    Raises:
        ValueError: both have several frames, and not the same number.
    """
    count = max(len(first), len(second))
    if {len(first), len(second)} - {1, count}:
        raise ValueError(
            f"{names[0]} has {len(first)} frames and {names[1]} has {len(second)}: "
            "give both the same number, or one of them a single frame"
        )
    a, b = (one.frames * count if len(one) == 1 else one.frames for one in (first, second))
    return Expression(tuple(join(x, y) for x, y in zip(a, b, strict=True)))


def blend(start: AUSet, end: AUSet, amount: float) -> AUSet:
    """`AUSet.blend`, with levels of four decimals on the way: people read them, and a level that both have stays."""
    made = start.blend(end, amount)
    if amount in (0, 1):
        return made
    return AUSet.from_keys({key: round(level, 4) for key, level in made.parts.items()}, made.unscored)


def choose(name: str, value: str, options: Sequence[str]) -> str:
    """Return ``value`` if it is one of ``options``: ComfyUI 0.3.64 does not check the choices of new nodes itself.

    Raises:
        ValueError: names the input, what came and what there is.
    """
    if value not in options:
        raise ValueError(f"{name} {value!r} is unknown; choose {', '.join(options)}")
    return value

"""Keyframes, written as text, to the frames between them. No part of this file needs ComfyUI or torch."""

from __future__ import annotations

import re
from collections.abc import Callable

from auface_diffusers.facs import AUSet
from comfyui_auface.expression import MAX_FRAMES, Expression, blend, choose, parse_line

EASINGS: dict[str, Callable[[float], float]] = {
    "smooth": lambda t: t * t * (3 - 2 * t),  # no jerk at the keys: faces speed up and slow down
    "linear": lambda t: t,
    "hold": lambda t: 0.0,  # stay at a key until the next one
}
"""Names of the ways from one key to the next, with the share of the way gone at the share of the time."""

_LINE = re.compile(r"\s*(?P<frame>\d+)\s*:\s*(?P<codes>.*\S)\s*")
_INPUT = re.compile(r"(?i)input(?:\s+(?P<number>\d+))?")


def animate(text: str, easing: str = "smooth", bounce: bool = False, given: Expression | None = None) -> Expression:
    """Frames of an animation, from frame 0 to the last key's.

        >>> str(animate("0: 0\\n2: 12E", "linear"))
        '0\\n12=2.5\\n12E'

    Args:
        text: a line a key: ``FRAME: CODES``. Before the first key and after the last nothing moves. ``input`` in place
            of codes is the first frame of ``given``, ``input 3`` its third.
        easing: one of `EASINGS`.
        bounce: play backwards to the first frame after the last key, so that the film can be looped.
        given: what ``input`` stands for.

    Raises:
        ValueError: naming the line: no key, a frame that comes twice or is too late, ``input`` without an expression.
        NotationError: naming the line, the token and its column.
    """
    ease = EASINGS[choose("easing", easing, tuple(EASINGS))]
    keys = {frame: _look_up(key, given) for frame, key in parse_keys(text).items()}
    times = sorted(keys)
    frames = [keys[times[0]]] * times[0]
    for start, end in zip(times, times[1:], strict=False):
        steps = [ease(number / (end - start)) for number in range(end - start)]
        frames += [blend(keys[start], keys[end], step) for step in steps]
    frames.append(keys[times[-1]])
    if bounce:
        frames += frames[-2:0:-1]  # the ends are not shown twice
    return Expression(tuple(frames))


def parse_keys(text: str) -> dict[int, AUSet | int]:
    """Keys by frame number: a score, or the number (from 1) of a frame of the given expression. See `animate`."""
    keys: dict[int, AUSet | int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number}: {line.strip()!r} is no key; write FRAME: CODES, such as 12: 6C+12D")
        frame = int(match["frame"])
        if frame >= MAX_FRAMES:
            raise ValueError(f"line {number}: frame {frame} is too late; the last possible one is {MAX_FRAMES - 1}")
        if frame in keys:
            raise ValueError(f"line {number}: frame {frame} has a key already; give each frame one")
        named = _INPUT.fullmatch(match["codes"])
        if named:
            keys[frame] = int(named["number"] or 1)
        else:  # blanks in place of the frame: columns count from the start of the line, where the user looks
            keys[frame] = parse_line(" " * match.start("codes") + match["codes"], number)
    if not keys:
        raise ValueError("there are no keys; write a line for each, such as 0: 0 and 12: 6C+12D")
    return keys


def _look_up(key: AUSet | int, given: Expression | None) -> AUSet:
    if isinstance(key, AUSet):
        return key
    if given is None:
        raise ValueError("'input' in the keyframes needs an expression: connect one to the node, or write codes")
    if not 1 <= key <= len(given):
        raise ValueError(f"'input {key}' in the keyframes is not there: the expression has frames 1..{len(given)}")
    return given.frames[key - 1]

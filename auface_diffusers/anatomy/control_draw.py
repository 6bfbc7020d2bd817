"""Discs, limbs and lines with the very pixels of the tools that made the control images models were trained on.

Those tools draw with OpenCV, without antialiasing. Points are pixels (x, y); images are uint8 arrays (H, W, 3), drawn
in place and clipped at their edges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Canvas = NDArray[np.uint8]
Colour = Sequence[int]


def canvas(size: tuple[int, int]) -> Canvas:
    """A black image of (H, W)."""
    return np.zeros((*size, 3), dtype=np.uint8)


def disc(image: Canvas, x: float, y: float, radius: int, colour: Colour) -> None:
    """All pixels no further than ``radius`` from the one that (x, y) lies in: a filled ``cv2.circle``."""
    reach = np.arange(-radius, radius + 1)
    inside = reach[:, None] ** 2 + reach**2 <= radius**2
    rows, columns = np.nonzero(inside)
    _paint(image, columns - radius + math.floor(x), rows - radius + math.floor(y), colour)


def square(image: Canvas, x: float, y: float, half: int, colour: Colour) -> None:
    """2 * ``half`` pixels a side, the pixel of (x, y) right and below of the middle, as slicing has it."""
    rows, columns = np.indices((2 * half, 2 * half)).reshape(2, -1)
    _paint(image, columns - half + math.floor(x), rows - half + math.floor(y), colour)


def limb(image: Canvas, start: Sequence[float], end: Sequence[float], width: int, colour: Colour) -> None:
    """A filled ellipse from ``start`` to ``end``, ``width`` its smaller half axis: ``cv2.ellipse2Poly``, then fill."""
    (x0, y0), (x1, y1) = start, end
    angle = math.radians(int(math.degrees(math.atan2(y0 - y1, x0 - x1))))
    centre_x, centre_y = int((x0 + x1) / 2), int((y0 + y1) / 2)
    turn = np.deg2rad(np.arange(361))
    along, across = int(math.hypot(x0 - x1, y0 - y1) / 2) * np.cos(turn), width * np.sin(turn)
    x = np.rint(centre_x + along * math.cos(angle) - across * math.sin(angle))
    y = np.rint(centre_y + along * math.sin(angle) + across * math.cos(angle))
    mask = Image.new("1", (image.shape[1], image.shape[0]))
    ImageDraw.Draw(mask).polygon(list(zip(x.tolist(), y.tolist(), strict=True)), fill=1, outline=1)
    image[np.asarray(mask)] = colour


def thick_line(image: Canvas, start: Sequence[float], end: Sequence[float], colour: Colour) -> None:
    """``cv2.line`` of thickness 2: a bar two pixels wide, its own edges drawn around it, and a cross at either end.

    Differs from OpenCV in a pixel of every twentieth line, where its fixed-point numbers round the other way.
    """
    a = np.floor(np.asarray(start, dtype=float))
    b = np.floor(np.asarray(end, dtype=float))
    length = math.hypot(*(b - a))
    if length > 0:
        side = np.array([(b - a)[1], (a - b)[0]]) / length
        corners = [a + side, a - side, b - side, b + side]
        edges = [_edge(p, q) for p, q in zip(corners, [*corners[1:], corners[0]], strict=True)]
        x, y = np.concatenate(edges).T
        for row in np.unique(y):
            span = np.arange(x[y == row].min(), x[y == row].max() + 1)
            _paint(image, span, np.full_like(span, row), colour)
    for x0, y0 in (a, b):
        disc(image, x0, y0, 1, colour)


def _edge(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.int64]:
    """Pixels (n, 2) of a thin line: one a step along its longer axis."""
    axis = int(np.argmax(np.abs(q - p)))
    if p[axis] > q[axis]:
        p, q = q, p
    steps = math.floor(p[axis] + 0.5) + np.arange(math.floor(q[axis]) - math.floor(p[axis]) + 1)
    run = q[axis] - p[axis]
    slope = (q - p)[1 - axis] / run if run else 0.0
    # the first pixel takes the end point's own height, not the height at its centre, and the count goes by the end
    # points' pixels: so does OpenCV
    other = np.floor(p[1 - axis] + (steps - steps[0]) * slope + 0.5).astype(int)
    return np.stack([steps, other] if axis == 0 else [other, steps], 1)


def _paint(image: Canvas, x: NDArray[np.int64], y: NDArray[np.int64], colour: Colour) -> None:
    inside = (x >= 0) & (y >= 0) & (x < image.shape[1]) & (y < image.shape[0])
    image[y[inside], x[inside]] = colour

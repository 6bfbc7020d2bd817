"""Pictures of what a detector saw: bars of a judgement, and a face with its points and units. Needs no ComfyUI.

Pictures are (N, H, W, 3) float32, RGB in [0, 1], on the CPU, as ComfyUI has them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from auface_diffusers.facs import units
from auface_diffusers.facs.notation import split_name
from comfyui_auface.judging import Judgement, besides, headline, notes
from comfyui_auface.scoring import SEEN, why_not

if TYPE_CHECKING:
    from torch import Tensor

    from auface_diffusers.metrics.detectors import AUDetector, Detections

INK, FAINT, PAPER = (30, 33, 40), (120, 126, 138), (250, 250, 252)
ASKED, BESIDES, TRACK = (52, 120, 246), (240, 140, 40), (228, 230, 236)
RENDER, POINT, ALARM = (20, 150, 90), (60, 230, 140), (200, 40, 40)
WIDTH, ROW, LABEL, EDGE = 760, 26, 300, 16
"""Of the picture of bars, in pixels."""
MOST_ASKED, MOST_BESIDES = 24, 8
SIDE = 384
"""A face is enlarged until its shorter side has about as many pixels, so that the text beside it can be read."""
PANEL = 0.75
"""Width of the panel beside a face, as a share of the face's height."""
LETTERS = "ABCDE"


def score_bars(one: Judgement) -> Tensor:
    """The judgement as bars, (1, H, W, 3): how likely each unit is seen where it was asked for, from 0 to 1.

    Blue is what was asked for, orange what was not; the grey line is chance, the green mark exact renders.
    """
    asked = [row for row in one.rows if row.on]
    others = besides(one)[:MOST_BESIDES]
    left_out = len(asked) - MOST_ASKED
    said = [*notes(one), *([f"{left_out} more units: see the table"] if left_out > 0 else [])]
    asked = asked[:MOST_ASKED]
    gap = ROW if others else 0
    height = 2 * EDGE + 44 + ROW * (len(asked) + len(others)) + gap + 20 * len(said) + 12
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    pen = ImageDraw.Draw(picture)
    title, _, rest = headline(one).partition(" · ")
    pen.text((EDGE, EDGE), title, INK, _font(24))
    pen.text((EDGE + pen.textlength(title, _font(24)) + 14, EDGE + 7), rest, FAINT, _font(16))
    y = EDGE + 44
    for row in asked:
        _bar(pen, y, row.name, row.seen_on, ASKED, row.render)
        y += ROW
    if others:
        pen.text((EDGE, y + 4), "seen without being asked for", FAINT, _font(14))
        y += gap
    for row in others:
        _bar(pen, y, row.name, row.seen_off, BESIDES, float("nan"))
        y += ROW
    y += 12
    for line in said:
        pen.text((EDGE, y), _fitted(pen, line, WIDTH - 2 * EDGE, _font(14)), FAINT, _font(14))
        y += 20
    return _tensor([picture])


def _bar(pen: ImageDraw.ImageDraw, y: int, name: str, value: float, colour: tuple[int, ...], render: float) -> None:
    """A row: name, bar, number; with chance, and exact renders where they are known."""
    left, right = EDGE + LABEL, WIDTH - EDGE - 52
    span = right - left
    pen.text((EDGE, y + 3), _fitted(pen, name, LABEL - 10, _font(15)), INK, _font(15))
    pen.rectangle((left, y + 5, right, y + 18), TRACK)
    known = not np.isnan(value)  # no image with a face was asked
    if known and round(value * span):
        pen.rectangle((left, y + 5, left + round(value * span), y + 18), colour)
    pen.line((left + span // 2, y + 3, left + span // 2, y + 20), FAINT, 1)
    if not np.isnan(render):
        x = left + round(render * span)
        pen.rectangle((x - 1, y + 2, x + 1, y + 21), RENDER)
    pen.text((right + 10, y + 3), f"{value:.2f}" if known else "-", INK, _font(15))


def face_panels(
    detector: AUDetector, images: Sequence[Image.Image], seen: Detections, threshold: float
) -> Iterator[Tensor]:
    """Faces with their points and, beside each, what is seen: (1, H, W, 3) each, all of one size.

    Args:
        images: N pictures of one size. seen: of these. threshold: presence from which a unit is named.
    """
    for row, image in enumerate(images):
        yield _tensor([_panel(detector, image, seen, row, threshold)])


def _panel(detector: AUDetector, image: Image.Image, seen: Detections, row: int, threshold: float) -> Image.Image:
    scale = max(1, round(SIDE / min(image.size)))
    width, height = (side * scale for side in image.size)
    picture = Image.new("RGB", (width + max(SIDE * 3 // 4, int(height * PANEL)), height), PAPER)
    picture.paste(image.resize((width, height), Image.Resampling.BICUBIC))
    pen = ImageDraw.Draw(picture)
    unit = max(12, height // 26)
    if why := why_not(seen, row):
        pen.text((width + unit, unit), why, ALARM, _font(int(unit * 1.2)))
        return picture
    if seen.landmarks is not None:
        radius = max(1.0, height / 260)
        for x, y in (seen.landmarks[row] * scale).tolist():
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), POINT)
    values = dict(zip(detector.columns, seen.presence[row].tolist(), strict=True))
    names = sorted((name for name in detector.coverage if values[name] >= min(SEEN, threshold)), key=values.get)[::-1]
    y, step = unit // 2, int(unit * 1.45)
    if not names:
        pen.text((width + unit, y), "nothing: a neutral face", FAINT, _font(unit))
    for name in names[: max(1, (height - y) // step)]:
        level = "" if seen.level is None else _letter(seen.level[row, detector.columns.index(name)])
        colour = ASKED if values[name] >= threshold else FAINT
        right = picture.width - unit // 2
        space = right - width - unit
        pen.rectangle((width + unit // 2, y, width + unit // 2 + round(space * values[name]), y + step - 4), TRACK)
        label = f"{name}{level} {units[split_name(name)[0]].name.lower()}"
        number = f"{values[name]:.2f}"
        room = space - pen.textlength(number, _font(unit)) - unit
        pen.text((width + unit, y), _fitted(pen, label, room, _font(unit)), colour, _font(unit))
        pen.text((right - pen.textlength(number, _font(unit)), y), number, colour, _font(unit))
        y += step
    return picture


def _letter(level: float) -> str:
    """Of a level in 0..5, the nearest of A to E; what is seen is at least a trace."""
    return LETTERS[min(4, max(0, round(level) - 1))]


def _fitted(pen: ImageDraw.ImageDraw, text: str, room: float, font: ImageFont.FreeTypeFont) -> str:
    """As much of a text as there is room for, in pixels."""
    if pen.textlength(text, font) <= room:
        return text
    while text and pen.textlength(text + "...", font) > room:
        text = text[:-1]
    return text.rstrip() + "..."


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


def _tensor(images: Sequence[Image.Image]) -> Tensor:
    import torch

    return torch.from_numpy(np.stack([np.asarray(one, dtype=np.float32) / 255 for one in images]))

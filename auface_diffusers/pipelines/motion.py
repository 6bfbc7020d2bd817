"""Where a face changes with its expression, on the grid of codes; and sequences that change only there."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from auface_diffusers.anatomy import region_mask
from auface_diffusers.facs import AUSet, resolve
from auface_diffusers.pipelines.expressions import UNTOLD_SIDE, Expression
from auface_diffusers.pipelines.heads import head_model
from auface_diffusers.pipelines.people import Faces
from auface_diffusers.pipelines.steps import Drawn, FacePipeline, Run


def changed_cells(
    pipe: FacePipeline, faces: Faces, before: Sequence[Expression], threshold: float | None = None
) -> Tensor:
    """How much of each cell changes from expressions ``before`` to those of ``faces``.

    Returns:
        (B, h, w) float32 on the CPU: 0 not at all, up to 1; cells beside a changed one have a little.
    """
    head = head_model(str(pipe._execution_device))
    size = pipe.face_tokenizer.config["image_size"]
    scores = [[one.effective for one in side] for side in (before, faces.expressions)]
    first, last = (head(faces.codes, side, pose=faces.pose, gaze=faces.gaze) for side in scores)
    before_levels, after_levels = (head.levels(side) for side in scores)
    looks, camera = faces.appearances, pipe.camera()
    mask = region_mask(head, before_levels, after_levels, first, last, looks, size, threshold, camera)
    return cell_shares(mask.cpu(), pipe.face_tokenizer.grid_size)


def cell_shares(mask: Tensor, grid: int, widen: bool = True) -> Tensor:
    """Share (B, h, w) of each cell that a mask (B, S, S) bool has; ``widen`` gives their neighbours a little."""
    share = F.adaptive_avg_pool2d(mask[:, None].float(), grid)
    if widen:
        around = F.max_pool2d((share > 0).float(), 3, 1, 1)
        share = torch.where(share > 0, share, around * 1e-6)
    return share[:, 0]


def strongest_cells(shares: Tensor, strength: float) -> Tensor:
    """(B, h, w) bool: of the cells whose share is above 0, the part ``strength`` (0..1) that changes most."""
    flat = shares.flatten(1)
    count = [math.ceil(strength * n - 1e-9) for n in (flat > 0).sum(1).tolist()]
    place = flat.argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    chosen: Tensor = place < torch.tensor(count)[:, None]
    return chosen.view_as(shares)


def slots(cells: Tensor, groups: int) -> Tensor:
    """(B, N) bool of cells (B, h, w): all codes of a cell."""
    return cells.flatten(1).repeat_interleave(groups, 1)


def scores_between(a: AUSet, b: AUSet, count: int) -> list[AUSet]:
    """``count`` >= 2 scores from ``a`` to ``b``, levels blended linearly.

    Where units of one end exclude units of the other, no rule may decide in the middle of the way, which would be a
    jump: what only ``a`` has goes away first, and what only ``b`` has comes after it.
    """
    first, last = (resolve(one.choose_side(UNTOLD_SIDE)).effective for one in (a, b))
    middle = first.blend(last, 0.5)
    if resolve(middle).effective.codes == middle.codes:
        path = [first, last]
    else:
        path = [first, middle.only([code for code in first.codes if code in last.codes]), last]
    between = []
    for place in range(1, count - 1):
        way = place / (count - 1) * (len(path) - 1)
        leg = min(int(way), len(path) - 2)
        between.append(path[leg].blend(path[leg + 1], way - leg))
    return [a, *between, b]


def draw_sequence(pipe: FacePipeline, faces: Faces, run: Run, output_type: str) -> tuple[Drawn, Tensor]:
    """Frames of one person, each from the codes of the one before.

    The threshold of motion shrinks with the number of frames, so that what moves slowly is redrawn as well.

    Returns:
        What was drawn, F frames, fewer after an interrupt; and (F, h, w) bool, the cells that were drawn.
    """
    groups, size = pipe.face_tokenizer.code_shape[2], pipe.face_tokenizer.config["image_size"]
    drawn = [pipe.draw(faces.part(0, 1), run, output_type)]
    edited = [torch.ones(1, *pipe.face_tokenizer.code_shape[:2], dtype=torch.bool)]
    for row in range(1, len(faces)):
        if pipe.interrupt:
            break
        frame, before = faces.part(row, row + 1), faces.expressions[row - 1 : row]
        cells = changed_cells(pipe, frame, before, size / 256 / (len(faces) - 1)) > 0
        drawn.append(pipe.draw(frame, run, output_type, drawn[-1].codes, slots(cells, groups)))
        edited.append(cells)
    names = ("codes", "images", "structure")
    return Drawn(*(torch.cat([getattr(one, name) for one in drawn]) for name in names)), torch.cat(edited)

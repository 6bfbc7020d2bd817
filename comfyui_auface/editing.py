"""What the editing node asks the pipeline for. Needs no ComfyUI; torch comes in with the pictures.

Shapes: B pictures, H and W pixels, F faces: the largest of the batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from comfyui_auface.expression import Expression
from comfyui_auface.generating import CHUNK, People

if TYPE_CHECKING:
    from torch import Tensor

    from auface_diffusers.pipelines import VQAUFaceEditPipeline, VQAUFacePipelineOutput

MIN_SIDE = 32
"""Smaller pictures show no face; as in the library."""
CROP = "crop it so that the face fills about 70 % of its side, such as with Image Crop"


def check_image(image: Tensor) -> Tensor:
    """IMAGE (B, H, W, 3) as the pipeline takes it: (B, 3, H, W) float32 in [0, 1]; what lies outside is clipped.

    Raises:
        ValueError: it is not square, too small, not RGB, or has values that are no numbers.
    """
    _, height, width, channels = image.shape
    if channels != 3:
        raise ValueError(f"image has {channels} channels: give RGB, such as from Split Image with Alpha")
    if height != width or height < MIN_SIDE:
        raise ValueError(
            f"image is {width} x {height} pixels: it has to be square, at least {MIN_SIDE} x {MIN_SIDE}; {CROP}"
        )
    if not image.isfinite().all():
        raise ValueError("image has values that are no numbers (NaN or infinite): look at the node before it")
    return image.movedim(-1, 1).float().cpu().clamp(0, 1)


def check_mask(mask: Tensor, image: Tensor, count: int) -> Tensor:
    """MASK (B, H, W) or (H, W) as the pipeline takes it: (1 or ``count``, H, W).

    Args:
        image: (B, 3, H, W) that it belongs to. count: faces.

    Raises:
        ValueError: it has another size or number, or is empty.
    """
    masks = mask if mask.ndim == 3 else mask[None]
    size = tuple(image.shape[-2:])
    if tuple(masks.shape[1:]) != size:
        raise ValueError(
            f"mask is {masks.shape[2]} x {masks.shape[1]} pixels and image {size[1]} x {size[0]}: they have to be of "
            "one size. (Load Image gives an empty mask of 64 x 64 for a picture without transparency: disconnect it)"
        )
    if len(masks) not in (1, count):
        raise ValueError(f"mask has {len(masks)} masks for {count} faces: give one, or one for each")
    if not (masks >= 0.5).any():
        raise ValueError("mask is empty: nothing would be drawn; paint what is to change, or disconnect it")
    return masks.float().cpu().clamp(0, 1)


def count_faces(image: Tensor, expression: Expression, source: Expression | None, people: People | None) -> int:
    """How many faces there are: what has one goes with every one of the others.

    Raises:
        ValueError: the batches differ.
    """
    counts = {"image": len(image), "expression": len(expression)}
    counts |= {name: len(one) for name, one in (("source", source), ("people", people)) if one is not None}
    most = max(counts.values())
    if any(count not in (1, most) for count in counts.values()):
        said = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise ValueError(f"batches differ: {said}; give one of each, or the same number")
    return most


def edit(
    pipe: VQAUFaceEditPipeline,
    image: Tensor,
    expression: Expression,
    source: Expression | None,
    people: People | None,
    mask: Tensor | None,
    **options: Any,  # noqa: ANN401 - of the pipeline's call
) -> VQAUFacePipelineOutput:
    """Draw pictures (B, 3, H, W) with another expression; ``options`` go to the pipeline.

    Args:
        source: what the pictures show, or None: as ``people`` say, else as the pipeline's estimator reads.
        people: of faces that were drawn here, or None: then head and camera are fitted to the pictures.
        mask: see `check_mask`.
    """
    shown = source if source is not None else people.expression if people else None
    found: Any = pipe(
        image,
        aus=list(expression),
        source_aus=None if shown is None else list(shown),
        identity=None if people is None else people.codes,
        attributes=None if people is None else list(people.attributes),
        mask=mask,
        max_batch=CHUNK,
        output_type="pt",
        **options,
    )
    return found


def drawn_mask(out: VQAUFacePipelineOutput) -> Tensor:
    """Where something was drawn: MASK (F, S, S) float32, 0 or 1."""
    side = out.images.shape[-1] // out.edited.shape[-1]
    return out.edited.float().repeat_interleave(side, 1).repeat_interleave(side, 2)

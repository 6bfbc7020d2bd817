"""What the generating nodes ask the pipelines for. Needs no ComfyUI; torch comes in with the pipeline.

Shapes: N frames of an expression, F faces = N times the faces of each.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from auface_diffusers.facs import AUSet
from comfyui_auface.expression import Expression, choose

if TYPE_CHECKING:
    from torch import Tensor

    from auface_diffusers.pipelines import VQAUFacePipeline, VQAUFacePipelineOutput

ANY = "any"
"""Leaves an attribute to the person or the scene."""
GENDERS = ("female", "male")
SKINS = ("fair", "light", "medium", "olive", "brown", "dark")
HAIR_STYLES = ("bald", "buzz", "short", "side part", "receding", "curly", "afro", "bob", "long", "bun")
HAIR_COLORS = ("black", "dark brown", "brown", "light brown", "blond", "red", "gray", "white")
BACKGROUNDS = ("plain", "gradient", "bokeh", "room")
COLORS = ("black", "white", "gray", "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "beige")
"""Words of ``anatomy.resolve_attributes``, spelled here so that ComfyUI starts without it; colours are backgrounds."""
AGES = (18, 90)
BATCHES = ("same scene", "film", "own scenes")
NEW_PERSON = -1
"""Identity number that takes the person of the seed."""
MAX_FACES = 4096
"""Faces of one run: a gigabyte of pictures at 256 pixels."""
CHUNK = 16
"""Faces drawn at once: few enough to be cancelled soon, and to keep memory small."""


@dataclass(frozen=True)
class Wish:
    """What faces are to be drawn.

    Attributes:
        expression: N frames, or None: then the text alone says what is shown. prompt: a text, or "".
        avoid: an expression to keep away from, or None.
        identity: number of the person, or `NEW_PERSON`. attributes: as of ``anatomy.resolve_attributes``.
        batch: one of `BATCHES`. copies: faces of each frame, >= 1.
        steps, guidance: 0 takes the model's own. seed: of the scene and of chance.
    """

    expression: Expression | None
    prompt: str
    avoid: Expression | None
    identity: int
    attributes: dict[str, Any]
    batch: str
    copies: int
    steps: int
    guidance: float
    seed: int

    def __post_init__(self) -> None:
        choose("batch", self.batch, BATCHES)
        count = len(self.expression) if self.expression else 1
        if self.expression is None and not self.prompt.strip():
            raise ValueError("nothing to draw: connect an expression, or write a prompt such as 6C+12D or a text")
        if self.prompt.strip() and count > 1:
            raise ValueError(
                f"one prompt for the {count} expressions of a batch: empty the prompt, and each expression gets its "
                "own text; or disconnect the expression, and the prompt alone says what is drawn"
            )
        if count * self.copies > MAX_FACES:
            raise ValueError(f"{count} expressions times {self.copies} faces: at most {MAX_FACES} faces in one run")
        if self.batch == "film" and self.copies > 1:
            raise ValueError(f"faces of each is {self.copies}: a film has one face a frame; set it to 1")
        if self.avoid and len(self.avoid) not in (1, count):
            raise ValueError(
                f"avoid has {len(self.avoid)} expressions and there are {count} to draw: give one, or one for each"
            )
        if self.avoid and self.batch == "film":
            raise ValueError("avoid has no effect in a film: disconnect it, or set the batch to 'same scene'")
        if self.avoid and self.guidance == 1:
            raise ValueError("avoid has no effect at guidance 1: raise the guidance, set it to 0, or disconnect it")

    @property
    def faces(self) -> int:
        """How many are drawn."""
        return (len(self.expression) if self.expression else 1) * self.copies

    @property
    def rounds(self) -> int:
        """How often the steps are gone through."""
        return self.faces if self.batch == "film" and self.expression else -(-self.faces // CHUNK)

    def seeds(self) -> list[int]:
        """One a face: that of the scene counts on from copy to copy, or from face to face."""
        if self.batch == "own scenes":
            return [self.seed + number for number in range(self.faces)]
        return [self.seed + copy for _ in range(self.faces // self.copies) for copy in range(self.copies)]


PREVIEWED = ("preview", "structure")
"""What a preview is painted from."""


def draw(pipe: VQAUFacePipeline, wish: Wish, callback: Any = None) -> VQAUFacePipelineOutput:  # noqa: ANN401 - as diffusers calls it
    """Draw the faces; ``callback`` is called after each step with ``preview``.

    Raises:
        ValueError: an attribute is not known, or prompt and expression do not say the same.
    """
    options: dict[str, Any] = {
        "identity": None if wish.identity == NEW_PERSON else wish.identity,
        "attributes": wish.attributes or None,
        "guidance_scale": wish.guidance or None,
        "num_inference_steps": wish.steps or None,
        "output_type": "pt",
        "callback_on_step_end": callback,
        "callback_on_step_end_tensor_inputs": PREVIEWED,
    }
    if wish.batch == "film" and wish.expression and not wish.prompt.strip():
        return pipe.sequence(list(wish.expression), seed=wish.seed, **options)
    drawn: Any = pipe(
        prompt=wish.prompt if wish.prompt.strip() else None,
        aus=list(wish.expression) if wish.expression else None,
        negative_aus=list(wish.avoid) if wish.avoid else None,
        num_images_per_prompt=wish.copies,
        seed=wish.seeds(),
        max_batch=CHUNK,
        **options,
    )
    return drawn


def check_prompt(expression: Expression | None, prompt: str) -> None:
    """Raise `ValueError` if a text and a single expression beside it say different things."""
    if expression is None or len(expression) > 1 or not prompt.strip():
        return
    from auface_diffusers.pipelines.expressions import UNTOLD_SIDE, check_agreement

    try:
        check_agreement(prompt, expression.frames[0].choose_side(UNTOLD_SIDE))
    except ValueError as error:
        raise ValueError(f"prompt and expression differ: {error}; or connect the text of this expression") from None


def attributes_of(
    *,
    age: int,
    gender: str,
    skin: str,
    hair_style: str,
    hair_color: str,
    light: str,
    background: str,
    pose: Sequence[float],
    gaze: Sequence[float],
) -> dict[str, Any]:
    """Attributes as of ``anatomy.resolve_attributes``; what is 0, "any" or empty is left out.

    Raises:
        ValueError: a choice that is none, or an age out of range.
    """
    for name, value, options in (
        ("gender", gender, GENDERS),
        ("skin", skin, SKINS),
        ("hair_style", hair_style, HAIR_STYLES),
        ("hair_color", hair_color, HAIR_COLORS),
        ("background", background, (*BACKGROUNDS, *COLORS)),
    ):
        choose(name, value, (ANY, *options))
    if age and not AGES[0] <= age <= AGES[1]:
        raise ValueError(f"age {age}: give {AGES[0]} to {AGES[1]} years, or 0 for the person's own age")
    hair = " ".join(one for one in (hair_style, hair_color) if one != ANY)
    given: dict[str, Any] = {"age": age, "gender": gender, "skin": skin, "hair": hair, "light": light.strip()}
    given["background"] = background
    said = {name: value for name, value in given.items() if value not in (0, "", ANY)}
    turns = {"head_pose": tuple(pose), "gaze": tuple(gaze)}
    return said | {name: angles for name, angles in turns.items() if any(angles)}


def check_light(text: str) -> None:
    """Raise `ValueError` for words about the light that are not known."""
    if text.strip():
        from auface_diffusers.anatomy import resolve_attributes
        from auface_diffusers.anatomy.identity import neutral_code

        resolve_attributes(neutral_code()[None], {"light": text.strip()})


@dataclass(frozen=True)
class People:
    """F faces that were drawn, as `VQAUFaceEditPipeline` takes them to draw the same people in the same scene.

    Attributes:
        expression: F scores. codes: (F, 46), see ``anatomy.identity``. attributes: F mappings.
    """

    expression: Expression
    codes: Tensor
    attributes: tuple[dict[str, Any], ...]

    @classmethod
    def of(cls, out: VQAUFacePipelineOutput) -> People:
        """Those of a pipeline's output."""
        return cls(used(out.aus), out.identity.cpu(), tuple(out.attributes))

    def __len__(self) -> int:
        return len(self.expression)


def used(scores: Sequence[AUSet]) -> Expression:
    """What was drawn, after the rules, as an expression."""
    return Expression(tuple(scores))


def to_comfy(images: Tensor) -> Tensor:
    """Pictures (F, 3, S, S) as ComfyUI has them: (F, S, S, 3) float32."""
    return images.permute(0, 2, 3, 1).contiguous().float()


@contextmanager
def heard() -> Iterator[list[str]]:
    """What the library warns of meanwhile, each once: for the node to show. The list is complete at the end."""
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        yield notes
    for one in caught:
        if not issubclass(one.category, UserWarning):  # nothing for the user of the node: it goes where it was going
            warnings.warn_explicit(one.message, one.category, one.filename, one.lineno)
        elif str(one.message) not in notes:
            notes.append(str(one.message))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the bars that diffusers draws into the log while it loads."""
    from diffusers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()

"""`VQAUFaceEditPipeline`: a picture of a face and action units in, the same face with another expression out."""

# no `from __future__ import annotations`: diffusers reads the types of the constructor at run time

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from auface_diffusers.anatomy.fit import fit_head
from auface_diffusers.anatomy.identity import identity_codes
from auface_diffusers.facs import AUSet
from auface_diffusers.models.au_estimator import AUEstimator
from auface_diffusers.models.face_tokenizer import FaceTokenizer
from auface_diffusers.models.face_transformer import FaceTransformer
from auface_diffusers.models.text_alignment import TextAlignment
from auface_diffusers.pipelines.editing import Picture, load_images, load_mask, paste_onto
from auface_diffusers.pipelines.expressions import Asked, Expression
from auface_diffusers.pipelines.heads import head_model
from auface_diffusers.pipelines.motion import cell_shares, changed_cells, slots, strongest_cells
from auface_diffusers.pipelines.output import VQAUFacePipelineOutput
from auface_diffusers.pipelines.people import (
    Draws,
    Faces,
    Generators,
    Identity,
    Wish,
    attribute_list,
    face_draws,
    identity_count,
    prepare_faces,
)
from auface_diffusers.pipelines.steps import MAX_BATCH, MAX_BATCH_CPU, Callback, FacePipeline
from auface_diffusers.schedulers import MaskedTokenScheduler

Texts = str | Sequence[str] | None
Scores = Asked | Sequence[Asked] | None


class VQAUFaceEditPipeline(FacePipeline):
    """Redraws the parts of a face that a change of expression touches, and keeps the rest.

        >>> edit = VQAUFaceEditPipeline.from_pipe(pipe)
        >>> smiling = edit(photo, "6C+12D", source_aus="0").images[0]

    Args:
        estimator: reads what the picture shows and where its landmarks are; None leaves the first to the caller and
            the second to the face tokenizer's own head.
        tokenizer, text_alignment, transformer, face_tokenizer, scheduler, framing, guidance_scale,
        num_inference_steps: see `StoredPipeline`.

    Arguments of a call; pictures, expressions and people are one for all or one a face:

        image: square pictures, see `load_images`; they are resized to the model's size. The face should fill the
            picture as in the faces that the model draws.
        expression, prompt, aus: the new expression, as in `VQAUFacePipeline`.
        source_aus: what the picture shows; None asks the estimator, or assumes a neutral face, with a warning.
        identity, attributes: of a face that a pipeline drew: its ``output.identity`` and ``output.attributes``.
            Without attributes, head pose and camera are fitted to the landmarks; without an identity the shape of
            the face as well. What is fitted leads the drawing, and what is unknown is taken from the codes kept.
        strength: 0..1, the part of the touched cells that is drawn, those that change most first; 0 is none.
        mask: (H, W) in the picture's frame, or one a face, in place of the cells that the head's motion touches.
        paste: take the pixels outside the cells drawn from the picture itself, with a soft edge, so that they
            keep what codes lose; False gives the picture as the codes have it.
        guidance_scale, num_inference_steps, temperature, generator, seed, max_batch, output_type, return_dict,
        callback_on_step_end, callback_on_step_end_tensor_inputs: as in `VQAUFacePipeline`.

    Raises:
        ValueError: an argument is out of range, batch sizes differ, or prompt and aus disagree.
    """

    model_cpu_offload_seq: Any = "estimator->text_alignment->transformer->face_tokenizer"
    _optional_components = ["estimator"]
    estimator: Any  # an AUEstimator, which mypy cannot call, or None

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text_alignment: TextAlignment,
        transformer: FaceTransformer,
        face_tokenizer: FaceTokenizer,
        scheduler: MaskedTokenScheduler,
        estimator: AUEstimator | None = None,
        framing: str = "face",
        guidance_scale: float = 1.5,
        num_inference_steps: int = 10,
    ) -> None:
        super().__init__()
        self._register(
            framing,
            guidance_scale,
            num_inference_steps,
            tokenizer=tokenizer,
            text_alignment=text_alignment,
            transformer=transformer,
            face_tokenizer=face_tokenizer,
            scheduler=scheduler,
            estimator=estimator,
        )

    @classmethod
    def from_default(cls, **kwargs: Any) -> "VQAUFaceEditPipeline":  # noqa: ANN401 - what diffusers takes
        """Load the weights that come with the package, with the estimator that training may use unless ``estimator``
        names another, or None.

        Raises:
            FileNotFoundError: they are not there.
        """
        if "estimator" not in kwargs:
            kwargs["estimator"] = AUEstimator.from_default()
        return super().from_default(**kwargs)

    @classmethod
    def _model_classes(cls) -> dict[str, Any]:
        return {**super()._model_classes(), "estimator": AUEstimator}

    @torch.no_grad()
    def __call__(
        self,
        image: Picture | Sequence[Picture],
        expression: Scores = None,
        *,
        prompt: Texts = None,
        aus: Scores = None,
        source_aus: Scores = None,
        identity: Identity = None,
        attributes: Wish = None,
        strength: float = 1.0,
        mask: Picture | None = None,
        paste: bool = True,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        temperature: float | Sequence[float] | None = None,
        generator: Generators = None,
        seed: int | Sequence[int] | None = None,
        max_batch: int = MAX_BATCH,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("codes",),
    ) -> VQAUFacePipelineOutput | tuple[Any]:
        """Edit faces; the class describes the arguments. Raises `ValueError` for what is not allowed."""
        callback = (callback_on_step_end, callback_on_step_end_tensor_inputs)
        sampling = {"temperature": temperature}
        run = self.prepare_run(num_inference_steps, (guidance_scale,), sampling, callback, max_batch, output_type)
        try:
            shown = self.encode_expressions(expression, prompt, aus)
            images = load_images(image, self.face_tokenizer.config["image_size"])
            count = self.check_inputs(images, shown, identity, attributes, strength)
            images = images.expand(count, -1, -1, -1)
            source, landmarks = self.read_images(images, source_aus, needed=mask is None or attributes is None)
            draws = face_draws(generator, seed, count)
            faces = self.prepare_people(shown, source, landmarks, identity, attributes, draws)
            cells = self.prepare_cells(faces, source, strength, mask)
            codes = self.encode_images(images)
            drawn = self.draw(faces, run, output_type, codes, slots(cells, self.face_tokenizer.code_shape[2]))
        finally:
            self.maybe_free_model_hooks()
        if paste and output_type != "latent":
            done = len(drawn.codes)
            drawn = drawn._replace(images=paste_onto(images[:done], drawn.images, cells[:done]))
        output = self.prepare_output(faces, drawn, output_type, cells)
        return output if return_dict else (output.images,)

    def check_inputs(
        self, images: Tensor, shown: Sequence[Expression], identity: Identity, attributes: Wish, strength: float
    ) -> int:
        """How many faces there are.

        Raises:
            ValueError: the numbers of what is given differ, or ``strength`` is out of range.
        """
        if not isinstance(strength, int | float) or not 0 <= strength <= 1:
            raise ValueError(f"strength {strength!r}: a number in 0..1")
        if attributes is not None and identity is None:
            raise ValueError("attributes without identity: give both, of a face that a pipeline drew, or none")
        counts = {
            "images": len(images),
            "expressions": len(shown),
            "identities": identity_count(identity),
            "attributes": len(attribute_list(attributes)),
        }
        batch = max(counts.values())
        if any(n not in (0, 1, batch) for n in counts.values()) or not counts["attributes"]:
            said = ", ".join(f"{n} {name}" for name, n in counts.items())
            raise ValueError(f"batch sizes differ: {said}; give one of each for all, or one a face")
        return batch

    def read_images(
        self, images: Tensor, source_aus: Scores = None, needed: bool = True
    ) -> tuple[list[Expression], Tensor]:
        """What pictures (B, 3, S, S) show, and their landmarks (B, 68, 2), shares of the picture.

        ``needed``: whether what they show matters, so that a guess has to be told.

        Raises:
            ValueError: not as many ``source_aus`` as pictures.
        """
        found, read = [], []
        for some in images.split(MAX_BATCH_CPU):
            marks, shown = self._look(some)
            found.append(marks.cpu())
            read += shown
        landmarks = torch.cat(found)
        if source_aus is None and self.estimator is not None:
            source_aus = read
        if source_aus is None:
            source_aus = "0"
            if needed:
                warnings.warn(
                    "source_aus is not given and there is no estimator: the picture is taken for a neutral face",
                    stacklevel=3,
                )
        source = self.encode_expressions(aus=source_aus)
        if len(source) not in (1, len(images)):
            raise ValueError(f"{len(source)} source_aus for {len(images)} faces: give one, or one a face")
        return source * len(images) if len(source) == 1 else source, landmarks.float()

    def _look(self, images: Tensor) -> tuple[Tensor, list[AUSet]]:
        """Landmarks (B, 68, 2) of pictures, and what they show if there is an estimator."""
        device = self._execution_device
        if self.estimator is None:
            pixels = images.to(device, self.face_tokenizer.dtype)
            return self.face_tokenizer(pixels).landmarks, []  # type: ignore[operator] # diffusers' mixins hide that it is a module
        seen = self.estimator(images.to(device))
        return seen.landmarks, self.estimator.to_aus(seen)

    def prepare_people(
        self,
        shown: Sequence[Expression],
        source: Sequence[Expression],
        landmarks: Tensor,
        identity: Identity,
        attributes: Wish,
        draws: Sequence[Draws],
    ) -> Faces:
        """Who is drawn: as given, or as fitted to landmarks (B, 68, 2) of faces that show ``source``."""
        count = len(draws)
        if attributes is not None:
            return prepare_faces(shown, [], identity, attributes, draws, 1)
        known = None if identity is None else identity_codes(identity).float().expand(count, -1)
        head = head_model(str(self._execution_device))
        levels = head.levels([one.effective for one in source])
        fitted = fit_head(head, landmarks, levels, self.camera(), known)
        return Faces(
            expressions=tuple(shown[row % len(shown)] for row in range(count)),
            negatives=(),
            codes=fitted.codes,
            appearances=tuple(fitted.appearances),
            pose=fitted.pose,
            gaze=torch.zeros(count, 2),
            noise=tuple(one.noise for one in draws),
            unknown=("attributes",) if identity is not None else ("identity", "attributes"),
        )

    def prepare_cells(
        self, faces: Faces, source: Sequence[Expression], strength: float, mask: Picture | None = None
    ) -> Tensor:
        """(B, h, w) bool: which cells of the code grid are drawn again."""
        if mask is None:
            shares = changed_cells(self, faces, source)
        else:
            size = self.face_tokenizer.config["image_size"]
            shares = cell_shares(load_mask(mask, size, len(faces)), self.face_tokenizer.grid_size, widen=False)
        return strongest_cells(shares, strength)

    def encode_images(self, images: Tensor) -> Tensor:
        """Codes (B, N) int64 on the CPU of pictures (B, 3, S, S)."""
        place = {"device": self._execution_device, "dtype": self.face_tokenizer.dtype}
        codes = [self.face_tokenizer.encode(some.to(**place)).flatten(1).cpu() for some in images.split(MAX_BATCH_CPU)]
        return torch.cat(codes)

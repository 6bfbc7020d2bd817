"""`VQAUFacePipeline`: action units or text in, a face that shows them out."""

# no `from __future__ import annotations`: diffusers reads the types of the constructor at run time

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from auface_diffusers.facs import AUSet
from auface_diffusers.models.face_tokenizer import FaceTokenizer
from auface_diffusers.models.face_transformer import FaceTransformer
from auface_diffusers.models.text_alignment import TextAlignment
from auface_diffusers.pipelines.expressions import Asked, Expression
from auface_diffusers.pipelines.guidance import Guidance
from auface_diffusers.pipelines.motion import draw_sequence, scores_between
from auface_diffusers.pipelines.output import VQAUFacePipelineOutput
from auface_diffusers.pipelines.people import (
    Generators,
    Identity,
    Wish,
    attribute_list,
    face_draws,
    identity_count,
    prepare_faces,
)
from auface_diffusers.pipelines.steps import MAX_BATCH, Callback, FacePipeline
from auface_diffusers.schedulers import MaskedTokenScheduler

Texts = str | Sequence[str] | None
Scores = Asked | Sequence[Asked] | None
Sampled = float | Sequence[float] | None


class VQAUFacePipeline(FacePipeline):
    """Draws faces from FACS action units or text.

        >>> pipe = VQAUFacePipeline.from_default()
        >>> face = pipe("1C+2C+5B+26C", identity=7, seed=0).images[0]
        >>> same_person = pipe(["6C+12D", "smiling with raised brows"], identity=7, seed=0).images

    Loading, saving, ``.to``, offloading and dtypes work as in every diffusers pipeline. The constructor's arguments
    are described in `StoredPipeline`.

    Arguments of a call; expressions, identities and attributes are one for all faces or one a face:

        expression: what is shown: notation such as ``"1C+2C+26C"``, text, an `AUSet`, or a list of these.
        prompt: text in place of ``expression``. What it says becomes action units: read exactly if it is a text of
            ``facs.describe``, else by a guess, of which a warning tells if words were not understood.
        aus: scores or notation in place of ``expression``, or beside a ``prompt`` that says the same.
        identity: integer seeds or codes (46,) or (B, 46): the same is the same person. None is the person of
            an adapter that is on, see `adapter_person`, or else draws a person a face.
        attributes: age, gender, skin, hair, light, background, head_pose, gaze and fields of an appearance, as a
            mapping or one each; see ``anatomy.resolve_attributes``. What is left open follows person and scene.
        negative_prompt, negative_aus: an expression to keep away from, for ``guidance_scale`` other than 1.
        guidance_scale: see `Guidance`, as for the next three; None takes the pipeline's config.
        num_inference_steps: calls of the transformer, >= 1; None takes the pipeline's config.
        temperature, top_k, top_p, choice_temperature: see `MaskedTokenScheduler`; None takes its config.
        generator: one, or one a face; a face depends on its own only, and what is drawn is the same on every
            device. None draws at random.
        seed: integers in place of generators. ``seed=[3] * 10`` gives ten faces the same scene and noise.
        num_images_per_prompt: faces an expression, >= 1, one after the other.
        max_batch: faces at once, >= 1; on a CPU at most 32. Fewer if memory runs out.
        output_type: "pil", "np", "pt" or "latent", see `VQAUFacePipelineOutput`.
        return_dict: False returns ``(images,)``.
        callback_on_step_end: called as ``f(pipe, step, timestep, tensors)`` after each step of each chunk; may
            return ``{"codes": ...}`` to go on with, and set ``pipe._interrupt = True`` to stop.
        callback_on_step_end_tensor_inputs: what it is given: "codes" (B, N) with masks, "preview" without, "structure"
            (B, K, S, S) or None; ``pipe.decode(preview, structure)`` is what the faces look like so far.

    Raises:
        ValueError: an argument is out of range, batch sizes differ, or prompt and aus disagree.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        text_alignment: TextAlignment,
        transformer: FaceTransformer,
        face_tokenizer: FaceTokenizer,
        scheduler: MaskedTokenScheduler,
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
        )

    @torch.no_grad()
    def __call__(
        self,
        expression: Scores = None,
        *,
        prompt: Texts = None,
        aus: Scores = None,
        identity: Identity = None,
        attributes: Wish = None,
        negative_prompt: Texts = None,
        negative_aus: Scores = None,
        guidance_scale: float | None = None,
        text_guidance_scale: float = 1.0,
        structure_guidance_scale: float = 1.0,
        identity_guidance_scale: float = 1.0,
        num_inference_steps: int | None = None,
        temperature: Sampled = None,
        top_k: int | None = None,
        top_p: float | None = None,
        choice_temperature: float | None = None,
        generator: Generators = None,
        seed: int | Sequence[int] | None = None,
        num_images_per_prompt: int = 1,
        max_batch: int = MAX_BATCH,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("codes",),
    ) -> VQAUFacePipelineOutput | tuple[Any]:
        """Draw faces; the class describes the arguments. Raises `ValueError` for what is not allowed."""
        scales = (guidance_scale, text_guidance_scale, structure_guidance_scale, identity_guidance_scale)
        sampling = _sampling(temperature, top_k, top_p, choice_temperature)
        callback = (callback_on_step_end, callback_on_step_end_tensor_inputs)
        run = self.prepare_run(num_inference_steps, scales, sampling, callback, max_batch, output_type)
        identity = self.adapter_person() if identity is None else identity
        try:
            shown = self.encode_expressions(expression, prompt, aus)
            avoided = self.encode_negatives(negative_prompt, negative_aus, run.guidance)
            count = self.check_inputs(shown, avoided, identity, attributes, num_images_per_prompt)
            draws = face_draws(generator, seed, count)
            faces = prepare_faces(shown, avoided, identity, attributes, draws, num_images_per_prompt)
            drawn = self.draw(faces, run, output_type)
        finally:
            self.maybe_free_model_hooks()
        output = self.prepare_output(faces, drawn, output_type)
        return output if return_dict else (output.images,)

    def encode_negatives(self, prompt: Texts, aus: Scores, guidance: Guidance) -> list[Expression]:
        """The expressions to keep away from, or none.

        Raises:
            ValueError: there are some, but no guidance that uses them.
        """
        if prompt is None and aus is None:
            return []
        if guidance.guidance_scale == 1:
            raise ValueError("negative_prompt and negative_aus do nothing at guidance_scale 1: raise it or leave out")
        return self.encode_expressions(prompt=prompt, aus=aus)

    def check_inputs(
        self,
        shown: Sequence[Expression],
        avoided: Sequence[Expression],
        identity: Identity,
        attributes: Wish,
        num_images_per_prompt: int,
    ) -> int:
        """How many faces there are.

        Raises:
            ValueError: the numbers of what is given differ.
        """
        if not isinstance(num_images_per_prompt, int) or num_images_per_prompt < 1:
            raise ValueError(f"num_images_per_prompt {num_images_per_prompt!r}: an integer >= 1")
        counts = {
            "expressions": len(shown),
            "identities": identity_count(identity),
            "attributes": len(attribute_list(attributes)),
            "negative expressions": len(avoided),
        }
        batch = max(counts.values())
        wrong = {name: n for name, n in counts.items() if n not in (0, 1, batch)}
        if wrong or not counts["attributes"]:
            said = ", ".join(f"{n} {name}" for name, n in counts.items())
            raise ValueError(f"batch sizes differ: {said}; give one of each for all, or one a face")
        return batch * num_images_per_prompt

    @torch.no_grad()
    def interpolate(
        self,
        a: Asked,
        b: Asked,
        frames: int,
        *,
        identity: Identity = None,
        attributes: Wish = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        temperature: Sampled = None,
        generator: Generators = None,
        seed: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
    ) -> VQAUFacePipelineOutput:
        """A steady sequence from one expression to another on one person.

        The first frame is drawn as by a call; each next one keeps the codes of the one before where nothing moves,
        and draws the rest with the same noise.

        Args:
            a, b: scores or notation of the first and the last frame; for those between see `scores_between`.
            frames: >= 2.
            identity, attributes, guidance_scale, num_inference_steps, temperature, generator, seed, output_type,
            callback_on_step_end: as in a call, for one person; steps start at 0 in each frame.

        Raises:
            ValueError: an argument is out of range, or there is more than one person.
        """
        if not isinstance(frames, int) or frames < 2:
            raise ValueError(f"frames {frames!r}: an integer >= 2, the first and the last included")
        ends = [AUSet.parse(one) if isinstance(one, str) else one for one in (a, b)]
        return self.sequence(
            scores_between(ends[0], ends[1], frames),
            identity=identity,
            attributes=attributes,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
            temperature=temperature,
            generator=generator,
            seed=seed,
            output_type=output_type,
            callback_on_step_end=callback_on_step_end,
        )

    @torch.no_grad()
    def sequence(
        self,
        aus: Sequence[Asked],
        *,
        identity: Identity = None,
        attributes: Wish = None,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        temperature: Sampled = None,
        generator: Generators = None,
        seed: int | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("codes",),
    ) -> VQAUFacePipelineOutput:
        """A steady sequence of expressions on one person, as `interpolate` draws the way between two.

        Args:
            aus: scores or notation, one a frame, at least one.
            identity, attributes, guidance_scale, num_inference_steps, temperature, generator, seed, output_type,
            callback_on_step_end, callback_on_step_end_tensor_inputs: as in a call, for one person; steps start at 0
                in each frame.

        Raises:
            ValueError: an argument is out of range, or there is more than one person.
        """
        callback = (callback_on_step_end, callback_on_step_end_tensor_inputs)
        sampling = _sampling(temperature)
        run = self.prepare_run(num_inference_steps, (guidance_scale,), sampling, callback, MAX_BATCH, output_type)
        identity = self.adapter_person() if identity is None else identity
        try:
            shown = self.encode_expressions(aus=aus)
            if self.check_inputs(shown[:1], [], identity, attributes, 1) != 1:
                raise ValueError("a sequence has one person: give one identity and one set of attributes")
            draws = face_draws(generator, seed, 1) * len(shown)
            faces = prepare_faces(shown, [], identity, attributes, draws, 1)
            drawn, edited = draw_sequence(self, faces, run, output_type)
        finally:
            self.maybe_free_model_hooks()
        return self.prepare_output(faces, drawn, output_type, edited)


def _sampling(
    temperature: Sampled = None,
    top_k: int | None = None,
    top_p: float | None = None,
    choice_temperature: float | None = None,
) -> dict[str, Any]:
    return {"temperature": temperature, "top_k": top_k, "top_p": top_p, "choice_temperature": choice_temperature}

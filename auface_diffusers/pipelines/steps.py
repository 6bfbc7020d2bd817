"""`FacePipeline`: the steps that drawing and editing share.

Shapes: B faces, n branches of guidance, S image size, h = w code grid, G code groups, N = h * w * G slots.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from auface_diffusers.anatomy import Camera, attribute_vector, structure_map
from auface_diffusers.facs import AUSet
from auface_diffusers.pipelines.base import StoredPipeline
from auface_diffusers.pipelines.chunks import in_chunks
from auface_diffusers.pipelines.expressions import Asked, Expression, gather_expressions
from auface_diffusers.pipelines.guidance import Conditions, Guidance, dropped_sources
from auface_diffusers.pipelines.heads import head_model
from auface_diffusers.pipelines.output import OUTPUT_TYPES, VQAUFacePipelineOutput, to_output_type
from auface_diffusers.pipelines.people import Faces

MAX_BATCH = 512
"""Faces that are drawn at once; more are drawn one chunk after the other."""
MAX_BATCH_CPU = 32
"""The same on a CPU, where running out of memory ends the process instead of raising an error."""
READ_DIGITS = 2
"""Decimals of levels that the text model reads."""

Callback = Callable[[Any, int, int, dict[str, Any]], "dict[str, Any] | None"]


@dataclass(frozen=True)
class Run:
    """How faces are drawn: the settings of one call.

    Attributes:
        steps: calls of the transformer, >= 1. guidance: see `Guidance`.
        sampling: overrides of the scheduler: temperature, top_k, top_p, choice_temperature; None leaves its config.
        max_batch: faces at once, >= 1.
        callback: called after each step, with the names of ``callback_inputs``.
    """

    steps: int
    guidance: Guidance
    sampling: dict[str, Any] = field(default_factory=dict)
    max_batch: int = MAX_BATCH
    callback: Callback | None = None
    callback_inputs: tuple[str, ...] = ("codes",)


class Drawn(NamedTuple):
    """Codes (B, N), pictures (B, 3, S, S) and structure maps (B, K, S, S), on the CPU."""

    codes: Tensor
    images: Tensor
    structure: Tensor


class FacePipeline(StoredPipeline):
    """The steps that `VQAUFacePipeline` and `VQAUFaceEditPipeline` share; for the arguments see `StoredPipeline`."""

    _callback_tensor_inputs = ["codes", "preview", "structure"]

    @property
    def interrupt(self) -> bool:
        """Set ``pipe._interrupt = True``, for example in a callback, to stop after the present step."""
        return self._interrupt

    def encode_expressions(
        self,
        expression: Asked | Sequence[Asked] | None = None,
        prompt: str | Sequence[str] | None = None,
        aus: Asked | Sequence[Asked] | None = None,
    ) -> list[Expression]:
        """Scores and texts of what is asked for, one a face; see `gather_expressions`."""
        return gather_expressions(expression, prompt, aus, self._read, self._fits)

    def _tokens(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        limit = self.text_alignment.config["max_length"]
        found = self.tokenizer(texts, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        device = self._execution_device
        return found["input_ids"].to(device), found["attention_mask"].to(device)

    def _read(self, text: str) -> AUSet:
        levels = self.text_alignment.read(*self._tokens([text]))[0].float().tolist()
        return AUSet.from_vector([round(level, READ_DIGITS) for level in levels], self.text_alignment.channels)

    def _fits(self, text: str) -> bool:
        found = self.tokenizer(self.with_triggers([text])[0], truncation=False, verbose=False)["input_ids"]
        return len(found) <= int(self.text_alignment.config["max_length"])

    def encode_prompt(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """``text`` (B, L, D), ``text_mask`` (B, L) and ``embedding`` (B, D) of texts, for the transformer.

        Trigger words of adapters come before the texts.
        """
        ids, mask = self._tokens(self.with_triggers(texts))
        read = self.text_alignment(ids, mask)
        return {"text": read.hidden_states, "text_mask": mask, "embedding": read.embedding}

    def prepare_structure(self, faces: Faces, expressions: Sequence[Expression]) -> Tensor:
        """Structure maps (B, K, S, S) float32 of people who show expressions, seen by the pipeline's camera."""
        head = head_model(str(self._execution_device))
        shown = [one.effective for one in expressions]
        mesh = head(faces.codes, shown, pose=faces.pose, gaze=faces.gaze)
        size = self.face_tokenizer.config["image_size"]
        drawn = structure_map(mesh, head, faces.appearances, size, self.camera(), shown, oversample=1)
        return drawn[:, : self._map_channels()]  # later versions draw more of them

    def _map_channels(self) -> int:
        """Of structure maps, that one of the models takes."""
        return max(int(model.config["structure_channels"]) for model in (self.transformer, self.face_tokenizer))

    def camera(self) -> Camera:
        """The camera of the faces that the transformer was trained on."""
        return Camera.framed(self.config["framing"], self.face_tokenizer.config["image_size"])

    def prepare_conditions(self, faces: Faces, structure: Tensor, guidance: Guidance) -> Conditions:
        """What the transformer is given, for all branches of the guidance at once.

        Args:
            faces: B of them. structure: (B, K, S, S) of their expressions.
            guidance: says which branches there are.
        """
        branches = guidance.branches(bool(faces.negatives))
        device, kind = self._execution_device, self.transformer.dtype
        said = [faces.expressions] + ([faces.negatives] if any(one.negative for one in branches) else [])
        encoded = self.encode_prompt([one.text for kind_of in said for one in kind_of])
        encoded["structure"] = structure
        if len(said) > 1:
            encoded["structure"] = torch.cat([structure, self.prepare_structure(faces, faces.negatives)])
        encoded["structure"] = encoded["structure"][:, : self.transformer.config["structure_channels"]]
        batch = len(faces)
        tensors = {}
        for name, value in encoded.items():
            rows = [value[batch:] if branch.negative else value[:batch] for branch in branches]
            tensors[name] = torch.cat(rows).to(device, value.dtype if name == "text_mask" else kind)
        looks = attribute_vector(faces.appearances)
        for name, value in (("identity", faces.codes), ("attributes", looks)):
            tensors[name] = value.to(device, kind).repeat(len(branches), 1)
        dropped = dropped_sources(branches, faces.unknown, batch)
        weights = tuple(branch.weight for branch in branches)
        return Conditions(tensors, {name: flags.to(device) for name, flags in dropped.items()}, weights)

    def prepare_codes(self, batch: int) -> Tensor:
        """Codes (B, N) int64 of which nothing is known."""
        height, width, groups = self.face_tokenizer.code_shape
        return torch.full((batch, height * width * groups), self.transformer.mask_token_id)

    def denoise(
        self,
        codes: Tensor,
        conditions: Conditions,
        noise: Sequence[int],
        run: Run,
        editable: Tensor | None = None,
        structure: Tensor | None = None,
    ) -> Tensor | None:
        """Reveal masked codes step by step.

        Args:
            codes: (B, N) int64, masked where ``editable`` (B, N) bool says so; None is everywhere.
            conditions: of the B faces. noise: B seeds. run: the settings.
            structure: (B, K, S, S) or None, what `decode` is going to be given, for the callback.

        Returns:
            Codes (B, N) without masks; after an interrupt a preview, or None if there was no step before it.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in noise]
        device = self._execution_device
        codes, preview = codes.to(device), None
        editable = None if editable is None else editable.to(device)
        self.scheduler.set_timesteps(run.steps, **run.sampling)
        encode: Any = self.transformer.encode_conditions
        encoded = encode(**conditions.tensors, dropped=conditions.dropped)
        with self.progress_bar(total=run.steps) as bar:
            for step, timestep in enumerate(self.scheduler.timesteps):
                if self.interrupt:
                    return preview
                many = codes.repeat(len(conditions.weights), 1)
                logits = self.transformer(many, conditions=encoded)  # type: ignore[operator] # diffusers' mixins hide that it is a module
                logits = conditions.combine(logits)
                codes, preview = self.scheduler.step(
                    logits, timestep, codes, generators, editable=editable, return_dict=False
                )
                if run.callback is not None:
                    values = {"codes": codes, "preview": preview, "structure": structure}
                    given = {name: values[name] for name in run.callback_inputs}
                    codes = (run.callback(self, step, int(timestep), given) or {}).get("codes", codes)
                bar.update()
        return codes

    def decode(self, codes: Tensor, structure: Tensor | None = None) -> Tensor:
        """Pictures (B, 3, S, S) float32 in [0, 1] on the CPU of codes (B, N) or (B, h, w, G).

        ``structure``: (B, K, S, S) of the same faces, for the lines of the skin that codes lose; None goes without.
        """
        device = self._execution_device
        given = None if structure is None else structure.to(device)
        images: Tensor = self.face_tokenizer.decode(codes.to(device), given)
        return images.float().cpu()

    def draw(
        self, faces: Faces, run: Run, output_type: str, codes: Tensor | None = None, editable: Tensor | None = None
    ) -> Drawn:
        """All steps from people and expressions to pictures, a chunk of faces after the other.

        Args:
            faces: B of them. run: the settings. output_type: "latent" leaves the pictures out.
            codes: (B, N) of pictures to draw in. editable: (B, N) bool, the slots of these to draw again.
        """

        def part(begin: int, end: int) -> Drawn | None:
            some = faces.part(begin, end)
            structure = self.prepare_structure(some, some.expressions)
            start, slots = self.prepare_codes(len(some)), None
            if codes is not None and editable is not None:
                slots = editable[begin:end]
                start = codes[begin:end].masked_fill(slots, self.transformer.mask_token_id)
            found: Tensor | None = start
            guide = structure if run.guidance.structure_guidance_scale else None
            if slots is None or slots.any():
                conditions = self.prepare_conditions(some, structure, run.guidance)
                found = self.denoise(start, conditions, some.noise, run, slots, guide)
            if found is None:
                return None
            images = torch.empty(0) if output_type == "latent" else self.decode(found, guide)
            return Drawn(found.cpu(), images, structure.cpu())

        device = self._execution_device
        limit = min(run.max_batch, MAX_BATCH_CPU) if device.type == "cpu" else run.max_batch
        parts = in_chunks(len(faces), limit, part)
        if not parts:
            size, channels = self.face_tokenizer.config["image_size"], self._map_channels()
            return Drawn(self.prepare_codes(0), torch.empty(0, 3, size, size), torch.empty(0, channels, size, size))
        return Drawn(*(torch.cat([getattr(one, name) for one in parts]) for name in ("codes", "images", "structure")))

    def prepare_output(
        self, faces: Faces, drawn: Drawn, output_type: str, edited: Tensor | None = None
    ) -> VQAUFacePipelineOutput:
        """Put together what a call returns; ``edited`` (B, h, w) bool is where it drew, None is everywhere."""
        count = len(drawn.codes)
        shown = faces.expressions[:count]
        codes = drawn.codes.reshape(count, *self.face_tokenizer.code_shape)
        everywhere = torch.ones(codes.shape[:3], dtype=torch.bool)
        return VQAUFacePipelineOutput(
            images=codes if output_type == "latent" else to_output_type(drawn.images, output_type),
            aus=[one.effective for one in shown],
            texts=[one.text for one in shown],
            traces=[one.resolution.trace for one in shown],
            structure=drawn.structure,
            codes=codes,
            identity=faces.codes[:count],
            appearances=list(faces.appearances[:count]),
            attributes=faces.attributes()[:count],
            edited=everywhere if edited is None else edited[:count],
        )

    def prepare_run(
        self,
        steps: int | None,
        scales: Sequence[Any],
        sampling: dict[str, Any],
        callback: tuple[Callback | None, Sequence[str]],
        max_batch: int,
        output_type: str,
    ) -> Run:
        """The settings of a call, checked; None takes the pipeline's config.

        Args:
            steps: calls of the transformer. scales: numbers in the order of `Guidance`. sampling: see `Run`.
            callback: what to call and with what. max_batch, output_type: as in a call.

        Raises:
            ValueError: a setting out of range.
        """
        first = self.config["guidance_scale"] if scales[0] is None else scales[0]
        guidance = Guidance(first, *scales[1:])
        steps = self.config["num_inference_steps"] if steps is None else steps
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type {output_type!r}: one of {', '.join(OUTPUT_TYPES)}")
        if not isinstance(max_batch, int) or max_batch < 1:
            raise ValueError(f"max_batch {max_batch!r}: an integer >= 1")
        unknown = set(callback[1]) - set(self._callback_tensor_inputs)
        if unknown:
            allowed = ", ".join(self._callback_tensor_inputs)
            raise ValueError(f"callback_on_step_end_tensor_inputs {', '.join(sorted(unknown))}: there are {allowed}")
        self.scheduler.set_timesteps(steps, **sampling)  # checks both
        self._interrupt = False
        return Run(steps, guidance, sampling, max_batch, callback[0], tuple(callback[1]))

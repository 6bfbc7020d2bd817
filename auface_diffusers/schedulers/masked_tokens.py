"""Parallel decoding of masked VQ tokens: MaskGIT (arXiv 2202.04200, section 3.2) and MUSE (arXiv 2301.00704).

Letters in shapes: B images, N token slots of an image (grid positions times code groups), V codes of a slot.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from diffusers.utils import BaseOutput
from torch import Tensor

SCHEDULES: dict[str, Callable[[Tensor], Tensor]] = {
    "cosine": lambda progress: torch.cos(progress * math.pi / 2),  # MaskGIT's choice, its section 3.3
    "arccos": lambda progress: torch.acos(progress) * 2 / math.pi,  # leaves more to the last steps
    "linear": lambda progress: 1 - progress,
}
"""Share of the tokens that are masked, 1 to 0, by progress, 0 to 1."""
ROUNDING = 1e-9
"""Added before a count is rounded down: 10 * (1 - 0.9) is a little less than 1 in float64."""

Generators = torch.Generator | Sequence[torch.Generator] | None


@dataclass
class MaskedTokenSchedulerOutput(BaseOutput):
    """What a step gives.

    Attributes:
        prev_sample: (B, N) int64, the model's next input: tokens, and the mask's id where they are still unknown.
        pred_original_sample: (B, N) int64, all tokens as this step would have them: a preview without masks.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


@dataclass(frozen=True)
class _Sampling:
    """How tokens are drawn and chosen in a run; `MaskedTokenScheduler` describes the fields."""

    temperature: float | Sequence[float]
    top_k: int
    top_p: float
    choice_temperature: float

    def __post_init__(self) -> None:
        if len(self.ends) != 2 or not all(math.isfinite(end) and end >= 0 for end in self.ends):
            raise ValueError(f"temperature {self.temperature!r}: a finite number >= 0, or two: first and last step")
        if self.top_k < 0 or self.top_k != int(self.top_k):
            raise ValueError(f"top_k {self.top_k!r}: an integer >= 0, where 0 keeps all codes")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p!r}: a number in (0, 1], where 1 keeps all codes")
        if not (math.isfinite(self.choice_temperature) and self.choice_temperature >= 0):
            raise ValueError(f"choice_temperature {self.choice_temperature!r}: a finite number >= 0")

    @property
    def ends(self) -> tuple[float, ...]:
        if isinstance(self.temperature, (int, float)):
            return (self.temperature, self.temperature)
        return tuple(self.temperature)

    def temperature_at(self, step: int, steps: int) -> float:
        """Linear from the first step, 0, to the last, ``steps - 1``."""
        first, last = self.ends
        return first + (last - first) * step / max(steps - 1, 1)

    def draw(self, logits: Tensor, temperature: float, generators: list[torch.Generator | None]) -> Tensor:
        """Codes (B, N) drawn from logits (B, N, V) float32 with the Gumbel-max trick."""
        if temperature == 0:
            return logits.argmax(-1)
        noise = _gumbel(logits.shape[1:], generators).to(logits.device)
        # argmax(logits / temperature + noise), without a division that overflows
        return (self._kept(logits, temperature) + temperature * noise).argmax(-1)

    def _kept(self, logits: Tensor, temperature: float) -> Tensor:
        """Logits with -inf outside the ``top_k`` codes and, among these, the fewest that have ``top_p`` together."""
        if self.top_k == 0 and self.top_p == 1:
            return logits
        ranked, order = logits.sort(dim=-1, descending=True, stable=True)
        if self.top_k:
            ranked[..., self.top_k :] = -torch.inf
        if self.top_p < 1:
            shares = (ranked / temperature).softmax(-1)
            ranked[shares.cumsum(-1) - shares >= self.top_p] = -torch.inf  # never the first: it has 0 before it
        return torch.empty_like(logits).scatter(-1, order, ranked)


class MaskedTokenScheduler(SchedulerMixin, ConfigMixin):
    """Reveals masked tokens in a few steps: each step draws all of them, keeps the surest, and masks the rest again.

    Args:
        mask_token_id: the token that stands for "unknown". Codes are smaller: 0 .. V - 1, V <= ``mask_token_id``.
        schedule: how many tokens are masked when, a key of `SCHEDULES`.
        temperature: of the draw, >= 0; 0 takes the likeliest code. Two numbers: linear from first to last step.
        top_k: draws only from this many likeliest codes; 0 from all.
        top_p: draws only from the fewest codes that have this probability together, in (0, 1]; 1 from all. Counted
            after ``top_k`` and at the temperature of the draw.
        choice_temperature: of the Gumbel noise on the log-probability by which tokens are kept, >= 0; it falls
            linearly to 0 at the last step. MaskGIT's class-conditional model has 4.5.
        remask: tokens kept in earlier steps may be masked again, if by the present logits they are the least likely.

    Raises:
        ValueError: an argument is out of range.

    Attributes:
        timesteps: (steps,) int64, steps - 1 .. 0.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        mask_token_id: int,
        schedule: str = "cosine",
        temperature: float | Sequence[float] = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        choice_temperature: float = 4.5,
        remask: bool = False,
    ) -> None:
        if mask_token_id < 1:
            raise ValueError(f"mask_token_id {mask_token_id}: an integer >= 1, greater than every code")
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule {schedule!r}: one of {', '.join(SCHEDULES)}")
        self._sampling = _Sampling(temperature, top_k, top_p, choice_temperature)
        self.timesteps = torch.empty(0, dtype=torch.int64)

    def set_timesteps(
        self,
        num_inference_steps: int,
        device: str | torch.device | None = None,
        *,
        temperature: float | Sequence[float] | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        choice_temperature: float | None = None,
    ) -> None:
        """Prepare a run. The config stays as it is: what is None here is taken from it, in each call anew.

        Args:
            num_inference_steps: calls of the model, >= 1.
            device: of `timesteps`; None is the CPU.
            temperature: as in the constructor, for this run; the same holds for the rest.
            top_k: see there.
            top_p: see there.
            choice_temperature: see there.

        Raises:
            ValueError: an argument is out of range.
        """
        if not isinstance(num_inference_steps, int) or num_inference_steps < 1:
            raise ValueError(f"num_inference_steps {num_inference_steps!r}: an integer >= 1")
        given: dict[str, Any] = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "choice_temperature": choice_temperature,
        }
        values = {name: self.config[name] if value is None else value for name, value in given.items()}
        self._sampling = _Sampling(**values)
        self.timesteps = torch.arange(num_inference_steps, device=device).flip(0)

    def step(
        self,
        logits: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        generator: Generators = None,
        *,
        editable: Tensor | None = None,
        return_dict: bool = True,
    ) -> MaskedTokenSchedulerOutput | tuple[Tensor, Tensor]:
        """Draw the masked tokens and mask the least sure of them again; the last step masks none.

        Of an image's M editable tokens floor(M * share) stay masked, where the share is that of the schedule at the
        end of this step; each step leaves fewer masked than it found.

        Args:
            logits: (B, N, V), any float type, the model's output for ``sample``.
            timestep: one of `timesteps`.
            sample: (B, N) int64, tokens in 0 .. V - 1 and the mask's id. In the first step exactly the editable ones
                are masked.
            generator: one for all images, or a list of B: then an image does not depend on the others in its batch.
                Noise is drawn on the generator's device, so CPU generators give the same on every device. None takes
                torch's global CPU generator.
            editable: (B, N) bool, the tokens that are masked when the run starts; the others never change. Give the
                same in every step. None: all.
            return_dict: False returns the fields as a tuple.

        Raises:
            ValueError: a shape, type or value does not fit, or `set_timesteps` was not called.
        """
        steps, timestep = len(self.timesteps), int(timestep)
        if not 0 <= timestep < steps:
            raise ValueError(f"timestep {timestep}: one of the {steps} in scheduler.timesteps, see set_timesteps")
        if editable is None:
            editable = torch.ones_like(sample, dtype=torch.bool)
        masked = sample == self.config["mask_token_id"]
        self._check(logits, sample, masked, editable, first=timestep == steps - 1)
        generators = _per_image(generator, len(sample))
        logits = logits.float()

        temperature = self._sampling.temperature_at(steps - 1 - timestep, steps)
        drawn = self._sampling.draw(logits, temperature, generators)
        tokens = prev_sample = torch.where(masked, drawn, sample)
        if timestep > 0:
            progress = (steps - timestep) / steps
            candidates = editable if self.config["remask"] else masked
            confidence = self._confidence(logits, tokens, progress, generators).masked_fill(~candidates, torch.inf)
            remaining = self._remaining(progress, editable, masked).to(sample.device)
            prev_sample = tokens.masked_fill(_ranks(confidence) < remaining[:, None], self.config["mask_token_id"])
        if not return_dict:
            return prev_sample, tokens
        return MaskedTokenSchedulerOutput(prev_sample, tokens)

    def mask_share(self, progress: Tensor) -> Tensor:
        """Share of the tokens that are masked, in [0, 1] and falling, at ``progress`` in [0, 1], of the same shape.

        In training, ``mask(sample, mask_share(torch.rand(B)))`` meets what decoding meets (MaskGIT, section 3.1).

        Raises:
            ValueError: a number is out of range or not a float.
        """
        _check_shares("progress", progress)
        return SCHEDULES[self.config["schedule"]](progress).clamp(0, 1)  # cos(pi / 2) is -4e-8 in float32

    def mask(self, sample: Tensor, ratio: Tensor, generator: Generators = None) -> tuple[Tensor, Tensor]:
        """Mask a random choice of each image's tokens, for training.

        Args:
            sample: (B, N) int64 tokens.
            ratio: (B,) floats in [0, 1]. round(ratio * N) tokens are masked, at least one.
            generator: as in `step`.

        Returns:
            The tokens (B, N) with masks in them, and where (B, N), bool.

        Raises:
            ValueError: a shape, type or value does not fit.
        """
        _check_tokens(sample)
        if ratio.shape != sample.shape[:1]:
            raise ValueError(f"ratio {tuple(ratio.shape)}: one number an image, ({len(sample)},)")
        _check_shares("ratio", ratio)
        slots = sample.shape[1]
        count = (ratio.float() * slots).round().clamp(min=1).to(sample.device)
        noise = torch.stack([_uniform((slots,), one) for one in _per_image(generator, len(sample))])
        chosen = _ranks(noise.to(sample.device)) < count[:, None]
        return sample.masked_fill(chosen, self.config["mask_token_id"]), chosen

    def _confidence(
        self, logits: Tensor, tokens: Tensor, progress: float, generators: list[torch.Generator | None]
    ) -> Tensor:
        """Log-probability (B, N) of the tokens, with Gumbel noise that ends with the run."""
        confidence = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        temperature = self._sampling.choice_temperature * (1 - progress)
        if temperature == 0:
            return confidence
        return confidence + temperature * _gumbel(tokens.shape[1:], generators).to(tokens.device)

    def _remaining(self, progress: float, editable: Tensor, masked: Tensor) -> Tensor:
        """How many tokens (B,) of each image stay masked. On the CPU in float64: the same on every device."""
        share = self.mask_share(torch.tensor(progress, dtype=torch.float64))
        planned = (editable.sum(1).cpu() * share + ROUNDING).floor().long()
        return torch.minimum(planned, masked.sum(1).cpu() - 1).clamp(min=0)

    def _check(self, logits: Tensor, sample: Tensor, masked: Tensor, editable: Tensor, *, first: bool) -> None:
        _check_tokens(sample)
        if logits.ndim != 3 or logits.shape[:2] != sample.shape or not logits.is_floating_point():
            wanted = f"floats ({sample.shape[0]}, {sample.shape[1]}, V)"
            raise ValueError(f"logits {tuple(logits.shape)} {logits.dtype}: {wanted} are needed")
        codes, mask_token_id = logits.shape[2], self.config["mask_token_id"]
        if codes > mask_token_id:
            raise ValueError(
                f"logits of {codes} codes: at most mask_token_id = {mask_token_id}, no code may be the mask"
            )
        if editable.shape != sample.shape or editable.dtype != torch.bool:
            raise ValueError(
                f"editable {tuple(editable.shape)} {editable.dtype}: bool {tuple(sample.shape)} is needed"
            )
        bad = ~masked & ((sample < 0) | (sample >= codes))
        if bad.any():
            raise ValueError(f"token {sample[bad][0]}: 0..{codes - 1}, or {mask_token_id} for a masked one")
        if (masked & ~editable).any() or (first and (masked != editable).any()):
            counts = f"{int(masked.sum())} tokens are masked and {int(editable.sum())} editable"
            raise ValueError(f"{counts}: they must be the same ones in the first step, and later no others")


def _check_tokens(sample: Tensor) -> None:
    if sample.ndim != 2 or sample.dtype != torch.int64:
        raise ValueError(f"sample {tuple(sample.shape)} {sample.dtype}: int64 (B, N) is needed")


def _check_shares(name: str, shares: Tensor) -> None:
    if not shares.is_floating_point():
        raise ValueError(f"{name} {shares.dtype}: floats in 0..1 are needed")
    bad = ~((shares >= 0) & (shares <= 1))  # also catches NaN
    if bad.any():
        raise ValueError(f"{name} {shares[bad][0]:g}: a number in 0..1")


def _per_image(generator: Generators, batch: int) -> list[torch.Generator | None]:
    if generator is None or isinstance(generator, torch.Generator):
        return [generator] * batch
    if len(generator) != batch:
        raise ValueError(f"{len(generator)} generators for {batch} images: one, or one an image")
    return list(generator)


def _uniform(shape: Sequence[int], generator: torch.Generator | None) -> Tensor:
    device = "cpu" if generator is None else generator.device
    return torch.rand(tuple(shape), generator=generator, device=device, dtype=torch.float32)


def _gumbel(shape: Sequence[int], generators: list[torch.Generator | None]) -> Tensor:
    """Standard Gumbel noise (B, *shape), finite. Each image by itself: vector code may round a batch otherwise."""
    tiny = torch.finfo(torch.float32).tiny
    return torch.stack([-(-_uniform(shape, one).clamp(min=tiny).log()).log() for one in generators])


def _ranks(values: Tensor) -> Tensor:
    """Place (B, N) of each value in its row, 0 the least; equal ones in the order of the row."""
    return values.argsort(dim=1, stable=True).argsort(dim=1)

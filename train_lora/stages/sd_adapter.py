"""Stage "sd-adapter": a LoRA of a Stable Diffusion checkpoint, from pictures with texts of their action units."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from auface_diffusers.facs import units
from auface_diffusers.models.adapters import adapter_layers, adapter_weights, base_hash
from train_lora.adapters import NAME, summary
from train_lora.data.faces import FacesConfig, ShardSource
from train_lora.data.fitted import Some
from train_lora.loop import LoopConfig, Step
from train_lora.precision import settled
from train_lora.stable_diffusion.base import family, is_xl, load_base, models_of, noise_scheduler
from train_lora.stable_diffusion.latents import CAPTIONS, LatentBatch, LatentSource
from train_lora.stable_diffusion.lora import LoraSpec, begin_lora, switched_off
from train_lora.stable_diffusion.lora_file import LoraInfo, lora_card, write_lora
from train_lora.stable_diffusion.text import CaptionEncoder
from train_lora.stages.adapter import FEWEST
from train_lora.stages.sheets import rows
from train_lora.together import shared

FILE = "lora.safetensors"
MULTIPLE = 8
"""Of which a resolution is one: pixels that a latent stands for, in SD 1, SD 2 and SDXL."""
DTYPES = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What the base's weights are kept in, by ``train.precision``; those of the LoRA are float32."""
LEVELS = 4
"""Amounts of noise at which held-out pictures are measured."""


@dataclass(frozen=True)
class SDAdapterConfig:
    """A run of this stage.

    Attributes:
        base: a local checkpoint: a folder of diffusers, or one .safetensors file with ``base_config``, a folder of
            diffusers for the same kind of model.
        data: shards of ``train_lora synth`` or a split of ``train_lora data``.
        lora: see `LoraSpec`.
        resolution: in pixels, a multiple of 8; pictures are resized to it.
        captions: kinds of text to draw a caption from, see ``latents.CAPTIONS``.
        drop: share of captions that are left empty, for guidance.
        min_snr: gamma of min-SNR weighting (arXiv 2303.09556); 5 is usual, 0 is none.
        noise_offset: how much noise is added that is one number a picture and channel, so that brightness is learned
            as well; 0.05 is usual, 0 is none.
        held_out: pictures that are kept from training, for the loss in validation.
        samples: captions that are drawn at every validation, with and without the LoRA; 0 is no sheet.
        sample_steps, guidance: how they are drawn.
        memory: look whether the run fits before it begins, with small steps where it will be: with SDXL on a CPU that
            takes minutes.
    """

    out: str
    train: LoopConfig
    data: FacesConfig
    base: str
    base_config: str = ""
    lora: LoraSpec = field(default_factory=LoraSpec)
    resolution: int = 512
    captions: tuple[str, ...] = ("anatomical", "varied", "compact")
    drop: float = 0.1
    min_snr: float = 0.0
    noise_offset: float = 0.0
    held_out: int = 0
    samples: int = 4
    sample_steps: int = 20
    guidance: float = 7.0
    memory: bool = True

    def __post_init__(self) -> None:
        if self.resolution < MULTIPLE or self.resolution % MULTIPLE:
            raise ValueError(f"resolution {self.resolution}: a multiple of {MULTIPLE} is needed, such as 512")
        unknown = sorted(set(self.captions) - set(CAPTIONS))
        if unknown or not self.captions:
            raise ValueError(f"captions {', '.join(unknown) or 'is empty'}: kinds of text are {', '.join(CAPTIONS)}")
        if not 0 <= self.drop < 1 or min(self.min_snr, self.noise_offset, self.guidance) < 0:
            raise ValueError("drop lies in 0..1 (1 excluded), min_snr, noise_offset and guidance are not below 0")
        if min(self.held_out, self.samples) < 0 or self.sample_steps < 1:
            raise ValueError("held_out and samples are not below 0, sample_steps is at least 1")
        if not self.data.shards:
            raise ValueError("data: name a folder of shards: this stage draws no faces itself")
        if self.data.balanced and self.held_out:
            raise ValueError("held_out: balanced data repeats pictures, so those held out would be trained on as well")


class SDAdapterStage:
    """See `train_lora.loop.Stage`."""

    player = "lora"

    def __init__(self, config: SDAdapterConfig) -> None:
        self.config = config
        shards = config.data.open(pictures=True)
        assert isinstance(shards, ShardSource)
        kept = max(0, len(shards) - config.held_out)
        if kept < FEWEST:
            raise ValueError(
                f"{kept} pictures to train on are too few: give {FEWEST} or more (20 is a good number), or lower "
                f"held_out {config.held_out}"
            )
        self.dtype = DTYPES[settled(config.train.precision)]
        self.pipe = load_base(config.base, config.base_config, self.dtype)
        self.scheduler = noise_scheduler(self.pipe)
        self.hashes = {name: base_hash(getattr(self.pipe, name)) for name in models_of(self.pipe)}
        torch.manual_seed(config.train.seed)  # the first weights
        adapted = begin_lora(self.pipe, config.lora)
        self.players: dict[str, nn.Module] = {self.player: adapted}
        self.text = CaptionEncoder(self.pipe, trained=bool(config.lora.text_targets))
        self.pictures = LatentSource(shards, config.captions, self.pipe.vae, config.resolution, Path(config.out))
        self.source = Some(self.pictures, range(kept))
        self.held_out = Some(self.pictures, range(kept, len(shards)))
        self.of_base: Tensor | None = None

    def losses(self, batch: LatentBatch, step: Step) -> Iterator[tuple[str, Tensor, Mapping[str, float]]]:
        """Mean square error of what the UNet says of the noise."""
        draws = [self._draws(batch.latents.shape[1:], seed) for seed in step.seeds]
        times, noise = (torch.stack(part) for part in zip(*draws, strict=True))
        texts = [self._caption(some, seed) for some, seed in zip(batch.captions, step.seeds, strict=True)]
        cost = self._cost(self.players[self.player], batch, times, noise, texts)
        yield self.player, cost.mean(), {}

    def _draws(self, shape: torch.Size, seed: int) -> tuple[Tensor, Tensor]:
        """How much noise (a timestep), and the noise, for a sample: on the CPU, so a seed means the same anywhere."""
        generator = torch.Generator().manual_seed(seed)
        time = torch.randint(self.scheduler.config["num_train_timesteps"], (), generator=generator)
        noise = torch.randn(shape, generator=generator)
        return time, noise + self.config.noise_offset * torch.randn(shape[0], 1, 1, generator=generator)

    def _caption(self, texts: Sequence[str], seed: int) -> str:
        rng = random.Random(f"caption {seed}")
        if rng.random() < self.config.drop:
            return ""
        return self._with_trigger(rng.choice(texts))

    def _with_trigger(self, text: str) -> str:
        return ", ".join(part for part in (self.config.lora.trigger, text) if part)

    def _cost(
        self, model: nn.Module, batch: LatentBatch, times: Tensor, noise: Tensor, texts: Sequence[str]
    ) -> Tensor:
        """Weighted mean square error of each sample, (B,)."""
        device = self._place()
        latents, noise, times = (one.to(device) for one in (batch.latents, noise, times))
        noisy = self.scheduler.add_noise(latents, noise, times)
        read = self.text(texts)
        given: dict[str, Any] = {"encoder_hidden_states": read.hidden.to(self.dtype)}
        if read.mask is not None:
            given["encoder_attention_mask"] = read.mask
        if read.pooled is not None:
            added = {"text_embeds": read.pooled.to(self.dtype), "time_ids": self._time_ids(batch.sizes, device)}
            given["added_cond_kwargs"] = added
        predicted = model(noisy.to(self.dtype), times, **given).float()
        target = noise
        if self.scheduler.config["prediction_type"] == "v_prediction":
            target = self.scheduler.get_velocity(latents, noise, times)
        error: Tensor = (predicted - target).square().mean((1, 2, 3))
        return error * self._weight(times)

    def _time_ids(self, sizes: Sequence[int], device: torch.device) -> Tensor:
        """SDXL is told the size that a picture had, that nothing was cut off, and the size it has, (B, 6).

        A picture that was enlarged says so; ComfyUI and diffusers then ask for one that was not.
        """
        now = self.config.resolution
        return torch.tensor([[size, size, 0, 0, now, now] for size in sizes], dtype=self.dtype, device=device)

    def _weight(self, times: Tensor) -> Tensor:
        """min-SNR weights (B,): as if no sample had more signal than gamma times its noise."""
        gamma = self.config.min_snr
        if not gamma:
            return torch.ones_like(times, dtype=torch.float32)
        share = self.scheduler.alphas_cumprod.to(times.device)[times].float()
        ratio: Tensor = share / (1 - share)
        if self.scheduler.config["prediction_type"] == "v_prediction":
            return ratio.clamp(max=gamma) / (ratio + 1)
        return (gamma / ratio).clamp(max=1)

    def _place(self) -> torch.device:
        """Where the UNet is; text encoders that are not trained come after it."""
        device: torch.device = next(self.pipe.unet.parameters()).device
        self.text.to(device)
        return device

    def validate(self, model: nn.Module) -> dict[str, float]:
        """Loss of held-out pictures at a few amounts of noise, with the same noise every time."""
        if not len(self.held_out):
            return {}
        found = shared(len(self.held_out), 1, lambda numbers: self._held_out_loss(model, numbers.start))
        return {"loss": sum(found) / len(found)}

    def _held_out_loss(self, model: nn.Module, number: int) -> float:
        batch = self.held_out.__getitems__([number])
        texts = [self._with_trigger(batch.captions[0][0])]
        noise = torch.randn(batch.latents.shape, generator=torch.Generator().manual_seed(number))
        most = self.scheduler.config["num_train_timesteps"]
        times = [torch.tensor([most * (2 * level + 1) // (2 * LEVELS)]) for level in range(LEVELS)]
        return sum(float(self._cost(model, batch, time, noise, texts)) for time in times) / LEVELS

    def sheet(self, model: Any) -> Tensor | None:  # noqa: ANN401 - an AdaptedUNet, eval and averaged
        """Pictures as the VAE has them; the base's for their captions, and the same with the LoRA."""
        if not self.config.samples:
            return None
        shown = self.held_out if len(self.held_out) >= self.config.samples else self.source
        count = min(self.config.samples, len(shown))
        batch = shown.__getitems__([number * len(shown) // count for number in range(count)])
        texts = [self._with_trigger(some[0]) for some in batch.captions]
        if self.of_base is None:
            with switched_off(model):
                self.of_base = self._pictures(texts)
        now = self._pictures(texts)
        return rows([self._decoded(batch.latents), self.of_base, now])

    def _pictures(self, texts: Sequence[str]) -> Tensor:
        """(N, 3, R, R) in [0, 1] as the pipeline draws captions, with the base's own scheduler."""
        device = self._place()
        self.pipe.vae.to(device)  # a pipeline wants its parts in one place
        empty = self.text([""])
        drawn = []
        for number, text in enumerate(texts):
            read = self.text([text])
            # the same tokens twice change no attention, and both have to be of one length
            without = empty.hidden.repeat(1, read.hidden.shape[1] // empty.hidden.shape[1], 1)
            given: dict[str, Any] = {"prompt_embeds": read.hidden, "negative_prompt_embeds": without}
            if is_xl(self.pipe):
                given |= {"pooled_prompt_embeds": read.pooled, "negative_pooled_prompt_embeds": empty.pooled}
            made = self.pipe(
                **given,
                height=self.config.resolution,
                width=self.config.resolution,
                num_inference_steps=self.config.sample_steps,
                guidance_scale=self.config.guidance,
                generator=torch.Generator().manual_seed(number),
                output_type="latent",
            )
            drawn.append(self._decoded(made.images))
        self.pipe.vae.to("cpu")
        return torch.cat(drawn)

    def _decoded(self, latents: Tensor) -> Tensor:
        vae = self.pipe.vae
        images: Tensor = vae.decode(latents.to(vae.device, torch.float32) / vae.config.scaling_factor).sample
        return (images / 2 + 0.5).clamp(0, 1).cpu()

    def export(self, model: nn.Module, folder: Path, report: Mapping[str, Any]) -> None:
        """The LoRA's file and a card."""
        info = self._info(report)
        write_lora(folder / FILE, {part: adapter_weights(getattr(self.pipe, part), NAME) for part in info.base}, info)
        text = lora_card(FILE, info, asdict(self.config), report)
        (folder / "README.md").write_text(text, encoding="utf-8")

    def _info(self, report: Mapping[str, Any]) -> LoraInfo:
        config, spec = self.config, self.config.lora
        layers = {name: len(adapter_layers(getattr(self.pipe, name))) for name in models_of(self.pipe)}
        changed = {name: count for name, count in layers.items() if count}
        said = summary(self.pictures.labels[: len(self.source)], 0)
        return LoraInfo(
            family=family(self.pipe),
            prediction=self.scheduler.config["prediction_type"],
            base_name=Path(config.base).name,
            base={name: self.hashes[name] for name in changed},
            rank=spec.rank,
            alpha=spec.alpha,
            targets=(*spec.targets, *spec.text_targets),
            layers=changed,
            trigger=spec.trigger,
            captions=config.captions,
            drop=config.drop,
            resolution=config.resolution,
            channels=tuple(units.channels),
            data={name: value for name, value in said.items() if name != "without_structure"},
            steps=report["step"],
        )

"""Stage "adapter": a few pictures to an adapter of the generator, by the loop and the losses of the full training."""

from __future__ import annotations

import json
import math
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from auface_diffusers import VQAUFacePipeline
from auface_diffusers.anatomy import Appearance, attribute_vector
from auface_diffusers.cli_models import load_estimator
from auface_diffusers.evaluation.faces import Wanted, draw
from auface_diffusers.facs import resolve, units
from auface_diffusers.metrics.suite import load_suite
from auface_diffusers.pipelines.adapter_files import write_adapter
from auface_diffusers.schedulers import MaskedTokenScheduler
from train_lora.adapters import AdaptedTransformer, AdapterSpec, adapter_card, begin_adapter, finished, summary
from train_lora.before_after import before_after
from train_lora.data.faces import FacesConfig
from train_lora.data.fitted import FittedSource, Some
from train_lora.data.prepared import PreparedBatch, PreparedSource
from train_lora.loop import LoopConfig, Step
from train_lora.precision import settled
from train_lora.read_out import skin_aaad
from train_lora.stages.generator import LEAST, GeneratorStage
from train_lora.stages.sheets import rows
from train_lora.together import processes, shared

FILE, SHEET = "adapter.safetensors", "before_after.png"
FEWEST = 5
"""Pictures that training needs."""
PEOPLE = 1_000_000
"""Whose looks are borrowed."""
ACROSS = 8
DRAWN = 8
"""Faces that are drawn at once: drawing has to fit in the memory that training needs."""
FALL, DRIFT = 0.02, 0.02
"""Of the held-out scores' alignment, and movement of landmarks as a share of the picture, from which it is told."""


@dataclass(frozen=True)
class AdapterConfig:
    """A run of this stage.

    Attributes:
        base: folder of a `VQAUFacePipeline`; "" is the embedded one.
        data: shards of ``train_lora synth`` or a split of ``train_lora data``.
        adapter: see `AdapterSpec`.
        held_out: pictures that are kept from training, for the loss in validation.
        scores: of the standard suite, drawn at every validation: do they still show what they should, and the same
            faces? 0 is none.
        report: scores of the standard suite that are drawn before and after, for the difference of AAAD with its
            interval; 0 is no report.
        drop, drop_all, feature_weight, free_texts: see `GeneratorConfig`.
        person: all pictures show the same one. Then one identity is fitted to all of them and kept in the file; a
            pipeline with the adapter draws this person unless it is told another.
        borrowed: how often a picture of whom nobody knows more than its points is given the identity that fits it and
            the look of a random person. A pipeline always gives both: an adapter that has seen them only left out does
            little beside them. 0 is never; less than 1 keeps it useful without.
        memory: look whether the run fits before it begins.
    """

    out: str
    train: LoopConfig
    data: FacesConfig
    base: str = ""
    adapter: AdapterSpec = field(default_factory=AdapterSpec)
    held_out: int = 0
    scores: int = 32
    report: int = 0
    drop: float = 0.08
    drop_all: float = 0.04
    feature_weight: float = 2.0
    free_texts: float = 0.4
    person: bool = False
    borrowed: float = 0.8
    memory: bool = True
    leave_out: ClassVar[tuple[str, ...]] = ()
    vector_text: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if min(self.held_out, self.scores, self.report) < 0:
            raise ValueError("held_out, scores and report are not below 0")
        if not 0 <= self.borrowed <= 1:
            raise ValueError(f"borrowed {self.borrowed}: a share in 0..1")


class AdapterStage(GeneratorStage):
    """See `train_lora.loop.Stage`."""

    player = "adapter"

    def __init__(self, config: AdapterConfig) -> None:  # not the parent's: the base is a whole pipeline
        self.config = config  # type: ignore[assignment] # has what the parent reads of it
        self.pipe = load_base(config.base)
        self.tokenizer, self.text, self.words = self.pipe.face_tokenizer, self.pipe.text_alignment, self.pipe.tokenizer
        self.map_channels = self.pipe.transformer.config["structure_channels"]
        self.scheduler = MaskedTokenScheduler(mask_token_id=self.tokenizer.codebook_size)
        estimator = load_estimator(Path(config.base) if config.base else None)
        self.estimator = None if estimator is None else estimator.eval().requires_grad_(False)
        self.faces = self._open(config.data)
        kept = max(0, len(self.faces) - config.held_out)
        if kept < FEWEST:
            raise ValueError(
                f"{kept} pictures to train on are too few: give {FEWEST} or more (20 is a good number), or lower "
                f"held_out {config.held_out}"
            )
        self.source, self.held_out = Some(self.faces, range(kept)), Some(self.faces, range(kept, len(self.faces)))
        torch.manual_seed(config.train.seed)  # the first weights
        self.info = begin_adapter(self.pipe, config.adapter, self._about())
        self.trains_text = "text_alignment" in self.info.layers
        others = [self.pipe.text_alignment] if self.trains_text else []
        self.players: dict[str, nn.Module] = {self.player: AdaptedTransformer(self.pipe.transformer, others)}
        self.wanted = self._scores(config.scores)
        self.of_base: Tensor | None = None

    def _open(self, faces: FacesConfig) -> PreparedSource:
        out, person = Path(self.config.out), self.config.person  # type: ignore[attr-defined] # an AdapterConfig

        def landmarks(images: Tensor) -> Tensor:
            found: Tensor = self.tokenizer(images).landmarks
            return found

        source, framing = faces.open(pictures=True), self.pipe.config["framing"]
        if person:
            _check_person(source)
        fitted = FittedSource(source, landmarks, framing, out / "fits.safetensors", person)
        size = self.tokenizer.config["image_size"]
        seen = fitted.__getitems__([0]).images.shape[-1]
        if seen != size:
            raise ValueError(f"data: pictures of {seen} pixels, the base draws {size}: make them with size={size}")
        if fitted.poor:
            sys.stderr.write(
                f"{fitted.poor} of {len(fitted)} pictures do not fit the head: trained without structure\n"
            )
        kept = out / "one-person" if person else out
        return PreparedSource(fitted, self.tokenizer, kept, settled(self.config.train.precision) == "bf16")  # type: ignore[arg-type] # has what it reads

    def losses(self, batch: PreparedBatch, step: Step) -> Iterator[tuple[str, Tensor, Mapping[str, float]]]:
        """Those of the generator, with borrowed looks."""
        yield from super().losses(self._borrow(batch, step), step)

    def _borrow(self, batch: PreparedBatch, step: Step) -> PreparedBatch:
        """Some pictures whose look is unknown with that of a random person; their places in the picture stay."""
        looks, labels = batch.attributes.clone(), list(batch.labels)
        for row, (label, seed) in enumerate(zip(batch.labels, step.seeds, strict=True)):
            rng = random.Random(f"borrowed {seed}")
            unknown = label.get("unknown_sources", ())
            if "attributes" in unknown and rng.random() < self.config.borrowed:  # type: ignore[attr-defined] # an AdapterConfig
                fitted = Appearance.from_dict(label["attributes"])
                place = {name: getattr(fitted, name) for name in ("zoom", "shift_x", "shift_y")}
                look = replace(Appearance.sample(rng.randrange(PEOPLE), scene=rng.randrange(PEOPLE)), **place)
                looks[row] = attribute_vector([look])[0]
                labels[row] = {**label, "unknown_sources": [one for one in unknown if one == "structure"]}
        return replace(batch, attributes=looks, labels=tuple(labels))

    def _about(self) -> dict[str, Any]:
        """What the adapter's file says of its pictures and samples."""
        source: Any = self.faces.source
        labels = source.told(range(len(self.faces))).labels
        config = self.pipe.config
        sample = {name: config[name] for name in ("num_inference_steps", "guidance_scale", "framing")}
        found = {"data": summary(labels, source.poor), "sample": sample, "steps": self.config.train.steps}
        return found | {"person": source.person}

    def _scores(self, count: int) -> list[Wanted]:
        """Scores at even distances in the standard suite, which no training has seen."""
        items = load_suite("standard").items
        return [Wanted(items[number * len(items) // count], 0) for number in range(min(count, len(items)))]

    def _conditions(self, batch: PreparedBatch, texts: Sequence[str]) -> dict[str, Tensor]:
        return super()._conditions(batch, self.pipe.with_triggers(texts))

    @torch.no_grad()
    def pictures(self, wanted: Sequence[Wanted]) -> Tensor:
        """Faces (B, 3, S, S) as the pipeline draws them now."""
        parts = [draw(self.pipe, wanted[i : i + DRAWN], None, None) for i in range(0, len(wanted), DRAWN)]
        return torch.cat(parts)

    def base_pictures(self) -> Tensor:
        """The held-out scores as the base draws them."""
        if self.of_base is None:
            self.pipe.disable_lora()
            self.of_base = self.pictures(self.wanted)
            self.pipe.enable_lora()
        return self.of_base

    def validate(self, model: Any) -> dict[str, float]:  # noqa: ANN401 - an AdaptedTransformer, eval and averaged
        """Loss of held-out pictures; and of held-out scores: alignment with and without the adapter, and drift.

        ``drift``: mean distance of the 68 landmarks from where the base has them, as a share of the picture: an
        adapter that learns its pictures by heart draws their faces.
        """
        totals: dict[str, float] = {}
        if len(self.held_out):
            totals["loss"] = self._held_out_loss(model)
        if not self.wanted or self.estimator is None:
            return totals
        self.estimator.to(model.device)
        levels = torch.tensor([resolve(one.item.aus).effective.vector(units.channels) for one in self.wanted])
        covered = self.estimator.covered.cpu()
        before = self._seen(self.base_pictures())
        found = shared(
            len(self.wanted), DRAWN, lambda some: self._seen(self.pictures(self.wanted[some.start : some.stop]))
        )
        now = [torch.cat(column) for column in zip(*found, strict=True)]
        totals["alignment"] = skin_aaad(now[0], levels, covered, LEAST)
        totals["alignment_of_base"] = skin_aaad(before[0], levels, covered, LEAST)
        totals["drift"] = float((now[1] - before[1]).norm(dim=-1).mean())
        self._warn(totals)
        return {name: value for name, value in totals.items() if not math.isnan(value)}  # few scores tell no alignment

    def _seen(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert self.estimator is not None
        seen = [self.estimator(some.to(self.estimator.device)) for some in images.split(DRAWN)]
        return torch.cat([one.presence for one in seen]).cpu(), torch.cat(
            [one.landmarks for one in seen]
        ).float().cpu()

    def _warn(self, values: Mapping[str, float]) -> None:
        fall = values["alignment_of_base"] - values["alignment"]
        if processes().is_main_process and (fall > FALL or values["drift"] > DRIFT):
            sys.stderr.write(
                f"over-fitting? alignment of held-out scores fell by {fall:.3f} ({FALL} is much), their faces moved "
                f"by {values['drift']:.3f} ({DRIFT} is much): fewer steps, a lower rank, or a lower weight in use\n"
            )

    def _held_out_loss(self, model: Any) -> float:  # noqa: ANN401 - as above
        batch = self.held_out.__getitems__(list(range(len(self.held_out))))
        generators = [torch.Generator().manual_seed(number) for number in range(len(self.held_out))]
        masked, where = self.scheduler.mask(batch.codes, torch.full((len(batch.codes),), 0.5), generators)
        self._to(model.device)
        moved = batch.to(model.device)
        given = self._conditions(moved, [label["texts"]["anatomical"] for label in batch.labels])
        logits = model(masked.to(model.device), **given, dropped=self._left_out(batch.labels))
        return float(F.cross_entropy(logits[where.to(model.device)].float(), moved.codes[where.to(model.device)]))

    def sheet(self, model: Any) -> Tensor | None:  # noqa: ANN401 - as above
        """Held-out scores as the base draws them, above the same with the adapter; then, if the pictures show one
        person, the first ones on this person; last, pictures of the data.
        """
        some = range(0, len(self.source), max(1, len(self.source) // ACROSS))[:ACROSS]
        shown = self.source.__getitems__([some[i % len(some)] for i in range(ACROSS)])
        real = self._paint(shown.codes.to(model.device), shown)
        if len(self.wanted) < ACROSS:
            return rows([real])
        before, now = self.base_pictures(), self.pictures(self.wanted[: 2 * ACROSS])
        pairs = [part[i : i + ACROSS] for i in range(0, len(now) - ACROSS + 1, ACROSS) for part in (before, now)]
        return rows([*pairs, *self._as_person(), real])

    def _as_person(self) -> list[Tensor]:
        """The first held-out scores on the one person of the pictures."""
        if not self.info.person:
            return []
        scores = [one.item.aus for one in self.wanted[:ACROSS]]
        return [self.pipe(scores, seed=list(range(len(scores))), output_type="pt").images]

    def export(self, model: Any, folder: Path, report: Mapping[str, Any]) -> None:  # noqa: ANN401 - as above
        """The adapter's file, sheets and numbers before and after, and a card."""
        model.eval()
        write_adapter(folder / FILE, finished(self.pipe, self.info))
        sheet = self.sheet(model)
        assert sheet is not None
        pixels = (sheet.float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / SHEET)
        table = ""
        if self.config.report:
            found, table = before_after(
                self.pipe, self.config.base, folder / FILE, Path(self.config.out), self.config.report
            )
            (folder / "report.json").write_text(json.dumps(found, indent=1, allow_nan=False), encoding="utf-8")
        text = adapter_card(self.info, asdict(self.config), report, table)
        (folder / "README.md").write_text(text, encoding="utf-8")


def _check_person(source: Any) -> None:  # noqa: ANN401 - a ShardSource or RenderSource
    """Raises `ValueError` if the data cannot be pictures of one person."""
    if not getattr(source, "pictures", False):
        raise ValueError("person: data holds made faces, each of which has its own identity; it is for pictures")
    people = sorted({str(label["subject"]) for label in source.told(range(len(source))).labels})
    if 1 < len(people) < len(source):  # as many as pictures: nobody knows who is seen
        raise ValueError(
            f"person: the pictures show {len(people)} people ({', '.join(people[:3])}): make data of one of them, or "
            "person=false"
        )


def load_base(folder: str) -> VQAUFacePipeline:
    """The pipeline that is adapted, in float32. Raises `ValueError` for a folder that holds none."""
    if folder:
        pipe = VQAUFacePipeline.from_pretrained(folder, torch_dtype=torch.float32)
    else:
        pipe = VQAUFacePipeline.from_default()
    pipe.set_progress_bar_config(disable=True)
    for name in ("transformer", "text_alignment", "face_tokenizer"):
        getattr(pipe, name).float().eval().requires_grad_(False)
    return pipe

"""Trained parts to one folder of weights with a model card.

``python -m train_lora export train_lora/configs/export.toml`` writes, in fp16 safetensors, ``out/default`` (a pipeline
for `VQAUFacePipeline.from_pretrained`), ``out/estimator`` and ``out/evaluation_estimator``, and ``out/README.md``.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from transformers import PreTrainedTokenizerFast

from auface_diffusers.facs import units
from auface_diffusers.models.au_estimator import EMBEDDED, AUEstimator
from auface_diffusers.models.checkpoints import weight_files
from auface_diffusers.models.face_tokenizer import FaceTokenizer
from auface_diffusers.models.face_transformer import FaceTransformer
from auface_diffusers.models.structure_encoder import StructureEncoder
from auface_diffusers.models.text_alignment import TextAlignment
from auface_diffusers.pipelines.pipeline_auface import VQAUFacePipeline
from auface_diffusers.schedulers import MaskedTokenScheduler
from train_lora.pipeline_card import write_card

SHARD = "15MB"
"""Largest file: what `check-added-large-files` lets through."""
PIPELINE = "default"
TABLE = "channels.csv"
Model = TypeVar("Model", bound=ModelMixin)


@dataclass(frozen=True)
class ExportConfig:
    """What to put together.

    Attributes:
        out: folder of the weights; what it has of the same names is replaced, once everything is written.
        tokenizer: folder of a trained `FaceTokenizer`. generator: of a `FaceTransformer`.
        alignment: folder with ``text`` and ``tokenizer``, and with ``structure``, of which only is checked that the
            generator began with one of its kind.
        estimator, evaluation_estimator: folders of `AUEstimator`; "" leaves it out.
        framing: of the faces that the generator was trained on.
        steps, guidance_scale: defaults of the pipeline.
        report: folder of ``python -m train_lora report``, for the card; ablations: of ``ablate``; "" is none.
        recipe: the commands that made all this, for the card.
    """

    tokenizer: str
    alignment: str
    generator: str
    out: str = "auface_diffusers/weights"
    estimator: str = ""
    evaluation_estimator: str = ""
    framing: str = "face"
    steps: int = 10
    guidance_scale: float = 1.0
    report: str = ""
    ablations: str = ""
    recipe: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.guidance_scale < float("inf"):
            raise ValueError(f"steps {self.steps}, guidance_scale {self.guidance_scale:g}: give >= 1 and >= 0")

    def estimators(self) -> dict[str, str]:
        """Folders of the estimators that are given, by the name that they get."""
        given = zip(EMBEDDED.values(), (self.estimator, self.evaluation_estimator), strict=True)
        return {name: folder for name, folder in given if folder}

    def parts(self) -> dict[str, str]:
        """Folder of each trained part, by the key of the configuration."""
        fixed = {name: getattr(self, name) for name in ("tokenizer", "alignment", "generator")}
        return fixed | self.estimators()


def export(config: ExportConfig) -> dict[str, Any]:
    """Load the parts, check that they fit each other, and write the folder.

    Returns:
        ``out``, its size in ``bytes`` and the number of ``files``.

    Raises:
        ValueError: a part that is missing, incomplete or made for others; nothing is written then.
    """
    pipeline = _assemble(config)
    estimators = {name: _load(AUEstimator, Path(folder), name) for name, folder in config.estimators().items()}
    _check_estimators(estimators)
    out = Path(config.out)
    with _moved_when_done(out) as part:
        pipeline.save_pretrained(part / PIPELINE, max_shard_size=SHARD)
        for name, model in estimators.items():
            model.half().save_pretrained(part / name, max_shard_size=SHARD)
            table = Path(config.estimators()[name]) / TABLE
            if table.is_file():
                shutil.copy(table, part / name / TABLE)
        _forget_places(part)
        write_card(part, config.parts(), config.recipe, config.report, pipeline, config.ablations)
        files = [path for path in part.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
    return {"out": str(out), "bytes": size, "files": len(files)}


def _forget_places(folder: Path) -> None:
    """Take out of the configurations where the models lay on this machine."""
    for path in folder.rglob("config.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _assemble(config: ExportConfig) -> VQAUFacePipeline:
    """The pipeline in fp16, of parts that belong together."""
    alignment = Path(config.alignment)
    text = _load(TextAlignment, alignment / "text", "alignment")
    words = _load_words(alignment / "tokenizer", text)
    transformer = _load(FaceTransformer, Path(config.generator), "generator")
    _check_channels("alignment/text", text.channels)
    if (alignment / "structure").exists():
        _check_structure(_load(StructureEncoder, alignment / "structure", "alignment"), transformer)
    faces = _load(FaceTokenizer, Path(config.tokenizer), "tokenizer")
    try:
        return VQAUFacePipeline(
            tokenizer=words,
            text_alignment=text.half(),
            transformer=transformer.half(),
            face_tokenizer=faces.half(),
            scheduler=MaskedTokenScheduler(mask_token_id=faces.codebook_size),
            framing=config.framing,
            guidance_scale=config.guidance_scale,
            num_inference_steps=config.steps,
        )
    except ValueError as error:
        where = f"tokenizer {config.tokenizer}, alignment {config.alignment}, generator {config.generator}"
        raise ValueError(f"{error}; see {where}: export those that were trained on each other") from None


def _load(kind: type[Model], folder: Path, key: str) -> Model:
    """A model in float32 of which no weight is missing. ``key``: of the configuration."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{key}: {folder} is no trained {kind.__name__}: config.json is missing; train it first")
    named = kind.load_config(folder).get("_class_name", kind.__name__)
    if named != kind.__name__:
        raise ValueError(f"{key}: {folder} holds a {named}, a {kind.__name__} is needed")
    weight_files(folder)
    try:
        model, found = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except (OSError, RuntimeError) as error:
        raise ValueError(f"{key}: {folder} cannot be loaded ({str(error).splitlines()[0]}); train it again") from None
    wrong = sorted([*found["missing_keys"], *found["unexpected_keys"]])
    if wrong:
        raise ValueError(f"{key}: the weights in {folder} are not those of its config.json: {', '.join(wrong[:3])}")
    loaded: Model = model.eval()
    return loaded


def _load_words(folder: Path, text: TextAlignment) -> PreTrainedTokenizerFast:
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"alignment: {folder} has no tokenizer.json; train the alignment again")
    words = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    pairs = [("vocab_size", len(words))] + [(name, getattr(words, name)) for name in ("bos_token_id", "eos_token_id")]
    for name, theirs in pairs:
        if text.config[name] != theirs:
            raise ValueError(f"alignment: the text model has {name} {text.config[name]}, {folder} has {theirs}")
    return words


def _check_structure(structure: StructureEncoder, transformer: FaceTransformer) -> None:
    _check_channels("alignment/structure", structure.config["channels"])
    names = {"image_size": "image_size", "in_channels": "structure_channels", "width": "structure_width"}
    for name, theirs in names.items():
        own, other = structure.config[name], transformer.config[theirs]
        wider = name == "in_channels" and own < other  # see `generator.widened`
        if own != other and not wider:
            raise ValueError(
                f"alignment/structure has {name} {own} and the generator {other}: "
                "export the alignment that the generator was trained with"
            )


def _check_estimators(estimators: dict[str, AUEstimator]) -> None:
    for name, model in estimators.items():
        _check_channels(name, model.channels)
    kinds = [model.config["architecture"] for model in estimators.values()]
    if len(kinds) == 2 and kinds[0] == kinds[1]:
        raise ValueError(f"both estimators are {kinds[0]!r}: the evaluation's must differ, see configs/estimator.toml")


def _check_channels(name: str, channels: Sequence[str]) -> None:
    if tuple(channels) != tuple(units.channels):
        other = sorted(set(channels) ^ set(units.channels)) or ["their order"]
        raise ValueError(f"{name}: its channels are not those of this version of AUFace ({', '.join(other[:5])})")


@contextlib.contextmanager
def _moved_when_done(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` whose entries go to ``out`` if all went well; it is gone afterwards in any case."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"out {out} is a file: name a folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    new, old = part / "new", part / "old"
    try:
        new.mkdir()
        old.mkdir()
        yield new
        out.mkdir(exist_ok=True)
        for path in sorted(new.iterdir()):
            if (out / path.name).exists():
                (out / path.name).rename(old / path.name)
            path.rename(out / path.name)
    finally:
        shutil.rmtree(part)

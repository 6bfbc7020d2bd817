"""A pipeline's folder before it is loaded: safetensors only, whole, and of the models that the folder says.

diffusers itself only warns of weights that are missing, and fails on a damaged file without its name.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate import init_empty_weights  # type: ignore[import-untyped]  # it has no types
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open

INDEX = "model_index.json"
WEIGHTS = "diffusion_pytorch_model"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of files that can run code when they are opened."""


def check_folder(folder: Path, models: dict[str, type[ModelMixin]], variant: str | None = None) -> None:
    """Look at the headers of all weights.

    Args:
        folder: of a saved pipeline.
        models: class of each model by its subfolder; what has no subfolder is left to diffusers.
        variant: such as "fp16", in the files' names.

    Raises:
        ValueError: the file that is missing, damaged, a pickle, or of another model.
    """
    if not (folder / INDEX).is_file():
        raise ValueError(f"{folder} is no saved pipeline: {INDEX} is missing; save one with pipe.save_pretrained")
    for name, kind in models.items():
        if (folder / name).is_dir():
            _check_model(folder / name, kind, variant)


def _check_model(folder: Path, kind: type[ModelMixin], variant: str | None) -> None:
    found: dict[str, tuple[int, ...]] = {}
    for path in weight_files(folder, variant):
        found |= _shapes(path)
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"{config} is missing: copy the whole folder again")
    with init_empty_weights():
        wanted: dict[str, Any] = kind.from_config(kind.load_config(folder)).state_dict()
    wrong = sorted(name for name in found.keys() & wanted.keys() if found[name] != tuple(wanted[name].shape))
    for what, names in (
        ("lacks", sorted(wanted.keys() - found.keys())),
        ("has unknown", sorted(found.keys() - wanted.keys())),
        ("has in another shape", wrong),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise ValueError(f"{folder} holds no {kind.__name__} of its config.json: {what} {names[:3]}{more}")


def weight_files(folder: Path, variant: str | None = None) -> list[Path]:
    """The safetensors files of a model's folder.

    Raises:
        ValueError: there is none, only a pickle, or a shard is missing.
    """
    middle = f".{variant}" if variant else ""
    for suffix in dict.fromkeys((middle, "")):  # models without this variant are loaded as they are
        single, index = folder / f"{WEIGHTS}{suffix}.safetensors", folder / f"{WEIGHTS}.safetensors.index{suffix}.json"
        if single.is_file():
            return [single]
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            missing = [name for name in names if not (folder / name).is_file()]
            if missing:
                raise ValueError(f"{folder} lacks {', '.join(missing)}, which {index.name} names: copy it again")
            return [folder / name for name in names]
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles:
        raise ValueError(
            f"{folder / pickles[0]} is a pickle, which can run code when it is opened: only safetensors are loaded; "
            "convert it where you trust it"
        )
    raise ValueError(f"{single} is missing: copy the whole folder again")


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file ({error}): copy it again") from None

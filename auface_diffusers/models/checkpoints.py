"""`SafetensorsOnly`: models are kept in safetensors alone, and their files are looked at before they are loaded.

diffusers itself falls back to pickles, only warns of weights that are missing, and fails on a damaged file without its
name.
"""

from __future__ import annotations

import json
import os
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import init_empty_weights  # type: ignore[import-untyped]  # it has no types
from diffusers import ModelMixin
from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from typing_extensions import Self

WEIGHTS = "diffusion_pytorch_model"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of files that can run code when they are opened."""


class SafetensorsOnly:
    """First base of all our models: they read and write safetensors only.

    It is no `ModelMixin` itself: diffusers' pipelines look for that name in the module of a component.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:  # noqa: ANN401 - what diffusers takes
        """Load a saved model, as diffusers does, from safetensors only.

        Args:
            pretrained_model_name_or_path: a folder, or a hub id.
            **kwargs: see ``ModelMixin.from_pretrained``: ``torch_dtype``, ``variant``, ``subfolder``, ...

        Raises:
            ValueError: a file is missing, damaged, a pickle, or of another model; names it.
        """
        refuse_pickles("use_safetensors", kwargs.pop("use_safetensors", None))
        if is_folder(pretrained_model_name_or_path):
            folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
            check_model(folder, cls, kwargs.get("variant"))
        loaded: Self = super().from_pretrained(pretrained_model_name_or_path, use_safetensors=True, **kwargs)  # type: ignore[misc] # of the next base
        return loaded

    @wraps(ModelMixin.save_pretrained)  # a pipeline looks in the signature for what it may pass on
    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - what diffusers takes
        """Save as diffusers does. Raises `ValueError` for ``safe_serialization=False``."""
        refuse_pickles("safe_serialization", kwargs.get("safe_serialization"))
        super().save_pretrained(*args, **kwargs)  # type: ignore[misc] # of the next base


def refuse_pickles(name: str, value: bool | None) -> None:
    """Raise `ValueError` if an option asks for them."""
    if value is False:
        raise ValueError(f"{name}=False: pickles can run code when they are opened; only safetensors are used")


def is_folder(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder here; else it is a hub id.

    Raises:
        ValueError: it is neither.
    """
    text = os.fspath(path)
    if os.path.isdir(text):
        return True
    if not isinstance(path, str) or text.startswith((".", "/", "~", os.sep)):
        raise ValueError(f"{text} is no folder: give one that save_pretrained wrote, or a hub id as a str")
    return False


def check_model(folder: Path, kind: type[Any], variant: str | None = None) -> None:
    """Look at the headers of a model's weights; ``variant``: such as "fp16", in the files' names.

    Raises:
        ValueError: the file that is missing, damaged, a pickle, or of another model.
    """
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

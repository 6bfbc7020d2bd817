"""Checkpoints of a run in progress: safetensors and JSON, written beside their place and then moved."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers.training_utils import EMAModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from train_lora.sharding import like, whole

STATE = "state.json"
EMA = "ema.safetensors"
MAY_CHANGE = ("max_hours", "workers", "log_every", "validate_every", "save_every", "keep", "compile")
"""Keys of ``[train]`` that a resumed run may have otherwise: they change no loss."""
LATER = {"optimizer": "adamw"}
"""Keys of ``[train]`` that earlier checkpoints do not have, and what was done then."""


class Saved(NamedTuple):
    """Where a run stands: steps made, seconds spent, the scale of fp16 losses (0 for none), what is not yet logged."""

    step: int
    seconds: float
    scale: float
    sums: Mapping[str, tuple[float, int]]


class Checkpoints:
    """The checkpoints of one run in a folder, the newest ``keep`` of them."""

    def __init__(self, folder: Path, description: Mapping[str, Any], keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.description = json.loads(json.dumps(description))
        self.newest = -1

    def save(self, now: Saved, weights: Mapping[str, Mapping[str, Tensor]], ema_step: int) -> Path:
        """Write a checkpoint of `contents`. Nothing appears under its name unless all of it was written.

        Raises:
            OSError: it cannot be written.
        """
        place = self.folder / f"step-{now.step:08d}"
        if now.step == self.newest:
            return place
        for left in self.folder.glob("step-*.part"):  # of a killed run
            shutil.rmtree(left)
        with new_folder(place) as part:
            for name, tensors in weights.items():
                save_file(dict(tensors), part / name)
            state = {**now._asdict(), "ema_step": ema_step, "description": self.description}
            (part / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
        self.newest = now.step
        there = self._all()
        whole = [path for path in there if _number(path) <= now.step]  # later ones were damaged, see `load`
        for old in [*whole[: -self.keep], *there[len(whole) :]]:
            left = old.with_suffix(".part")
            os.replace(old, left)  # a kill meanwhile leaves no half of one under its name
            shutil.rmtree(left)
        return place

    def load(
        self, modules: Mapping[str, nn.Module], optimizers: Mapping[str, torch.optim.Optimizer], ema: EMAModel
    ) -> Saved:
        """Load the newest checkpoint, if there is one; one that cannot be read gives way, with a warning, to the last.

        Raises:
            ValueError: it was made by another configuration or model, or none can be read.
        """
        damaged: list[str] = []
        for place in reversed(self._all()):
            names = [EMA, *(f"{name}{kind}.safetensors" for name in modules for kind in ("", ".optimizer"))]
            try:
                state, files = _read(place, names)
            except ValueError as error:
                damaged.append(str(error))
                continue
            changed = _difference(_with_defaults(state["description"]), self.description)
            if changed:
                raise ValueError(
                    f"{place} was made with other values of {', '.join(changed)}: use them, or another out="
                )
            for warning in damaged:
                sys.stderr.write(f"warning: {warning}; going on from {place}\n")
            try:
                for name, module in modules.items():
                    own = module.state_dict()
                    saved = files[f"{name}.safetensors"]
                    module.load_state_dict({k: like(own[k], v) if k in own else v for k, v in saved.items()})
                    _restore(optimizers[name], files[f"{name}.optimizer.safetensors"])
                for index, value in enumerate(ema.shadow_params):
                    value.copy_(like(value, files[EMA][f"{index:05d}"]))
            except (RuntimeError, KeyError, IndexError) as error:
                raise ValueError(f"{place} holds weights of another model, name another out=: {error}") from None
            ema.optimization_step = state["ema_step"]
            self.newest = state["step"]
            return Saved(state["step"], state["seconds"], state["scale"], state.get("sums", {}))
        if damaged:
            raise ValueError(f"{damaged[0]}, and there is none before it: delete {self.folder} to begin anew")
        return Saved(0, 0.0, 0.0, {})

    def _all(self) -> list[Path]:
        there = [path for path in self.folder.glob("step-*") if re.fullmatch(r"step-\d{8,}", path.name)]
        return sorted(there, key=_number)


@contextlib.contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """A folder to write in; when all of it is written it gets the name ``place``, instead of what was there.

    Raises:
        OSError: it cannot be written; nothing of it stays.
    """
    part, old = (place.with_name(place.name + ending) for ending in (".part", ".old"))
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        yield part
        _sync(part)
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            os.replace(place, old)
        os.replace(part, place)
        shutil.rmtree(old, ignore_errors=True)
    except SafetensorError as error:
        raise OSError(f"{place} cannot be written: {error}") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _read(place: Path, names: list[str]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """All of a checkpoint, before anything is changed by it. Raises `ValueError` naming the file that is damaged."""
    name = STATE
    try:
        state = json.loads((place / STATE).read_text(encoding="utf-8"))
        files = {}
        for name in names:
            files[name] = load_file(place / name)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"checkpoint file {place / name} cannot be read ({error})") from None
    return state, files


def _number(place: Path) -> int:
    return int(place.name.removeprefix("step-"))


def contents(
    modules: Mapping[str, nn.Module],
    optimizers: Mapping[str, torch.optim.Optimizer],
    ema: EMAModel,
    keep: bool = True,
) -> dict[str, dict[str, Tensor]]:
    """The files of a checkpoint and what is in them, whole; nothing without ``keep``. All processes have to ask."""
    files: dict[str, Mapping[str, Tensor]] = {EMA: {f"{i:05d}": p for i, p in enumerate(ema.shadow_params)}}
    for name, module in modules.items():
        files |= {
            f"{name}.safetensors": module.state_dict(),
            f"{name}.optimizer.safetensors": _state(optimizers[name]),
        }
    found: dict[str, dict[str, Tensor]] = {file: {} for file in files}
    for file, tensors in files.items():
        for name, value in tensors.items():
            all_of_it = whole(value).contiguous()
            if keep:
                found[file][name] = all_of_it
    return found


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    return {
        f"{index}.{name}": torch.as_tensor(value)
        for index, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state.get(parameter, {}).items()
    }


def _restore(optimizer: torch.optim.Optimizer, values: Mapping[str, Tensor]) -> None:
    parameters = _parameters(optimizer)
    for key, value in values.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        optimizer.state[parameter][name] = _placed(parameter, name, value)


def _placed(parameter: Tensor, name: str, value: Tensor) -> Any:  # noqa: ANN401 - a tensor, or a number
    if name == "step":  # torch counts in a tensor that stays on the CPU, bitsandbytes in an int
        return value if value.is_floating_point() else int(value)
    if value.numel() != parameter.numel():  # scales of moments in 8 bits
        return value.to(parameter.device)
    # in the parameter's memory format, as before: another one rounds otherwise
    return torch.empty_like(parameter, dtype=value.dtype).copy_(like(parameter, value))


def _with_defaults(description: Mapping[str, Any]) -> dict[str, Any]:
    """With the values of keys of ``[train]`` that did not exist when it was written."""
    train = description.get("train")
    return dict(description) | ({"train": LATER | train} if isinstance(train, dict) else {})


def _difference(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Names of what differs, other than `MAY_CHANGE`."""
    names = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            names += _difference(before, after, f"{prefix}{key}.")
        elif before != after and not (prefix == "train." and key in MAY_CHANGE):
            names.append(f"{prefix}{key}")
    return names


def _sync(folder: Path) -> None:
    """Have the disk hold the files before the folder gets its name."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                os.fsync(file.fileno())

"""Files of adapters: one safetensors in diffusers' LoRA format, whose header says what it is and what it needs.

Keys are ``<component>.<layer>.<weight of peft>``, as diffusers' ``save_lora_weights`` writes them, with peft's
configuration under diffusers' own header key. What we read is our header key `HEADER`: without it a file is foreign.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from auface_diffusers.anatomy.identity import identity_codes
from auface_diffusers.models.adapters import adapter_config
from auface_diffusers.models.checkpoints import PICKLES

HEADER = "auface_adapter"
"""Key of the file's header that holds an `AdapterInfo` as JSON."""
FORMAT = 1
"""Version of the header. Files of a newer one are refused."""
COMPONENTS = ("transformer", "text_alignment")
"""Components of a pipeline that may be adapted, which are also the first parts of the keys."""


@dataclass(frozen=True)
class AdapterInfo:
    """What an adapter is and what it was made with.

    Attributes:
        kind: one of `models.adapters.KINDS`. rank, alpha: see `adapter_config`.
        targets: as they were asked for. layers: by component, full names of the layers that are changed.
        base: by component, its `base_hash`.
        channels: names of the AU channels that base and data have.
        trigger: words that stood before every text in training; "" is none.
        data: a summary of the pictures: how many, action units, where they are from.
        sample: settings that the sample sheets were drawn with: steps, guidance_scale, framing.
        steps: of training.
        person: identity code (46) of the one whom all pictures show; empty for a style, or several people.
    """

    kind: str
    rank: int
    alpha: float
    targets: tuple[str, ...]
    layers: dict[str, tuple[str, ...]]
    base: dict[str, str]
    channels: tuple[str, ...]
    trigger: str = ""
    data: dict[str, Any] = field(default_factory=dict)
    sample: dict[str, Any] = field(default_factory=dict)
    steps: int = 0
    person: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        for component in self.components:
            adapter_config(self.kind, self.rank, self.alpha, self.layers[component])
        if not self.layers or set(self.layers) - set(COMPONENTS) or set(self.base) != set(self.layers):
            raise ValueError(f"adapter layers of {sorted(self.layers)} and base of {sorted(self.base)}: {COMPONENTS}")
        if self.person:
            identity_codes(torch.tensor(self.person))

    @property
    def components(self) -> tuple[str, ...]:
        """The components of a pipeline that it changes."""
        return tuple(self.layers)


@dataclass(frozen=True)
class Adapter:
    """An adapter's ``info`` and its ``weights`` by component, named by layer as peft does."""

    info: AdapterInfo
    weights: dict[str, dict[str, Tensor]]


def write_adapter(path: str | os.PathLike[str], adapter: Adapter) -> None:
    """Write an adapter in float16. Nothing appears under ``path`` unless all of it was written.

    Raises:
        OSError: it cannot be written.
        ValueError: another ending than ``.safetensors``, or weights that are no numbers.
    """
    place = Path(path)
    if place.suffix != ".safetensors":
        raise ValueError(f"{place}: adapters are safetensors files, name it {place.with_suffix('.safetensors').name}")
    flat = {
        f"{part}.{name}": value.detach().to("cpu", torch.float16).contiguous()
        for part, weights in adapter.weights.items()
        for name, value in weights.items()
    }
    broken = [name for name, value in flat.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"the adapter's weight {broken[0]} has values that are not finite: it is not written")
    header = {"format": "pt", HEADER: json.dumps({"format": FORMAT, **asdict(adapter.info)})}
    header[LORA_ADAPTER_METADATA_KEY] = json.dumps(_for_diffusers(adapter.info), sort_keys=True)
    part = place.with_name(place.name + ".part")
    try:
        part.write_bytes(save(flat, header))
        os.replace(part, place)
    finally:
        part.unlink(missing_ok=True)


def read_adapter(path: str | os.PathLike[str]) -> Adapter:
    """Read an adapter.

    Raises:
        ValueError: it is missing, damaged, a pickle, or not one of ours; says which.
    """
    place = Path(path)
    if place.suffix.lower() in PICKLES:
        raise ValueError(
            f"{place} is a pickle, which can run code when it is opened: adapters are loaded from safetensors only"
        )
    if not place.is_file():
        raise ValueError(f"{place} is no file: name the .safetensors of an adapter")
    try:
        with safe_open(place, "pt") as file:
            header = dict(file.metadata() or {})
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{place} is damaged or no safetensors file ({error}): copy it again") from None
    return parse_adapter(state, header, str(place))


def parse_adapter(state: Mapping[str, Tensor], header: Mapping[str, str], name: str) -> Adapter:
    """An adapter of a file's weights and header. ``name``: for errors.

    Raises:
        ValueError: the header or the weights are not those of an adapter of ours.
    """
    if HEADER not in header:
        keys = ", ".join(sorted(state)[:2]) or "nothing"
        raise ValueError(
            f"{name} is no adapter for AUFace: its header has no {HEADER!r} (it holds {keys}, ...). "
            "An adapter of another model cannot be used; make one with python -m train_lora adapter"
        )
    info = _info(header[HEADER], name)
    weights: dict[str, dict[str, Tensor]] = {part: {} for part in info.components}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        if part not in weights:
            raise ValueError(f"{name}: weight {key!r} belongs to none of {', '.join(weights)}, which its header names")
        if not value.is_floating_point() or not value.isfinite().all():
            raise ValueError(f"{name}: weight {key!r} has values that are no finite numbers")
        weights[part][rest] = value
    empty = [part for part, found in weights.items() if not found]
    if empty:
        raise ValueError(f"{name} holds no weights of {', '.join(empty)}, which its header names: copy it again")
    return Adapter(info, weights)


def header_of(info: AdapterInfo) -> dict[str, str]:
    """The header that `parse_adapter` takes, for weights that never were in a file."""
    return {HEADER: json.dumps({"format": FORMAT, **asdict(info)})}


def _info(text: str, name: str) -> AdapterInfo:
    try:
        values = json.loads(text)
        version = values.pop("format")
        if version != FORMAT:
            raise ValueError(f"its format is {version}, this AUFace reads {FORMAT}")
        unknown = sorted(set(values) - {one.name for one in fields(AdapterInfo)})
        if unknown:
            raise ValueError(f"unknown entry {', '.join(unknown)}")
        values |= {key: tuple(values[key]) for key in ("targets", "channels", "person") if key in values}
        values["layers"] = {part: tuple(names) for part, names in values["layers"].items()}
        return AdapterInfo(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{name}: its header {HEADER!r} cannot be used ({error}): copy it again") from None


def _for_diffusers(info: AdapterInfo) -> dict[str, Any]:
    """peft's configurations as diffusers keeps them: flat, with the component before each name."""
    found: dict[str, Any] = {}
    for part in info.components:
        config = adapter_config(info.kind, info.rank, info.alpha, info.layers[part]).to_dict()
        for name, value in config.items():
            found[f"{part}.{name}"] = sorted(value) if isinstance(value, set) else value
    return found


def check_weight(name: str, weight: float) -> float:
    """The weight of an adapter. Raises `ValueError` if it is no finite number."""
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ValueError(f"weight {weight!r} of adapter {name!r}: a finite number, where 0 is off and 1 as trained")
    return float(weight)

"""Adapters of a model through peft: their kinds, the layers that they change, their weights, and the base's hash.

Shapes of the weights are peft's; they follow from the layer and the rank.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

KINDS = ("lora", "dora", "loha", "lokr")
"""LoRA (arXiv 2106.09685), DoRA (2402.09353), and LoHa and LoKr as in LyCORIS (2309.14859)."""
_LAYERS: dict[str, tuple[type[nn.Module], ...]] = {
    "lora": (nn.Linear, nn.Conv2d, nn.Embedding),
    "dora": (nn.Linear, nn.Conv2d, nn.Embedding),
    "loha": (nn.Linear, nn.Conv2d),
    "lokr": (nn.Linear, nn.Conv2d),
}
"""Layers that peft can change, by kind."""
_OWN = ("lora_", "hada_", "lokr_")
"""How the names of peft's weights begin."""
_BASE = "base_layer"
"""Where peft keeps the layer that it wraps."""


def adapter_config(
    kind: str, rank: int, alpha: float, layers: Sequence[str], dropout: float = 0.0, init: bool = True
) -> PeftConfig:
    """peft's configuration of an adapter.

    Args:
        kind: one of `KINDS`.
        rank: >= 1. alpha: > 0; the change counts ``alpha / rank``.
        layers: full names, see `find_layers`.
        dropout: 0..1 (1 excluded) of the layer's input (LoRA, DoRA) or of the rank's rows (LoHa, LoKr).
        init: whether the adapter changes nothing at first; False draws weights that do, for tests.

    Raises:
        ValueError: a value that is not allowed.
    """
    if kind not in KINDS:
        raise ValueError(f"adapter kind {kind!r}: one of {', '.join(KINDS)}")
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
        raise ValueError(f"adapter rank {rank!r}: an integer >= 1")
    if not 0 < alpha < float("inf"):
        raise ValueError(f"adapter alpha {alpha!r}: a number above 0; as large as the rank is usual")
    if not 0 <= dropout < 1:
        raise ValueError(f"adapter dropout {dropout!r}: 0 or more, and below 1")
    names = list(layers)
    if kind in ("lora", "dora"):
        return LoraConfig(
            r=rank,
            lora_alpha=alpha,  # type: ignore[arg-type] # says int, and divides it
            lora_dropout=dropout,
            target_modules=names,
            use_dora=kind == "dora",
            init_lora_weights=init,
        )
    config = LoHaConfig if kind == "loha" else LoKrConfig
    return config(r=rank, alpha=alpha, rank_dropout=dropout, target_modules=names, init_weights=init)  # type: ignore[arg-type] # as above


def find_layers(model: nn.Module, targets: Iterable[str], kind: str) -> list[str]:
    """Full names of the layers that targets mean, in the model's order.

    A target is the name of a layer, of a part that holds some, or an end or middle of such a name: ``"to_q"``,
    ``"cross"``, ``"blocks.3"``, ``"blocks.3.mlp"``.

    Raises:
        ValueError: no target, or one that matches no layer that this kind can change; lists what there is.
    """
    able = {_bare(name): module for name, module in model.named_modules() if _can_change(name, module, kind)}
    wanted = list(targets)
    if not wanted:
        raise ValueError(f"adapter targets: none are given; there are {_names(able)}")
    found = set()
    for target in wanted:
        hits = {name for name in able if f".{target}." in f".{name}."}
        if not hits:
            raise ValueError(
                f"adapter target {target!r} matches no layer of {type(model).__name__} that {kind} can change; "
                f"there are {_names(able)}"
            )
        found |= hits
    return [name for name in able if name in found]


def _can_change(name: str, module: nn.Module, kind: str) -> bool:
    parts = name.split(".")
    return isinstance(module, _LAYERS[kind]) and not any(part.startswith(_OWN) for part in parts)


def _names(layers: Iterable[str]) -> str:
    """The parts of layers' names, each once, with numbered ones as a range: what a target can be."""
    parts: dict[str, None] = {}
    for name in layers:
        for part in name.split("."):
            if not part.isdigit():
                parts[part] = None
    numbers = {int(part) for name in layers for part in name.split(".")[1:2] if part.isdigit()}
    blocks = f", blocks.0 ... blocks.{max(numbers)}" if numbers and "blocks" in parts else ""
    return ", ".join(parts) + blocks


def _bare(name: str) -> str:
    """The name that a weight or layer has without adapters."""
    return ".".join(part for part in name.split(".") if part != _BASE)


def adapter_layers(model: nn.Module) -> list[Any]:
    """The layers that peft wraps, `BaseTunerLayer`."""
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def base_weights(model: nn.Module) -> dict[str, Tensor]:
    """The weights of the layers that peft wraps, without their adapters, by their full names."""
    return {
        f"{_bare(name)}.weight": cast("Tensor", layer.get_base_layer().weight)
        for name, layer in model.named_modules()
        if isinstance(layer, BaseTunerLayer)
    }


def weight_changes(model: nn.Module) -> dict[str, Tensor]:
    """What the adapters that are on add to a model's weights: float32 in the weight's shape, by its full name.

    A weight that they leave as it is has no entry. Weights of float32 give what the layers do, up to rounding.
    """
    found: dict[str, Tensor] = {}
    seen: set[str] = set()
    for name, layer in model.named_modules():
        if isinstance(layer, BaseTunerLayer) and _bare(name) not in seen:  # the outermost of several on a layer
            seen.add(_bare(name))
            change = _effective_weight(layer) - _base_weight(layer)
            if change.any():
                found[f"{_bare(name)}.weight"] = change
    return found


def _base_weight(layer: Any) -> Tensor:  # noqa: ANN401 - a BaseTunerLayer, which has no weight for mypy
    weight: Tensor = layer.get_base_layer().weight
    return weight.detach().float()


def _effective_weight(layer: Any) -> Tensor:  # noqa: ANN401 - as above
    """The weight of a plain layer that would do what one with adapters does, read off its answers.

    Not put together from the adapters, which need not add up: a DoRA scales what those before it have made.
    """
    base = layer.get_base_layer()
    if isinstance(base, nn.Embedding):
        with torch.no_grad():
            rows: Tensor = layer(torch.arange(base.num_embeddings, device=base.weight.device))
            return rows.float()
    # the gradient of output o, where the whole kernel lies in the picture, by the input: row o of the weight
    folds = base.weight.ndim > 2
    steps: list[tuple[int, int]] = list(zip(base.stride, base.padding, strict=True)) if folds else []
    at = [-(-padding // stride) for stride, padding in steps]
    start = [place * stride - padding for place, (stride, padding) in zip(at, steps, strict=True)]
    outputs, inputs, *kernel = base.weight.shape
    size = [first + side for first, side in zip(start, kernel, strict=True)]
    given = torch.zeros(outputs, inputs, *size, device=base.weight.device, dtype=base.weight.dtype)
    row = torch.arange(outputs, device=given.device)
    with torch.enable_grad():
        said = layer(given.requires_grad_())[(row, row, *at)].sum()
    (whole,) = torch.autograd.grad(said, given)
    kernels: Tensor = whole[(..., *(slice(first, None) for first in start))]  # type: ignore[index] # slices are fine
    return kernels.float()


def adapter_weights(model: nn.Module, name: str) -> dict[str, Tensor]:
    """An adapter's weights, named by layer as peft does."""
    found: dict[str, Tensor] = get_peft_model_state_dict(model, adapter_name=name)
    return {_bare(key): value for key, value in found.items()}  # below a layer of another kind peft names it as well


def adapter_parameters(model: nn.Module, name: str) -> dict[str, nn.Parameter]:
    """An adapter's parameters by their full name in the model."""
    return {
        key: value
        for key, value in model.named_parameters()
        if name in key.split(".") and any(part.startswith(_OWN) for part in key.split("."))
    }


def put_adapter(model: Any, name: str, config: PeftConfig, weights: Mapping[str, Tensor]) -> None:  # noqa: ANN401 - a model with diffusers' PeftAdapterMixin
    """Add an adapter and its weights to a model.

    Raises:
        ValueError: the weights are not those of the configuration, or the kind cannot come after those that are there;
            the model is then as it was.
    """
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Already found a `peft_config`")  # a second adapter is meant
            _add(model, name, config)
        wanted = {key: tuple(value.shape) for key, value in adapter_weights(model, name).items()}
        wrong = sorted(key for key in shapes.keys() | wanted.keys() if shapes.get(key) != wanted.get(key))
        if wrong:
            raise ValueError(
                f"the adapter's weights do not fit its layers: {wrong[0]} has shape {shapes.get(wrong[0])}, "
                f"{wanted.get(wrong[0])} is needed; {len(wrong)} of {len(wanted)} differ"
            )
        set_peft_model_state_dict(model, dict(weights), adapter_name=name)
    except ValueError:
        if name in getattr(model, "peft_config", {}):
            remove_adapter(model, name)
        raise
    place = next(model.parameters())
    for value in adapter_parameters(model, name).values():
        value.data = value.data.to(place.device, place.dtype)


def _add(model: Any, name: str, config: PeftConfig) -> None:  # noqa: ANN401 - as above
    try:
        model.add_adapter(config, name)
    except AttributeError as error:  # peft asks the wrapped layer what only a plain one can answer
        raise ValueError(
            "a LoRA or DoRA cannot come after a LoHa or LoKr that changes the same convolution: load it before that"
        ) from error


def remove_adapter(model: Any, name: str) -> None:  # noqa: ANN401 - as above
    """Take an adapter out of a model; with the last one go peft's layers, and the model is what it was."""
    model.delete_adapters(name)
    if not getattr(model, "peft_config", None):
        model.unload_lora()


@torch.no_grad()
def base_hash(model: nn.Module) -> str:
    """16 hexadecimal digits that follow from a model's weights without its adapters.

    They are the same in float32, float16 and bfloat16 for weights that were saved in float16: what is hashed is
    rounded to bfloat16.
    """
    total = hashlib.sha256()
    for name, value in sorted((_bare(name), value) for name, value in model.state_dict().items() if not _owned(name)):
        rounded = value.detach().to("cpu", torch.bfloat16) if value.is_floating_point() else value.detach().cpu()
        total.update(f"{name} {tuple(value.shape)}".encode())
        total.update(rounded.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def _owned(name: str) -> bool:
    return any(part.startswith(_OWN) for part in name.split("."))

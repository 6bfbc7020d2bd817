"""What trains of an adapter, and what is said of it: the loop's player, the file's header, the model card."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from auface_diffusers.facs import AUSet, units
from auface_diffusers.models.adapters import (
    adapter_config,
    adapter_parameters,
    adapter_weights,
    base_hash,
    find_layers,
)
from auface_diffusers.pipelines import VQAUFacePipeline
from auface_diffusers.pipelines.adapter_files import Adapter, AdapterInfo
from auface_diffusers.pipelines.adapters import Loaded

NAME = "trained"
"""Of the adapter in the pipeline that is trained."""


@dataclass(frozen=True)
class AdapterSpec:
    """The adapter; table ``[adapter]`` of a configuration.

    Attributes:
        kind: "lora", "dora", "loha" or "lokr".
        rank, alpha: its size, and what the change counts: alpha / rank.
        dropout: 0..1, against learning few pictures by heart.
        targets: layers of the transformer by name, see ``models.adapters.find_layers``.
        text_targets: layers of the text model; none leaves it as it is.
        trigger: words before every text, such as "clay"; "" is none.
    """

    kind: str = "lora"
    rank: int = 8
    alpha: float = 8.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out")
    text_targets: tuple[str, ...] = ()
    trigger: str = ""

    def __post_init__(self) -> None:
        adapter_config(self.kind, self.rank, self.alpha, ["x"], self.dropout)  # raises for what cannot be

    def named(self) -> dict[str, tuple[str, ...]]:
        """Targets by component."""
        given = {"transformer": self.targets, "text_alignment": self.text_targets}
        return {part: targets for part, targets in given.items() if targets or part == "transformer"}


class AdaptedTransformer(nn.Module):
    """The transformer as the loop sees it: its parameters are those of the adapter, and nothing else.

    So only these are trained, averaged, saved and shared between processes. What they change is held beside, not
    below: it moves along and is called, and its weights stay out of the state.

    Args:
        transformer: with the adapter `NAME` in it. others: further models with it.
    """

    _supports_gradient_checkpointing = True

    def __init__(self, transformer: nn.Module, others: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.held: tuple[nn.Module, ...] = (transformer, *others)  # a tuple is no submodule
        for number, model in enumerate(self.held):
            for name, value in adapter_parameters(model, NAME).items():
                self.register_parameter(f"{number}/{name}".replace(".", "/"), value)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - what the transformer takes
        """See `FaceTransformer.forward`."""
        logits: Tensor = self.held[0](*args, **kwargs)
        return logits

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return next(self.parameters()).device

    def train(self, mode: bool = True) -> AdaptedTransformer:
        """Of all models that are held: an adapter's dropout lies in them."""
        for model in self.held:
            model.train(mode)
        return super().train(mode)

    def enable_gradient_checkpointing(self) -> None:
        """Less memory, more time."""
        for model in self.held:
            model.enable_gradient_checkpointing()  # type: ignore[operator] # diffusers' ModelMixin

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AdaptedTransformer:
        for model in self.held:
            model._apply(fn, recurse)
        return super()._apply(fn, recurse)


def begin_adapter(pipe: VQAUFacePipeline, spec: AdapterSpec, info: Mapping[str, Any]) -> AdapterInfo:
    """Put a new adapter `NAME` into a pipeline and switch it on; nothing but it can be trained then.

    Args:
        pipe: the base. spec: the adapter. info: what `AdapterInfo` says of data and samples.

    Raises:
        ValueError: a target that matches no layer.
    """
    layers, base = {}, {}
    for part, targets in spec.named().items():
        model = getattr(pipe, part)
        layers[part] = tuple(find_layers(model, targets, spec.kind))
        base[part] = base_hash(model)
    for part, names in layers.items():
        model = getattr(pipe, part).requires_grad_(False)
        model.add_adapter(adapter_config(spec.kind, spec.rank, spec.alpha, names, spec.dropout), NAME)
    targets = (*spec.targets, *spec.text_targets)
    found = AdapterInfo(
        spec.kind,
        spec.rank,
        spec.alpha,
        targets,
        layers,
        base,
        tuple(pipe.text_alignment.channels),
        spec.trigger,
        **info,
    )
    pipe.adapters[NAME] = Loaded(found)
    return found


def finished(pipe: VQAUFacePipeline, info: AdapterInfo) -> Adapter:
    """The adapter as it is now, for `write_adapter`."""
    return Adapter(info, {part: adapter_weights(getattr(pipe, part), NAME) for part in info.components})


def summary(labels: Sequence[Mapping[str, Any]], poor: int) -> dict[str, Any]:
    """What an adapter's header says of its pictures: how many, their units, who has labelled them, what fits."""
    present = Counter(code for label in labels for code in AUSet.parse(label["effective"]).codes)
    return {
        "pictures": len(labels),
        "units": {code: present[code] for code in units if code in present},
        "origins": dict(Counter(label.get("origin", "made") for label in labels)),
        "people": len({str(label.get("subject", label.get("person", ""))) for label in labels}),
        "without_structure": poor,
    }


def adapter_card(info: AdapterInfo, description: Mapping[str, Any], report: Mapping[str, Any], table: str) -> str:
    """Markdown that lies beside an adapter's file. ``table``: of the report before and after, or ""."""
    trigger = f"`{info.trigger}`, put before texts by itself while the adapter is on" if info.trigger else "none"
    name = "adapter.safetensors"
    lines = ["---", "library_name: diffusers", f"tags: [FACS, action-units, {info.kind}]", "---", ""]
    lines += ["# AUFace adapter", "", "```python", "pipe = VQAUFacePipeline.from_default()"]
    lines += [f'pipe.load_lora_weights("{name}", adapter_name="mine")', 'pipe.set_adapters("mine", 0.8)', "```", ""]
    lines += [f"- Kind: {info.kind}, rank {info.rank}, alpha {info.alpha:g}, targets {', '.join(info.targets)}."]
    lines += [f"- Base: {', '.join(f'{part} {value}' for part, value in info.base.items())}; others are refused."]
    lines += ["- Person: drawn where no `identity` is named."] if info.person else []
    lines += [f"- Trigger words: {trigger}.", f"- Pictures: {json.dumps(info.data)}."]
    lines += [
        f"- Steps: {report['step']}, in {report['seconds'] / 60:.1f} min.",
        f"- Samples: {json.dumps(info.sample)}.",
    ]
    lines += ["", "Whose pictures these are, and what may be done with this file, its maker has to say here.", ""]
    lines += ["![before and after](before_after.png)", "", "Above the base, below with the adapter, in pairs of rows."]
    lines += ["", "## Held out", "", "| what | value |", "|---|---|"]
    lines += [f"| {key} | {value:.5g} |" for key, value in report["validation"].items()]
    lines += ["", table] if table else []
    lines += ["", "## Configuration", "", "```json", json.dumps(description, indent=1), "```", ""]
    return "\n".join(lines)

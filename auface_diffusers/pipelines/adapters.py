"""`AdaptablePipeline`: adapters (LoRA, DoRA, LoHa, LoKr) of a pipeline, on diffusers' `LoraBaseMixin`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from torch import Tensor

from auface_diffusers.models.adapters import (
    adapter_config,
    adapter_layers,
    base_hash,
    base_weights,
    put_adapter,
    remove_adapter,
    weight_changes,
)
from auface_diffusers.pipelines.adapter_files import (
    COMPONENTS,
    Adapter,
    AdapterInfo,
    check_weight,
    parse_adapter,
    read_adapter,
)


@dataclass
class Loaded:
    """An adapter in a pipeline: what it is, how much it counts, and whether it is on at all."""

    info: AdapterInfo
    weight: float = 1.0
    on: bool = True


class AdaptablePipeline(LoraBaseMixin, DiffusionPipeline):
    """Adapters of the transformer and the text model; see `train_lora` for how they are made.

        >>> pipe.load_lora_weights("clay.safetensors", adapter_name="clay")
        >>> pipe.set_adapters(["clay", "blue"], [0.8, 0.3])    # several; a weight of 0 is off
        >>> pipe.disable_lora()                                # the base, bit for bit
        >>> pipe.fuse_lora(); pipe.unfuse_lora()               # into the weights, and out again
        >>> pipe.unload_lora_weights()

    Adapters are part of the components: pipelines made of the same ones (`from_pipe`) have the same adapters. The
    trigger words of those that are on are put before the texts, see `with_triggers`.

    Attributes:
        trigger_words: put before the texts as well: of adapters that are part of the weights by now, see
            `adapter_deltas`. They belong to this pipeline, and to those made from it by `from_pipe`.
        person: identity code (46,) of the one whom such an adapter shows, or None.
    """

    trigger_words: tuple[str, ...] = ()
    person: Tensor | None = None
    _lora_loadable_modules = list(COMPONENTS)
    transformer: Any
    text_alignment: Any

    def load_lora_weights(  # type: ignore[override] # diffusers' base takes anything
        self,
        source: str | os.PathLike[str] | Mapping[str, Tensor],
        adapter_name: str | None = None,
        *,
        header: Mapping[str, str] | None = None,
        hotswap: bool = False,
        any_base: bool = False,
    ) -> str:
        """Load an adapter and switch it on at weight 1, beside those that are on already.

        Args:
            source: a file that ``train_lora adapter`` wrote, or the weights of one by its keys, with its ``header``.
            adapter_name: its name here, without dots; None takes ``adapter_0``, ``adapter_1``, ...
            header: of a file whose weights are given.
            hotswap: put it in the place of the adapter of this name, which keeps its weight.
            any_base: load it although it was trained on another base; faces may then be anything.

        Returns:
            The name.

        Raises:
            ValueError: the file is a pickle, damaged or of another model; it was trained on another base or with
                other action units; the name is taken or, for ``hotswap``, is not; adapters are fused.
        """
        found = _adapter_of(source, header)
        self._check_not_fused("load")
        name = self._new_name(adapter_name, hotswap)
        self._check_fits(found.info, any_base)
        weight = self.adapters[name].weight if hotswap else 1.0
        if hotswap:
            self.delete_adapters(name)
        try:
            for part in found.info.components:
                layers = found.info.layers[part]
                config = adapter_config(found.info.kind, found.info.rank, found.info.alpha, layers)
                put_adapter(getattr(self, part), name, config, found.weights[part])
        except ValueError:
            for part in found.info.components:
                if name in getattr(getattr(self, part), "peft_config", {}):
                    remove_adapter(getattr(self, part), name)
            self._apply_weights()
            raise
        self.adapters[name] = Loaded(found.info, weight)
        self._apply_weights()
        return name

    @property
    def adapters(self) -> dict[str, Loaded]:
        """The adapters by name, in the order of loading."""
        there: dict[str, Loaded] | None = getattr(self.transformer, "_auface_adapters", None)
        if there is None:
            there = {}
            self.transformer._auface_adapters = there
        return there

    def set_adapters(  # type: ignore[override] # diffusers also takes weights a component or block
        self, adapter_names: str | Sequence[str], adapter_weights: float | Sequence[float] | None = None
    ) -> None:
        """Choose which adapters are on, and how much each counts; all others are off.

        Args:
            adapter_names: of adapters that are loaded; an empty list switches all off.
            adapter_weights: one for all or one each, any finite number; None is 1. At 0 an adapter is off. The
                magnitudes of a DoRA count in full at any other weight: they cannot be scaled.

        Raises:
            ValueError: an unknown name, one that stands twice, another number of weights; adapters are fused.
        """
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        asked = 1.0 if adapter_weights is None else adapter_weights
        weights = list(asked) if isinstance(asked, Sequence) else [asked] * len(names)
        unknown = [name for name in names if name not in self.adapters]
        if unknown or len(set(names)) < len(names):
            raise ValueError(f"adapters {names}: give names of {list(self.adapters)}, each once")
        if len(weights) != len(names):
            raise ValueError(f"{len(weights)} weights for {len(names)} adapters: give one for all, or one each")
        given = {name: check_weight(name, weight) for name, weight in zip(names, weights, strict=True)}
        self._check_not_fused("set_adapters")
        for name, one in self.adapters.items():
            one.weight, one.on = given.get(name, 0.0), True
        self._apply_weights()

    def get_active_adapters(self) -> list[str]:
        """Names of the adapters that are on."""
        return [name for name, one in self.adapters.items() if one.on and one.weight != 0]

    def disable_lora(self) -> None:
        """Switch all adapters off: the base, bit for bit. Raises `ValueError` while they are fused."""
        self._switch(False)

    def enable_lora(self) -> None:
        """Switch all adapters on again, at their weights. Raises `ValueError` while they are fused."""
        self._switch(True)

    def fuse_lora(
        self,
        components: Sequence[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: Sequence[str] | None = None,
        **kwargs: Any,  # noqa: ANN401 - what diffusers takes
    ) -> None:
        """Add the adapters that are on to the weights of the base, which then costs no time.

        Args:
            components: of the pipeline; None is all that the adapters change.
            lora_scale: a factor of their weights.
            safe_fusing: look for values that are not finite first.
            adapter_names: those to add; None is all that are on.

        Raises:
            ValueError: no adapter is on, a name is of none that is on, or some are fused already.
        """
        self._check_not_fused("fuse_lora")
        on = self.get_active_adapters()
        chosen = on if adapter_names is None else list(adapter_names)
        if not chosen or set(chosen) - set(on):
            raise ValueError(f"fuse_lora {chosen}: adapters that are on are {on}; choose with set_adapters")
        parts = [part for part in COMPONENTS if any(part in self.adapters[name].info.layers for name in chosen)]
        parts = list(components or parts)
        changes = self._changes(chosen, lora_scale)
        for part in COMPONENTS:
            model = getattr(self, part)
            model._auface_unfused = [(weight, weight.detach().clone()) for weight in base_weights(model).values()]
        super().fuse_lora(parts, lora_scale, safe_fusing, chosen, **kwargs)
        for part in parts:  # what peft merges is not what its layers do where kinds are mixed
            before = {id(weight): value for weight, value in getattr(self, part)._auface_unfused}
            for name, weight in base_weights(getattr(self, part)).items():
                mixed = before[id(weight)].float() + changes[part].get(name, 0)
                weight.data.copy_(mixed)

    @torch.no_grad()
    def unfuse_lora(self, components: Sequence[str] | None = None, **kwargs: Any) -> None:  # noqa: ANN401 - as above
        """Take fused adapters out of the weights again, which are then those of before, bit for bit.

        Args:
            components: of the pipeline; None is all.
        """
        parts = list(components or COMPONENTS)
        super().unfuse_lora(parts, **kwargs)
        for part in parts:
            for weight, before in getattr(getattr(self, part), "_auface_unfused", []):
                weight.copy_(before)
            getattr(self, part)._auface_unfused = []
        self._apply_weights()

    def adapter_deltas(self) -> dict[str, Tensor]:
        """What the adapters that are on add to the weights, for a program that changes weights itself.

        Returns:
            By component and weight, such as "transformer.to_codes.weight": float32 in the weight's shape. The base
            with these added draws what the pipeline draws, up to rounding; weights that stay have no entry.

        Raises:
            ValueError: adapters are fused: the weights are then changed already.
        """
        self._check_not_fused("adapter_deltas")
        return {f"{part}.{name}": n for part in COMPONENTS for name, n in weight_changes(getattr(self, part)).items()}

    def unload_lora_weights(self) -> None:
        """Forget all adapters. What is fused stays in the weights: fuse, unload and save keeps a mixture."""
        super().unload_lora_weights()
        for part in COMPONENTS:
            getattr(self, part)._auface_unfused = []
        self._merged_adapters = set()
        self.adapters.clear()

    def delete_adapters(self, adapter_names: str | Sequence[str]) -> None:
        """Forget some adapters. Raises `ValueError` for an unknown name, or while adapters are fused."""
        names = [adapter_names] if isinstance(adapter_names, str) else list(adapter_names)
        unknown = [name for name in names if name not in self.adapters]
        if unknown:
            raise ValueError(f"adapters {unknown} are not loaded; there are {list(self.adapters)}")
        self._check_not_fused("delete_adapters")
        for name in names:
            for part in self.adapters.pop(name).info.components:
                remove_adapter(getattr(self, part), name)
        self._apply_weights()

    @wraps(DiffusionPipeline.save_pretrained)
    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override] # noqa: ANN401 - what diffusers takes
        """Save as diffusers does. Raises `ValueError` while adapters are loaded: their layers are not the base's."""
        if self.adapters:
            raise ValueError(
                f"adapters {list(self.adapters)} are loaded: unload_lora_weights() first; to save the mixture, "
                "fuse_lora() and then unload_lora_weights()"
            )
        super().save_pretrained(*args, **kwargs)

    def with_triggers(self, texts: Sequence[str]) -> list[str]:
        """Texts with `trigger_words` and those of the adapters that are on before them, unless they have them."""
        words = [*self.trigger_words, *(self.adapters[name].info.trigger for name in self.get_active_adapters())]
        done = []
        for text in texts:
            missing = [word for word in dict.fromkeys(words) if word and word.lower() not in text.lower()]
            done.append(", ".join([*missing, text]))
        return done

    def adapter_person(self) -> Tensor | None:
        """Identity code (46,) of the last adapter that is on and shows one person; else `person`."""
        shown = [self.adapters[name].info.person for name in self.get_active_adapters()]
        return next((torch.tensor(codes) for codes in reversed(shown) if codes), self.person)

    def _new_name(self, name: str | None, hotswap: bool) -> str:
        if name is None:
            number = next(n for n in range(len(self.adapters) + 1) if f"adapter_{n}" not in self.adapters)
            name = f"adapter_{number}"
        if not isinstance(name, str) or not name or "." in name:
            raise ValueError(f"adapter_name {name!r}: give a name without dots")
        if hotswap and name not in self.adapters:
            raise ValueError(f"hotswap: no adapter {name!r} is loaded, there are {list(self.adapters)}")
        if not hotswap and name in self.adapters:
            raise ValueError(f"adapter_name {name!r} is taken: choose another, or hotswap=True to replace it")
        return name

    def _check_fits(self, info: AdapterInfo, any_base: bool) -> None:
        ours = tuple(self.text_alignment.channels)
        if info.channels != ours:
            other = sorted(set(info.channels) ^ set(ours)) or ["their order"]
            raise ValueError(f"the adapter has other action units than this pipeline: {', '.join(other[:5])}")
        for part, wanted in info.base.items():
            found = wanted if any_base else base_hash(getattr(self, part))
            if found != wanted:
                raise ValueError(
                    f"the adapter was trained on another base: {part} {wanted}, this pipeline has {found}. Load the "
                    "pipeline it was made for, or, at your own risk, with any_base=True"
                )

    def _changes(self, chosen: Sequence[str], scale: float) -> dict[str, dict[str, Tensor]]:
        """By component, `weight_changes` with only these adapters on, their weights times ``scale``."""
        kept = {name: one.weight for name, one in self.adapters.items()}
        for name, one in self.adapters.items():
            one.weight = scale * one.weight if name in chosen else 0.0
        self._apply_weights()
        try:
            return {part: weight_changes(getattr(self, part)) for part in COMPONENTS}
        finally:
            for name, weight in kept.items():
                self.adapters[name].weight = weight
            self._apply_weights()

    def _check_not_fused(self, what: str) -> None:
        if any(layer.merged for part in COMPONENTS for layer in adapter_layers(getattr(self, part))):
            raise ValueError(f"{what}: adapters are fused; unfuse_lora() first, or unload_lora_weights() to keep them")

    def _switch(self, on: bool) -> None:
        self._check_not_fused("enable_lora" if on else "disable_lora")
        for one in self.adapters.values():
            one.on = on
        self._apply_weights()

    def _apply_weights(self) -> None:
        """Have peft's layers do what the weights say; adapters at 0 are left out rather than scaled."""
        active = self.get_active_adapters()
        for part in COMPONENTS:
            model = getattr(self, part)
            if not adapter_layers(model):
                continue
            on = {n: self.adapters[n].weight for n in active if part in self.adapters[n].info.layers}
            if on:
                model.enable_adapters()
                model.set_adapters(list(on), list(on.values()))
            else:
                model.disable_adapters()


def _adapter_of(source: str | os.PathLike[str] | Mapping[str, Tensor], header: Mapping[str, str] | None) -> Adapter:
    if isinstance(source, Mapping):
        return parse_adapter(source, header or {}, "the weights given")
    if header is not None:
        raise ValueError("header is given with a file, which has its own: leave it out")
    return read_adapter(source)

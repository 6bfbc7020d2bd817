"""`TextAlignment`: a text encoder whose words are aligned with action units, and read back to levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    AutoConfig,
    CLIPTextConfig,
    CLIPTextModel,
    PretrainedConfig,
    PreTrainedModel,
)

from auface_diffusers.facs import units
from auface_diffusers.facs.levels import MAX_LEVEL
from auface_diffusers.models.checkpoints import SafetensorsOnly
from auface_diffusers.models.outputs import TensorsOutput

HEAD_DIM = 64
"""Width of one attention head of the reader."""
PRESENCE_PRIOR = -3.0
"""Presence logit before training: one channel in twenty is active in a typical score."""
_SIZES = {"vocab_size": 2048, "hidden_size": 256, "num_layers": 4, "num_heads": 4, "intermediate_size": 1024}
"""Default sizes of the built-in encoder."""
_TOKENS = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
"""Default ids, those of `train_lora.data.build_tokenizer`."""
_THEIR_NAMES = {
    "num_layers": ("num_hidden_layers",),
    "num_heads": ("num_attention_heads",),
    "intermediate_size": ("intermediate_size", "d_ff", "ffn_dim", "hidden_dim"),
}


@dataclass
class TextAlignmentOutput(TensorsOutput):
    """What `TextAlignment` returns; B texts of L tokens, width D, C channels.

    Attributes:
        hidden_states: (B, L, D), the encoder's words, for cross-attention. Padding is not zeroed: pass the mask on.
        embedding: (B, P), one vector a text, of length 1.
        presence_logits: (B, C); a channel is active where its sigmoid is above 0.5.
        levels: (B, C) in 0..5: the level a channel has if it is active.
    """

    hidden_states: Tensor
    embedding: Tensor
    presence_logits: Tensor
    levels: Tensor


class TextAlignment(SafetensorsOnly, ModelMixin, ConfigMixin, PeftAdapterMixin):
    """A text encoder with heads that read action units out of a description.

    One learned query a channel looks at the words of the encoder; what it gathers says whether the channel is active
    and at which level. The tokenizer is a component of its own.

    The encoder's configuration and weights are saved with the model: loading needs no other folder.

    Args:
        vocab_size: number of tokens. hidden_size: width D of the words. num_layers, num_heads, intermediate_size:
            sizes of the built-in CLIP text encoder.
        max_length: longest text in tokens, bos and eos included. An encoder with fewer positions lowers it.
        projection_dim: width P of the embedding.
        reader_dim: width of the heads, a multiple of 64.
        channels: names of the levels' columns; None takes ``units.channels``. They are stored with the model.
        bos_token_id, eos_token_id, pad_token_id: ids of the tokenizer.
        encoder: folder of a local transformers text encoder (CLIP, T5, BERT, ...), which takes the place of the
            built-in one and brings its own sizes and ids. Nothing is downloaded, and only safetensors are read.
        encoder_config: the encoder's configuration with its ``model_type``; `save_pretrained` writes it.

    Raises:
        ValueError: a size that is impossible or contradicts ``encoder``, an ``encoder`` that is no local folder,
            channels that stand twice.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        vocab_size: int = _SIZES["vocab_size"],
        hidden_size: int = _SIZES["hidden_size"],
        num_layers: int = _SIZES["num_layers"],
        num_heads: int = _SIZES["num_heads"],
        intermediate_size: int = _SIZES["intermediate_size"],
        max_length: int = 192,
        projection_dim: int = 256,
        reader_dim: int = 256,
        channels: Sequence[str] | None = None,
        bos_token_id: int = _TOKENS["bos_token_id"],
        eos_token_id: int = _TOKENS["eos_token_id"],
        pad_token_id: int = _TOKENS["pad_token_id"],
        encoder: str | None = None,
        encoder_config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        names = list(units.channels if channels is None else channels)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"channels {names}: one or more names are needed, each once")
        if reader_dim < HEAD_DIM or reader_dim % HEAD_DIM:
            raise ValueError(f"reader_dim {reader_dim} must be a positive multiple of {HEAD_DIM}")
        if encoder is not None:
            network = _load_encoder(encoder)
        elif encoder_config is not None:
            network = _build_encoder(encoder_config)
        else:
            network = _built_in(dict(self.config))
        if encoder is not None or encoder_config is not None:
            # what the encoder is, rather than what was asked for: other components read the width from here
            self.register_to_config(**_checked_facts(network.config, dict(self.config), fresh=encoder is not None))
        self.register_to_config(channels=names, encoder=None, encoder_config=_plain(network.config))
        self.text_encoder = network
        self.projection = nn.Linear(reader_dim, projection_dim, bias=False)
        self.reader = ChannelReader(self.config["hidden_size"], reader_dim, len(names))

    @property
    def channels(self) -> tuple[str, ...]:
        """Names of the columns of ``presence_logits`` and ``levels``."""
        return tuple(self.config["channels"])

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> TextAlignmentOutput:
        """Encode texts and read them.

        Args:
            input_ids: (B, L) int64, at most ``config.max_length`` long.
            attention_mask: (B, L), 1 for tokens and 0 for padding.

        Raises:
            ValueError: the two do not fit each other, or the text is too long.
        """
        if input_ids.ndim != 2 or input_ids.shape != attention_mask.shape:
            given = f"{tuple(input_ids.shape)} and {tuple(attention_mask.shape)}"
            raise ValueError(f"input_ids and attention_mask have shapes {given}: both must be (B, L)")
        if input_ids.shape[1] > self.config["max_length"]:
            raise ValueError(
                f"{input_ids.shape[1]} tokens are too many: the limit is {self.config['max_length']}; "
                "tokenize with truncation=True, or describe in style 'compact'"
            )
        hidden: Tensor = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        presence, levels, summary = self.reader(hidden, attention_mask.bool())
        return TextAlignmentOutput(
            hidden_states=hidden,
            embedding=F.normalize(self.projection(summary), dim=-1),
            presence_logits=presence,
            levels=levels,
        )

    @torch.no_grad()
    def read(self, input_ids: Tensor, attention_mask: Tensor, threshold: float = 0.5) -> Tensor:
        """Levels (B, C) in 0..5 that texts say, 0 where presence is below ``threshold`` (0..1).

        ``AUSet.from_vector(levels.tolist(), model.channels)`` makes a score of a row.
        """
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold!r} is outside 0..1")
        said = self.forward(input_ids, attention_mask)
        return said.levels * (said.presence_logits.sigmoid() >= threshold)


class ChannelReader(nn.Module):
    """One query a channel, and one for the whole text, attend to the words; each channel has its own read-out.

    To it comes what the mean and the maximum of the words say: it is learned in a few hundred steps, long before a
    query that is rarely wanted finds its words.

    Args:
        hidden_size: width of the words. width: width of the queries. channels: number C of channels.
    """

    def __init__(self, hidden_size: int, width: int, channels: int) -> None:
        super().__init__()
        self.heads = width // HEAD_DIM
        self.queries = nn.Parameter(torch.randn(channels + 1, width) * width**-0.5)
        self.words_norm = nn.LayerNorm(hidden_size)
        self.to_query = nn.Linear(width, width, bias=False)
        self.to_key_value = nn.Linear(hidden_size, 2 * width, bias=False)
        self.to_out = nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
        self.out_norm = nn.LayerNorm(width)
        self.readout = nn.Parameter(torch.randn(channels, 2, width) * width**-0.5)
        self.readout_bias = nn.Parameter(torch.tensor([PRESENCE_PRIOR, 0.0]).repeat(channels, 1))
        self.gist = nn.Sequential(nn.Linear(2 * hidden_size, 512), nn.GELU(), nn.Linear(512, 2 * channels))

    def forward(self, words: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Read (B, L, D) words under a (B, L) bool mask: logits (B, C), levels (B, C) in 0..5, summary (B, W)."""
        batch = words.shape[0]
        query = self.to_query(self.queries).expand(batch, -1, -1)
        key, value = self.to_key_value(self.words_norm(words)).chunk(2, dim=-1)
        query, key, value = (x.unflatten(-1, (self.heads, HEAD_DIM)).transpose(1, 2) for x in (query, key, value))
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=mask[:, None, None, :])
        states = self.queries + self.to_out(seen.transpose(1, 2).flatten(-2))
        states = self.out_norm(states + self.mlp(states))
        read = torch.einsum("bcw,cow->bco", states[:, 1:], self.readout) + self.readout_bias
        read = read + self.gist(self._pooled(words, mask)).unflatten(1, (-1, 2))
        presence, level = read.unbind(-1)
        return presence, MAX_LEVEL * level.sigmoid(), states[:, 0]

    def _pooled(self, words: Tensor, mask: Tensor) -> Tensor:
        """Mean and maximum (B, 2 D) over the words of each text."""
        there = mask[..., None]
        mean = (words * there).sum(1) / there.sum(1).clamp(min=1)
        return torch.cat([mean, words.masked_fill(~there, -torch.inf).amax(1)], -1)


def _built_in(config: Mapping[str, Any]) -> PreTrainedModel:
    """A small CLIP text encoder."""
    if config["hidden_size"] % config["num_heads"]:
        raise ValueError(f"hidden_size {config['hidden_size']} is no multiple of num_heads {config['num_heads']}")
    names = ("vocab_size", "hidden_size", "intermediate_size", *_TOKENS)
    return CLIPTextModel(
        CLIPTextConfig(
            num_hidden_layers=config["num_layers"],
            num_attention_heads=config["num_heads"],
            max_position_embeddings=config["max_length"],
            **{name: config[name] for name in names},
        )
    )


def _load_encoder(folder: str) -> PreTrainedModel:
    """The text encoder in a local folder, in float32."""
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"encoder {folder!r} is no local folder of a transformers model: config.json is missing")
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    config = getattr(config, "text_config", config)
    network, found = _encoder_class(config).from_pretrained(
        folder,
        config=config,
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    missing = sorted(name for name in found["missing_keys"] if "pooler" not in name)
    if missing:
        raise ValueError(f"encoder {folder!r} has no weights for {', '.join(missing[:3])}: is it a text encoder?")
    return _trimmed(network.train())


def _build_encoder(saved: Mapping[str, Any]) -> PreTrainedModel:
    """The encoder of a saved configuration, with weights that are still to be loaded."""
    values = dict(saved)
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    return _trimmed(_encoder_class(config)(config))


def _encoder_class(config: PretrainedConfig) -> Any:  # noqa: ANN401 - one of many classes, known at run time
    """The class that holds the text encoder of a model alone."""
    for table in (MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING):
        if type(config) in table:
            return table[type(config)]
    raise ValueError(f"encoder of type {config.model_type!r}: transformers has no text encoder of this type")


def _trimmed(network: PreTrainedModel) -> PreTrainedModel:
    """Leave out what is not used, and T5's second name of its embedding, which safetensors refuses."""
    inner = network.encoder if hasattr(network, "shared") and hasattr(network, "encoder") else network
    assert isinstance(inner, PreTrainedModel)
    if getattr(inner, "pooler", None) is not None:
        setattr(inner, "pooler", None)  # noqa: B010 - a module may be set to None, whatever the checker of types says
    return inner


def _checked_facts(theirs: PretrainedConfig, asked: Mapping[str, Any], fresh: bool) -> dict[str, Any]:
    """Sizes and ids of an encoder under our names. ``fresh``: sizes asked for must not contradict them."""
    names = {**{name: (name,) for name in (*_SIZES, *_TOKENS)}, **_THEIR_NAMES}
    found = {ours: [getattr(theirs, name) for name in them if hasattr(theirs, name)] for ours, them in names.items()}
    facts = {name: values[0] if values else None for name, values in found.items()}
    for name, default in _SIZES.items():
        if fresh and asked[name] not in (default, facts[name]):
            raise ValueError(f"{name} {asked[name]}: the encoder has {facts[name]}; leave the argument out")
    positions = getattr(theirs, "max_position_embeddings", None) or asked["max_length"]
    return {**facts, "max_length": min(asked["max_length"], positions)}


def _plain(config: PretrainedConfig) -> dict[str, Any]:
    """What JSON can hold of an encoder's configuration, without where it came from."""
    values = {**config.to_diff_dict(), "model_type": config.model_type}
    return {name: value for name, value in values.items() if name not in ("_name_or_path", "transformers_version")}

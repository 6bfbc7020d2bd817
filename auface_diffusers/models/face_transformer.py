"""`FaceTransformer`: draws the masked codes of a face from its text, structure map, identity and attributes.

Shapes: B batch, h = w code grid, G code groups, N = h * w * G code slots, K codes, M = merge, T = (h / M)^2 positions,
W width, L text tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import Tensor, nn
from torch.nn import functional as F

from auface_diffusers.anatomy import ATTRIBUTE_SIZE, STRUCTURE_CHANNELS
from auface_diffusers.anatomy.identity import CODE_SIZE
from auface_diffusers.models.attention import Attention, KeysValues, rotary_angles, rotation
from auface_diffusers.models.checkpoints import SafetensorsOnly
from auface_diffusers.models.structure_encoder import StructureFeatures

SOURCES = ("text", "structure", "identity", "attributes")
"""What a face is drawn from; each can be left out, for training and for guidance."""
CONTEXT_TOKENS = 2
"""Tokens that an identity, and that attributes, are attended to with."""
ALIGNMENT = 8
"""Contexts have a multiple of so many tokens: memory-efficient attention wants aligned masks."""


class FaceConditions(NamedTuple):
    """What `FaceTransformer` makes of everything but the codes: the same in all steps of a face.

    Attributes:
        features: (B, T, W) of the structure map. scales: (B, 6, W), how each block is modulated.
        context: (B, M, W), attended to. mask: (B, 1, 1, M), added to its scores.
        attended: of each block, the keys and values of the context; empty if a block is to make them itself.
    """

    features: Tensor
    scales: Tensor
    context: Tensor
    mask: Tensor
    attended: tuple[KeysValues, ...] = ()


class FaceTransformer(SafetensorsOnly, ModelMixin, ConfigMixin, AttentionMixin, PeftAdapterMixin):
    """Bidirectional transformer over a grid of codes (MaskGIT, arXiv 2202.04200).

    A position holds the M x M x G codes of its cell, so that the sequence is short. The text is attended to; the
    structure map is added to the positions; identity and attributes do both, and set the scale and shift of every
    block as a class does in DiT (arXiv 2212.09748, with the single table of PixArt, arXiv 2310.00426).

    Args:
        codebook_size: K; the mask has the index K.
        grid_size: h. code_groups: G. merge: M, a divisor of h.
        width, layers, heads: of the transformer. mlp_ratio: width of the hidden layer of a block, over ``width``.
        code_dim: numbers that a code is embedded in.
        text_dim: of the text encoder's hidden states and of its embedding.
        image_size, structure_channels, structure_width: of the structure map, see `StructureFeatures`.
        identity_dim, attribute_dim: lengths of the identity code and of the attribute vector.

    Raises:
        ValueError: sizes that do not divide each other.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules = ["Block"]

    @register_to_config
    def __init__(
        self,
        codebook_size: int = 1000,
        grid_size: int = 16,
        code_groups: int = 2,
        merge: int = 2,
        width: int = 384,
        layers: int = 8,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        code_dim: int = 64,
        text_dim: int = 256,
        image_size: int = 128,
        structure_channels: int = len(STRUCTURE_CHANNELS),
        structure_width: int = 256,
        identity_dim: int = CODE_SIZE,
        attribute_dim: int = ATTRIBUTE_SIZE,
    ) -> None:
        super().__init__()
        if grid_size % merge or width % (4 * heads) or grid_size // merge * 16 != image_size:
            raise ValueError(
                f"merge {merge} has to divide grid_size {grid_size}, 4 * heads {heads} the width {width}, and "
                f"image_size {image_size} has to be 16 * grid_size / merge"
            )
        self.gradient_checkpointing = False
        self.slots = merge * merge * code_groups
        self.head_width = width // heads
        self.mask_token_id = codebook_size
        self.code_embedding = nn.Embedding(codebook_size + 1, code_dim)
        self.to_width = nn.Linear(self.slots * code_dim, width)
        self.structure = StructureFeatures(image_size, structure_channels, structure_width)
        self.from_structure = nn.Linear(structure_width, width)
        self.from_text = nn.Linear(text_dim, width)
        self.from_identity = _Tokens(identity_dim, width)
        self.from_attributes = _Tokens(attribute_dim, width)
        self.from_embedding = nn.Linear(text_dim, width)
        self.missing = _Missing(width)
        self.modulation = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList([Block(width, heads, mlp_ratio) for _ in range(layers)])
        self.norm_out = nn.LayerNorm(width)
        self.to_slots = nn.Linear(width, self.slots * 2 * code_dim)
        self.norm_slots = nn.LayerNorm(2 * code_dim)
        self.to_codes = nn.Linear(2 * code_dim, codebook_size)
        nn.init.normal_(self.code_embedding.weight, std=0.5)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        codes: Tensor,
        text: Tensor | None = None,
        text_mask: Tensor | None = None,
        embedding: Tensor | None = None,
        structure: Tensor | None = None,
        identity: Tensor | None = None,
        attributes: Tensor | None = None,
        dropped: Mapping[str, Tensor] | None = None,
        conditions: FaceConditions | None = None,
    ) -> Tensor:
        """Logits (B, N, K) of every code slot.

        Args:
            codes: (B, N) int64 in 0..K, in the order of ``FaceTokenizer.encode(...).flatten(1)``; K is masked.
            text, text_mask, embedding, structure, identity, attributes, dropped: see `encode_conditions`.
            conditions: what `encode_conditions` returned for these faces, in place of all of them.

        Raises:
            ValueError: an unknown source in ``dropped``, a missing argument, or another shape of anything.
        """
        if conditions is None:
            given = {"text": text, "text_mask": text_mask, "embedding": embedding}
            given |= {"structure": structure, "identity": identity, "attributes": attributes}
            there = {name: value for name, value in given.items() if value is not None}
            if absent := given.keys() - there.keys():
                names = ", ".join(sorted(absent))
                raise ValueError(f"{names}: needed, or the conditions of encode_conditions in place of all")
            conditions = self._encode(there, dropped)
        x = self._embed(codes)  # (B, T, W)
        if len(x) != len(conditions.features):
            raise ValueError(f"conditions of {len(conditions.features)} faces for the codes of {len(x)}")
        x = x + conditions.features
        angles = rotary_angles(self.config["grid_size"] // self.config["merge"], self.head_width, codes.device)
        turned = rotation(angles)
        attended = conditions.attended or (conditions.context,) * len(self.blocks)
        for block, context in zip(self.blocks, attended, strict=True):
            inputs = (x, conditions.scales, context, conditions.mask, turned)
            if self.gradient_checkpointing and torch.is_grad_enabled():
                x = self._gradient_checkpointing_func(block, *inputs)
            else:
                x = block(*inputs)
        return self._logits(self.norm_out(x))

    @apply_forward_hook  # without it, a model that is offloaded stays on the CPU
    def encode_conditions(
        self,
        text: Tensor,
        text_mask: Tensor,
        embedding: Tensor,
        structure: Tensor,
        identity: Tensor,
        attributes: Tensor,
        dropped: Mapping[str, Tensor] | None = None,
    ) -> FaceConditions:
        """Everything but the codes, once for all steps; with it, `forward` returns what it would without.

        Args:
            text: (B, L, text_dim) hidden states. text_mask: (B, L), true or 1 where there is text.
            embedding: (B, text_dim) of the text.
            structure: (B, structure_channels, S, S), see ``anatomy.structure_map``.
            identity: (B, 46). attributes: (B, 66), see ``anatomy.attribute_vector``.
            dropped: by source (see `SOURCES`), (B,) bool: where true, the source is left out.

        Raises:
            ValueError: an unknown source in ``dropped``, or another shape of anything.
        """
        given = {"text": text, "text_mask": text_mask, "embedding": embedding}
        given |= {"structure": structure, "identity": identity, "attributes": attributes}
        encoded = self._encode(given, dropped)
        attended = (cast(Block, block).cross.keys_values(encoded.context) for block in self.blocks)
        return encoded._replace(attended=tuple(attended))

    def _encode(self, given: Mapping[str, Tensor], dropped: Mapping[str, Tensor] | None) -> FaceConditions:
        """Without keys and values: they are the blocks' own work, whose weights FSDP gathers in their turn."""
        self._check(given)
        gone = self._dropped(dropped, len(given["identity"]), given["identity"].device)
        features = self.from_structure(self.structure(given["structure"]).flatten(2).transpose(1, 2))
        features = torch.where(gone["structure"][:, None, None], self.missing("structure"), features)
        rest = {name: value for name, value in given.items() if name != "structure"}
        context, mask, condition = self._condition(**rest, gone=gone)
        scales = self.modulation(F.silu(condition)).unflatten(-1, (6, -1))  # (B, 6, W)
        return FaceConditions(features, scales, context, mask)

    def _check(self, given: Mapping[str, Tensor]) -> None:
        config, batch, length = self.config, len(given["identity"]), given["text_mask"].shape[-1]
        size = config["image_size"]
        wanted = {
            "identity": (batch, config["identity_dim"]),
            "text": (batch, length, config["text_dim"]),
            "text_mask": (batch, length),
            "embedding": (batch, config["text_dim"]),
            "structure": (batch, config["structure_channels"], size, size),
            "attributes": (batch, config["attribute_dim"]),
        }
        for name, shape in wanted.items():
            if tuple(given[name].shape) != shape:
                raise ValueError(f"{name} {tuple(given[name].shape)}: {shape} is needed")

    def _embed(self, codes: Tensor) -> Tensor:
        grid, groups, merge = self.config["grid_size"], self.config["code_groups"], self.config["merge"]
        if codes.ndim != 2 or codes.shape[1] != grid * grid * groups:
            raise ValueError(f"codes {tuple(codes.shape)}: (B, {grid * grid * groups}) is needed")
        cells = codes.reshape(len(codes), grid // merge, merge, grid // merge, merge, groups)
        cells = cells.permute(0, 1, 3, 2, 4, 5).reshape(len(codes), (grid // merge) ** 2, self.slots)
        embedded: Tensor = self.to_width(self.code_embedding(cells).flatten(2))
        return embedded

    def _logits(self, x: Tensor) -> Tensor:
        grid, groups, merge = self.config["grid_size"], self.config["code_groups"], self.config["merge"]
        slots = F.gelu(
            self.norm_slots(self.to_slots(x).unflatten(-1, (self.slots, -1)))
        )  # (B, T, slots, 2 * code_dim)
        slots = slots.reshape(len(x), grid // merge, grid // merge, merge, merge, groups, slots.shape[-1])
        slots = slots.permute(0, 1, 3, 2, 4, 5, 6).reshape(len(x), grid * grid * groups, slots.shape[-1])
        logits: Tensor = self.to_codes(slots)
        return logits

    def _condition(
        self,
        text: Tensor,
        text_mask: Tensor,
        embedding: Tensor,
        identity: Tensor,
        attributes: Tensor,
        gone: Mapping[str, Tensor],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Context (B, M, W), what to add to its scores (B, 1, 1, M), and the condition (B, W) of the whole face."""
        no_text, no_identity, no_attributes = (gone[name] for name in ("text", "identity", "attributes"))
        words = self.from_text(text)
        words = torch.where(no_text[:, None, None], self.missing("text"), words)
        people = torch.where(no_identity[:, None, None], self.missing("identity"), self.from_identity(identity))
        looks = torch.where(no_attributes[:, None, None], self.missing("attributes"), self.from_attributes(attributes))
        meaning = torch.where(no_text[:, None], self.missing("text"), self.from_embedding(embedding))
        condition = meaning + people.mean(1) + looks.mean(1)
        seen = text_mask.bool().clone()
        seen[:, 0] = True  # something to attend to, also where there is no text
        seen[no_text, 1:] = False
        seen = torch.cat([seen.new_ones(len(seen), 2 * CONTEXT_TOKENS), seen], 1)
        context = torch.cat([people, looks, words], 1)
        extra = -context.shape[1] % ALIGNMENT
        context, seen = F.pad(context, (0, 0, 0, extra)), F.pad(seen, (0, extra))
        mask = torch.zeros(seen.shape, device=seen.device).masked_fill(~seen, -1e4)
        return context, mask[:, None, None], condition

    def _dropped(self, dropped: Mapping[str, Tensor] | None, batch: int, device: torch.device) -> dict[str, Tensor]:
        unknown = set(dropped or {}) - set(SOURCES)
        if unknown:
            raise ValueError(f"dropped {', '.join(sorted(unknown))}: sources are {', '.join(SOURCES)}")
        none = torch.zeros(batch, dtype=torch.bool, device=device)
        return {source: (dropped or {}).get(source, none).to(device) for source in SOURCES}


class Block(nn.Module):
    """Self attention, attention to the context, and an MLP, each modulated by the condition."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.table = nn.Parameter(torch.randn(6, width) * 0.02)
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.cross = Attention(width, heads, width)
        self.norm3 = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, width))

    def forward(self, x: Tensor, scales: Tensor, context: Tensor | KeysValues, mask: Tensor, turned: Tensor) -> Tensor:
        """(B, T, W) to the same; ``scales`` (B, 6, W), ``context`` and ``turned`` as in `Attention.forward`."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (scales + self.table).unsqueeze(2).unbind(1)
        x = x + (1 + gate1) * self.attention(self.norm1(x) * (1 + scale1) + shift1, rotation=turned)
        x = x + self.cross(self.norm2(x), context, mask)
        added: Tensor = x + (1 + gate2) * self.mlp(self.norm3(x) * (1 + scale2) + shift2)
        return added


class _Missing(nn.Module):
    """What stands for a source that is left out; a module, so that hooks which offload layers find its parameters."""

    def __init__(self, width: int) -> None:
        super().__init__()
        for source in SOURCES:
            self.register_parameter(source, nn.Parameter(torch.randn(width) * 0.02))

    def forward(self, source: str) -> Tensor:
        """(W,)."""
        return self.get_parameter(source)


class _Tokens(nn.Module):
    """A vector as a few tokens."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, CONTEXT_TOKENS * width))

    def forward(self, values: Tensor) -> Tensor:
        """(B, size) to (B, tokens, W)."""
        tokens: Tensor = self.layers(values).unflatten(-1, (CONTEXT_TOKENS, -1))
        return tokens

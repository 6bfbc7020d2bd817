"""Captions to what a Stable Diffusion UNet reads, whatever their length, as ComfyUI's CLIPTextEncode does it.

CLIP reads 77 tokens: a start, 75 of text, an end and padding. A longer caption is cut into pieces of 75 tokens, each
piece is encoded by itself between a start and an end of its own, and the outputs stand one behind the other. SDXL's
pooled vector is that of the first piece. diffusers' pipelines cut at 77 tokens instead: give them ``prompt_embeds``.

B captions, N tokens of the longest (a multiple of 77), D width of the text, P width of the pooled vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from train_lora.stable_diffusion.base import Pipe, is_xl


@dataclass(frozen=True)
class Encoded:
    """Captions as a UNet takes them.

    Attributes:
        hidden: (B, N, D). mask: (B, N), 0 where a shorter caption has no tokens; None if all are of one length.
        pooled: (B, P) of SDXL, else None.
    """

    hidden: Tensor
    mask: Tensor | None
    pooled: Tensor | None


class CaptionEncoder:
    """The text encoders of a pipeline, one or two.

    Args:
        pipe: whose encoders are called; they may have adapters. trained: whether gradients reach them.
    """

    def __init__(self, pipe: Pipe, trained: bool = False) -> None:
        self.trained, self.xl = trained, is_xl(pipe)
        self.parts: list[tuple[Any, Any]] = [(pipe.tokenizer, pipe.text_encoder)]
        if self.xl:
            self.parts.append((pipe.tokenizer_2, pipe.text_encoder_2))

    def to(self, device: torch.device) -> None:
        """Move the encoders."""
        for _, encoder in self.parts:
            encoder.to(device)

    def __call__(self, captions: Sequence[str]) -> Encoded:
        """Encode captions."""
        with torch.set_grad_enabled(self.trained and torch.is_grad_enabled()):
            read = [self._read(tokenizer, encoder, captions) for tokenizer, encoder in self.parts]
        rows = [torch.cat(_even(parts), -1) for parts in zip(*(hidden for hidden, _ in read), strict=True)]
        lengths = [len(row) for row in rows]
        hidden = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = None
        if len(set(lengths)) > 1:
            places = torch.arange(max(lengths), device=hidden.device)
            mask = (places < torch.tensor(lengths, device=hidden.device)[:, None]).to(hidden.dtype)
        return Encoded(hidden, mask, read[-1][1])

    def _read(self, tokenizer: Any, encoder: Any, captions: Sequence[str]) -> tuple[list[Tensor], Tensor | None]:  # noqa: ANN401 - transformers' own
        """Each caption's outputs (n, D), and with SDXL's second encoder the pooled vectors (B, P)."""
        cut = [pieces(tokenizer, caption, encoder.config.max_position_embeddings) for caption in captions]
        counts = [len(one) for one in cut]
        ids = torch.tensor([piece for one in cut for piece in one], device=encoder.device)
        out = encoder(ids, output_hidden_states=True)
        # SDXL reads the last layer but one; diffusers' folders of SD 2 have no last layer, so theirs is that one too
        hidden = out.hidden_states[-2] if self.xl else out.last_hidden_state
        rows = [one.flatten(0, 1) for one in hidden.split(counts)]
        embeds = getattr(out, "text_embeds", None)
        pooled = None if embeds is None else torch.stack([one[0] for one in embeds.split(counts)])
        return rows, pooled


def pieces(tokenizer: Any, caption: str, length: int = 77) -> list[list[int]]:  # noqa: ANN401 - a CLIPTokenizer
    """A caption's tokens in pieces of ``length``, each with start, end and the tokenizer's padding; at least one."""
    tokens = tokenizer(caption, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]
    inner = length - 2
    cut = [tokens[begin : begin + inner] for begin in range(0, max(1, len(tokens)), inner)]
    whole = [[tokenizer.bos_token_id, *one, tokenizer.eos_token_id] for one in cut]
    return [one + [tokenizer.pad_token_id] * (length - len(one)) for one in whole]


def _even(parts: Sequence[Tensor]) -> list[Tensor]:
    """SDXL's two outputs at one length: two tokenizers might count differently, and ComfyUI keeps what both have."""
    least = min(len(part) for part in parts)
    return [part[:least] for part in parts]

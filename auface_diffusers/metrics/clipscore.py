"""CLIPScore by a CLIP model on disk, to compare AAAD's behaviour with (section 13 of our definition)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

WEIGHT = 2.5
"""Hessel et al. 2021: CLIPScore is 2.5 * max(cos, 0)."""
BATCH = 32


class CLIPScore:
    """CLIPScore of pictures and texts.

        >>> clip = CLIPScore("folder of a transformers CLIP model")
        >>> clip(pictures, texts)  # (N,) in 0..2.5

    Args:
        folder: of a `CLIPModel` with its tokenizer and image processor, as ``save_pretrained`` writes them. Nothing is
            downloaded, and only safetensors are read.

    Raises:
        ValueError: no such folder.
    """

    def __init__(self, folder: str | Path) -> None:
        from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

        place = Path(folder)
        if not (place / "config.json").is_file():
            raise ValueError(f"{place} holds no CLIP model: config.json is missing; name a folder with its files")
        self.model: Any = CLIPModel.from_pretrained(place, local_files_only=True, use_safetensors=True).eval()
        self.words: Any = AutoTokenizer.from_pretrained(place, local_files_only=True)
        self.pixels: Any = AutoImageProcessor.from_pretrained(place, local_files_only=True, use_fast=False)
        self.limit = int(self.model.config.text_config.max_position_embeddings)

    @torch.no_grad()
    def __call__(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> np.ndarray:
        """Scores (N,) in 0..2.5 of RGB pictures with a text each."""
        if len(pictures) != len(texts):
            raise ValueError(f"{len(pictures)} pictures and {len(texts)} texts: give as many")
        found = []
        for begin in range(0, len(texts), BATCH):
            tokens = self.words(
                list(texts[begin : begin + BATCH]),
                padding=True,
                truncation=True,
                max_length=self.limit,
                return_tensors="pt",
            )
            images = self.pixels(images=list(pictures[begin : begin + BATCH]), return_tensors="pt")
            out = self.model(**tokens, **images)
            cosine = torch.nn.functional.cosine_similarity(out.image_embeds, out.text_embeds)
            found.append(WEIGHT * cosine.clamp(min=0).numpy())
        return np.concatenate(found).astype(np.float64) if found else np.zeros(0)

    def truncated(self, texts: Sequence[str]) -> float:
        """Share of texts whose end this CLIP does not see (77 tokens in most): give it the compact style as well."""
        lengths = [len(ids) for ids in self.words(list(texts), truncation=False)["input_ids"]]
        return float(np.mean([length > self.limit for length in lengths]))

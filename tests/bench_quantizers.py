"""Finite scalar codes against a cosine-normalised codebook of as many bits, by the same short training.

``python tests/bench_quantizers.py [STEPS]``, with the shards that ``train_lora/configs/faces128.toml`` names.
The codebook is that of ViT-VQGAN (arXiv 2110.04627, section 3.2): vectors of length one, codes by the largest cosine;
codes that hardly anything chooses are revived as vectors of the batch (the random restarts of arXiv 2005.00341).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from auface_diffusers.models.face_tokenizer import AnatomyHead, FaceTokenizer
from train_lora.config import load_config
from train_lora.loop import train
from train_lora.stages.tokenizer import TokenizerConfig, TokenizerStage

WIDTH = 8
"""Numbers of a vector."""
COMMITMENT = 0.25
DECAY, DEAD = 0.99, 0.1
"""Of the share in which a code is chosen; a code is dead below this part of an even share."""
SHOWN = ("psnr", "psnr_features", "parts", "codes_used", "readout_gap")


class CosineQuantizer(nn.Module):
    """As `FiniteScalarQuantizer`, with a codebook for each group; ``loss`` is that of the last call."""

    used: Tensor

    def __init__(self, codes: int, groups: int) -> None:
        super().__init__()
        self.groups, self.dim, self.codebook_size = groups, groups * WIDTH, codes
        self.book = nn.Parameter(F.normalize(torch.randn(groups, codes, WIDTH), dim=-1))
        self.register_buffer("used", torch.full((groups, codes), 1 / codes))
        self.loss = torch.zeros(())

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        x = F.normalize(z.float().unflatten(-1, (self.groups, WIDTH)), dim=-1)
        indices = torch.einsum("...gw,gcw->...gc", x, F.normalize(self.book, dim=-1)).argmax(-1)
        chosen = self._look_up(indices)
        to_codes = (1 - (x.detach() * chosen).sum(-1)).mean()
        self.loss = to_codes + COMMITMENT * (1 - (x * chosen.detach()).sum(-1)).mean()
        if self.training:
            self._revive(x.detach().flatten(0, -3), indices.flatten(0, -2))
        straight = x + (chosen - x).detach()
        return (straight * WIDTH**0.5).flatten(-2).to(z.dtype), indices

    def values(self, indices: Tensor) -> Tensor:
        return (self._look_up(indices) * WIDTH**0.5).flatten(-2)

    def _look_up(self, indices: Tensor) -> Tensor:
        return F.normalize(self.book, dim=-1)[torch.arange(self.groups), indices]

    @torch.no_grad()
    def _revive(self, x: Tensor, indices: Tensor) -> None:
        share = F.one_hot(indices, self.codebook_size).float().mean(0)  # (G, C)
        self.used.lerp_(share, 1 - DECAY)
        for group, code in (self.used < DEAD / self.codebook_size).nonzero().tolist():
            self.book.data[group, code] = x[torch.randint(len(x), ()), group]
            self.used[group, code] = 1 / self.codebook_size


class Bench(TokenizerStage):
    """The stage, with or without the codebook in place of finite scalars."""

    def __init__(self, config: TokenizerConfig, cosine: bool) -> None:
        super().__init__(config)
        if cosine:
            torch.manual_seed(config.train.seed)
            self.players["tokenizer"] = with_codebook(self.players["tokenizer"])

    def losses(self, batch, step):
        for name, loss, parts in super().losses(batch, step):
            quantizer = self.players["tokenizer"].quantizer
            yield name, loss + getattr(quantizer, "loss", 0.0), parts

    def export(self, model, folder, report) -> None:
        pass


def with_codebook(model: FaceTokenizer) -> FaceTokenizer:
    old, config = model.quantizer, model.config
    model.quantizer = CosineQuantizer(old.codebook_size, old.groups)
    dim, width = model.quantizer.dim, config["channels"][-1]
    model.encoder[-1][-1] = nn.Conv2d(width, dim, 1)
    model.decoder[0] = nn.Conv2d(dim, width, 3, padding=1)
    model.anatomy = AnatomyHead(dim, width, config["parts"], config["landmarks"], model.downscale // 2)
    return model


def main() -> None:
    """Train both and print what validation says."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    config = load_config(TokenizerConfig, "train_lora/configs/tokenizer.toml")
    loop = replace(config.train, steps=steps, ema=0.0, warmup=50, validate_every=steps, save_every=steps, log_every=50)
    losses = replace(config.losses, estimator="auface_diffusers/weights/estimator")
    rows = {}
    for name in ("finite scalars", "cosine codebook"):
        with tempfile.TemporaryDirectory() as folder:
            now = replace(config, out=folder, train=loop, losses=losses)
            begun = time.perf_counter()
            found = train(Bench(now, name.startswith("cosine")), loop, Path(folder), {"bench": name})["validation"]
            rows[name] = {key: found[key] for key in SHOWN} | {"minutes": (time.perf_counter() - begun) / 60}
            print(name, json.dumps(rows[name]), flush=True)
    print(f"\n| after {steps} steps of {loop.batch_size} | {' | '.join(rows)} |\n|{'---|' * (1 + len(rows))}")
    for key in (*SHOWN, "minutes"):
        print(f"| {key} | {' | '.join(f'{row[key]:.4g}' for row in rows.values())} |")


if __name__ == "__main__":
    main()

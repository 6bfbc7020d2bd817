"""What a run says: ``log.jsonl`` always, TensorBoard where it is installed, sample sheets as PNG."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor


class Logs:
    """Logs of the main process. What a killed run wrote beyond its last checkpoint is taken back.

    Attributes:
        sums: by name, the sum and the number of values since the last `write`; checkpoints keep it.
    """

    def __init__(self, out: Path, step: int, sums: Mapping[str, tuple[float, int]]) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.out, self.file = out, out / "log.jsonl"
        self._rewind(step)
        self.board: Any = None
        if find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
        self._clear()
        self.sums.update(sums)

    def add(self, values: Mapping[str, float], samples: int, seconds: float) -> None:
        """Count one step; values are averaged until they are written."""
        for name, value in values.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = total + value, count + 1
        self.samples, self.seconds = self.samples + samples, self.seconds + seconds

    def write(self, step: int) -> None:
        """Write what was added since the last time."""
        values = {name: total / count for name, (total, count) in self.sums.items()}
        values["samples_per_second"] = self.samples / max(1e-9, self.seconds)
        self._put(step, values)
        self._clear()

    def validation(self, step: int, values: Mapping[str, float], sheet: Tensor | None) -> None:
        """Write what was measured on held-out data, and a sample sheet (3, H, W) in [0, 1]."""
        self._put(step, {f"val_{name}": value for name, value in values.items()})
        if sheet is not None:
            folder = self.out / "samples"
            folder.mkdir(exist_ok=True)
            pixels = (sheet.float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"step-{step:08d}.png")
            if self.board:
                self.board.add_image("samples", pixels, step)

    def close(self) -> None:
        """Finish what is being written."""
        if self.board:
            self.board.close()

    def _put(self, step: int, values: Mapping[str, float]) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **{k: float(f"{v:.6g}") for k, v in values.items()}}) + "\n")
        sys.stderr.write(f"step {step}: " + ", ".join(f"{name} {value:.4g}" for name, value in values.items()) + "\n")
        if self.board:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)

    def _rewind(self, step: int) -> None:
        if self.file.exists():
            lines = self.file.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            part = self.file.with_suffix(".part")
            part.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
            os.replace(part, self.file)

    def _clear(self) -> None:
        self.sums: dict[str, tuple[float, int]] = {}
        self.samples, self.seconds = 0, 0.0

"""Speed and memory of the generator beside larger ones: part of ``make bench``.

The peers are built from their published configurations with random weights; nothing is downloaded. Of each peer one
step is timed (the median of two, after one that does not count) and multiplied by its number of steps.

    python tests/bench_generator.py [--model FOLDER] [--no-peers] [--tiny]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel, UVit2DModel, VQModel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModelWithProjection

from auface_diffusers import VQAUFacePipeline

EXPRESSIONS = ("1C+2C+5B+26C", "6C+12D", "1D+4C+15C", "4D+5C+7C+23B", "9D+10B+17B", "L12C+R14B", "0", "1C+2C+4D+20C")
PEAKS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bf16 FLOP/s of the vendor's data sheets."""
COLD = """
import time; begun = time.perf_counter()
import json, resource, sys
from auface_diffusers import VQAUFacePipeline
folder, out = sys.argv[1:]
pipe = VQAUFacePipeline.from_pretrained(folder) if folder else VQAUFacePipeline.from_default()
pipe.set_progress_bar_config(disable=True)
loaded = time.perf_counter()
pipe("1C+2C+5B+26C", identity=7, seed=0).images[0].save(out)
done = time.perf_counter()
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"load": loaded - begun, "all": done - begun, "face": done - loaded, "peak": peak}))
"""


@dataclass(frozen=True)
class Peer:
    """What a peer needs for a picture: ``fixed`` seconds, and ``step`` seconds ``steps`` times."""

    name: str
    millions: float
    steps: int
    step: float
    fixed: float

    @property
    def seconds(self) -> float:
        return self.fixed + self.steps * self.step


def timed(call: Callable[[], object], times: int = 2) -> float:
    """Median of a few runs, in seconds; one before them does not count."""
    seconds = []
    for _ in range(1 + times):
        start = time.perf_counter()
        call()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


def millions(*models: torch.nn.Module) -> float:
    return sum(p.numel() for model in models for p in model.parameters()) / 1e6


def amused(device: str, tiny: bool) -> Peer:
    """aMUSEd-256 (huggingface.co/amused/amused-256): 12 steps, guided: batches of two; with its text and VQ models."""
    small = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "block_num_heads": 2}
    small |= {"in_channels": 64, "block_out_channels": 64, "intermediate_size": 64}
    drawer = UVit2DModel(sample_size=16, **(small if tiny else {})).to(device).eval()
    wide = (32, 32, 32, 32, 32) if tiny else (128, 256, 256, 512, 768)
    vq = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 5,
        up_block_types=("UpDecoderBlock2D",) * 5,
        block_out_channels=wide,
        layers_per_block=2,
        latent_channels=64,
        num_vq_embeddings=8192,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    )
    layers = 1 if tiny else 12
    config = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=layers, num_attention_heads=12)
    config.projection_dim = 768
    text = CLIPTextModelWithProjection(config)
    vq, text = vq.to(device).eval(), text.to(device).eval()
    codes = torch.randint(0, 8192, (2, 16, 16), device=device)
    words = torch.randn(2, 77, 768, device=device)
    micro = torch.tensor([[256.0, 256.0, 0.0, 0.0, 6.0]] * 2, device=device)
    step = timed(lambda: drawer(codes, encoder_hidden_states=words, pooled_text_emb=words[:, 0], micro_conds=micro))
    ids = torch.randint(0, 49000, (2, 77), device=device)
    paint = timed(lambda: vq.decode(codes[:1], force_not_quantize=True, shape=(1, 16, 16, 64)))
    return Peer("aMUSEd-256, 12 steps", millions(drawer, vq, text), 12, step, timed(lambda: text(ids)) + paint)


def stable_diffusion(device: str, tiny: bool) -> Peer:
    """Stable Diffusion 2.1 at 512 x 512, 50 steps, guided: its UNet alone, without text encoder and VAE."""
    heads = [2, 2, 2, 2] if tiny else [5, 10, 20, 20]
    unet = UNet2DConditionModel(
        sample_size=64,
        cross_attention_dim=1024,
        attention_head_dim=heads,
        use_linear_projection=True,
        block_out_channels=(32, 32, 32, 32) if tiny else (320, 640, 1280, 1280),
        layers_per_block=1 if tiny else 2,
    )
    unet = unet.to(device).eval()
    latents, words = torch.randn(2, 4, 64, 64, device=device), torch.randn(2, 77, 1024, device=device)
    step = timed(lambda: unet(latents, 500, encoder_hidden_states=words))
    return Peer("Stable Diffusion 2.1, 512, 50 steps", millions(unet), 50, step, 0.0)


def cold(model: str) -> dict[str, float]:
    """A fresh process: from its first import to a saved picture, and the memory at its peak."""
    out = Path(f"bench-{os.getpid()}.png").resolve()
    try:
        found = subprocess.run(
            [sys.executable, "-c", COLD, model, str(out)],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        )
        assert out.stat().st_size
        measured: dict[str, float] = json.loads(found.stdout.splitlines()[-1])
        return measured
    finally:
        out.unlink(missing_ok=True)


def line(what: str, value: str, asked: str = "-") -> None:
    print(f"{what:58} {value:>16}   asked: {asked}", flush=True)


def ours(model: str, device: str, dtype: torch.dtype) -> VQAUFacePipeline:
    pipe = (
        VQAUFacePipeline.from_pretrained(model, torch_dtype=dtype)
        if model
        else VQAUFacePipeline.from_default(torch_dtype=dtype)
    )
    pipe.to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def report_gpu(model: str) -> None:
    """Faces a second, memory and share of the peak, in bf16."""
    pipe, batch = ours(model, "cuda", torch.bfloat16), 256

    def call() -> object:
        return pipe(list(EXPRESSIONS), num_images_per_prompt=batch // len(EXPRESSIONS), seed=0, output_type="pt")

    torch.cuda.reset_peak_memory_stats()
    seconds = timed(call)
    line(f"faces on {torch.cuda.get_device_name()}, bf16, batch {batch}", f"{batch / seconds:,.0f} /s")
    line("GPU memory at its peak", f"{torch.cuda.max_memory_allocated() / 2**30:.2f} GB")
    with FlopCounterMode(display=False) as counter:
        call()
    rate = counter.get_total_flops() / seconds
    peak = next((value for name, value in PEAKS.items() if name in torch.cuda.get_device_name()), None)
    line("FLOP/s", f"{rate / 1e12:.1f} T")
    line("MFU", f"{rate / peak:.1%}" if peak else "unknown peak")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="", help="folder of a saved pipeline (default: the embedded one)")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="peers of a few layers: whether this script works")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    print(f"torch {torch.__version__} on {device}, {torch.get_num_threads()} threads, {platform.machine()}")
    fresh = cold(arguments.model)
    line("fresh process: import and load", f"{fresh['load']:.2f} s")
    line("fresh process: the first face after loading", f"{fresh['face']:.2f} s", "< 5 s")
    line("fresh process: from the first import to a saved face", f"{fresh['all']:.2f} s")
    line("fresh process: memory at its peak (RSS)", f"{fresh['peak'] / 2**30:.2f} GB", "< 1.5 GB")
    pipe = ours(arguments.model, device, torch.float32)
    steps, guidance = pipe.config.num_inference_steps, pipe.config.guidance_scale
    size = pipe.face_tokenizer.config["image_size"]
    one = timed(lambda: pipe(EXPRESSIONS[0], identity=7, seed=0), 5)
    count = millions(pipe.text_alignment, pipe.transformer, pipe.face_tokenizer)
    line(f"one face, {size} x {size}, {steps} steps, guidance {guidance:g}, {count:.1f} M", f"{one:.3f} s")
    eight = timed(lambda: pipe(list(EXPRESSIONS), seed=0), 3)
    line("faces in batches of 8", f"{8 / eight:.2f} /s")
    if device == "cuda":
        report_gpu(arguments.model)
    if arguments.no_peers:
        return
    print("peers: random weights, float32; one step was timed and multiplied by the number of steps")
    for build, asked in ((amused, 50), (stable_diffusion, 200)):
        peer = build(device, arguments.tiny)
        line(f"{peer.name}, {peer.millions:.0f} M", f"{peer.seconds:.2f} s")
        line(
            f"  as many times faster is ours (step {peer.step:.2f} s)", f"{peer.seconds / one:.1f} x", f">= {asked} x"
        )


if __name__ == "__main__":
    main()

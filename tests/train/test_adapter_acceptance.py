"""Twenty-four pictures of a style, at full size: the style is there, and faces still show what is asked of them."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.append(str(Path(__file__).parent.parent))
from clay_faces import clay_shards

from auface_diffusers import VQAUFacePipeline
from auface_diffusers.metrics.suite import load_suite
from train_lora.__main__ import main
from train_lora.data.shards import read_shard

pytestmark = pytest.mark.slow
CONFIG = Path(__file__).parents[2] / "train_lora" / "configs" / "adapter-style.toml"
FALL = 0.02
"""By so much may AAAD fall."""
SCORES = ["6C+12D", "1D+4C+15C", "1C+2C+5B+26C", "4D+5C+7C+23B", "9D+10B+17B", "0", "12E+25C", "L14C"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run, and the pictures (N, 3, S, S) that it learned from."""
    folder = tmp_path_factory.mktemp("style")
    shards = clay_shards(folder)
    every = f"report={len(load_suite('standard').items)}"
    call = ["adapter", str(CONFIG), f"data.shards={shards}", f"out={folder / 'run'}", "scores=0", every]
    assert main(call) == 0
    samples = [sample for path in shards.glob("*.tar") for _, sample in read_shard(path)]
    pictures = [np.asarray(Image.open(io.BytesIO(sample["png"])).convert("RGB")) for sample in samples]
    return folder / "run" / "model", torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


def drawn(pipe):
    return pipe(SCORES, identity=[*range(900, 900 + len(SCORES))], seed=[*range(len(SCORES))], output_type="pt").images


def test_aaad_on_the_standard_suite_hardly_falls(trained):
    report = json.loads((trained[0] / "report.json").read_text())
    print({name: report[name] for name in ("aaad_base", "aaad_adapter", "difference", "interval", "items")})
    assert report["items"] == len(load_suite("standard").items)
    assert report["difference"] < FALL


def test_the_style_is_there_and_goes_without_a_trace(trained):
    pipe = VQAUFacePipeline.from_default()
    pipe.set_progress_bar_config(disable=True)
    before = drawn(pipe)
    pipe.load_lora_weights(trained[0] / "adapter.safetensors", adapter_name="clay")
    style = drawn(pipe)
    pipe.disable_lora()
    assert torch.equal(drawn(pipe), before)
    pipe.unload_lora_weights()
    assert torch.equal(drawn(pipe), before)

    def places(images):
        """Colour of the upper corners, where the ground is, and of the middle, where the skin is: (2, 3)."""
        corners = torch.cat([images[:, :, :12, :12].flatten(2), images[:, :, :12, -12:].flatten(2)], 2)
        middle = images[:, :, 60:90, 50:78].flatten(2)
        return torch.stack([part.mean((0, 2)) for part in (corners, middle)])

    far, near = ((places(one) - places(trained[1])).abs().amax(1) for one in (before, style))
    print("distance of ground and skin to the style:", far.tolist(), near.tolist())
    assert (near < 0.5 * far).all()

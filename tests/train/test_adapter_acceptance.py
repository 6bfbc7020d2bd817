"""Twenty pictures of a style or a person, at full size: they are there, and faces still show what is asked of them."""

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
from auface_diffusers.anatomy import HeadModel
from auface_diffusers.metrics.suite import load_suite
from train_lora.__main__ import main
from train_lora.data.faces import FacesConfig
from train_lora.data.shards import read_shard
from train_lora.data.synth import SynthConfig, draw_samples

pytestmark = pytest.mark.slow
CONFIGS = Path(__file__).parents[2] / "train_lora" / "configs"
FALL = 0.02
"""By so much may AAAD fall."""
SCORES = ["6C+12D", "1D+4C+15C", "1C+2C+5B+26C", "4D+5C+7C+23B", "9D+10B+17B", "0", "12E+25C", "L14C"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a run, and the pictures (N, 3, S, S) that it learned from."""
    folder = tmp_path_factory.mktemp("style")
    shards = clay_shards(folder)
    every = f"report={len(load_suite('standard').items)}"
    call = [
        "adapter",
        str(CONFIGS / "adapter-style.toml"),
        f"data.shards={shards}",
        f"out={folder / 'run'}",
        "scores=0",
        every,
    ]
    assert main(call) == 0
    samples = [sample for path in shards.glob("*.tar") for _, sample in read_shard(path)]
    pictures = [np.asarray(Image.open(io.BytesIO(sample["png"])).convert("RGB")) for sample in samples]
    return folder / "run" / "model", torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255


def drawn(pipe):
    return pipe(SCORES, identity=[*range(900, 900 + len(SCORES))], seed=[*range(len(SCORES))], output_type="pt").images


def places(images):
    """Colour of the upper corners, where the ground is, and of the middle, where the skin is: (2, 3)."""
    corners = torch.cat([images[:, :, :12, :12].flatten(2), images[:, :, :12, -12:].flatten(2)], 2)
    middle = images[:, :, 60:90, 50:78].flatten(2)
    return torch.stack([part.mean((0, 2)) for part in (corners, middle)])


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

    far, near = ((places(one) - places(trained[1])).abs().amax(1) for one in (before, style))
    print("distance of ground and skin to the style:", far.tolist(), near.tolist())
    assert (near < 0.5 * far).all()


# --- a person --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def person(tmp_path_factory):
    """The folder of a run, its pictures (N, 3, S, S), and the identity code (46,) of the one whom they show."""
    folder = tmp_path_factory.mktemp("person")
    config = SynthConfig("", size=256, framing="face", people=1, first_person=60_777, posed=0.3, seed=77)
    made = [sample for _, sample in draw_samples(config, range(20))]
    (folder / "pictures").mkdir()
    for number, sample in enumerate(made):
        picture = Image.open(io.BytesIO(sample[config.image_format])).convert("RGB")
        picture.save(folder / "pictures" / f"{number:02}.jpg", quality=92)
        codes = json.loads(sample["json"])["effective"]
        (folder / "pictures" / f"{number:02}.txt").write_text(codes)
    data = ["data", str(CONFIGS / "folder.toml"), f"images={folder / 'pictures'}", f"out={folder / 'data'}"]
    assert main([*data, "faces=cropped", "subjects=picture", "split.by=none"]) == 0
    call = ["adapter", str(CONFIGS / "adapter-20-images.toml"), f"data.shards={folder / 'data' / 'train'}"]
    assert main([*call, f"out={folder / 'run'}", "scores=0", "person=true", "adapter.trigger=anna"]) == 0
    pictures = FacesConfig(str(folder / "data" / "train")).open(pictures=True).__getitems__(list(range(20))).images
    return folder / "run" / "model", pictures, torch.tensor(json.loads(made[0]["json"])["identity"])


def shape(codes):
    """The 68 points of heads at rest from the front (B, 68, 2), of one size."""
    rest = HeadModel.from_default()(codes).landmarks68
    rest = rest - rest.mean(1, keepdim=True)
    return (rest / rest.norm(dim=(1, 2), keepdim=True))[..., :2]


def test_a_person_is_drawn_where_no_identity_is_named(person):
    model, pictures, who = person
    pipe = VQAUFacePipeline.from_default()
    pipe.set_progress_bar_config(disable=True)
    seeds = [*range(len(SCORES))]
    before = pipe(SCORES, seed=seeds, output_type="pt")
    pipe.load_lora_weights(model / "adapter.safetensors")
    after = pipe(SCORES, seed=seeds, output_type="pt")
    skins = [
        torch.stack([places(image[None])[1] for image in some]) for some in (before.images, after.images, pictures)
    ]
    far, near = ((some - skins[2].mean(0)).abs().mean() for some in skins[:2])
    apart, close = ((shape(one.identity) - shape(who[None])).norm(dim=(1, 2)).mean() for one in (before, after))
    print(f"skin {far:.3f} -> {near:.3f}, shape {apart:.4f} -> {close:.4f}")
    assert near < 0.5 * far
    assert close < 0.6 * apart
    assert torch.equal(after.identity, after.identity[:1].expand(len(SCORES), -1))
    report = json.loads((model / "report.json").read_text())
    print({name: report[name] for name in ("aaad_base", "aaad_adapter", "difference", "interval", "items")})
    assert report["difference"] < FALL

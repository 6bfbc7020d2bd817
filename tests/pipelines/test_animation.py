"""Sequences and the files that they are saved in."""

import importlib

import numpy as np
import pytest
import torch
from PIL import Image

from auface_diffusers.facs import AUSet, resolve
from auface_diffusers.pipelines import animation, save_animation
from auface_diffusers.pipelines.motion import scores_between

SMILE = "12D+6C"


def test_a_sequence_goes_from_one_expression_to_the_other_and_changes_only_what_moves(pipe):
    frames = pipe.interpolate("0", SMILE, 4, identity=7, seed=0, output_type="pt")
    assert frames.images.shape == (4, 3, 64, 64)
    assert frames.aus[0] == AUSet()
    assert frames.aus[-1] == AUSet.parse(SMILE)
    assert frames.aus[2] == AUSet().blend(AUSet.parse(SMILE), 2 / 3)
    assert torch.equal(frames.codes[:1], pipe("0", identity=7, seed=[0], output_type="latent").codes)
    for row in range(1, 4):
        kept = ~frames.edited[row]
        assert 0 < kept.float().mean() < 1
        assert torch.equal(frames.codes[row][kept], frames.codes[row - 1][kept])
    assert not torch.equal(frames.codes[0], frames.codes[-1])
    assert len(set(frames.appearances)) == 1
    assert (frames.identity == frames.identity[0]).all()


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},
        {"identity": 8},
        {"attributes": {"age": 80}},
        {"guidance_scale": 1.0},
        {"num_inference_steps": 5},
        {"temperature": 0.0},
    ],
    ids=str,
)
def test_every_option_changes_the_sequence(pipe, options):
    base = {"identity": 7, "seed": 0, "output_type": "latent"}
    plain, other = (pipe.interpolate("0", SMILE, 2, **{**base, **more}).codes for more in ({}, options))
    assert not torch.equal(plain, other)


def test_an_interrupt_ends_the_sequence(pipe):
    calls = []

    def stop(owner, step, timestep, tensors):
        calls.append(step)
        owner._interrupt = len(calls) == 5

    frames = pipe.interpolate("0", SMILE, 4, identity=7, seed=0, callback_on_step_end=stop)
    assert calls == [0, 1, 2, 0, 1]
    assert len(frames.images) == len(frames.aus) == len(frames.edited) == 2


def test_any_expressions_make_a_sequence(pipe):
    frames = pipe.sequence(["0", SMILE, "0"], identity=7, seed=0, output_type="latent")
    way = pipe.interpolate("0", SMILE, 3, identity=7, seed=0, output_type="latent")
    assert [aus.format() for aus in frames.aus] == ["0", "6C+12D", "0"]
    assert torch.equal(frames.codes[0], way.codes[0])
    for row in (1, 2):
        kept = ~frames.edited[row]
        assert 0 < kept.float().mean() < 1
        assert torch.equal(frames.codes[row][kept], frames.codes[row - 1][kept])
    assert torch.equal(pipe.sequence([SMILE], identity=7, seed=0).codes, pipe(SMILE, identity=7, seed=[0]).codes)
    with pytest.raises(ValueError, match="one person"):
        pipe.sequence(["0"], identity=[1, 2])


def test_nothing_moves_between_equal_ends(pipe):
    frames = pipe.interpolate(SMILE, SMILE, 3, identity=7, seed=0, output_type="latent")
    assert not frames.edited[1:].any()
    assert torch.equal(frames.codes[0], frames.codes[2])


@pytest.mark.parametrize(("a", "b"), [("25E", "24E"), ("1C+2C+26D", "28D"), ("51D+12C", "52D+12E"), ("0", "12D")])
def test_no_unit_jumps_on_the_way(a, b):
    ends = [AUSet.parse(one) for one in (a, b)]
    frames = [resolve(one).effective for one in scores_between(*ends, 41)]
    assert frames[0] == resolve(ends[0]).effective
    assert frames[-1] == resolve(ends[1]).effective
    for before, after in zip(frames, frames[1:], strict=False):
        assert all(abs(x - y) < 0.3 for x, y in zip(before.vector(), after.vector(), strict=True))


def test_bad_sequences_are_refused(pipe):
    with pytest.raises(ValueError, match="frames 1"):
        pipe.interpolate("0", SMILE, 1)
    with pytest.raises(ValueError, match="one person"):
        pipe.interpolate("0", SMILE, 2, identity=[1, 2])


def pictures(count=3, side=16):
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("ending", ["gif", "webp", "GIF"])
def test_pillow_files(tmp_path, ending):
    path = save_animation(pictures(), tmp_path / f"face.{ending}", fps=10)
    with Image.open(path) as file:
        assert file.n_frames == 3
        assert file.size == (16, 16)
        assert file.info["loop"] == 0
        file.seek(1)
        file.load()
        assert file.info["duration"] == 100


def test_every_kind_of_frames_is_the_same_file(tmp_path):
    arrays = pictures().permute(0, 2, 3, 1).numpy()
    listed = [Image.fromarray((one * 255).round().astype("uint8")) for one in arrays]
    files = [
        save_animation(kind, tmp_path / f"{number}.webp").read_bytes()
        for number, kind in enumerate((pictures(), arrays, listed))
    ]
    assert files[0] == files[1] == files[2]
    assert save_animation(listed, tmp_path / "fast.webp", fps=30).read_bytes() != files[0]


def test_bad_animations_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a.avi: the ending has to be one of .gif, .webp, .mp4"):
        save_animation(pictures(), tmp_path / "a.avi")
    with pytest.raises(ValueError, match="fps 0"):
        save_animation(pictures(), tmp_path / "a.gif", fps=0)
    with pytest.raises(ValueError, match="frames of sizes"):
        save_animation([], tmp_path / "a.gif")
    mixed = [Image.new("RGB", (8, 8)), Image.new("RGB", (9, 9))]
    with pytest.raises(ValueError, match=r"\(8, 8\), \(9, 9\)"):
        save_animation(mixed, tmp_path / "a.gif")


def test_video_needs_imageio(tmp_path, monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(animation.importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'imageio\[ffmpeg\]'"):
        save_animation(pictures(), tmp_path / "a.mp4")


def test_video(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    imageio = importlib.import_module("imageio.v2")
    path = save_animation(pictures(5, 64), tmp_path / "a.mp4", fps=5)
    assert np.stack(imageio.mimread(path)).shape == (5, 64, 64, 3)

"""Wrong texts of a known kind, what metrics make of them, and CLIPScore from a folder."""

import importlib.util
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from auface_diffusers.facs import AUSet, describe, resolve
from auface_diffusers.metrics import spec_targets
from auface_diffusers.metrics.clipscore import CLIPScore
from auface_diffusers.metrics.negatives import KINDS, dose_response, negative, preferred, spec_distance
from auface_diffusers.metrics.tally import overlap

_spec = importlib.util.spec_from_file_location("toy_parts", Path(__file__).parents[1] / "pipelines" / "conftest.py")
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

SCORES = [AUSet.parse(text) for text in ("12D+6C", "1C+4C", "L12C", "15B+17C", "5D+L2B", "20C+25C", "0")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", SCORES, ids=str)
def test_a_negative_looks_different_and_is_the_same_again(kind, score):
    made = [negative(kind, score, random.Random(3), SCORES) for _ in range(2)]
    assert made[0] == made[1]
    if made[0] is not None:
        assert made[0] == resolve(made[0]).effective
        assert made[0].round() != resolve(score).effective.round()


def test_each_kind_changes_what_it_says():
    rng = random.Random(0)
    score = AUSet.parse("L12C+4C+25C")
    for _ in range(20):
        assert abs(len(set(negative("unit", score, rng).codes) ^ set(score.codes))) == 1
        level = negative("level", score, rng)
        assert level.codes == score.codes
        assert max(abs(a - b) for a, b in zip(level.vector(), score.vector(), strict=True)) == 2
        swapped = negative("opposite", score, rng)
        assert {"1", "15"} & set(swapped.codes)
    assert negative("side", score, rng).level("R12") == 3
    assert negative("side", AUSet.parse("12C"), rng) is None
    assert negative("opposite", AUSet.parse("9C"), rng) is None
    assert negative("other", score, rng) is None
    with pytest.raises(ValueError, match="kind 'colour': one of other, unit"):
        negative("colour", score, rng)


def test_preference_by_hand():
    assert preferred(np.array([1, 2, 3, 1]), np.array([0, 2, 4, 0])) == pytest.approx(2.5 / 4)
    assert np.isnan(preferred(np.array([]), np.array([])))


def test_dose_response_is_the_rank_correlation():
    assert dose_response(np.array([0.9, 0.7, 0.5, 0.1]), np.array([0, 1, 2, 5])) == pytest.approx(-1)
    assert spec_distance(AUSet.parse("12C+25C"), AUSet.parse("L12C+4B")) == 1 + 1 + 2


def test_an_exact_detector_tells_every_negative_but_the_level():
    rng = random.Random(1)
    wins = {kind: [] for kind in KINDS}
    for score in SCORES * 5:
        truth = (np.array(resolve(score).effective.vector()) >= 1.5).astype(float)[None]
        for kind, found in wins.items():
            wrong = negative(kind, score, rng, SCORES)
            if wrong is not None:
                fits = [np.nanmean(overlap(spec_targets([one]).states, truth)) for one in (score, wrong)]
                found.append(fits)
    for kind in ("other", "unit", "opposite", "side"):
        pairs = np.array(wins[kind])
        assert preferred(pairs[:, 0], pairs[:, 1]) == 1.0, kind


# --- CLIPScore -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small CLIP with random weights and our own words, as `save_pretrained` writes it."""
    place = tmp_path_factory.mktemp("clip")
    words = toy.components()["tokenizer"]
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(words), "max_position_embeddings": 32}
    text |= {
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
    }
    vision = {**small, "image_size": 32, "patch_size": 16}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(place)
    words.save_pretrained(place)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(place)
    return place


def test_clipscore_is_two_and_a_half_cosines(folder):
    clip = CLIPScore(folder)
    pictures = [Image.new("RGB", (40, 40), color) for color in ("red", "green", "blue")]
    texts = [describe(text, "compact").text for text in ("12D", "4C", "1C+2C")]
    found = clip(pictures, texts)
    assert found.shape == (3,)
    assert ((found >= 0) & (found <= 2.5)).all()
    model = CLIPModel.from_pretrained(folder).eval()
    ids = clip.words(texts[0], truncation=True, max_length=32, return_tensors="pt")
    with torch.no_grad():
        out = model(**ids, **clip.pixels(images=pictures[0], return_tensors="pt"))
    cosine = float((out.image_embeds * out.text_embeds).sum() / out.image_embeds.norm() / out.text_embeds.norm())
    assert found[0] == pytest.approx(2.5 * max(cosine, 0), abs=1e-5)
    assert len(clip([], [])) == 0


def test_the_share_of_texts_that_are_cut_is_told(folder):
    clip = CLIPScore(folder)
    long = describe("1C+2C+5B+6C+12D+25C+26D").text
    assert clip.truncated([long, "12D"]) == 0.5


def test_bad_calls_of_clipscore(folder, tmp_path):
    with pytest.raises(ValueError, match="holds no CLIP model"):
        CLIPScore(tmp_path)
    with pytest.raises(ValueError, match="1 pictures and 2 texts"):
        CLIPScore(folder)([Image.new("RGB", (8, 8))], ["a", "b"])

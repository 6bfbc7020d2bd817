"""Training texts: complete, deterministic, saying unit, side and level; and the tokenizer that is trained on them."""

import json
import random
import subprocess
import sys

import pytest
import torch
from diffusers import DiffusionPipeline
from transformers import PreTrainedTokenizerFast

from auface_diffusers.facs import AUSet, describe, preset, read_text, resolve, units
from auface_diffusers.facs.presets import presets
from auface_diffusers.models import TextAlignment
from train_lora.data.alignment_pairs import GROUP, alignment_batch, row_score
from train_lora.data.build_tokenizer import SPECIAL, lengths, train_tokenizer, training_texts
from train_lora.data.sample_aus import sample_aus
from train_lora.data.wordings import SHARES, free_wording, phrases, table, wordings

SIDED = [unit.code for unit in units.values() if unit.parts == "sides"]
LIPS = [unit.code for unit in units.values() if unit.parts == "lips"]


def drawn(aus, count=40, kind="free"):
    return [wordings(random.Random(number), AUSet.parse(aus), kind) for number in range(count)]


@pytest.mark.parametrize("code", units)
def test_every_unit_has_everyday_wordings_at_every_level(code):
    for level in range(1, 6):
        said = phrases(random.Random(level), code, "", float(level))
        assert any(how == "with" for how, _ in said)
        assert not [text for _, text in said if set(text) & set("{}[]") or "  " in text or text != text.strip()]


def test_no_phrase_is_for_an_unknown_unit():
    assert set(table()["unit"]) == set(units)
    known = {name for case in presets() for name in (case.name, *case.aliases)}
    assert set(table()["emotion"]) <= known
    assert {code for pair in table()["together"] for code in pair.split("+")} <= set(units)


@pytest.mark.parametrize("code", SIDED)
def test_the_side_is_said(code):
    for part, word, other in (("L", "left", "right"), ("R", "right", "left")):
        for _, text in phrases(random.Random(0), code, part, 3.0):
            assert word in text
            assert other not in text


@pytest.mark.parametrize("code", LIPS)
def test_the_lip_is_said(code):
    for part, words in (("T", ("upper lip", "top lip")), ("B", ("lower lip", "bottom lip"))):
        said = [text for _, text in phrases(random.Random(0), code, part, 3.0)]
        assert all(any(word in text for word in words) for text in said)


def test_both_sides_name_no_side():
    for code in SIDED:
        if not units[code].one_sided:
            said = [text for _, text in phrases(random.Random(0), code, "", 3.0)]
            assert not [text for text in said if "left" in text.split() or "right" in text.split()]


def test_the_level_is_said_more_often_than_not():
    said = {
        level: [t for n in range(50) for _, t in phrases(random.Random(n), "9", "", level)] for level in (1.0, 5.0)
    }
    for level, texts in said.items():
        mine = {word for kind in ("adv", "adj", "end") for word in table()["levels"][kind][int(level) - 1]}
        assert sum(any(word in text for word in mine) for text in texts) > 0.8 * len(texts)
    assert not set(said[1.0]) & set(said[5.0]) - set(phrases_without_level("9"))


def phrases_without_level(code):
    return [text for _, text in phrases(random.Random(0), code, "", 3.0, scored=False)]


def test_a_level_that_was_not_scored_is_not_said():
    assert {text for n in range(20) for text in phrases_without_level("9")} == set(phrases_without_level("9"))
    assert "wrinkled nose" in phrases_without_level("9")


def test_closed_eyes_are_graded():
    assert all("half" in text or "heavy" in text for _, text in phrases(random.Random(0), "43", "", 3.0))
    assert all("shut" in text or "clos" in text for _, text in phrases(random.Random(0), "43", "", 5.0))


@pytest.mark.parametrize("kind", SHARES)
def test_texts_follow_from_the_generator_and_vary(kind):
    one, again = drawn("1C+2C+L12D+25B", kind=kind), drawn("1C+2C+L12D+25B", kind=kind)
    assert one == again
    assert len(set(one)) > 3
    assert all(text.strip() for text in one)


def test_every_share_of_kinds_is_drawn():
    with pytest.raises(ValueError, match="allowed are anatomical"):
        wordings(random.Random(0), AUSet(), "poem")
    texts = drawn("4B+L12D", count=300, kind=None)
    assert any("AU" in text for text in texts)
    assert any("eyebrows" in text for text in texts)
    assert any(text.startswith("A portrait of") for text in texts)


def test_processor_texts_go_back_to_the_score():
    rng = random.Random(5)
    for _ in range(100):
        _, aus = sample_aus(rng)
        for kind in ("anatomical", "compact"):
            text = wordings(rng, aus, kind)
            if "fits the" not in text and not text.startswith("A portrait of"):
                assert read_text(text) == resolve(aus.round()).effective


def test_codes_are_readable_as_scores():
    texts = drawn("1C+2C+L12D", kind="codes")
    assert "1C+2C+L12D" in texts
    assert any("AU12 at level D (left)" in text for text in texts)
    assert all("12" in text for text in texts)


def test_neutral_faces_have_words():
    texts = drawn("0", count=60)
    assert any("neutral" in text.lower() for text in texts)
    assert len({text.lower() for text in texts}) > 20


@pytest.mark.parametrize(("name", "word"), [("happiness", "happy"), ("fear", "scared"), ("awed", "awestruck")])
def test_prototypes_get_emotion_words_and_others_do_not(name, word):
    texts = [free_wording(random.Random(n), preset(name)).lower() for n in range(150)]
    assert any(word in text for text in texts)
    assert any(word not in text for text in texts)
    assert not [text for text in drawn("20C+28B", count=150) if word in text.lower()]


def test_strength_of_an_emotion_is_said():
    weak = [free_wording(random.Random(n), preset("happiness", 0.3)).lower() for n in range(200)]
    strong = [free_wording(random.Random(n), preset("happiness", 1.0)).lower() for n in range(200)]
    assert any("slightly happy" in text for text in weak)
    assert not any("slightly happy" in text for text in strong)
    assert any("utterly happy" in text for text in strong)


# --- pairs ----------------------------------------------------------------------------------------------------------


def test_pairs_follow_from_seed_and_number():
    texts, others, levels = alignment_batch(3, range(40))
    assert alignment_batch(3, [7, 11])[0] == [texts[7], texts[11]]
    assert levels.shape == (40, len(units.channels))
    assert torch.equal(alignment_batch(3, [7])[2][0], levels[7])
    assert alignment_batch(4, range(40))[0] != texts
    assert sum(one != other for one, other in zip(texts, others, strict=True)) >= 39
    assert 0 <= levels.min() <= levels.max() <= 5
    with pytest.raises(ValueError, match="rows count from 0"):
        row_score(0, -1)


def test_levels_are_effective_scores():
    _, _, levels = alignment_batch(1, range(60))
    for number, row in enumerate(levels.tolist()):
        aus = row_score(1, number)
        assert resolve(aus).effective == aus
        assert row == pytest.approx(list(aus.vector()))


def test_every_fourth_row_is_a_near_miss():
    _, _, levels = alignment_batch(2, range(400))
    changed = (levels[GROUP - 1 :: GROUP] != levels[GROUP - 2 :: GROUP]).sum(dim=1)
    assert (changed > 0).all()
    assert (changed <= 4).float().mean() > 0.85  # one unit on both sides for another; a rule may take more away


def test_pose_and_every_shown_channel_occur():
    _, _, levels = alignment_batch(0, range(3000))
    missing = [name for name, seen in zip(units.channels, (levels > 0).any(dim=0).tolist(), strict=True) if not seen]
    assert not missing


# --- tokenizer ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(training_texts(0, 600), 600)


def test_tokenizer_loses_nothing_but_case_and_blanks(tokenizer):
    texts = [*training_texts(9, 50), "Ångström  ünïcode 😀 smile\n(AU12=2.37)"]
    for text in texts:
        ids = tokenizer(text)["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == " ".join(text.lower().split())


def test_ids_are_the_defaults_of_the_model(tokenizer):
    config = TextAlignment(vocab_size=600, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=32).config
    assert [tokenizer.convert_tokens_to_ids(token) for token in SPECIAL.values()] == [0, 1, 2, 3]
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        assert getattr(tokenizer, name) == config[name]
    assert tokenizer.model_max_length == config.max_length


def test_saved_tokenizer_is_the_same(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path, local_files_only=True)
    texts = list(training_texts(3, 20))
    options = {"padding": True, "truncation": True, "return_tensors": "pt"}
    one, other = tokenizer(texts, **options), loaded(texts, **options)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(one[name], other[name])
    assert loaded.model_max_length == tokenizer.model_max_length


class Pipeline(DiffusionPipeline):
    def __init__(self, tokenizer, text_alignment):
        super().__init__()
        self.register_modules(tokenizer=tokenizer, text_alignment=text_alignment)


def test_tokenizer_and_model_are_components_of_a_pipeline(tokenizer, tmp_path):
    model = TextAlignment(vocab_size=600, hidden_size=32, num_layers=1, num_heads=2, intermediate_size=32)
    Pipeline(tokenizer, model.eval()).save_pretrained(tmp_path)
    loaded = Pipeline.from_pretrained(tmp_path, local_files_only=True)
    batch = loaded.tokenizer(["a big smile", "eyes closed and a wrinkled nose"], padding=True, return_tensors="pt")
    said, wanted = (m(batch["input_ids"], batch["attention_mask"]) for m in (loaded.text_alignment, model))
    assert torch.equal(said.levels, wanted.levels)


def test_descriptions_fit(tokenizer):
    found = lengths(tokenizer, 400, seed=1)
    assert found["fit"] > 0.999
    assert found["mean"] < found["percentile_99"] <= found["max"]
    longest = describe("1+2+4+5+6+7+10+12+15+17+20+23+25+26", seed=1).text
    assert len(tokenizer(longest)["input_ids"]) <= tokenizer.model_max_length


def test_a_vocabulary_without_room_is_refused():
    with pytest.raises(ValueError, match="size 100: at least 260"):
        train_tokenizer(["smile"], 100)


def test_command_saves_and_reports(tmp_path):
    command = [
        sys.executable,
        "-m",
        "train_lora.data.build_tokenizer",
        str(tmp_path),
        "--size",
        "400",
        "--texts",
        "300",
    ]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    report = json.loads(done.stdout)
    assert report["tokens"] == 400
    assert len(PreTrainedTokenizerFast.from_pretrained(tmp_path, local_files_only=True)) == 400

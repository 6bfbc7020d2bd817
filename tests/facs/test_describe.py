"""The text processor's options: style, seed, subject, emotion; each changes the text and nothing else."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import CODES, scores

from auface_diffusers.facs import AUSet, Subject, describe, preset, read_text, resolve, units
from auface_diffusers.facs.presets import presets
from auface_diffusers.facs.wording import CLIP_TOKENS, clip_tokens

EMOTION_WORDS = re.compile(
    r"\b(?:happ|sad|ang(?:er|ry)|fear|afraid|surpris|disgust|contempt|joy|hatred|awe|appal|worr|emotion|feel)\w*", re.I
)


def test_a_description_is_its_text():
    said = describe("1C+2C+4B+L12D")
    assert str(said) == said.text == describe(AUSet.parse("1C+2C+4B+L12D")).text
    assert said.style == "anatomical"
    assert said.trace == resolve(AUSet.parse("1C+2C+4B+L12D")).trace
    assert [(clause.aus, clause.rule) for clause in said.clauses] == [(("1C", "2C", "4B"), "N3"), (("L12D",), "")]
    assert said.text[said.clauses[1].start : said.clauses[1].end].startswith("The left lip corner")


def test_an_unknown_style_names_the_known():
    with pytest.raises(ValueError, match="'prose'.*anatomical, compact, tags, coder"):
        describe("12C", "prose")


@given(st.lists(st.sampled_from(CODES), min_size=3, max_size=3, unique=True), st.data())
def test_a_seed_gives_many_texts_with_one_meaning(codes, data):
    aus = AUSet({code: data.draw(st.sampled_from([1, 2, 3, 4, 5])) for code in codes})
    texts = {describe(aus, seed=seed).text for seed in range(300)}
    meanings = {read_text(text) for text in texts}
    assert meanings == {resolve(aus).effective}
    if len(resolve(aus).effective.codes) == 3:
        assert len(texts) >= 50


@pytest.mark.parametrize("score", ["12", "70", "43E", "0", "51C+52C+53C", "72+12+17", "M57+M59+M60"])
def test_even_short_texts_vary(score):
    assert len({describe(score, seed=seed).text for seed in range(1500)}) >= 50


def test_a_seed_is_deterministic_and_other_styles_have_one_wording():
    assert describe("1C+12D", seed=5).text == describe("1C+12D", seed=5).text
    assert describe("1C+12D", seed=5).text != describe("1C+12D", seed=6).text
    assert describe("1C+12D", "compact", seed=5).text == describe("1C+12D", "compact").text


@given(scores())
def test_no_emotion_word_unless_asked(aus):
    for said in (
        describe(aus),
        describe(aus, seed=1),
        describe(aus, "compact"),
        describe(aus, "coder"),
        describe(aus, "tags"),
    ):
        assert not EMOTION_WORDS.search(said.text), said.text


def test_emotion_names_the_closest_prototype():
    said = describe("6C+12C", emotion=True)
    assert said.text.endswith("The combination fits the EMFACS-style prototype 'happiness'.")
    assert read_text(said.text) == AUSet.parse("6C+12C")
    assert describe("6C+12C", "tags", emotion=True).text.endswith(", happiness")
    assert read_text(describe("6C+12C", "compact", emotion=True).text) == AUSet.parse("6C+12C")
    assert read_text(describe("6C+12C", "coder", emotion=True).text) == AUSet.parse("6C+12C")
    assert describe("6C", emotion=True).text == describe("6C").text
    for side in "LR":  # an expression has no handedness
        assert "contempt" in describe(f"{side}12A+{side}14A", emotion=True).text
    assert describe("6C+12C+17C+4C+9C", emotion=True).text == describe("6C+12C+17C+4C+9C").text, "too much else"


@pytest.mark.parametrize("style", ["anatomical", "compact", "coder"])
def test_subject(style):
    subject = Subject(
        age=40, gender="woman", skin="dark brown", hair="short black", pose="head up", gaze="eyes closed"
    )
    said = describe("12D", style, subject=subject)
    front = "A portrait of a 40-year-old woman with dark brown skin and short black hair, head up, eyes closed."
    assert said.text == f"{front} {describe('12D', style).text}"
    assert read_text(said.text) == AUSet.parse("12D"), "the subject is no action unit"
    assert said.text[said.clauses[0].start : said.clauses[0].end] == said.clauses[0].text


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        (Subject(), "a person"),
        (Subject(age="elderly", gender="man"), "an elderly man"),
        (Subject(age=80, hair="bald"), "an 80-year-old person with a bald head"),
        (Subject(skin="freckled skin", gaze="looking up"), "a person with freckled skin, looking up"),
    ],
)
def test_subject_phrases(subject, text):
    assert subject.phrase() == text


def test_a_subject_of_two_sentences_or_of_blanks():
    said = describe("12D", subject="a smiling woman. She looks up.")
    assert said.text.startswith("A portrait of a smiling woman, She looks up. The lip")
    assert read_text(said.text) == AUSet.parse("12D")
    assert describe("12D", subject="  ").text == describe("12D").text


def test_tags_say_what_is_left_of_a_conflict():
    assert describe("12C+15C", "tags").text == "straight mouth"
    assert describe("5C+43B", "tags").text == "half-closed eyes"
    assert describe("12A", "tags").text == "light smile"
    assert describe("12D", "tags").text == "smile"


@pytest.mark.parametrize("score", ["5C+41C+4C", "1C+2C+5C+43B", "5C+7C+41C", "10C+17C+25C", "1C+2C+5C+7C"])
def test_a_conflict_is_said_by_its_own_phrase(score):
    said = describe(score)
    pairs = [{"5", "41"}, {"5", "43"}, {"17", "25"}, {"5", "7"}]
    (pair,) = [pair for pair in pairs if pair <= set(said.resolution.raw.codes)][:1]
    assert [pair <= {code for code, _ in clause.keys} for clause in said.clauses].count(True) == 1, said.text


def test_unscored_levels_are_not_claimed():
    assert "markedly" in describe("12C").text
    assert describe("12").text == "The lip corners are pulled up and back."


CLIP_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@pytest.fixture(scope="module")
def clip_count(real_file):
    """Number of tokens by CLIP's own vocabulary and byte-pair merges (the last letter carries the end of the word)."""
    import gzip

    import regex

    lines = gzip.open(real_file("bpe_simple_vocab_16e6.txt.gz")).read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    rank = {tuple(line.split()): number for number, line in enumerate(lines)}
    split = regex.compile(CLIP_PATTERN)

    def pieces(word):
        symbols = [*word[:-1], word[-1] + "</w>"]
        while len(symbols) > 1:
            at = min(range(len(symbols) - 1), key=lambda i: rank.get((symbols[i], symbols[i + 1]), 1e9))
            if (symbols[at], symbols[at + 1]) not in rank:
                break
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
        return len(symbols)

    return lambda text: sum(pieces(word) for word in split.findall(text.lower()))


@given(scores())
def test_compact_counts_its_tokens_as_clip_does(clip_count, aus):
    text = describe(aus, "compact").text
    assert clip_tokens(text) == clip_count(text), text


FACE = [u.code for u in units.values() if u.still and u.parts != "whole"]


@given(
    st.lists(st.sampled_from(CODES + FACE * 2), min_size=8, max_size=8, unique=True), st.randoms(use_true_random=False)
)
def test_compact_fits_clip_for_eight_units_on_both_sides(clip_count, codes, rng):
    levels = {(code, part): float(rng.randint(1, 5)) for code in codes for part in units[code].part_names}
    aus = AUSet.from_keys(levels)
    text = describe(aus, "compact").text
    assert clip_count(text) <= CLIP_TOKENS, text
    assert read_text(text) == resolve(aus).effective


@pytest.mark.parametrize("entry", presets(), ids=lambda p: f"{p.source}-{p.name}")
def test_presets_describe_and_read_back(entry):
    aus = preset(entry.name, source=entry.source)
    assert aus == entry.aus
    assert read_text(describe(aus).text) == resolve(aus).effective
    assert entry.name not in describe(aus).text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("sad",), "1+4+15"),
        (("sad", 0.6), "1+4+15"),
        (("sad", 1.0), "1E+4E+15E"),
        (("sad", 0.0), "0"),
        (("SADNESS ", 0.2), "1A+4A+15A"),
        (("contempt", 1.0), "R12=1.6666666666666667+R14=1.6666666666666667"),
        (("happily surprised",), "1+2+12+25"),
    ],
)
def test_preset_strength(arguments, expected):
    assert preset(*arguments).format() == expected


def test_preset_sources_disagree_and_stay_apart():
    assert preset("disgusted", source="emfacs").format() == "9+15+16"
    assert preset("disgusted", source="du2014").format() == "9+10+17"
    assert preset("happy", source="du2014", min_share=0.5).format() == "6+12+25"
    assert preset("happy", source="du2014", min_share=0.52).format() == "12+25"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preset("bored"), "no preset 'bored'; there are happiness"),
        (lambda: preset("awed", source="emfacs"), "no preset 'awed'"),
        (lambda: preset("sad", 1.5), r"strength 1.5 is outside 0\.\.1"),
        (lambda: preset("sad", source="ekman"), "emfacs, du2014"),
        (lambda: preset("sad", min_share=2), r"min_share 2 is outside 0\.\.1"),
    ],
)
def test_bad_presets(call, message):
    with pytest.raises(ValueError, match=message):
        call()

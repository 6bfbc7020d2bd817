"""Canonical texts, one case a parameter. A change of wording changes golden.tsv, and somebody reads the difference."""

from pathlib import Path

import pytest

from auface_diffusers.facs import AUSet, describe, read_text

pytestmark = pytest.mark.filterwarnings("ignore::auface_diffusers.facs.NotationWarning")  # 71, 82, 85 are meant here
LINES = Path(__file__).with_name("golden.tsv").read_text(encoding="utf-8").splitlines()[1:]
CASES = [tuple(line.split("\t")) for line in LINES]


@pytest.mark.parametrize(("style", "score", "text"), CASES, ids=[f"{style}-{score}" for style, score, _ in CASES])
def test_text(style, score, text):
    said = describe(AUSet.parse(score), style)
    assert said.text == text
    if style != "tags":
        assert read_text(text) == said.resolution.effective


def test_no_text_stands_for_two_scores():
    seen = {}
    for style, score, text in CASES:
        if style == "anatomical":
            effective = describe(AUSet.parse(score)).resolution.effective
            assert seen.setdefault(text, effective) == effective

"""The laws that the library promises for any score (see the docstrings of `resolve`, `describe` and `AUSet`)."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import scores

from auface_diffusers.facs import AUSet, describe, read_text, resolve
from auface_diffusers.facs.interactions import rules

pytestmark = pytest.mark.filterwarnings("ignore::auface_diffusers.facs.NotationWarning")  # 71, 82, 85 are meant here


@given(scores(), scores(floats=True))
def test_notation_round_trip(letters, floats):
    for aus in (letters, floats):
        again = AUSet.parse(aus.format())
        assert again == aus
        assert again.unscored == aus.unscored
        assert again.format() == aus.format()


@given(scores(floats=True), st.randoms(use_true_random=False))
def test_order_does_not_matter(aus, rng):
    tokens = aus.format().split("+")
    shuffled = rng.sample(tokens, len(tokens))
    one, two = AUSet.parse("+".join(tokens)), AUSet.parse("+".join(shuffled))
    assert one == two
    assert resolve(one).effective == resolve(two).effective
    assert [h.to_dict() for h in resolve(one).trace] == [h.to_dict() for h in resolve(two).trace]


@given(scores(floats=True))
def test_resolution_is_idempotent(aus):
    once = resolve(aus)
    twice = resolve(once.effective)
    assert twice.effective == once.effective
    assert not twice.dropped


@given(scores(floats=True))
def test_resolution_is_mirror_symmetric(aus):
    here, there = resolve(aus), resolve(aus.mirror())
    assert there.effective == here.effective.mirror()
    assert sorted(hit.id + hit.action for hit in there.trace) == sorted(hit.id + hit.action for hit in here.trace)


@given(scores(floats=True))
def test_resolution_only_takes_away(aus):
    effective = resolve(aus).effective
    assert all(aus.parts[key] == level for key, level in effective.parts.items())
    assert effective.unscored <= aus.unscored


@given(scores())
def test_nothing_is_lost(aus):
    said = describe(aus)
    in_text = {key for clause in said.clauses for key in clause.keys}
    in_trace = {key for hit in said.trace for key in hit.dropped_keys}
    assert in_text | in_trace == set(aus.parts)
    assert in_text == set(said.resolution.effective.parts)
    assert not in_text & in_trace


@given(scores(), st.data())
def test_resolution_is_monotone(aus, data):
    if not aus:
        return
    key = data.draw(st.sampled_from(sorted(aus.parts)))
    level = data.draw(st.floats(aus.parts[key], 5))
    raised = AUSet.from_keys({**aus.parts, key: level}, aus.unscored - {key})
    assert resolve(raised).effective.parts.get(key, 0) >= resolve(aus).effective.parts.get(key, 0)


@given(scores(), st.integers(0, 10**9))
def test_text_reads_back(aus, seed):
    effective = resolve(aus).effective
    for said in (
        describe(aus),
        describe(aus, seed=seed),
        describe(aus, "compact"),
        describe(aus, "coder"),
        describe(aus, seed=seed, subject="a woman, head turned left, smiling eyes", emotion=True),
    ):
        read = read_text(said.text)
        assert read == effective, said.text
        assert read.confidence == 1.0
        assert read.unread == ()


@given(scores(floats=True))
def test_float_levels_read_back_as_letters(aus):
    assert read_text(describe(aus).text) == resolve(aus).effective.round() == resolve(aus.round()).effective
    assert read_text(describe(aus, "coder").text) == resolve(aus).effective


@given(scores())
def test_spans_are_where_they_say(aus):
    for style in ("anatomical", "compact", "tags", "coder"):
        said = describe(aus, style, seed=3)
        assert all(said.text[c.start : c.end] == c.text for c in said.clauses)


@given(scores())
def test_zero_is_identity(aus):
    zeros = {name: 0.0 for name in ("12", "L1", "28:T", "43") if name not in aus}
    assert AUSet(zeros) == AUSet()
    assert aus.merge(AUSet(zeros)) == aus
    assert describe(aus.merge(AUSet(zeros))).text == describe(aus).text


@given(scores())
def test_mirror_swaps_left_and_right_in_the_text(aus):
    def swap(text):
        return "right".join(part.replace("right", "left") for part in text.split("left"))

    here = {swap(clause.text.lower()) for clause in describe(aus).clauses}
    assert here == {clause.text.lower() for clause in describe(aus.mirror()).clauses}


UP = {"up", "raised", "lifted", "upward", "hoisted", "arched"}
DOWN = {"down", "lowered", "dropped", "downward"}


@given(scores())
def test_no_opposite_directions_for_one_feature_in_a_clause(aus):
    opposed = {frozenset(code for code, _ in case.members) for case in rules().oppose}
    for clause in describe(aus).clauses:
        codes = {code for code, _ in clause.keys}
        if any(pair <= codes for pair in opposed):
            words = set(clause.text.replace(",", " ").split())
            assert not (words & UP and words & DOWN), clause.text


@pytest.mark.slow
def test_many_plain_scores_resolve_the_same_twice():
    rng = random.Random(0)
    names = [f"{side}{code}" for code in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 20) for side in ("", "L", "R")]
    names += [str(code) for code in (8, 17, 18, 22, 23, 24, 25, 26, 27, 28, 50, 61, 62)]
    for _ in range(100_000):
        aus = AUSet({name: rng.randint(1, 5) for name in rng.sample(names, rng.randint(1, 10))})
        effective = resolve(aus).effective
        assert resolve(effective).effective == effective

"""Every interaction rule: a score in which it fires, with what it does, and one in which it does not."""

import pytest

from auface_diffusers.facs import AUSet, ConflictError, NotationError, resolve, units
from auface_diffusers.facs.interactions import rules

# rule, score in which it fires, action, effective score then, score in which it does not fire
CASES = [
    ("X1", "51C+52B", "dropped", "51C", "51C+53B"),
    ("X1", "53D+54D", "cancelled", "0", "53D"),
    ("X1", "55A+56C+12B", "dropped", "12B+56C", "55A+57C"),
    ("X2", "61B+62D", "dropped", "62D", "61B+63D"),
    ("X2", "63C+64C", "cancelled", "0", "63C+61C"),
    ("X3", "61B+65D", "dropped", "65D", "61B+63D"),
    ("X3", "65+66", "dropped", "65", "65"),
    ("X4", "26D+27B", "dropped", "27B", "26D+25B"),
    ("X5", "43E+45", "dropped", "43E", "43E"),
    ("X5", "L43B+L46", "dropped", "L46", "R43B+L46"),
    ("X5", "41+42", "dropped", "42", "L41+R42"),
    ("X6", "33+34", "dropped", "34", "L33+R34"),
    ("X6", "34B+35D", "dropped", "35D", "35D"),
    ("X7", "L30C+R30B", "dropped", "L30C", "L30C"),
    ("X7", "L30+R30", "cancelled", "0", "R30"),
    ("X8", "50+25C+26B", "dropped", "50", "50+12C"),
    ("X8", "50+14C", "allowed", "14C+50", "14C"),
    ("X9", "70+1C+12B", "hidden", "12B+70", "70+12B"),
    ("X9", "71+43E+61B", "hidden", "71", "71+1C"),
    ("X9", "72+6C+12D", "hidden", "6C+72", "72+6C"),
    ("X9", "73+6C+12D+53B", "hidden", "53B+73", "73+53B"),
    ("X9", "74+6C", "hidden", "74", "74"),
    ("X10", "38C+39B", "dropped", "38C", "L38C+R39B"),
    ("S1", "5D+43C", "dropped", "43C", "L5D+R43C"),
    ("S1", "5D+43B", "allowed", "5D+43B", "5D"),
    ("S2", "17C+25D", "dropped", "25D", "17C"),
    ("S2", "17C+25D+16B", "allowed", "16B+17C+25D", "17C+16B"),
    ("S3", "24C+25B", "dropped", "24C", "24C"),
    ("S3", "24C+26B", "allowed", "24C+26B", "25C+26B"),
    ("S4", "23C+25B", "allowed", "23C+25B", "23C"),
    ("S5", "8A+25D+26B", "dropped", "8A+26B", "8A+26B"),
    ("S6", "22C+24D", "dropped", "24D", "22C:T+24D:B"),
    ("S6", "22C+28B", "dropped", "22C", "22C"),
    ("S7", "31A+26D", "dropped", "31A", "31A+25B"),
    ("S8", "22C+23C", "allowed", "22C+23C", "22C"),
    ("F1", "1C+4B", "balanced", "1C+4B", "L1C+R4B"),
    ("F1", "1A+4D", "dominated", "1A+4D", "1A"),
    ("F2", "2C+4C", "balanced", "2C+4C", "2C+1C"),
    ("F3", "9C+1C", "balanced", "1C+9C", "9C+4C"),
    ("F3", "9B+2D", "dominated", "2D+9B", "9B"),
    ("F3", "9D+1C", "muted", "1C+9D", "9D"),
    ("F4", "5C+7C", "allowed", "5C+7C", "5C"),
    ("F5", "12C+15C", "balanced", "12C+15C", "L12C+R15C"),
    ("F5", "12E+15B", "dominated", "12E+15B", "12E"),
    ("F6", "13C+15B", "balanced", "13C+15B", "13C"),
    ("F7", "12C+20C", "balanced", "12C+20C", "12C"),
    ("F8", "18C+20B", "balanced", "18C+20B", "18C"),
    ("F8", "18D+12A", "dominated", "12A+18D", "18D+17C"),
    ("F8", "18C+14C", "balanced", "14C+18C", "14C"),
    ("F9", "22C+20C", "balanced", "20C+22C", "22C"),
    ("F10", "16C+17D", "balanced", "16C+17D", "16C"),
    ("F11", "10C+24D", "dropped", "24D", "10C+24D:B"),
    ("F11", "16D+28B", "dropped", "16D+28B:T", "16D+28B:T"),
    ("F12", "26C+17B", "allowed", "17B+26C", "26C"),
    ("F13", "28C+25B", "dropped", "28C", "28C"),
    ("F13", "28C+25B+26C", "allowed", "25B+26C+28C", "28C+26C"),
    ("F14", "34C+12D", "dropped", "12D", "L34C+R12D"),
    ("F14", "34D+14B", "dropped", "34D", "33D+14B"),
    ("C1", "25C+26B", "merged", "25C+26B", "25C"),
    ("C1", "28C+27B", "merged", "27B+28C", "28C"),
    ("C2", "12D", "noted", "12D", "12D+6A"),
    ("C3", "9B", "noted", "9B", "9B+10A"),
    ("C4", "9B", "noted", "9B", "9B+4A"),
    ("C5", "4D+7C", "muted", "4D+7C", "4D"),
    ("C6", "43E+61C", "dropped", "43E", "L43E+61C"),
    ("C6", "43E+69", "dropped", "43E", "43D+69"),
    ("C7", "28C+23C", "muted", "23C+28C", "23C"),
    ("C8", "33+12C", "muted", "12C+33", "12C"),
    ("C8", "33+11C", "dropped", "33", "11C"),
    ("C9", "53B", "noted", "53B", "52C"),
    ("C9", "51D", "noted", "51D", "51C"),
    ("N1", "1C+4C", "merged", "1C+4C", "1E+4A"),
    ("N2", "1C+2B", "merged", "1C+2B", "L1C+R2B"),
    ("N3", "1C+2C+4B", "merged", "1C+2C+4B", "1C+2C"),
    ("N4", "4C+5C", "merged", "4C+5C", "5C"),
    ("N5", "6C+12C", "merged", "6C+12C", "6C"),
    ("N6", "9C+17C", "merged", "9C+17C", "9C"),
    ("N7", "10C+12C+25C", "merged", "10C+12C+25C", "10C+12C"),
    ("N8", "10C+14C", "merged", "10C+14C", "10C"),
    ("N9", "12C+23C", "merged", "12C+23C", "23C"),
    ("N10", "15C+17C", "merged", "15C+17C", "15C"),
    ("N11", "12C+15B", "merged", "12C+15B", "12E+15B"),
    ("N12", "17C+24C", "merged", "17C+24C", "24C"),
    ("N13", "20C+25C", "merged", "20C+25C", "25C"),
    ("N14", "23C+24C", "merged", "23C+24C", "23C+24C:T"),
    ("N15", "6C+43E", "merged", "6C+43E", "6C+43D"),
    ("N15", "6C+7C+43E", "merged", "6C+7C+43E", "6B+43E"),
    ("N16", "22C+26C", "noted", "22C+26C", "22C"),
]


@pytest.mark.filterwarnings("ignore::auface_diffusers.facs.NotationWarning")  # 71
@pytest.mark.parametrize(
    ("rule", "score", "action", "effective", "other"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES]
)
def test_a_rule(rule, score, action, effective, other):
    done = resolve(AUSet.parse(score))
    hits = [hit for hit in done.trace if hit.id == rule and hit.action == action]
    assert hits, [hit.to_dict() for hit in done.trace]
    assert done.effective == AUSet.parse(effective)
    assert all(hit.why and hit.grade in "VDKO" and hit.aus for hit in hits)
    assert rule not in {hit.id for hit in resolve(AUSet.parse(other)).trace}


def test_every_rule_has_a_case():
    ids = [f"X{n}" for n in range(1, 11)] + [f"S{n}" for n in range(1, 9)] + [f"F{n}" for n in range(1, 15)]
    ids += [f"C{n}" for n in range(1, 10)] + [f"N{n}" for n in range(1, 17)]
    assert sorted(rules().by_id) == sorted(ids)
    assert {case[0] for case in CASES} == set(ids)
    assert all(set(rule.sources) <= set(units.sources) for of_id in rules().by_id.values() for rule in of_id)


@pytest.mark.parametrize("case", rules().merge, ids=lambda case: "+".join(code for code, _ in case.members))
def test_every_combination_fires_alone(case):
    """Each set of a merge rule is one phrase when nothing else is scored, unless a rule takes one of it away."""
    levels = {code: case.option.minimum.get(code, 3) for code, _ in case.members}
    if case.members == (("5", ""), ("43", "")):
        levels["43"] = 2
    done = resolve(AUSet(levels))
    if case.members == (("17", ""), ("25", "")):
        assert done.effective.codes == ("17",)
    else:
        assert [merge.codes for merge in done.merges] == [tuple(code for code, _ in case.members)]


def test_strict_raises_on_exclusive_sets_only():
    with pytest.raises(ConflictError, match=r"X1: 51C with 52B.*without strict to keep") as error:
        resolve(AUSet.parse("51C+52B+12C"), strict=True)
    assert [hit.id for hit in error.value.hits] == ["X1"]
    with pytest.raises(ConflictError):
        resolve(AUSet.parse("26B+27B"), strict=True)
    assert resolve(AUSet.parse("70+1C+24C+25B"), strict=True).effective == AUSet.parse("24C+70")


@pytest.mark.parametrize(
    ("score", "muscle", "feature"),
    [
        ("24C+25B", {"S3"}, {"S3"}),
        ("12C+15C", set(), {"F5"}),
        ("17C+25D+26B", {"S2"}, {"S2", "F12"}),
        ("1C+4C", set(), {"F1"}),
        ("23C+25C", set(), set()),
        ("22C+23C", set(), set()),
        ("51C+52C", set(), set()),
        ("6C+12C", set(), set()),
    ],
)
def test_two_readings_of_conflict(score, muscle, feature):
    done = resolve(AUSet.parse(score))
    assert {hit.id for hit in done.conflicts("muscle")} == muscle
    assert {hit.id for hit in done.conflicts("feature")} == feature
    assert done.conflicts() == done.conflicts("feature")


def test_an_unknown_reading():
    with pytest.raises(ValueError, match="'muscle' and 'feature'"):
        resolve(AUSet.parse("12C")).conflicts("emotion")


def test_sides_are_resolved_on_their_own():
    done = resolve(AUSet.parse("12D+L15C+R15A"))
    assert done.effective == AUSet.parse("12D+L15C+R15A")
    assert [(hit.id, hit.action, hit.aus) for hit in done.trace if hit.id == "F5"] == [
        ("F5", "balanced", ("L12D", "L15C")),
        ("F5", "dominated", ("R12D", "R15A")),
    ]
    assert [(merge.codes, merge.side) for merge in done.merges] == [(("12", "15"), "L")]
    assert done.neutral == {("15", "R")}


def test_a_balanced_pair_is_not_torn_apart():
    done = resolve(AUSet.parse("6C+12C+15C"))
    assert [merge.codes for merge in done.merges] == [("12", "15")]
    assert done.neutral == frozenset()


def test_a_chain_of_conflicts_keeps_what_it_can():
    done = resolve(AUSet.parse("17C+25D+24E"))
    assert done.effective == AUSet.parse("17C+24E"), "25 falls to 24, so nothing stands against 17"


def test_the_trace_is_plain_data():
    hit = resolve(AUSet.parse("12E+15B")).trace[-1].to_dict()
    assert set(hit) == {"id", "class", "action", "aus", "dropped", "detail", "why", "grade", "reading"}
    (fallen,) = [hit.to_dict() for hit in resolve(AUSet.parse("24C+25B")).trace]
    assert fallen["aus"] == ["24C", "25B"]
    assert fallen["dropped"] == ["25B"]
    assert resolve(AUSet.parse("24C+25B")).dropped == AUSet.parse("25B")


def test_codes_are_resolved_as_their_score_is():
    one, other = resolve("12E+15B"), resolve(AUSet.parse("12E+15B"))
    assert (one.raw, one.effective, str(one.trace)) == (other.raw, other.effective, str(other.trace))
    with pytest.raises(NotationError, match="12Q"):
        resolve("12Q")

"""FACS notation: what is read, what is refused and how, and that nothing else ever comes out of the parser."""

import random
import string
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auface_diffusers.facs import AUSet, NotationError, NotationWarning

GOOD = [
    ("1C+2C+4B+L12D+R14A", "1C+2C+4B+L12D+R14A"),
    ("AU12", "12"),
    ("12", "12"),
    ("12=3", "12C"),
    ("AU12_r=2.3", "12=2.3"),
    ("AU12_R=2.30", "12=2.3"),
    ("au01c", "1C"),
    ("AD19", "19"),
    ("l12d r12b", "L12D+R12B"),
    ("L12C+R12C", "12C"),
    ("B12C", "12C"),
    ("U12B", "U12B"),
    ("A12B", "A12B"),
    ("LAU12D", "L12D"),
    ("AUL12D", "L12D"),
    ("AU L 12 + au 6", "6+L12"),
    ("1c, 2c; 5b", "1C+2C+5B"),
    ("1C +2C\n+ 4B", "1C+2C+4B"),
    ("12 = 2.5", "12=2.5"),
    ("12=1e0", "12A"),
    ("23B", "23B"),
    ("23T", "23:T"),
    ("23:B", "23:B"),
    ("23C:B", "23C:B"),
    ("23C : B", "23C:B"),
    ("23[bottom]", "23:B"),
    ("23D[top]", "23D:T"),
    ("28C:T+28C:B", "28C"),
    ("28=2.5:T", "28=2.5:T"),
    ("AU25_c=1", "25"),
    ("AU25_c=0", "0"),
    ("12=0", "0"),
    ("0", "0"),
    ("AU0", "0"),
    ("30", "U30"),
    ("46", "U46"),
    ("R46", "R46"),
    ("M55", "M55"),
    ("m83", "M83"),
    ("69+M69", "69+M69"),
    ("1+1", "1"),
    ("12+L12C", "L12C+R12"),
    ("12C+12", "12C"),
]


@pytest.mark.parametrize(("text", "canonical"), GOOD)
def test_it_reads(text, canonical):
    aus = AUSet.parse(text)
    assert aus.format() == canonical
    assert AUSet.parse(aus.format()) == aus


BAD = [
    ("", 0, "empty score"),
    ("   ", 0, "empty score"),
    ("+12", 1, "missing before"),
    ("12+", 3, "missing after"),
    ("1++2", 3, "missing before"),
    ("12F", 1, "A (trace), B, C, D or E"),
    ("1C+12f", 4, "A (trace), B, C, D or E"),
    ("12=7", 1, "outside 0..5"),
    ("12=-1", 1, "outside 0..5"),
    ("12=nan", 1, "outside 0..5"),
    ("12=inf", 1, "outside 0..5"),
    ("12=1.2.3", 1, "not a number"),
    ("12_c=2", 1, "0 or 1"),
    ("3", 1, "write 4"),
    ("1C + 3B", 6, "write 4"),
    ("47", 1, "46"),
    ("48", 1, "46"),
    ("49", 1, "46"),
    ("60", 1, "write M60"),
    ("68", 1, "write M68"),
    ("99", 1, "FACS has no unit 99; it has 0-2, 4-46"),
    ("M12", 1, "FACS has no unit M12"),
    ("999999", 1, "FACS has no unit"),
    ("L17", 1, "has no sides: write 17"),
    ("U25", 1, "has no sides"),
    ("L51", 1, "has no sides"),
    ("12T", 1, "has no lips"),
    ("12C:B", 1, "has no lips"),
    ("B46", 1, "L46 or R46"),
    ("12L", 1, "write L12"),
    ("12CL", 1, "write L12C"),
    ("12 D", 4, "12D"),
    ("smile", 1, "a FACS number"),
    ("1C+smile", 4, "a FACS number"),
    ("12C+12D", 5, "scored twice"),
    ("12C+L12D", 5, "L12 is scored twice"),
    ("A12C+L12D", 6, "overlaps another score of 12: write L12 and R12"),
    ("L12D+U12C", 6, "overlaps"),
    ("A46", 1, "L46 or R46"),
    ("0+12", 1, "stands alone"),
    ("12@", 1, "write 51@52"),
    ("@12", 1, "write 51@52"),
    ("1-2-4", 1, "not a unit"),
    ("1é2", 1, "not a unit"),
    ("１２", 1, "not a unit"),
    ("12C\x00", 1, "not a unit"),
    ("LAUR12", 1, "one side"),
    ("12" * 20_000, 0, "the limit is 10000"),
]


@pytest.mark.parametrize(("text", "column", "message"), BAD, ids=[repr(text[:12]) for text, _, _ in BAD])
def test_it_refuses_and_says_why(text, column, message):
    with pytest.raises(NotationError) as error:
        AUSet.parse(text)
    assert message in str(error.value)
    assert error.value.column == column
    if column:
        assert f"column {column}" in str(error.value)
        assert repr(error.value.token)[:20] in str(error.value)
        assert text[column - 1 :].startswith(error.value.token[:1])


def test_ten_megabytes_are_refused_at_once():
    with pytest.raises(NotationError, match="10000000 characters"):
        AUSet.parse("1" * 10_000_000)


def test_something_else_than_text():
    with pytest.raises(NotationError, match="not int"):
        AUSet.parse(12)


@pytest.mark.parametrize(("code", "right"), [("82", "38"), ("71", "4"), ("85", "19")])
def test_codes_misnumbered_in_the_wild_warn(code, right):
    with pytest.warns(NotationWarning, match=f"write {right}$"):
        assert AUSet.parse(code).codes == (code,)


def test_bottom_lip_after_an_intensity_warns():
    with pytest.warns(NotationWarning, match="write 23C:B"):
        assert AUSet.parse("23CB").format() == "23C:B"


def test_alternates():
    with pytest.warns(NotationWarning, match="alternates"):
        assert AUSet.parse("12C+51B@52B").format() == "12C+51B"
    readings = AUSet.parse_alternatives("12C+51B@52B+61@62")
    assert [r.format() for r in readings] == ["12C+51B+61", "12C+51B+62", "12C+52B+61", "12C+52B+62"]
    with pytest.raises(NotationError, match="64 readings"):
        AUSet.parse_alternatives("+".join(["51@52"] * 7))


def test_unknown_intensity_counts_as_c_and_is_remembered():
    aus = AUSet.parse("12+17A")
    assert aus.level(12) == 3
    assert aus == AUSet.parse("12C+17A")
    assert aus.format() == "12+17A"
    assert AUSet.parse("43").level(43) == 5, "a bare 43 is a closed eye"


@given(st.text(alphabet=string.digits + "LRUABCDEFTM+,;:=@_ .[]topbAUr\n", max_size=30))
def test_any_text_parses_or_is_refused(text):
    check(text)


def check(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotationWarning)
        try:
            aus = AUSet.parse(text)
        except NotationError:
            return
        assert AUSet.parse(aus.format()) == aus


def random_text(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.3:
        return "".join(map(chr, rng.choices(range(0x3000), k=rng.randint(0, 20))))
    pieces = [
        "L",
        "R",
        "U",
        "A",
        "B",
        "AU",
        "M",
        "T",
        "+",
        "@",
        "=",
        ":",
        "_r",
        "_c",
        " ",
        "[top]",
        ",",
        ".",
        "-",
        "1e9",
    ]
    pieces += [str(n) for n in range(100)] + list("ABCDEFabcde")
    return "".join(rng.choices(pieces, k=rng.randint(0, 12)))


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_fuzz(count):
    rng = random.Random(count)
    for _ in range(count):
        check(random_text(rng))

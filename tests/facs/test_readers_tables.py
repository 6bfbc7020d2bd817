"""Tables of detectors, generic CSV and JSON Lines: what a row says, and which rows go to the quarantine."""

import csv
import json
import tracemalloc

import pytest
from facs.reader_trees import imotions, libreface, openface, openface_names, pyfeat, table, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.readers import (
    Annotation,
    Bad,
    Quarantine,
    ReaderError,
    read_annotations,
    sources,
    table_reader,
)
from auface_diffusers.facs.units import units

OPENFACE3 = units.labelled_in("openface3")


def read(path, source="auto", **options):
    """The rows, and the quarantine with what was left out."""
    quarantine = Quarantine()
    return list(read_annotations(path, source, quarantine=quarantine, **options)), quarantine


def only(path, source="auto", **options):
    (row,), quarantine = read(path, source, **options)
    assert not quarantine.total
    return row


def assert_partition(row, codes):
    """Every covered unit is in exactly one of present, absent, unknown."""
    assert sorted([*row.aus.codes, *row.absent, *row.unknown]) == sorted(codes)


# --- OpenFace 2 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "threshold", "present"),
    [
        ({"AU12_r": 2.3, "AU12_c": 1}, None, {"12": 2.3}),
        ({"AU12_r": "0.30", "AU12_c": "1.00"}, None, {"12": 0.3}),
        ({"AU12_r": 0, "AU12_c": 1}, None, {"12": None}),  # the flag decides; the level is not known
        ({"AU12_r": 2.3, "AU12_c": 0}, None, {}),
        ({"AU28_c": 1}, None, {"28": None}),  # has no intensity
        ({"AU12_r": 2.3, "AU12_c": 0}, 2, {"12": 2.3}),  # a threshold of the caller overrules the flag
        ({"AU12_r": 1.9, "AU12_c": 1}, 2, {}),
        ({"AU12_r": 2, "AU12_c": 0}, 2, {"12": 2}),
        ({"AU28_c": 1}, 2, {"28": None}),
    ],
)
def test_openface_presence(tmp_path, cells, threshold, present):
    row = only(openface(tmp_path / "a.csv", {"frame": 1, **cells}), threshold=threshold)
    assert row.aus == AUSet(present)
    assert row.aus.unscored == AUSet(present).unscored
    assert_partition(row, units.labelled_in("openface-c"))


@pytest.mark.parametrize(("level", "threshold", "present"), [(1, None, True), (0.99, None, False), (0.99, 0.5, True)])
def test_openface_without_flags_uses_the_threshold(tmp_path, level, threshold, present):
    path = table(tmp_path / "a.csv", ["frame", " success", " AU12_r"], [1, 1, level])
    row = only(path, threshold=threshold)
    assert (row.aus == AUSet({"12": level})) if present else (row.absent == {"12"})


@pytest.mark.parametrize("success", [0, "0.00", "nan"])
def test_openface_without_a_face_knows_nothing(tmp_path, success):
    cells = {"AU12_r": "0.00", "AU04_r": "-nan(ind)"}
    row = only(openface(tmp_path / "a.csv", {"frame": 1, "success": success, "confidence": 0.02, **cells}))
    assert not row.aus
    assert not row.absent
    assert row.unknown == set(units.labelled_in("openface-c"))
    assert row.confidence == 0.02


@pytest.mark.parametrize("text", ["nan", "NaN", "-nan(ind)", "", "NA", "9", "999", "None"])
@pytest.mark.parametrize("kind", ["r", "c"])
def test_openface_unknown_is_not_absent(tmp_path, text, kind):
    path = table(tmp_path / "a.csv", ["frame", f"AU12_{kind}", "AU04_c"], [1, text, 0])
    row = only(path)
    assert (row.unknown, row.absent, row.aus) == ({"12"}, {"4"}, AUSet())


def test_openface_says_where_a_row_comes_from(tmp_path):
    path = openface(tmp_path / "a.csv", {"frame": 7, "face": 2, "confidence": 0.5})
    row = only(path)
    assert (row.source, row.file, row.line, row.frame, row.face, row.confidence) == (
        "openface",
        str(path),
        2,
        "7",
        "2",
        0.5,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"separator": ","},
        {"separator": ", "},
        {"separator": "\t"},
        {"separator": ";"},
        {"end": "\r\n"},
        {"end": "\r"},
        {"encoding": "utf-8-sig"},
        {"landmarks": 0},
        {"landmarks": 1},
        {"faces": False},
    ],
)
def test_openface_spelling_of_the_file_does_not_matter(tmp_path, options):
    path = openface(tmp_path / "a.csv", {"frame": 1, "AU12_r": 2.3, "AU12_c": 1, "AU45_c": 1}, **options)
    assert only(path).aus == AUSet({"12": 2.3, "45": None})


def test_openface_row_with_quotes(tmp_path):
    path = openface(tmp_path / "a.csv", {"frame": '"1"', "AU12_r": 2.3, "AU12_c": 1, "x_3": '"1,5"'})
    assert only(path).aus == AUSet({"12": 2.3})


def test_openface_faces_of_one_frame_are_no_duplicates(tmp_path):
    faces = [(1, 0), (1, 1), (2, 0), (1, 1), (3, 0)]
    rows, quarantine = read(openface(tmp_path / "a.csv", *({"frame": f, "face": face} for f, face in faces)))
    assert [(row.frame, row.face) for row in rows] == [("1", "0"), ("1", "1"), ("2", "0"), ("3", "0")]
    (bad,) = quarantine.rows
    assert (bad.line, bad.reason) == (5, "duplicate frame")
    assert bad.detail == "frame 1 was there before with face 1"


def test_openface_of_a_single_image_has_faces_but_no_frames(tmp_path):
    rows, _ = read(table(tmp_path / "a.csv", ["face", "confidence", "AU12_r"], [0, 0.9, 3], [1, 0.8, 0]))
    assert [(row.frame, row.face) for row in rows] == [("0", "0"), ("0", "1")]


BAD_ROWS = {
    "1, 0.9, 1, 0, 0, 5": ("wrong number of fields", "6 fields, the header has 5"),
    "1, 0.9, 1, 0": ("wrong number of fields", "4 fields, the header has 5"),
    "1, 0.9, 1, x, 0": ("not a number", "'x' where a number is expected"),
    "1, 0.9, 1, 7, 0": ("out of range", "level 7: allowed is 0..5"),
    "1, 0.9, 1, -0.1, 0": ("out of range", "level -0.1: allowed is 0..5"),
    "1, 0.9, 1, inf, 0": ("out of range", "level inf: allowed is 0..5"),
    "1, 0.9, 1, E, 0": ("not a number", "'E' where a number is expected"),
    "1, 0.9, 1, 0, 2": ("unknown occurrence value", "2: allowed are 0, 1, and 9"),
    "1, 0.9, 1, 0, 0.5": ("unknown occurrence value", "0.5: allowed are 0, 1, and 9"),
    "1, 0.9, 1, 0, yes": ("not a number", "'yes' where a number is expected"),
    "1, 0.9, 3, 0, 0": ("unknown occurrence value", "3: allowed are 0, 1"),
    "1, high, 1, 0, 0": ("not a number", "'high' where"),
    ", 0.9, 1, 0, 0": ("no frame number", "the frame cell is empty"),
    "one, 0.9, 1, 0, 0": ("not a number", "'one' where a number is expected"),
    "1.5, 0.9, 1, 0, 0": ("no frame number", "frame '1.5': a whole number is expected"),
    "-1, 0.9, 1, 0, 0": ("no frame number", "frame -1: outside the video"),
    f"{'9' * 5000}, 0.9, 1, 0, 0": ("no frame number", "a whole number is expected"),
    '1, 0.9, 1, "0, 0': ("bad quotes", "unexpected end of data"),
    "1, 0.9, 1, 0\0, 0": ("binary data", "NUL bytes"),
    "1, 0.9, 1, 0, \udcff": ("not UTF-8", "byte 0xff at 14"),
}


@pytest.mark.parametrize("bad", BAD_ROWS, ids=lambda row: repr(row[:20]))
def test_a_bad_row_goes_to_the_quarantine_and_the_others_are_read(tmp_path, bad):
    path = tmp_path / "a.csv"
    lines = ["frame, confidence, success, AU12_r, AU12_c", "4, 0.9, 1, 3, 1", bad, "", "5, 0.9, 1, 2, 1"]
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogateescape"))
    rows, quarantine = read(path)
    assert [(row.line, row.aus) for row in rows] == [(2, AUSet.parse("12C")), (5, AUSet.parse("12B"))]
    (row,) = quarantine.rows
    reason, detail = BAD_ROWS[bad]
    assert (row.file, row.line, row.reason, row.note) == (str(path), 3, reason, False)
    assert detail in row.detail
    assert row.excerpt == bad.strip() or (len(row.excerpt) == 120 and row.excerpt.endswith("..."))


def test_a_torn_last_line_is_left_out(tmp_path):
    path = openface(tmp_path / "a.csv", {"frame": 1, "AU12_c": 1}, {"frame": 2, "AU12_c": 1})
    path.write_bytes(path.read_bytes()[:-60])
    rows, quarantine = read(path)
    assert [row.frame for row in rows] == ["1"]
    assert quarantine.counts == {"wrong number of fields": 1}


def test_a_bad_level_of_an_absent_unit_is_found(tmp_path):
    rows, quarantine = read(openface(tmp_path / "a.csv", {"frame": 1, "AU12_r": 7, "AU12_c": 0}))
    assert not rows
    assert quarantine.counts == {"out of range": 1}


# --- OpenFace 3 ------------------------------------------------------------------------------------------------------

SCORES = [0.9, 0.1, 0.5, 0.0, 0.499, 1.0000001, 0.2, 0.7]
SEEN = {code: None for code, score in zip(OPENFACE3, SCORES, strict=True) if score >= 0.5}


def write_pandas(path, *rows):
    """As pandas writes dictionaries with lists: quoted text, empty for None."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_openface3_video_table(tmp_path):
    first = {"timestamp": "2025-01-01 10:00:00", "video_path": "a.mp4", "emotion": 3, "landmarks": [[1.0, 2.0]]}
    path = write_pandas(
        tmp_path / "a.csv",
        first | {"frame_index": 0, "face_id": "0.0", "action_units": [SCORES]},
        first | {"frame_index": 1, "face_id": "", "action_units": ""},
        first | {"frame_index": 2, "face_id": "0.0", "action_units": [SCORES[:7]]},
        first | {"frame_index": 3, "face_id": "0.0", "action_units": "tensor([[0.1]])"},
        first | {"frame_index": 4, "face_id": "0.0", "action_units": [[-0.1, *SCORES[1:]]]},
    )
    rows, quarantine = read(path)
    assert [(row.frame, row.face, row.image) for row in rows] == [("0", "0", "a.mp4"), ("1", "", "a.mp4")]
    assert rows[0].aus == AUSet(SEEN)
    assert len(rows[0].aus.unscored) == len(rows[0].aus.parts)  # a score is no intensity
    assert rows[0].scores == dict(zip(OPENFACE3, SCORES, strict=True))
    assert_partition(rows[0], OPENFACE3)
    assert rows[1].unknown == set(OPENFACE3)
    assert quarantine.counts == {"wrong number of scores": 2, "out of range": 1}


def test_openface3_image_table_has_the_image_for_frame(tmp_path):
    path = write_pandas(tmp_path / "a.csv", {"image_path": "x/b.png", "face_id": 0, "action_units": [SCORES]})
    row = only(path)
    assert (row.source, row.frame, row.image) == ("openface3", "x/b.png", "x/b.png")


@pytest.mark.parametrize("end", ["", "_r"])
def test_openface3_columns_are_positions(tmp_path, end):
    names = [f"AU{i:02d}{end}" for i in range(1, 9)]
    row = only(table(tmp_path / "a.csv", ["frame", *names], [5, *SCORES]))
    assert (row.source, row.aus) == ("openface3", AUSet(SEEN))


def test_openface3_columns_may_be_named_after_units(tmp_path):
    names = [f"AU{int(code):02d}" for code in OPENFACE3]
    assert only(table(tmp_path / "a.csv", ["frame", *names], [5, *SCORES]), "openface3").aus == AUSet(SEEN)


def test_openface3_threshold(tmp_path):
    path = table(tmp_path / "a.csv", ["frame", *(f"AU0{i}" for i in range(1, 9))], [5, *SCORES])
    assert only(path, threshold=0.95).aus.codes == (OPENFACE3[5],)


# --- py-feat ---------------------------------------------------------------------------------------------------------


def test_pyfeat_faces_unknowns_and_threshold(tmp_path):
    path = pyfeat(
        tmp_path / "a.csv",
        {"frame": 0, "AU12": 0.5, "FaceScore": 0.99, "FaceRectX": 10, "input": "a.mp4"},
        {"frame": 0, "AU12": 0.49, "AU04": "nan", "FaceRectX": 20, "input": "a.mp4"},
        {"frame": 0, "AU12": 0.9, "FaceRectX": 10, "input": "a.mp4"},
        {"frame": "1.0", "AU12": 1.2, "FaceRectX": 10, "input": "a.mp4"},
        {"frame": 2, **dict.fromkeys(["AU12", "FaceRectX", "FaceScore"], ""), "input": "a.mp4"},
    )
    rows, quarantine = read(path)
    assert [(row.frame, row.face, row.aus) for row in rows] == [
        ("0", "0", AUSet.parse("12")),
        ("0", "1", AUSet()),
        ("2", "0", AUSet()),
    ]
    assert rows[0].aus.unscored
    assert rows[0].scores["12"] == 0.5
    assert (rows[0].confidence, rows[0].box, rows[0].image) == (0.99, (10, 0.1, 0.1, 0.1), "a.mp4")
    assert (rows[1].unknown, rows[2].unknown) == ({"4"}, {"12"})
    assert "4" not in rows[1].scores
    assert (rows[2].confidence, rows[2].box) == (None, None)
    for row in rows:
        assert_partition(row, units.labelled_in("pyfeat"))
    assert [(bad.line, bad.reason) for bad in quarantine.rows] == [(4, "duplicate frame"), (5, "out of range")]
    assert "face box twice" in quarantine.rows[0].detail


def test_pyfeat_frames_start_anew_with_each_video(tmp_path):
    rows, quarantine = read(pyfeat(tmp_path / "a.csv", *({"frame": 0, "input": f"{i}.mp4"} for i in range(3))))
    assert len(rows) == 3
    assert not quarantine.total


# --- LibreFace -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "threshold", "present"),
    [
        ({"au_12": 1, "au_12_intensity": 2.5}, None, {"12": 2.5}),
        ({"au_12": 1, "au_12_intensity": 0}, None, {"12": None}),
        ({"au_12": 0, "au_12_intensity": 2.5}, None, {}),
        ({"au_7": 1}, None, {"7": None}),  # detection only
        ({"au_25_intensity": 1}, None, {"25": 1}),  # intensity only
        ({"au_25_intensity": 0.9}, None, {}),
        ({"au_12": 0, "au_12_intensity": 2.5}, 2, {"12": 2.5}),
        ({"au_25_intensity": 5.21}, None, {"25": 5}),  # its regression is not bounded
        ({"au_12": 1, "au_12_intensity": -0.4}, None, {"12": None}),
    ],
)
def test_libreface_presence(tmp_path, cells, threshold, present):
    row = only(libreface(tmp_path / "a.csv", {"frame_idx": 3, **cells}), threshold=threshold)
    assert (row.source, row.frame, row.aus) == ("libreface", "3", AUSet(present))
    assert row.aus.unscored == AUSet(present).unscored
    assert_partition(row, {*units.labelled_in("libreface-detection"), *units.labelled_in("libreface-intensity")})


def test_libreface_far_outside_is_bad(tmp_path):
    path = libreface(tmp_path / "a.csv", {"frame_idx": 0, "au_12_intensity": 7}, {"frame_idx": 1})
    rows, quarantine = read(path)
    assert len(rows) == 1
    assert quarantine.counts == {"out of range": 1}


def test_libreface_image_table_counts_rows(tmp_path):
    assert only(table(tmp_path / "a.csv", ["au_1", "au_1_intensity"], [1, 3])).frame == "0"


# --- iMotions --------------------------------------------------------------------------------------------------------


def test_imotions_rows(tmp_path):
    path = imotions(
        tmp_path / "a.txt",
        ("ET", "", "", "", ""),  # eye tracker only
        ("Emotient FACET", -1, 1, 0.1, 0.1),  # before the film
        ("Emotient FACET", 0, 1, "0.0001", 0),
        ("ET", 0, 1, "0.0001", 0),  # repeated
        ("ET|Emotient FACET", 1, 1, -3.2, 9),  # 9 is evidence here
        ("Emotient FACET", 2, -1, "", ""),
        ("Emotient FACET", 3, 0, 1, 1),
        ("Emotient FACET", 4, 1, "x", 1),
        ("Emotient FACET", 1, 1, 1, 1),
    )
    rows, quarantine = read(path)
    assert [(row.frame, row.aus, row.absent, row.unknown) for row in rows] == [
        ("0", AUSet.parse("1"), {"12"}, set()),
        ("1", AUSet.parse("12"), {"1"}, set()),
        ("2", AUSet(), set(), {"1", "12"}),
        ("3", AUSet(), set(), {"1", "12"}),
    ]
    assert (rows[0].subject, rows[0].task, rows[0].box, rows[0].line) == ("Nate", "film", (1, 2, 30, 40), 7)
    assert rows[1].scores == {"1": -3.2, "12": 9}
    assert quarantine.counts == {"no frame number": 1, "not a number": 1, "duplicate frame": 1}


@pytest.mark.parametrize(("threshold", "codes"), [(None, ("1", "12")), (1, ("12",)), (2, ()), (-1, ("1", "12"))])
def test_imotions_threshold(tmp_path, threshold, codes):
    row = only(imotions(tmp_path / "a.txt", ("FACET", 0, 1, 1, 2)), threshold=threshold)
    assert row.aus.codes == codes


# --- CSV -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "cells", "present", "absent", "unknown"),
    [
        (["12", "4"], [2.5, 0], {"12": 2.5}, {"4"}, set()),
        (["AU12", "au04"], [2.5, 0], {"12": 2.5}, {"4"}, set()),
        (["L12", "R12"], [4, 0], {"L12": 4}, {"R12"}, set()),
        (["AU12_r", "AU12_c"], [2.5, 1], {"12": 2.5}, set(), set()),
        (["AU12_r", "AU12_c"], [2.5, 0], {}, {"12"}, set()),
        (["28:T", "28:B"], [1, 9], {"28:T": 1}, set(), {"28:B"}),
        (["12", "4", "1"], ["D", "", "nan"], {"12": 4}, set(), {"4", "1"}),
        (["12", "4"], [0.01, 999], {"12": 0.01}, set(), {"4"}),
        (["M55", "46"], [1, 2], {"M55": 1, "46": 2}, set(), set()),
    ],
)
def test_csv_unit_columns(tmp_path, header, cells, present, absent, unknown):
    row = only(table(tmp_path / "a.csv", ["frame", *header], [1, *cells]), "csv")
    assert (row.aus, row.absent, row.unknown) == (AUSet(present), absent, unknown)


def test_csv_columns_that_say_what_a_row_is_about(tmp_path):
    header = ["Image", "subject", "task", "face", "frame", "confidence", "AU12"]
    path = table(tmp_path / "a.csv", header, ["a/b.png", "F001", "smile", "1", "t0", "0.5", "3"])
    row = only(path, "csv")
    assert (row.image, row.subject, row.task, row.face, row.frame, row.confidence) == (
        "a/b.png",
        "F001",
        "smile",
        "1",
        "t0",
        0.5,
    )


@pytest.mark.parametrize(("header", "cells", "frame"), [(["12"], [1], "0"), (["image", "12"], ["a.png", 1], "a.png")])
def test_csv_without_frames(tmp_path, header, cells, frame):
    assert only(table(tmp_path / "a.csv", header, cells)).frame == frame


@pytest.mark.parametrize("name", ["aus", "codes", "AUs"])
def test_csv_notation(tmp_path, name):
    path = table(tmp_path / "a.csv", ["frame", name], [1, '"1C,L12D"'], [2, "0"], [3, "12Z"], [4, ""], [5, "47"])
    rows, quarantine = read(path)
    assert [row.aus for row in rows] == [AUSet.parse("1C+L12D"), AUSet()]
    assert not rows[1].absent  # nobody says what was coded
    assert [(bad.line, bad.reason) for bad in quarantine.rows] == [
        (4, "bad notation"),
        (5, "no label"),
        (6, "bad notation"),
    ]


@pytest.mark.parametrize(("threshold", "aus"), [(None, "1A+6+12D"), (2, "6+12D"), (4.5, "6")])
def test_csv_threshold(tmp_path, threshold, aus):
    notation = table(tmp_path / "a.csv", ["frame", "aus"], [1, "1A+6+12D"])
    assert only(notation, threshold=threshold).aus == AUSet.parse(aus)
    columns = table(tmp_path / "b.csv", ["frame", "1", "6_c", "12"], [1, 1, 1, 4])
    row = only(columns, threshold=threshold)
    assert row.aus == AUSet.parse(aus)
    assert row.absent == {"1", "6", "12"} - set(AUSet.parse(aus).codes)


def test_csv_header_may_have_comments_above(tmp_path):
    path = write(tmp_path / "a.csv", "# who", "", "frame,12", "1,2")
    row = only(path)
    assert (row.line, row.aus) == (4, AUSet.parse("12B"))


# --- JSON Lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("record", "aus"),
    [
        ({"aus": "1C+L12D"}, "1C+L12D"),
        ({"codes": "0"}, "0"),
        ({"aus": {}}, "0"),
        ({"aus": {"12": 3, "L1": "B", "6": None, "4": 0}}, "12C+L1B+6"),
        ({"aus": {"AU12": 2.5}, "text": "smile", "seed": 3}, "12=2.5"),
        ({"aus": {"12": 9, "4": 999, "1": float("nan"), "6": 1}}, "6A"),
    ],
)
def test_jsonl_units(tmp_path, record, aus):
    row = only(write(tmp_path / "a.jsonl", json.dumps(record)))
    assert (row.aus, row.frame, row.line, row.source) == (AUSet.parse(aus), "0", 1, "jsonl")
    assert row.aus.unscored == AUSet.parse(aus).unscored


def test_jsonl_fields(tmp_path):
    fields = {"subject": "F001", "task": "T1", "face": 1, "image": "a.png", "confidence": 1}
    labels = {"aus": {"12": 9, "6": 3}, "unknown": ["AU04"], "absent": ["1"]}
    row = only(write(tmp_path / "a.json", "", json.dumps({"frame": 7} | fields | labels)))
    assert row == Annotation(
        "jsonl",
        str(tmp_path / "a.json"),
        2,
        "7",
        AUSet.parse("6C"),
        frozenset({"12", "4"}),
        frozenset({"1"}),
        "F001",
        "T1",
        "1",
        "a.png",
        1.0,
    )


@pytest.mark.parametrize(
    ("line", "reason", "detail"),
    [
        ("{", "not JSON", "line 1"),
        ("[1]", "not JSON", "not list"),
        ("[" * 100_000, "not JSON", "recursion"),
        ('{"frame": 1}', "no label", "no key aus (or codes) among frame"),
        ('{"aus": ""}', "no label", "write 0 for the neutral face"),
        ('{"aus": "12Z"}', "bad notation", "Z is no intensity"),
        ('{"aus": [12]}', "bad notation", "aus is list"),
        ('{"aus": {"47": 1}}', "unknown code", "47"),
        ('{"aus": {"12": 7}}', "out of range", "outside 0..5"),
        ('{"aus": {"12": 1' + "0" * 400 + "}}", "out of range", "too large"),
        ('{"aus": {"12": true}}', "not a number", "level True of 12"),
        ('{"aus": {"12": "F"}}', "not a number", "no intensity"),
        ('{"aus": {"12": 1, "AU12": 2}}', "bad notation", "stands twice"),
        ('{"aus": {"12": 1, "12": 2}}', "not JSON", "a key stands twice"),
        ('{"aus": "12", "frame": 1.5}', "wrong type", "frame is 1.5"),
        ('{"aus": "12", "confidence": "high"}', "wrong type", "confidence is 'high'"),
        ('{"aus": "12", "unknown": "4"}', "wrong type", "unknown is str"),
        ('{"aus": "12", "unknown": ["47"]}', "unknown code", "47"),
        ('{"aus": "12", "frame": "last"}', "duplicate frame", "frame last"),
        ('{"aus": "\udcff"}', "not UTF-8", "byte 0xff"),
    ],
)
def test_jsonl_bad_lines(tmp_path, line, reason, detail):
    path = tmp_path / "a.jsonl"
    good = '{"frame": "last", "aus": "12C"}'
    path.write_bytes("\n".join((good, line, good.replace("last", "more"))).encode("utf-8", "surrogateescape"))
    rows, quarantine = read(path)
    assert [row.line for row in rows] == [1, 3]
    (bad,) = quarantine.rows
    assert (bad.line, bad.reason) == (2, reason)
    assert detail in bad.detail


@pytest.mark.parametrize(("threshold", "aus"), [(None, "1A+6+12D"), (2, "6+12D")])
def test_jsonl_threshold(tmp_path, threshold, aus):
    assert only(write(tmp_path / "a.jsonl", '{"aus": "1A+6+12D"}'), threshold=threshold).aus == AUSet.parse(aus)


# --- size ------------------------------------------------------------------------------------------------------------


def test_the_lean_split_agrees_with_a_full_one(tmp_path):
    """Whatever columns stand between those that are wanted: the cells are the same as of `csv.DictReader`."""
    names = openface_names()
    path = table(tmp_path / "a.csv", names, [f"{i % 6}" for i in range(len(names))])
    reader = table_reader(path)
    assert reader._head + reader._tail < 50
    (number, text), *_ = reader.lines()
    assert isinstance(reader.parse_line(text, number), Bad)  # 5 is no flag
    cells = reader._split(text)
    assert cells == text.split(",")[: reader._head] + text.split(",")[-reader._tail :]
    assert cells == reader._split(text.replace("1", '"1"'))


def peak_memory(path):
    tracemalloc.start()
    count = sum(1 for _ in read_annotations(path, quarantine=Quarantine(keep=100)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return count, peak


@pytest.mark.slow
@pytest.mark.parametrize("bad", [False, True])
def test_memory_does_not_grow_with_the_rows(tmp_path, bad):
    peaks = []
    for count in (20_000, 200_000):
        path = tmp_path / f"{count}.csv"
        with path.open("w") as file:
            file.write("frame, face_id, success, AU12_r, AU12_c\n")
            for i in range(count // 2):
                file.write(f"{i}, 0, 1, 2.30, {2 if bad and i % 100 == 0 else 1}\n{i}, 1, 1, 0.00, 0\n")
        found, peak = peak_memory(path)
        assert found == count - (count // 200 if bad else 0)
        peaks.append(peak)
    assert peaks[1] < 1.5 * peaks[0]


def test_the_example_of_every_table_source_is_covered_here():
    tables = {name for name, source in sources().items() if source.columns or name == "jsonl"}
    assert tables == {"bp4d", "bp4d+", "openface", "openface3", "pyfeat", "libreface", "imotions", "csv", "jsonl"}


# --- anything at all -------------------------------------------------------------------------------------------------

CELLS = st.text(max_size=8) | st.sampled_from(
    ["0", "1", "9", "nan", "-1", "1e999", "AU12", '"', ",", "\ud800", "[[1]]"]
)
HEADERS = {
    "openface": ["frame", "face_id", "success", "confidence", "AU12_r", "AU12_c", "AU28_c"],
    "openface3": ["frame_index", "image_path", "action_units"],
    "pyfeat": ["frame", "FaceRectX", "FaceRectY", "FaceRectWidth", "FaceRectHeight", "AU12", "input"],
    "imotions": ["FrameNo", "EventSource", "NoOfFaces", "AU12 Evidence"],
    "bp4d+": ["frame", "12", "33"],
    "csv": ["frame", "AU12_r", "L4"],
}


@pytest.mark.parametrize("source", HEADERS)
@given(rows=st.lists(st.lists(CELLS, min_size=2, max_size=7), max_size=4))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_row_makes_a_table_reader_fail(tmp_path, source, rows):
    reader = table_reader(table(tmp_path / "F001_T1.csv", HEADERS[source]), source)
    check = reader.duplicate_filter().check
    for row in rows:
        cells = (row * len(HEADERS[source]))[: len(HEADERS[source])]
        for line in (",".join(row), ",".join(cells)):
            parsed = reader.parse_line(line, 2)
            if isinstance(parsed, Annotation):
                assert isinstance(check(parsed), Annotation | Bad)
                assert not parsed.unknown & parsed.absent


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["12C", "AU4", "L12"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["12", "L4", "47", ""]), inner, max_size=3)
    ),
    max_leaves=5,
)
KEYS = ["aus", "codes", "frame", "subject", "image", "face", "confidence", "unknown", "absent"]


@given(record=st.dictionaries(st.sampled_from(KEYS), JSON) | JSON, text=st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.filterwarnings("ignore::auface_diffusers.facs.notation.NotationWarning")
def test_no_line_makes_a_jsonl_reader_fail(tmp_path, record, text):
    reader = table_reader(write(tmp_path / "a.jsonl", "{}"))
    for line in (json.dumps(record), text):
        assert isinstance(reader.parse_line(line, 1), Annotation | Bad | None)


@given(content=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_make_a_reader_fail(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(b"frame,12\n" * (len(content) % 2) + content)
    for source in ("auto", "csv", "jsonl", "bp4d"):
        try:
            read(tmp_path / "a.csv", source)
        except ReaderError as error:
            assert "a.csv" in str(error)  # noqa: PT017  # most inputs raise nothing

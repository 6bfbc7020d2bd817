"""Data sets as folder trees: presence, levels, unknowns, frames and images, and what goes to the quarantine."""

import pytest
from facs.reader_trees import (
    bp4d,
    bp4d_header,
    bp4d_row,
    ck,
    disfa,
    disfa_plus,
    facs_line,
    table,
    unbc,
    write,
)

from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.readers import Quarantine, ReaderError, read_annotations, table_reader
from auface_diffusers.facs.units import units


def read(path, source="auto", **options):
    """The rows, and the quarantine with what was left out."""
    quarantine = Quarantine()
    return list(read_annotations(path, source, quarantine=quarantine, **options)), quarantine


# --- wherever one points ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "source", "part", "count"),
    [
        (bp4d, "bp4d", "", 6),
        (bp4d, "bp4d", "AUCoding", 6),
        (bp4d, "bp4d", "AUCoding/AU_OCC", 6),
        (bp4d, "bp4d", "AUCoding/AU_OCC/F001_T1.csv", 4),
        (disfa, "disfa", "", 6),
        (disfa, "disfa", "ActionUnit_Labels", 6),
        (disfa, "disfa", "ActionUnit_Labels/SN002", 3),
        (disfa_plus, "disfa+", "", 6),
        (disfa_plus, "disfa+", "Labels", 6),
        (disfa_plus, "disfa+", "Labels/SN001", 6),
        (disfa_plus, "disfa+", "Labels/SN001/A1_AU1_TrailNo_1", 3),
        (ck, "ck+", "", 2),
        (ck, "ck+", "FACS", 2),
        (ck, "ck+", "FACS/S010", 1),
        (ck, "ck+", "FACS/S010/002/S010_002_00000014_facs.txt", 1),
        (unbc, "unbc", "", 2),
        (unbc, "unbc", "Frame_Labels", 2),
        (unbc, "unbc", "Frame_Labels/FACS", 2),
        (unbc, "unbc", "Frame_Labels/FACS/042-ll042", 2),
        (unbc, "unbc", "Frame_Labels/FACS/042-ll042/ll042t1aaaff/ll042t1aaaff002_facs.txt", 1),
    ],
)
@pytest.mark.parametrize("auto", [False, True])
def test_any_part_of_a_tree_can_be_read(tmp_path, monkeypatch, make, source, part, count, auto):
    path = make(tmp_path) / part
    rows, quarantine = read(path, "auto" if auto else source)
    assert {row.source for row in rows} == {source}
    assert len(rows) == count
    assert not quarantine.total
    if path.is_dir():
        monkeypatch.chdir(path)  # a path without a name says as much
        again, _ = read(".", "auto" if auto else source)
        assert [(row.subject, row.task, row.frame, row.aus) for row in again] == [
            (row.subject, row.task, row.frame, row.aus) for row in rows
        ]


@pytest.mark.parametrize("source", ["bp4d", "bp4d+", "disfa", "disfa+", "ck+", "unbc"])
def test_a_folder_of_another_shape_says_what_was_looked_for(tmp_path, source):
    write(tmp_path / "Labels_old" / "a.txt", "1,0")
    with pytest.raises(ReaderError, match=r"no part of .*: looked for .*it has Labels_old/"):
        read_annotations(tmp_path, source)


@pytest.mark.parametrize(
    ("make", "source", "name"),
    [(disfa, "disfa", "SN001_au1.txt"), (disfa_plus, "disfa+", "AU1.txt")],
)
def test_one_file_of_a_joined_set_is_not_enough(tmp_path, make, source, name):
    path = next(make(tmp_path).rglob(name))
    with pytest.raises(ReaderError, match="stand in several files of .*: give their folder"):
        read_annotations(path, source)


@pytest.mark.parametrize(("make", "source"), [(ck, "unbc"), (unbc, "ck+")])
def test_ck_and_unbc_are_not_taken_for_each_other(tmp_path, make, source):
    with pytest.raises(ReaderError, match="is no part of"):
        read_annotations(make(tmp_path), source)


def test_another_text_file_is_no_part_of_a_set(tmp_path):
    path = write(ck(tmp_path) / "FACS" / "notes.txt", "x")
    with pytest.raises(ReaderError, match="a file of another name or in another folder"):
        read_annotations(path, "ck+")


# --- BP4D, BP4D+ -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wide", [False, True])
def test_bp4d(tmp_path, wide):
    rows, quarantine = read(bp4d(tmp_path, wide=wide), "bp4d")
    # numeric order: T1 before T10
    assert [(row.subject, row.task, row.frame) for row in rows] == [
        ("F001", "T1", "2440"),
        ("F001", "T1", "2441"),
        ("F001", "T1", "2442"),
        ("F001", "T1", "2443"),
        ("F001", "T10", "0001"),
        ("M002", "T1", "7"),
    ]
    assert [row.image for row in rows[:1] + rows[4:]] == ["F001/T1/2440.jpg", "F001/T10/0001.jpg", "M002/T1/7.jpg"]
    expected = [
        AUSet({"6": 2, "12": 5}),
        AUSet({"12": None}),  # present, though its intensity says 0
        AUSet({"6": None, "10": None}),  # 9: not scored
        AUSet(),
        AUSet({"1": None}),
        AUSet({"4": None}),
    ]
    assert [row.aus for row in rows] == expected
    assert [row.aus.unscored for row in rows] == [aus.unscored for aus in expected]
    assert rows[0].unknown == {"28"}
    for row in rows:
        assert sorted([*row.aus.codes, *row.absent, *row.unknown]) == sorted(units.labelled_in("bp4d"))
    assert not quarantine.total
    assert [(note.line, note.reason) for note in quarantine.rows] == [
        (3, "intensity disagrees"),  # 12: occurrence 1, intensity 0
        (4, "intensity disagrees"),  # 12: occurrence 0, intensity 3
    ]
    assert all("about 12: occurrence decides" in note.detail for note in quarantine.rows)


def test_bp4d_without_intensities(tmp_path):
    header = bp4d_header()
    path = table(tmp_path / "F001_T1.csv", header, bp4d_row(header, 5, [12]))
    (row,), _ = read(path)
    assert (row.source, row.aus, row.image) == ("bp4d", AUSet.parse("12"), "F001/T1/5.jpg")


def test_bp4d_table_of_another_name_has_no_image(tmp_path):
    header = bp4d_header()
    (row,), _ = read(table(tmp_path / "a.csv", header, bp4d_row(header, 5, [12])), "bp4d")
    assert (row.aus, row.subject, row.task, row.image) == (AUSet.parse("12"), "", "", "")


@pytest.mark.parametrize(
    ("frame", "image"), [("1", "0"), ("10", "9"), ("0010", "0009"), ("0001", "0000"), ("100", "99")]
)
def test_bp4d_plus_frames_count_from_one_and_images_from_zero(tmp_path, frame, image):
    header = bp4d_header("bp4d+")
    (row,), _ = read(table(tmp_path / "F001_T1.csv", header, bp4d_row(header, frame, [33])))
    assert (row.source, row.frame, row.image) == ("bp4d+", frame, f"F001/T1/{image}.jpg")
    assert row.aus == AUSet.parse("33")


def test_bp4d_plus_has_no_frame_0(tmp_path):
    header = bp4d_header("bp4d+")
    path = table(tmp_path / "F001_T1.csv", header, bp4d_row(header, 0), bp4d_row(header, 1))
    rows, quarantine = read(path, "bp4d+")
    assert len(rows) == 1
    assert quarantine.counts == {"no frame number": 1}


def test_bp4d_plus_tasks(tmp_path):
    root = bp4d(tmp_path, "bp4d+")
    header = bp4d_header("bp4d+")
    other = table(root / "AUCoding/AU_OCC/F001_T2.csv", header, bp4d_row(header, 1))
    rows, quarantine = read(root)
    assert {(row.source, row.task) for row in rows} == {("bp4d+", "T1"), ("bp4d+", "T6")}
    assert quarantine.counts == {"unreadable file": 1}
    assert any("tasks T1, T6, T7, T8 only; is this BP4D?" in bad.detail for bad in quarantine.rows)
    with pytest.raises(ReaderError, match="tasks T1, T6, T7, T8 only"):
        list(read_annotations(other, "bp4d+"))


def test_bp4d_ignores_columns_that_are_not_coded_units(tmp_path):
    header = [*bp4d_header(), "25", "99", "occlusion"]
    (row,), _ = read(table(tmp_path / "F001_T1.csv", header, bp4d_row(header, 1, [12, 25], occlusion=1)))
    assert row.aus == AUSet.parse("12")
    assert "25" not in row.absent | row.unknown


def test_bp4d_bad_rows_and_files(tmp_path):
    occ = tmp_path / "AUCoding" / "AU_OCC"
    header = bp4d_header()
    good = bp4d_row(header, 1, [12])
    table(
        occ / "F001_T1.csv",
        header,
        good,
        bp4d_row(header, 2, **{"12": 2}),
        bp4d_row(header, 1),
        good[:-1],
        bp4d_row(header, 3),
    )
    table(occ / "F001_T2.csv", ["frame", "x"], [1, 2])
    write(occ / "F001_T3.csv")
    write(occ / "F001_T4.csv", ",".join(map(str, header)))
    write(occ / "readme.csv", "nothing")
    int12 = occ.parent / "AU_INT" / "AU12" / "F001_T1_AU12.csv"
    write(int12, "1,4", "1,5", "2,x", "3", "y,1", "9" * 30 + ",1", "4,8")
    rows, quarantine = read(tmp_path)
    assert [(row.frame, row.aus) for row in rows] == [("1", AUSet.parse("12D")), ("3", AUSet())]
    found = [(bad.file.split("AUCoding/")[1], bad.line, bad.reason) for bad in quarantine.rows]
    name = "AU_INT/AU12/F001_T1_AU12.csv"
    assert found == [
        (name, 2, "duplicate frame"),
        (name, 3, "not a number"),
        (name, 4, "wrong number of fields"),
        (name, 5, "no frame number"),
        (name, 6, "no frame number"),
        (name, 7, "out of range"),
        ("AU_OCC/F001_T1.csv", 3, "unknown occurrence value"),
        ("AU_OCC/F001_T1.csv", 4, "duplicate frame"),
        ("AU_OCC/F001_T1.csv", 5, "wrong number of fields"),
        ("AU_OCC/F001_T2.csv", 0, "unreadable file"),
        ("AU_OCC/F001_T3.csv", 0, "unreadable file"),
        ("AU_OCC/F001_T4.csv", 0, "empty file"),
    ]


def test_bp4d_of_unreadable_files_only_is_an_error(tmp_path):
    write(tmp_path / "AU_OCC" / "F001_T1.csv", "a,b", "1,2")
    with pytest.raises(ReaderError, match="source bp4d found no annotation in it: .*F001_T1.csv: no AU columns"):
        list(read_annotations(tmp_path, "bp4d", quarantine=Quarantine()))


def test_bp4d_single_table_in_other_processes(tmp_path):
    reader = table_reader(bp4d(tmp_path) / "AUCoding/AU_OCC/F001_T1.csv", "bp4d")
    rows = [reader.parse_line(text, number) for number, text in reader.lines()]
    assert [row.image for row in rows] == [f"F001/T1/{frame}.jpg" for frame in range(2440, 2444)]


# --- DISFA, DISFA+ ---------------------------------------------------------------------------------------------------


def test_disfa(tmp_path):
    rows, quarantine = read(disfa(tmp_path, frames=12))
    assert [(row.subject, row.frame, row.line) for row in rows[:12]] == [("SN001", str(f), 0) for f in range(1, 13)]
    assert rows[0].file == str(tmp_path / "ActionUnit_Labels" / "SN001")
    assert [row.aus for row in rows[:6]] == [AUSet({"12": level}) for level in range(6)]
    assert [row.unknown for row in rows[:3]] == [{"4"}, set(), set()]
    assert quarantine.counts == {"out of range": 2 * 5}  # 6, 7, 8, 10, 11: frames 7, 8, 9, 11, 12
    assert [row.frame for row in rows[:12] if "12" in row.unknown] == ["7", "8", "9", "10", "11", "12"]
    for row in rows:
        assert sorted([*row.aus.codes, *row.absent, *row.unknown]) == sorted(units.labelled_in("disfa"))


@pytest.mark.parametrize(("threshold", "present"), [(None, [0, 1, 2]), (2, [0, 0, 2]), (2.5, [0, 0, 0])])
def test_disfa_threshold(tmp_path, threshold, present):
    rows, _ = read(disfa(tmp_path, subjects=("SN001",)), threshold=threshold)
    assert [row.aus for row in rows] == [AUSet({"12": level}) for level in present]
    assert ["12" in row.absent for row in rows] == [level == 0 for level in present]


def test_disfa_joins_by_frame_not_by_line(tmp_path):
    folder = disfa(tmp_path, subjects=("SN001",)) / "ActionUnit_Labels" / "SN001"
    write(folder / "SN001_au6.txt", "003, 2", "", "x,1", "1,1", "1,5", "1", "2\0,1")
    write(folder / "SN001_au47.txt", "1,1")
    rows, quarantine = read(tmp_path)
    assert [(row.frame, row.aus.level("6"), "6" in row.unknown) for row in rows] == [
        ("1", 1, False),
        ("2", 0, True),  # no line: unknown
        ("3", 2, False),
    ]
    assert [(bad.line, bad.reason) for bad in quarantine.rows] == [
        (3, "no frame number"),
        (5, "duplicate frame"),
        (6, "wrong number of fields"),
        (7, "binary data"),
        (0, "unknown code"),
    ]


def test_disfa_unit_without_a_file_is_unknown(tmp_path):
    rows, quarantine = read(disfa(tmp_path, subjects=("SN001",), skip=("12", "17")))
    assert all({"12", "17"} <= row.unknown for row in rows)
    (note,) = quarantine.rows
    assert (note.reason, note.note, note.detail) == ("missing file", True, "no file for 12, 17: unknown in all frames")


def test_disfa_plus(tmp_path):
    rows, quarantine = read(disfa_plus(tmp_path))
    assert not quarantine.rows
    assert [row.frame for row in rows] == ["000.jpg", "009.jpg", "010.jpg"] * 2
    assert (rows[2].subject, rows[2].task) == ("SN001", "A1_AU1_TrailNo_1")
    assert rows[2].image == "SN001/A1_AU1_TrailNo_1/010.jpg"
    assert rows[2].aus == AUSet.parse("1C")
    assert not any(row.aus for row in [*rows[:2], *rows[3:]])


# --- CK+, UNBC -------------------------------------------------------------------------------------------------------


def test_ck(tmp_path):
    rows, _ = read(ck(tmp_path))
    assert [(row.subject, row.task, row.frame) for row in rows] == [
        ("S005", "001", "00000011"),
        ("S010", "002", "00000014"),
    ]
    assert [row.aus for row in rows] == [AUSet({"9": 5, "17": None}), AUSet({"25": 3, "43": None})]
    assert rows[0].aus.unscored == {("17", "")}
    assert rows[1].aus.level("43") == units["43"].unscored_level
    assert rows[0].absent == set(units.labelled_in("ck+")) - {"9", "17"}


def test_unbc(tmp_path):
    rows, quarantine = read(unbc(tmp_path))
    assert not quarantine.rows
    assert [(row.subject, row.task, row.frame) for row in rows] == [
        ("042-ll042", "ll042t1aaaff", "ll042t1aaaff001"),
        ("042-ll042", "ll042t1aaaff", "ll042t1aaaff002"),
    ]
    assert rows[0].aus == AUSet()
    assert rows[0].absent == set(units.labelled_in("unbc"))
    assert rows[1].aus == AUSet({"6": 3, "43": None})  # 43 is 0 or 1: closed eyes, no trace of them
    assert "12" in rows[1].absent
    assert [row.scores for row in rows] == [{"PSPI": 0}, {"PSPI": 4}]


def test_unbc_threshold(tmp_path):
    assert read(unbc(tmp_path), threshold=4)[0][1].aus == AUSet({"43": None})


@pytest.mark.parametrize("part", ["", "Frame_Labels", "Frame_Labels/PSPI"])
@pytest.mark.parametrize("source", ["auto", "unbc"])
def test_pspi_alone_has_no_units(tmp_path, part, source):
    write(tmp_path / "Frame_Labels/PSPI/042-ll042/ll042t1aaaff/ll042t1aaaff001_facs.txt", "0.0")
    with pytest.raises(ReaderError, match="PSPI files hold one pain score a frame and no action units"):
        read_annotations(tmp_path / part, source)


@pytest.mark.parametrize("content", [[], ["1", "2"], ["x"]])
def test_a_bad_pain_score_is_a_note(tmp_path, content):
    path = unbc(tmp_path) / "Frame_Labels/PSPI/042-ll042/ll042t1aaaff/ll042t1aaaff002_facs.txt"
    write(path, *content)
    rows, quarantine = read(tmp_path)
    assert rows[1].scores == {}
    assert rows[1].aus
    assert quarantine.notes == {"bad PSPI": 1}
    assert not quarantine.total


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("12.0", "wrong number of fields"),
        ("twelve 3", "not a number"),
        ("12.5 3", "unknown code"),
        ("0 1", "unknown code"),
        ("nan 1", "unknown code"),
        ("47 1", "unknown code"),
        ("12 7", "out of range"),
        ("12 D", "not a number"),
        ("6 1", "unit stands twice"),
    ],
)
@pytest.mark.parametrize("make", [ck, unbc])
def test_one_bad_line_spoils_a_frame(tmp_path, make, line, reason):
    root = make(tmp_path)
    last = sorted(root.rglob("FACS/**/*_facs.txt"))[-1]
    write(last, facs_line(6, 2), line)
    rows, quarantine = read(root)
    assert len(rows) == 1
    assert [(bad.file, bad.line, bad.reason) for bad in quarantine.rows] == [(str(last), 2, reason)]


def test_unknown_intensity_is_not_absent(tmp_path):
    root = unbc(tmp_path)
    write(sorted(root.rglob("FACS/**/*_facs.txt"))[-1], facs_line(6, 9), facs_line(4, 2))
    rows, _ = read(root)
    assert (rows[1].unknown, rows[1].aus) == ({"6"}, AUSet.parse("4B"))
    assert "6" not in rows[1].absent


def test_ck_empty_file_is_bad(tmp_path):
    root = ck(tmp_path)
    write(root / "FACS/S005/001/S005_001_00000011_facs.txt")
    rows, quarantine = read(root)
    assert len(rows) == 1
    assert quarantine.counts == {"empty file": 1}

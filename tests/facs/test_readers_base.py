"""Annotation, Quarantine, the table of sources, and what a caller may pass."""

import json
import pickle
import warnings

import pytest
from facs.reader_trees import bp4d, ck, disfa, libreface, openface, table, write

from auface_diffusers.facs.auset import AUSet
from auface_diffusers.facs.readers import (
    Annotation,
    Bad,
    Quarantine,
    ReaderError,
    ReaderWarning,
    read_annotations,
    sources,
    table_reader,
)
from auface_diffusers.facs.units import units

BAD = Bad("a.csv", 3, "out of range", "level 7: allowed is 0..5", "1,7")


def test_annotation_can_be_pickled_and_hashed():
    row = Annotation("csv", "a.csv", 2, "1", AUSet.parse("12+L1B"), frozenset({"4"}), scores={"12": 0.7})
    again = pickle.loads(pickle.dumps(row))
    assert again == row
    assert again.aus.unscored == row.aus.unscored
    assert hash(again) == hash(row)


def test_quarantine_counts_all_and_keeps_some():
    quarantine = Quarantine(keep=2)
    for _ in range(5):
        quarantine.add(BAD)
    quarantine.add(Bad("a.csv", 9, "intensity disagrees", "", note=True))
    assert quarantine.rows == [BAD, BAD]
    assert (quarantine.counts, quarantine.notes, quarantine.total) == (
        {"out of range": 5},
        {"intensity disagrees": 1},
        5,
    )
    assert quarantine.summary() == ("5 rows left out: out of range 5; 1 rows read, but odd: intensity disagrees 1")
    assert Quarantine().summary() == "0 rows left out"


def test_quarantine_file_appears_complete_on_close(tmp_path):
    path = tmp_path / "bad.jsonl"
    with Quarantine(path, keep=1) as quarantine:
        quarantine.add(BAD)
        quarantine.add(Bad("b.csv", 1, "not UTF-8", "", "caf\udce9"))
        assert not path.exists()
    rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
    assert Bad(**rows[0]) == BAD
    assert rows[1]["excerpt"] == "caf\udce9"
    quarantine.close()
    assert [p.name for p in tmp_path.iterdir()] == ["bad.jsonl"]


def test_quarantine_file_appears_after_an_error_too(tmp_path):
    quarantine = Quarantine(tmp_path / "bad.jsonl")
    quarantine.add(BAD)
    with pytest.raises(KeyError), quarantine:
        raise KeyError
    assert (tmp_path / "bad.jsonl").read_text().count("\n") == 1


def test_quarantine_says_what_it_cannot_do(tmp_path):
    with pytest.raises(ReaderError, match="cannot be written"):
        Quarantine(tmp_path / "no" / "bad.jsonl")
    with pytest.raises(ReaderError, match="keep=-1 must be >= 0"):
        Quarantine(keep=-1)


def test_every_source_is_described():
    for name, source in sources().items():
        assert name == source.name
        assert source.description
        assert source.presence
        assert source.expected
        if source.threshold is not None:
            assert source.checked_threshold(None) == source.checked_threshold(source.threshold) == source.threshold
        if source.coded:
            assert units.labelled_in(source.coded)


def test_without_a_quarantine_one_warning_counts_the_bad_rows(tmp_path):
    path = table(tmp_path / "a.csv", ["frame", "12"], [1, 2], [2, 7], [3, 8], [4, 0])
    with pytest.warns(ReaderWarning) as caught:
        rows = list(read_annotations(path))
    assert [row.frame for row in rows] == ["1", "4"]
    assert len(caught) == 1
    assert "2 rows left out: out of range 2" in str(caught[0].message)
    assert "line 3: level 7: allowed is 0..5" in str(caught[0].message)
    assert caught[0].filename == __file__


def test_with_a_quarantine_nothing_is_warned_about(tmp_path):
    path = table(tmp_path / "a.csv", ["frame", "12"], [1, 2], [2, 7])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(read_annotations(path, quarantine=Quarantine()))) == 1
        assert len(list(read_annotations(table(tmp_path / "b.csv", ["frame", "12"], [1, 2])))) == 1


# --- thresholds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "threshold", "allowed"),
    [
        ("openface", 0, "above 0, up to 5"),
        ("openface", 5.1, "above 0, up to 5"),
        ("disfa", float("nan"), "above 0, up to 5"),
        ("pyfeat", 1.5, r"0\.\.1"),
        ("pyfeat", "0.5", r"0\.\.1"),
        ("imotions", float("inf"), "any finite number"),
        ("bp4d", 1, "has no threshold: occurrence 1"),
        ("ck+", 1, "has no threshold: listed in the file"),
    ],
)
def test_thresholds_outside_the_limits_are_refused(source, threshold, allowed):
    with pytest.raises(ReaderError, match=allowed):
        sources()[source].checked_threshold(threshold)


def test_a_threshold_is_checked_by_the_call_itself(tmp_path):
    for path, source in ((openface(tmp_path / "a.csv"), "openface"), (bp4d(tmp_path), "bp4d")):
        with pytest.raises(ReaderError, match="threshold"):
            read_annotations(path, source, threshold=9)


@pytest.mark.parametrize("source", ["openface", "csv"])
def test_a_threshold_without_levels_is_refused(tmp_path, source):
    path = table(tmp_path / "a.csv", ["frame", "AU12_c"], [1, 1])
    with pytest.raises(ReaderError, match="threshold=2 has nothing to act on"):
        read_annotations(path, source, threshold=2)


# --- what is wrong as a whole ----------------------------------------------------------------------------------------


def test_unknown_source_lists_the_known_ones(tmp_path):
    with pytest.raises(ReaderError, match=r"'facereader' is not known; known are auto, bp4d, .*openface"):
        read_annotations(tmp_path, "facereader")


@pytest.mark.parametrize("source", ["auto", *sources()])
def test_missing_path(tmp_path, source):
    with pytest.raises(ReaderError, match=r"nothing\.csv does not exist"):
        read_annotations(tmp_path / "nothing.csv", source)


@pytest.mark.parametrize("source", ["openface", "csv", "jsonl"])
def test_a_folder_is_no_table(tmp_path, source):
    with pytest.raises(ReaderError, match="is a folder: give one file"):
        read_annotations(tmp_path, source)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "blank lines or comments only"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"# a comment\n", "blank lines or comments only"),
        (b"PK\x03\x04\x00\x00frame,12\n", "binary data in line 1: NUL bytes"),
        (b"\x89PNG\r\n\x1a\n", "not UTF-8 in line 1: byte 0x89 at 0"),
        ("frame,12,\xe9motion\n1,2,3\n".encode("latin-1"), "Latin-1 and other encodings are not guessed"),
        ("frame,12\n1,2\n".encode("utf-16"), "UTF-16"),
        (b"frame,12" + b"x" * 2_000_000, "no header within the first"),
        (b'frame,"' + b"x" * 200_000 + b'"\n', "line 1 is no header"),
    ],
)
@pytest.mark.parametrize("source", ["auto", "csv"])
def test_files_that_are_no_text(tmp_path, content, message, source):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(ReaderError, match=message):
        read_annotations(tmp_path / "a.csv", source)


@pytest.mark.parametrize("source", [name for name, source in sources().items() if source.columns])
def test_no_unit_columns_lists_the_header_and_what_is_expected(tmp_path, source):
    path = table(tmp_path / "a.csv", ["frame", "anger", *(f"x_{i}" for i in range(100))], [1] * 102)
    with pytest.raises(ReaderError) as error:
        list(read_annotations(path, source))
    assert sources()[source].expected in str(error.value)
    assert "the header has frame, anger, x_0" in str(error.value)
    assert "(102 columns)" in str(error.value)
    assert len(str(error.value)) < 500 + len(str(path))


@pytest.mark.parametrize(
    ("source", "header", "message"),
    [
        ("csv", ["frame", "AU12", "12"], "unit 12 stands in two columns"),
        ("csv", ["frame", "AU12", "L12"], "another one are about the same unit"),
        ("csv", ["frame", "L12", "AU12"], "another one are about the same unit"),
        ("csv", ["frame", "AU47", "12"], "'AU47' is no unit"),
        ("csv", ["frame", "3"], "'3' is no unit.*Baby FACS"),
        ("csv", ["frame", "aus", "12"], "keep one kind"),
        ("openface", ["frame", "AU12_r", "AU12_r"], "unit 12 stands in two columns"),
        ("openface3", ["frame", "AU01", "AU02"], "OpenFace 3 has 8 outputs"),
    ],
)
def test_contradictory_headers(tmp_path, source, header, message):
    with pytest.raises(ReaderError, match=message):
        read_annotations(table(tmp_path / "a.csv", header, [1] * len(header)), source)


@pytest.mark.parametrize("source", ["auto", "csv"])
def test_a_header_alone_is_no_annotation(tmp_path, source):
    with pytest.raises(ReaderError, match="found no annotation in it: there are no rows"):
        list(read_annotations(table(tmp_path / "a.csv", ["frame", "12"]), source))


def test_bad_rows_alone_are_no_reason_to_stop(tmp_path):
    quarantine = Quarantine()
    assert not list(read_annotations(table(tmp_path / "a.csv", ["frame", "12"], [1, 7]), quarantine=quarantine))
    assert quarantine.total == 1


# --- auto ------------------------------------------------------------------------------------------------------------


def test_auto_lists_what_it_looked_for_in_a_header(tmp_path):
    with pytest.raises(ReaderError) as error:
        read_annotations(table(tmp_path / "a.csv", ["frame", "anger"], [1, 2]))
    for source in sources().values():
        assert source.columns is None or source.expected in str(error.value)
    assert "The header has frame, anger" in str(error.value)


def test_auto_lists_what_it_looked_for_in_a_folder(tmp_path):
    write(tmp_path / "notes" / "a.txt", "x")
    write(tmp_path / "b.txt", "x")
    with pytest.raises(ReaderError) as error:
        read_annotations(tmp_path)
    for name in ("bp4d", "disfa", "disfa+", "ck+", "unbc"):
        assert f"{name}: {sources()[name].expected}" in str(error.value)
    assert "It has b.txt, notes/" in str(error.value)


def test_auto_refuses_two_data_sets(tmp_path):
    ck(disfa(tmp_path))
    with pytest.raises(ReaderError, match=r"looks like disfa and ck\+"):
        read_annotations(tmp_path)
    assert next(read_annotations(tmp_path, "disfa")).source == "disfa"


def test_auto_does_not_guess_between_probabilities_and_levels(tmp_path):
    path = table(tmp_path / "a.csv", ["frame", "AU01", "AU12"], [1, 0.6, 0.2])
    with pytest.raises(
        ReaderError, match="AU01 may hold probabilities or levels: pass source='pyfeat' or source='csv'"
    ):
        read_annotations(path)
    assert next(read_annotations(path, "pyfeat")).aus == AUSet.parse("1")
    assert next(read_annotations(path, "csv")).aus == AUSet({"1": 0.6, "12": 0.2})


def test_auto_takes_plain_levels_for_csv_not_openface(tmp_path):
    plain = table(tmp_path / "a.csv", ["frame", "AU12_r"], [1, 0.6])
    assert next(read_annotations(plain)).source == "csv"
    flagged = table(tmp_path / "b.csv", ["frame", "AU12_r", "AU12_c"], [1, 0.6, 1])
    assert next(read_annotations(flagged)).source == "openface"


# --- pieces for several processes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [openface, libreface])
def test_a_pickled_table_reader_parses_the_same(tmp_path, make):
    rows = {
        openface: [{"frame": 1, "AU12_r": 2.3, "AU12_c": 1}, {"frame": 2, "AU12_r": 7}],
        libreface: [{"frame_idx": 0, "au_12": 1}, {"frame_idx": 1, "au_12": 3}],
    }
    reader = table_reader(make(tmp_path / "a.csv", *rows[make]))
    again = pickle.loads(pickle.dumps(reader))
    parsed = [again.parse_line(text, number) for number, text in reader.lines()]
    assert parsed == [reader.parse_line(text, number) for number, text in reader.lines()]
    assert [type(row) for row in parsed] == [Annotation, Bad]
    assert [row.line for row in parsed] == [reader.header_line + 1, reader.header_line + 2]


def test_a_pickled_jsonl_reader_parses_the_same(tmp_path):
    reader = pickle.loads(pickle.dumps(table_reader(write(tmp_path / "a.jsonl", '{"aus": "12C"}'))))
    assert [reader.parse_line(text, number).aus for number, text in reader.lines()] == [AUSet.parse("12C")]


def test_a_tree_is_no_single_table(tmp_path):
    with pytest.raises(ReaderError, match="disfa is a folder tree"):
        table_reader(disfa(tmp_path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SN001_au1.txt", "1,0\n2,3\n3,1\n"),
        ("F001_T1_AU06.csv", "12,1\n13,1\n"),
        ("numbers.csv", "1,0\n2,3\n"),
        ("numbers.csv", "12,3\n13,3\n"),
        ("F001_T1.csv", "1,0,0,0,0\n2,0,0,0,0\n"),
    ],
)
def test_auto_does_not_take_a_row_of_numbers_for_a_header(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ReaderError, match="give the folder of the data set"):
        read_annotations(tmp_path / name)

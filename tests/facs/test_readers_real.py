"""Real output of OpenFace, py-feat and iMotions, against an independent reading with `csv.DictReader`."""

import csv
import math

import pytest

from auface_diffusers.facs.readers import Quarantine, read_annotations
from auface_diffusers.facs.units import units


def read(path, **options):
    quarantine = Quarantine()
    return list(read_annotations(path, quarantine=quarantine, **options)), quarantine


def records(path, delimiter=","):
    with path.open(newline="", encoding="utf-8") as file:
        lines = (line for line in file if line.strip() and not line.startswith("#"))
        for record in csv.DictReader(lines, delimiter=delimiter):
            yield {name.strip(): value.strip() for name, value in record.items() if name}


def test_openface(real_file):
    path = real_file("OpenFace_Test.csv")
    rows, quarantine = read(path)
    expected = list(records(path))
    assert not quarantine.rows
    assert len(rows) == len(expected) > 0
    for row, record in zip(rows, expected, strict=True):
        assert (row.source, row.frame, row.confidence) == ("openface", record["frame"], float(record["confidence"]))
        assert record["success"] == "1"
        flags = {str(int(name[2:4])): value == "1" for name, value in record.items() if name.endswith("_c")}
        assert set(row.aus.codes) == {code for code, flag in flags.items() if flag}
        assert row.absent == {code for code, flag in flags.items() if not flag}
        assert not row.unknown
        for code in row.aus.codes:
            level = float(record.get(f"AU{int(code):02d}_r", 0))
            assert row.aus.level(code) == (level or units[code].unscored_level)
            assert ((code, units[code].part_names[0]) in row.aus.unscored) == (level == 0)


@pytest.mark.parametrize("threshold", [None, 0.7])
@pytest.mark.parametrize("name", ["001.csv", "002.csv", "Feat_Test.csv"])
def test_pyfeat(real_file, name, threshold):
    path = real_file(name)
    rows, quarantine = read(path, threshold=threshold)
    expected = list(records(path))
    assert not quarantine.rows
    assert len(rows) == len(expected) > 0
    for row, record in zip(rows, expected, strict=True):
        scores = {str(int(name[2:])): float(value) for name, value in record.items() if name.startswith("AU")}
        assert (row.source, row.frame, row.face, row.image) == ("pyfeat", record["frame"], "0", record["input"])
        assert row.confidence == float(record["FaceScore"])
        assert row.box == tuple(float(record[f"FaceRect{side}"]) for side in ("X", "Y", "Width", "Height"))
        assert row.scores == scores
        limit = 0.5 if threshold is None else threshold
        assert set(row.aus.codes) == {code for code, score in scores.items() if score >= limit}
        assert row.absent == {code for code, score in scores.items() if score < limit}
        assert {code for code, _ in row.aus.unscored} == set(row.aus.codes)


@pytest.mark.parametrize("name", ["iMotions_Test_v5.txt", "iMotions_Test_v6.txt"])
def test_imotions(real_file, name):
    path = real_file(name)
    rows, quarantine = read(path)
    facet = [record for record in records(path, "\t") if "FACET" in record["EventSource"]]
    framed = [record for record in facet if int(record["FrameNo"]) >= 0]
    assert len(rows) == len(framed) > 0
    assert quarantine.total == quarantine.counts["no frame number"] == len(facet) - len(framed)
    for row, record in zip(rows, framed, strict=True):
        assert (row.source, row.frame, row.task) == ("imotions", record["FrameNo"], record["StimulusName"])
        cells = {name.split()[0][2:]: value for name, value in record.items() if name.startswith("AU")}
        evidence = {code: float(value or math.nan) for code, value in cells.items()}
        assert row.scores == {code: value for code, value in evidence.items() if not math.isnan(value)}
        assert set(row.aus.codes) == {code for code, value in evidence.items() if value > 0}
        assert row.absent == {code for code, value in evidence.items() if value <= 0}
        assert row.unknown == {code for code, value in evidence.items() if math.isnan(value)}
        assert bool(row.unknown) == (int(record["NoOfFaces"]) < 1)

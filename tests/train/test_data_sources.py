"""Every kind of source, the whole way from files in its format to samples: the picture is the one that was coded, the
levels are those of the labels, and what is unknown stays unknown."""

import io
import json
import math

import numpy as np
import pytest
from facs import reader_trees
from PIL import Image
from train import picture_trees as trees

from auface_diffusers.facs import AUSet, read_text, units
from auface_diffusers.facs.describe import STYLES
from train_lora.data.split import published


def shown(person, score):
    """Pixels of a saved JPEG."""
    return np.asarray(Image.open(io.BytesIO(trees.encoded(person, score))))


def level(label, channel):
    return label["effective_levels"][channel]


def by_frame(split):
    return {(label["subject"], label["task"], label["frame"]): (label, picture) for label, picture in split}


# --- BP4D, BP4D+ -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "build", "last"), [("bp4d", trees.bp4d, "T10"), ("bp4d+", trees.bp4d_plus, "T6")])
def test_bp4d(tmp_path, source, build, last):
    root = build(tmp_path / "data")
    result, splits = trees.made(tmp_path / "out", labels=str(root))
    assert (result["source"], result["listed"], result["kept"], result["skipped"]) == (source, 6, 6, {})
    found = by_frame(splits["train"])
    for (subject, task, frame), (person, score) in trees.BP4D_SHOWN.items():
        _, picture = found[subject, task, str(frame)]
        assert np.array_equal(picture, shown(person, score)), (subject, task, frame)
    assert ("F001", last, "0001") in found
    label, _ = found["F001", "T1", "2440"]
    assert level(label, "L12") == level(label, "R12") == 5
    assert level(label, "L6") == 2
    assert level(label, "L1") == 0, "coded, and absent"
    assert level(label, "28:T") is None, "9: not scorable"
    for never in ("25", "26", "L43", "61", "51"):
        assert level(label, never) is None, "never coded"
    assert label["unscored"] == []
    label, _ = found["F001", "T1", "2441"]
    assert label["unscored"] == ["L12", "R12"], "the intensity says 0 where the occurrence says 1"
    assert label["origin"] == "annotated"


def test_bp4d_plus_counts_pictures_from_zero_and_an_offset_moves_them(tmp_path):
    root = trees.bp4d_plus(tmp_path / "data")
    _, splits = trees.made(tmp_path / "out", labels=str(root), offset=101)
    _, picture = by_frame(splits["train"])["F001", "T1", "2440"]
    assert np.array_equal(picture, shown(7, "0")), "number 2440 - 1 + 101"


def test_a_copy_that_counts_from_one_is_noticed(tmp_path):
    root = trees.bp4d_plus(tmp_path / "data")
    card = json.loads((run_out(tmp_path, root) / "card.json").read_text())
    assert not any("offset" in note for note in card["label_rows"]["odd"])
    reader_trees.table(
        root / "AUCoding" / "AU_OCC" / "F001_T7.csv",
        reader_trees.bp4d_header("bp4d+"),
        reader_trees.bp4d_row(reader_trees.bp4d_header("bp4d+"), 2, present=[1]),
    )
    for number in (1, 2):
        trees.save(root / "2D+3D" / "F001" / "T7" / f"{number}.jpg", 1, "1C")
    card = json.loads((run_out(tmp_path / "again", root) / "card.json").read_text())
    assert any("offset" in note for note in card["label_rows"]["odd"])


def run_out(tmp_path, root):
    trees.made(tmp_path / "out", labels=str(root))
    return tmp_path / "out"


def test_a_damaged_zip_is_counted(tmp_path):
    root = trees.bp4d_plus(tmp_path / "data")
    (root / "2D+3D" / "M002.zip").write_bytes(b"no zip")
    result, _ = trees.made(tmp_path / "out", labels=str(root))
    assert result["skipped"] == {"damaged archive": 1}


def test_the_published_folds_are_disjoint_and_whole():
    for source, count in (("bp4d", 41), ("disfa", 27)):
        folds = published()[source]["folds"]
        assert len(folds) == 3
        names = [name for fold in folds for name in fold]
        assert len(names) == len(set(names)) == count
    assert {"F001", "M008"} <= set(published()["bp4d"]["folds"][2]), "fold 3 tests on part 1 of ME-GraphAU"


@pytest.mark.parametrize("fold", [1, 2, 3])
def test_a_published_fold_is_what_is_tested_on(tmp_path, fold):
    root = trees.bp4d(tmp_path / "data")
    split = {"by": "published", "fold": fold, "validation": 0.0}
    held = {"F001"} & set(published()["bp4d"]["folds"][fold - 1]) | {"M002"} & set(
        published()["bp4d"]["folds"][fold - 1]
    )
    if not held:
        with pytest.raises(ValueError, match=f"no subject of fold {fold}"):
            trees.made(tmp_path / "out", labels=str(root), split=split)
        return
    _, splits = trees.made(tmp_path / "out", labels=str(root), split=split)
    assert {label["subject"] for label, _ in splits["test"]} == held
    assert {label["subject"] for label, _ in splits["train"]} == {"F001", "M002"} - held
    assert "ME-GraphAU" in (tmp_path / "out" / "README.md").read_text()


# --- DISFA, CK+, UNBC ------------------------------------------------------------------------------------------------


def test_disfa(tmp_path):
    root = trees.disfa(tmp_path / "data", frames=6)
    result, splits = trees.made(tmp_path / "out", labels=str(root))
    assert (result["source"], result["kept"]) == ("disfa", 12)
    found = by_frame(splits["train"])
    for frame in range(1, 7):
        label, picture = found["SN002", "", str(frame)]
        assert level(label, "R12") == frame - 1
        assert np.array_equal(picture, np.asarray(Image.open(root / "Images" / "SN002" / f"{frame}.png")))
        assert level(label, "L10") is None
        assert level(label, "L4") == (None if frame == 1 else 0)


def test_a_unit_without_a_file_is_unknown_not_absent(tmp_path):
    root = trees.disfa(tmp_path / "data")
    for subject in ("SN001", "SN002"):
        (root / "ActionUnit_Labels" / subject / f"{subject}_au26.txt").unlink()
    _, splits = trees.made(tmp_path / "out", labels=str(root))
    assert all(level(label, "26") is None for label, _ in splits["train"])
    assert level(splits["train"][0][0], "25") == 0


def test_disfa_plus(tmp_path):
    root = trees.disfa_plus(tmp_path / "data")
    result, splits = trees.made(tmp_path / "out", labels=str(root), source="disfa+")
    assert result["kept"] == 6
    raised = [label for label, _ in splits["train"] if level(label, "L1") > 0]
    assert [(label["task"], label["frame"], level(label, "L1")) for label in raised] == [
        ("A1_AU1_TrailNo_1", "010.jpg", 3)
    ]


def test_ck_plus(tmp_path):
    root = trees.ck(tmp_path / "data")
    _, splits = trees.made(tmp_path / "out", labels=str(root))
    first, second = (label for label, _ in splits["train"])
    assert (first["subject"], level(first, "L9"), first["unscored"]) == ("S005", 5, ["17"])
    assert (level(second, "25"), level(second, "L43"), level(second, "R43")) == (3, 5, 5)
    assert level(first, "L12") == 0


def test_unbc(tmp_path):
    root = trees.unbc(tmp_path / "data")
    _, splits = trees.made(tmp_path / "out", labels=str(root))
    neutral, pain = (label for label, _ in splits["train"])
    assert (level(neutral, "L6"), level(pain, "L6"), level(pain, "L43")) == (0, 3, 5)
    assert level(pain, "L12") == 0


# --- tables and folders ----------------------------------------------------------------------------------------------


def test_a_table_beside_its_pictures(tmp_path):
    rows = []
    for person in (1, 2):
        for score in ("0", "12E"):
            trees.save(tmp_path / "pictures" / f"p{person}" / f"{score}.png", person, score)
            picture = f"p{person}/{score}.png"
            rows.append({"image": picture, "subject": f"p{person}", "L12": 5 * (score != "0"), "4": "", "1": 0})
    path = trees.table(tmp_path / "pictures" / "labels.csv", rows)
    _, splits = trees.made(tmp_path / "out", labels=str(path))
    label = splits["train"][1][0]
    assert (level(label, "L12"), level(label, "R12"), level(label, "L4"), level(label, "R1")) == (5, 0, None, 0)
    assert read_text(label["texts"]["anatomical"]) == AUSet.parse("L12E")


def test_detectors_are_no_people(tmp_path):
    reader_trees.openface(
        tmp_path / "video.csv",
        {"frame": 1, "AU12_r": 3.2, "AU12_c": 1},
        {"frame": 2, "AU12_r": 0, "AU12_c": 0},
        {"frame": 3, "success": 0},
    )
    for frame in (1, 2, 3):
        trees.save(tmp_path / "frames" / f"{frame:04d}.png", 1, "12C" if frame == 1 else "0")
    result, splits = trees.made(
        tmp_path / "out",
        labels=str(tmp_path / "video.csv"),
        images=str(tmp_path / "frames"),
        pattern="{frame}",
        subjects="picture",
    )
    assert result["origin"] == "detector"
    assert result["skipped"] == {"no label": 1}, "no face was found: every unit is unknown"
    assert [level(label, "L12") for label, _ in splits["train"]] == [3.2, 0]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "A detector has labelled" in card
    assert "splits may share people" in card


def test_codes_beside_each_picture(tmp_path):
    root = trees.folder(tmp_path / "faces", people=2)
    (root / "p0" / "8.png").write_bytes((root / "p0" / "0.png").read_bytes())  # without codes
    (root / "p0" / "9.png").write_bytes((root / "p0" / "1.png").read_bytes())
    (root / "p0" / "9.txt").write_text("12Q")
    result, splits = trees.made(
        tmp_path / "out", images=str(root), source="sidecar", subjects="folder", unnamed="absent"
    )
    assert result["skipped"] == {"bad notation": 1, "no label": 1}
    assert len(splits["train"]) == 16
    for label, picture in splits["train"]:
        assert np.array_equal(picture, np.asarray(Image.open(root / label["picture"])))
        codes = (root / label["picture"]).with_suffix(".txt").read_text().strip()
        assert label["aus"] == AUSet.parse(codes).format()
        assert set(label["texts"]) == {*STYLES, "varied"}
        assert len(label["texts"]["varied"]) == 1
        assert read_text(label["texts"]["compact"]) == AUSet.parse(label["effective"]).round()
        assert list(label["effective_levels"]) == list(units.channels)
    told = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert {one["picture"] for one in told} == {"p0/8.png", "p0/9.png"}
    assert "A (trace), B, C, D or E" in next(one["detail"] for one in told if one["reason"] == "bad notation")


def test_our_estimator_labels_and_says_so(tmp_path):
    root = trees.folder(tmp_path / "faces", people=3, scores=("0", "12E", "26D", "4E"), sidecar=False)
    result, splits = trees.made(tmp_path / "out", images=str(root), source="estimator", subjects="folder")
    assert result["origin"] == "estimator"
    labels = [label for label, _ in splits["train"]]
    assert all(label["origin"] == "estimator" for label in labels)
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert "must not be judged by it" in (tmp_path / "out" / "README.md").read_text()
    covered = set(card["estimator"]["covered"])
    for label in labels:
        assert all(x is None for name, x in label["effective_levels"].items() if name not in covered)
        known = [x for x in label["effective_levels"].values() if x is not None]
        assert 0 in known
    bolder = trees.made(tmp_path / "bold", images=str(root), source="estimator", subjects="folder", sure=0.55)[1]
    unknown = [
        sum(x is None for label, _ in some for x in label["effective_levels"].values())
        for some in (splits["train"], bolder["train"])
    ]
    assert unknown[1] < unknown[0], "less is unknown to who is sure sooner"


def test_a_side_that_nobody_tells_is_unknown(tmp_path):
    root = trees.folder(tmp_path / "faces", people=2, scores=("L14C", "0"))
    for person in (0, 1):
        (root / f"p{person}" / "0.txt").write_text("U14C")
    _, splits = trees.made(tmp_path / "out", images=str(root), source="sidecar", subjects="folder", unnamed="absent")
    first = splits["train"][0][0]
    assert (level(first, "L14"), level(first, "R14"), level(first, "L12")) == (None, None, 0)
    assert first["texts"]["anatomical"].startswith("One lip corner")


def test_what_a_rule_takes_out_of_the_text_is_unknown(tmp_path):
    root = trees.folder(tmp_path / "faces", people=2, scores=("26C+27D", "0"))
    _, splits = trees.made(tmp_path / "out", images=str(root), source="sidecar", subjects="folder", unnamed="absent")
    first = splits["train"][0][0]
    assert first["effective"] == "27D"
    assert "X4" in first["rules"]
    assert level(first, "27") == 4
    assert not math.isnan(level(first, "27"))
    assert level(first, "L43") == 0
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["splits"]["train"]["rules"]["X4"] == 2

"""Crops, sharpness, pose, duplicates, splits and repeats: each rule takes what it says, and nothing else."""

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageFilter
from train import picture_trees as trees

from auface_diffusers.facs.readers import Annotation
from auface_diffusers.metrics.detectors.base import DetectorError
from auface_diffusers.metrics.detectors.face_landmarker import FaceLandmarker
from train_lora.data.faces import FacesConfig
from train_lora.data.items import picture_name
from train_lora.data.pack import _Thumbs
from train_lora.data.quality import fitted_pose, perceptual_hash, sharpness, thumb
from train_lora.data.split import SplitConfig, assign, repeated, repeats, unit_counts

SHARP, BLURRED = {"blur": 12.0}, ImageFilter.GaussianBlur(4)


def again(image, quality):
    data = io.BytesIO()
    image.save(data, "JPEG", quality=quality)
    return Image.open(data)


def bits(one, other):
    return (perceptual_hash(one) ^ perceptual_hash(other)).bit_count()


# --- what is measured ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("person", [1, 2, 3])
def test_blur_lowers_sharpness(person):
    image, _ = trees.face(person, "0", size=128)
    values = [sharpness(image.filter(ImageFilter.GaussianBlur(radius))) for radius in (0, 1, 2, 3)]
    assert values == sorted(values, reverse=True)
    assert values[0] > 100 > 12 > values[2]
    assert sharpness(Image.new("RGB", (128, 128), "gray")) == 0


@pytest.mark.parametrize("person", [1, 2, 3])
def test_the_same_picture_has_the_same_look_and_another_expression_has_not(person):
    image, _ = trees.face(person, "0", size=128)
    smile, _ = trees.face(person, "12C", size=128)
    for same in (again(image, 90), again(image, 60), image.resize((96, 96)), image.resize((256, 256))):
        assert bits(image, same) <= 2
        assert np.abs(thumb(image).astype(int) - thumb(same)).max() <= 2
    assert np.abs(thumb(image).astype(int) - thumb(smile)).max() > 2
    other, _ = trees.face(person + 10, "0", size=128)
    assert bits(image, other) > 5


@pytest.mark.parametrize(
    "pose", [(0, 0, 0), (25, 0, 0), (-40, 0, 0), (0, 20, 0), (0, -20, 0), (0, 0, 15), (20, 10, -8)]
)
def test_pose_is_read_from_points(pose):
    _, points = trees.face(3, "12C", size=128, pose=pose)
    assert fitted_pose(points) == pytest.approx(pose, abs=8)


def test_points_on_a_line_have_no_pose():
    with pytest.raises(ValueError, match="no area"):
        fitted_pose(np.zeros((68, 2)))


def test_near_duplicates_are_found_whatever_bits_differ():
    rng = np.random.default_rng(0)
    codes = [int(rng.integers(0, 2**63)) for _ in range(400)]
    looks = rng.integers(0, 256, (400, 256)).astype(np.uint8)
    for limit in (1, 3, 5):
        seen = _Thumbs(limit)
        assert [seen.find(code, look) for code, look in zip(codes, looks, strict=True)] == [None] * 400
        for row in range(0, 400, 7):
            flipped = codes[row]
            for place in rng.choice(64, limit - 1, replace=False):
                flipped ^= 1 << int(place)
            assert seen.find(flipped, looks[row]) == row, limit
            far = codes[row]
            for place in rng.choice(64, limit, replace=False):
                far ^= 1 << int(place)
            assert _Thumbs(limit).find(far, looks[row]) is None
            assert seen.find(codes[row], looks[row] ^ 0x10) is None, "the same hash, but another thumb"


# --- each rule, the whole way ----------------------------------------------------------------------------------------


def spoiled(root):
    """Four good pictures, and one of each kind that a rule leaves out."""
    trees.folder(root, people=2, scores=("0", "12E"))
    for name, (person, score, pose) in {"turned": (0, "0", (45, 0, 0)), "nodding": (0, "0", (0, -30, 0))}.items():
        trees.save(root / "p0" / f"{name}.png", person, score, pose=pose)
    image, _ = trees.face(0, "12E")
    image.filter(BLURRED).save(root / "p0" / "blurred.png")
    image.resize((40, 40)).save(root / "p0" / "small.png")
    image.save(root / "p1" / "twin.jpg", quality=95)
    image.crop((0, 0, 64, 40)).save(root / "p0" / "wide.png")
    (root / "p0" / "broken.png").write_bytes((root / "p0" / "0.png").read_bytes()[:600])
    for name in ("turned", "nodding", "blurred", "small", "wide", "broken"):
        (root / "p0" / f"{name}.txt").write_text("12E" if name in ("blurred", "small", "wide") else "0")
    (root / "p1" / "twin.txt").write_text("4C")
    return root


RULES = {
    "blur": ({"blur": 12.0}, {"blurred": 1}),
    "side": ({"side": 50}, {"too small": 1}),
    "yaw": ({"yaw": 25.0}, {"head turned": 1}),
    "pitch": ({"pitch": 20.0}, {"head turned": 1}),
    "duplicates": ({"duplicates": 3}, {"duplicate with other labels": 1}),
}


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_leaves_out_what_it_says(tmp_path, rule):
    root = spoiled(tmp_path / "faces")
    quality, wanted = RULES[rule]
    always = {"damaged picture": 1, "not square": 1}
    result, _ = trees.made(
        tmp_path / "out", images=str(root), source="sidecar", subjects="folder", unnamed="absent", quality=quality
    )
    assert result["skipped"] == {**always, **wanted}
    assert result["kept"] + sum(result["skipped"].values()) == result["listed"] == 11
    card = json.loads((tmp_path / "out" / "card.json").read_text())
    assert card["pictures"]["skipped"] == result["skipped"]
    for reason, count in result["skipped"].items():
        assert f"| {reason} | {count} |" in (tmp_path / "out" / "README.md").read_text()


def test_a_finder_crops_and_turns_faces_upright(tmp_path):
    wanted = {}
    for number, angle in enumerate((0, 25, -40)):
        path, _ = trees.photo(tmp_path / "photos" / "p1" / f"{number}.png", 1, "12C", angle=angle)
        wanted[path.name] = angle
        path.with_suffix(".txt").write_text("12C+55D" if number else "0")
    Image.new("RGB", (100, 90), "gray").save(tmp_path / "photos" / "p1" / "nobody.png")
    (tmp_path / "photos" / "p1" / "nobody.txt").write_text("0")
    given = {"source": "sidecar", "subjects": "folder", "unnamed": "absent", "faces": "find", "finder": trees.FINDER}
    result, splits = trees.made(tmp_path / "out", images=str(tmp_path / "photos"), **given, quality={"yaw": 60.0})
    assert result["skipped"] == {"no face": 1}
    upright = splits["train"][0][1].astype(int)
    for label, picture in splits["train"]:
        points = np.array(label["landmarks"]["ibug68"])
        assert points.shape == (68, 2)
        eyes, mouth = points[[36, 45]].mean(0), points[[48, 54]].mean(0)
        drawn = trees.face(1, "12C")[1]  # as our camera frames it
        assert np.abs(eyes - drawn[[36, 45]].mean(0)).max() < 4.5, "7 % of the side: nobody is the average head"
        assert np.abs(mouth - drawn[[48, 54]].mean(0)).max() < 4.5
        assert abs(points[36, 1] - points[45, 1]) < 1.5, "the eyes are level"
        assert np.abs(picture.astype(int) - upright)[16:48, 16:48].mean() < 12, "whatever the angle"
        assert label["effective_levels"]["55"] is None, "an upright crop does not show that the head was tilted"
        assert label["aus"] == ("0" if label["picture"].endswith("0.png") else "12C")
        assert "tilted" not in label["texts"]["anatomical"]
        assert label["measured"]["pose"][0] == pytest.approx(0, abs=8)
    batch = FacesConfig(shards=str(tmp_path / "out" / "train")).open(pictures=True).__getitems__([0])
    assert batch.landmarks[0].isfinite().all()
    assert 0.2 < float(batch.landmarks.mean()) < 0.8
    with pytest.raises(ValueError, match="too small 3"):
        trees.made(tmp_path / "big", images=str(tmp_path / "photos"), **given, quality={"side": 500})


def test_mediapipe_finds_and_frames_faces(tmp_path):
    """With the real model, where it is installed."""
    try:
        FaceLandmarker()
    except DetectorError as error:
        pytest.skip(str(error))
    for person in (1, 2):
        for number, (score, angle) in enumerate((("0", 0), ("12C", 20))):
            path, _ = trees.photo(tmp_path / "photos" / f"p{person}" / f"{number}.png", person, score, angle=angle)
            path.with_suffix(".txt").write_text(score)
    given = {"source": "sidecar", "subjects": "folder", "unnamed": "absent", "faces": "find", "size": 128}
    result, splits = trees.made(tmp_path / "out", images=str(tmp_path / "photos"), **given)
    assert result["kept"] >= 3, "MediaPipe may overlook a rendered face"
    for label, _ in splits["train"]:
        points = np.array(label["landmarks"]["ibug68"])
        drawn = trees.face(1, "0", size=128)[1]
        assert np.abs(points[[36, 45]].mean(0) - drawn[[36, 45]].mean(0)).max() < 12
        assert abs(points[36, 1] - points[45, 1]) < 4


# --- names of pictures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "pattern", "offset", "name"),
    [
        ({"image": "F001/T1/2440.jpg"}, "{image}", 0, "F001/T1/2440.jpg"),
        ({"image": "F001/T1/0009.jpg"}, "{image}", 1, "F001/T1/10.jpg"),
        ({"frame": "12", "subject": "SN001"}, "{subject}/{frame}.png", 0, "SN001/12.png"),
        ({"frame": "12", "subject": "SN001"}, "{subject}/{frame}.png", -1, "SN001/11.png"),
        ({"frame": "a.jpg", "task": "T"}, "{task}/{frame}", 5, "T/a.jpg"),
    ],
)
def test_names_of_pictures(row, pattern, offset, name):
    values = {"source": "csv", "file": "x", "line": 1, "frame": "0", "aus": None, **row}
    assert picture_name(Annotation(**values), pattern, offset) == name


# --- splits and repeats ----------------------------------------------------------------------------------------------


def test_splits_are_shares_of_people_and_steady():
    people = [f"p{number}" for number in range(200)]
    splits = assign(SplitConfig(validation=0.1, test=0.2), people, "csv", seed=3)
    counts = {split: list(splits.values()).count(split) for split in ("train", "validation", "test")}
    assert counts == {"train": 140, "validation": 20, "test": 40}
    assert assign(SplitConfig(validation=0.1, test=0.2), people[::-1], "csv", seed=3) == splits
    assert assign(SplitConfig(validation=0.1, test=0.2), people, "csv", seed=4) != splits
    more = assign(SplitConfig(validation=0.1, test=0.2), [*people, "new"], "csv", seed=3)
    assert sum(more[name] != splits[name] for name in people) <= 2
    assert set(assign(SplitConfig(by="none"), people, "csv", 0).values()) == {"train"}


def test_everybody_gets_a_split_or_an_error():
    three = assign(SplitConfig(), ["a", "b", "c"], "csv", 0)
    assert sorted(three.values()) == ["test", "train", "validation"]
    with pytest.raises(ValueError, match=r"2 subject\(s\) cannot be shared out to 3 splits.*split.by to none"):
        assign(SplitConfig(), ["a", "b"], "csv", 0)
    with pytest.raises(ValueError, match="no published folds of unbc are known, only of bp4d, disfa"):
        assign(SplitConfig(by="published"), ["a"], "unbc", 0)
    with pytest.raises(ValueError, match="do not have X001"):
        assign(SplitConfig(by="published"), ["F001", "X001"], "bp4d", 0)


def test_rare_units_are_repeated():
    present = [("12",)] * 80 + [("12", "9")] * 2 + [()] * 18
    factors = repeats(present, balance=0.2)
    assert factors[0] == factors[-1] == 1
    assert factors[80] == pytest.approx((0.2 / 0.02) ** 0.5)
    assert unit_counts(present, factors)["9"] == pytest.approx(2 * 10**0.5, rel=1e-5)
    assert repeats(present, balance=0.0).tolist() == [1] * 100
    numbers = repeated(factors)
    assert set(numbers.tolist()) == set(range(100)), "nobody is left out"
    assert 4 <= sum(numbers >= 80) - 18 <= 8
    assert repeated(factors).tolist() == numbers.tolist()
    whole = repeated(np.full(2000, 1.25, np.float32))
    assert len(whole) == pytest.approx(2500, rel=0.03)

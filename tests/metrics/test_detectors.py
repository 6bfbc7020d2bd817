"""Our own detector, models out of files, finding and cropping faces, and loading all of them by name."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from auface_diffusers.anatomy import Camera, HeadModel, render, sample_appearances
from auface_diffusers.anatomy.appearance import project_points
from auface_diffusers.facs import AUSet, units
from auface_diffusers.metrics.detectors import AUDetector, AUFaceDetector, DetectorError, FaceCrop, load_detector
from auface_diffusers.metrics.detectors import auface as own
from auface_diffusers.metrics.detectors.alignment import back, crop, crop_map, ibug_points
from auface_diffusers.models import au_estimator
from auface_diffusers.models.au_estimator import AUEstimator

PEOPLE = list(range(3000, 3008))
CORNERS = np.array([[0, 0], [256, 0], [0, 256], [256, 256], [128, 128]], dtype=np.float64)


@pytest.fixture(scope="module")
def estimator():
    torch.manual_seed(0)
    return AUEstimator(image_size=32, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1)).eval()


@pytest.fixture
def detector(estimator):
    return AUFaceDetector(estimator, name="toy")


@pytest.fixture(scope="module")
def head():
    return HeadModel.from_default()


def noise(width=32, height=32, seed=0, mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


class Middle:
    """A finder that cuts out the middle; a black picture has no face, a white one has two."""

    name, hash = "middle", "0123456789abcdef"

    def __call__(self, images):
        return [self.look(image) for image in images]

    def look(self, image):
        level = np.asarray(image.convert("L")).mean()
        if level in (0, 255):
            return FaceCrop(2 if level else 0, None, None)
        quarter = (image.width // 4, image.height // 4)
        box = (*quarter, image.width - quarter[0], image.height - quarter[1])
        return FaceCrop(1, image.crop(box), np.array([[1.0, 0, quarter[0]], [0, 1, quarter[1]]]))


# --- our own estimators ----------------------------------------------------------------------------------------------


def test_it_sees_what_its_estimator_sees(detector, estimator):
    pictures = [noise(seed=seed) for seed in range(3)]
    seen = detector(pictures)
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    with torch.no_grad():
        out = estimator(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    assert detector.columns == units.channels
    np.testing.assert_allclose(seen.presence, out.presence.double().numpy(), atol=1e-6)
    level = torch.where(out.presence >= 0.5, out.level, 0.0)
    np.testing.assert_allclose(seen.level, level.double().numpy(), atol=1e-5)
    np.testing.assert_allclose(seen.landmarks, out.landmarks.numpy() * 32, atol=1e-4)
    assert seen.found.all()
    assert seen.faces.tolist() == [-1, -1, -1]


def test_it_is_a_detector(detector):
    assert isinstance(detector, AUDetector)
    assert detector.sided
    assert detector.calibrated
    assert set(detector.coverage) <= set(detector.columns)


def test_pictures_of_many_sizes_and_modes_come_back_in_their_order(detector):
    pictures = [noise(64, 64), noise(40, 50), noise(64, 64, 1), noise(40, 50, 2), noise(33, 90, 3, "L")]
    together = detector(pictures)
    for row, picture in enumerate(pictures):
        alone = detector([picture])
        np.testing.assert_allclose(together.presence[row], alone.presence[0], atol=1e-5)
        np.testing.assert_allclose(together.landmarks[row], alone.landmarks[0], atol=1e-3)


def test_landmarks_are_pixels_of_each_picture(detector):
    small, large = noise(48, 48), noise(48, 48).resize((96, 144), Image.Resampling.NEAREST)
    seen = detector([small, large])
    ratio = seen.landmarks[1] / seen.landmarks[0]
    np.testing.assert_allclose(np.median(ratio, 0), (2, 3), rtol=0.1)


def test_no_pictures_are_no_detections(detector):
    seen = detector([])
    assert seen.presence.shape == seen.level.shape == (0, len(units.channels))
    assert seen.landmarks.shape == (0, 68, 2)
    assert seen.found.shape == seen.faces.shape == (0,)


def test_large_pictures_are_looked_at_a_few_at_a_time(detector, monkeypatch):
    monkeypatch.setattr(own, "PIXELS", 2 * 64 * 64)
    sizes = []
    hook = detector.estimator.register_forward_pre_hook(lambda _, given: sizes.append(tuple(given[0].shape)))
    detector([noise(64, 64, seed) for seed in range(5)] + [noise(128, 128)])
    hook.remove()
    assert [size[0] for size in sizes] == [2, 2, 1, 1]


def test_a_picture_too_small_for_a_face_has_none(detector):
    seen = detector([noise(200, 31), noise(32, 32)])
    assert seen.faces.tolist() == [0, -1]
    assert seen.found.tolist() == [False, True]
    assert np.isnan(seen.presence[0]).all()


def test_the_hash_is_that_of_weights_and_calibration_wherever_they_lie(estimator, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b" / "c"]
    for folder in folders:
        estimator.save_pretrained(folder)
    first, second = (AUFaceDetector.from_folder(folder) for folder in folders)
    assert first.hash == second.hash == AUFaceDetector(estimator).hash
    assert (first.name, second.name) == ("a", "c")
    count = len(units.channels)
    first.estimator.set_calibration(torch.full((count,), 2.0), torch.zeros(count))
    assert AUFaceDetector(first.estimator).hash != second.hash
    assert AUFaceDetector(estimator, finder=Middle()).hash != second.hash


def test_channels_that_the_estimator_cannot_tell_are_not_covered(tmp_path):
    torch.manual_seed(0)
    model = AUEstimator(image_size=32, widths=(8, 8, 16, 16), depths=(1, 1, 1, 1), channels=["L12", "R12", "55"])
    model.set_calibration(torch.ones(3), torch.zeros(3), torch.tensor([True, False, True]))
    assert AUFaceDetector(model).columns == ("L12", "R12", "55")
    assert AUFaceDetector(model).coverage == ("L12", "55")
    assert AUFaceDetector(model, finder=Middle()).coverage == ("L12",), "the finder turns heads upright"


def test_a_finder_says_where_there_is_one_face(estimator, detector):
    pictures = [noise(64, 64, 1), Image.new("RGB", (64, 64)), noise(80, 72, 2), Image.new("RGB", (50, 50), "white")]
    seen = AUFaceDetector(estimator, finder=Middle())(pictures)
    assert seen.faces.tolist() == [1, 0, 1, 2]
    assert seen.found.tolist() == [True, False, True, False]
    for row in (1, 3):
        assert np.isnan(seen.presence[row]).all()
        assert np.isnan(seen.level[row]).all()
        assert np.isnan(seen.landmarks[row]).all()
    cut = detector([pictures[0].crop((16, 16, 48, 48)), pictures[2].crop((20, 18, 60, 54))])
    np.testing.assert_allclose(seen.presence[[0, 2]], cut.presence, atol=1e-5)
    np.testing.assert_allclose(seen.landmarks[0], cut.landmarks[0] + (16, 16), atol=1e-3)
    np.testing.assert_allclose(seen.landmarks[2], cut.landmarks[1] + (20, 18), atol=1e-3)


# --- crops -----------------------------------------------------------------------------------------------------------


def projected(head, people=None, aus=None, pose=None, size=256):
    with torch.no_grad():
        mesh = head(people, aus, pose=pose)
    return Camera.framed("face", size).project(mesh.landmarks68)[..., :2].double().numpy()


def test_the_average_head_in_our_framing_is_cropped_as_it_is(head):
    found = crop_map(projected(head)[0])
    np.testing.assert_allclose(back(CORNERS, found), CORNERS, atol=2.5)


def test_people_who_look_about_are_framed_as_we_draw_them(head):
    pose = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([20.0, 12.0, 0.0])
    points = projected(head, list(range(40)), pose=pose)
    middles = np.array([back(CORNERS[4:], crop_map(one))[0] for one in points])
    scales = np.array([np.hypot(*crop_map(one)[:, 0]) for one in points])
    assert np.abs(middles - 128).mean() < 6, "within what augmentation moves them"
    assert np.abs(scales - 1).max() < 0.12


def test_a_picture_that_is_turned_scaled_and_shifted_gives_the_same_crop(head):
    for points in projected(head, PEOPLE):
        angle = np.radians(35)
        turn = 3.5 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        moved = points @ turn.T + [700, 300]
        expected = back(CORNERS, crop_map(points)) @ turn.T + [700, 300]
        np.testing.assert_allclose(back(CORNERS, crop_map(moved)), expected, atol=0.5)


def test_heads_are_turned_upright(head):
    pose = torch.tensor([[10.0, 5.0, 20.0]])
    found = crop_map(projected(head, pose=pose)[0])
    level = back(np.array([[0.0, 128], [256, 128]]), found)
    across = level[1] - level[0]
    assert np.degrees(np.arctan2(across[1], across[0])) == pytest.approx(20, abs=2)


@pytest.mark.parametrize("score", ["27E", "12E+6E+25D", "1E+2E+5E+26E", "4E+9E+15E+17D", "18E"])
def test_expressions_hardly_move_the_crop(head, score):
    rest, moved = (crop_map(projected(head, aus=AUSet.parse(text))[0]) for text in ("0", score))
    np.testing.assert_allclose(back(CORNERS, rest), back(CORNERS, moved), atol=7)


@pytest.mark.parametrize("scale", [0.5, 1.0, 5.3])
def test_pixels_land_where_the_map_says(scale):
    to_picture = np.array([[scale, -0.2 * scale, 90.0], [0.2 * scale, scale, 40.0]])
    spot = back(np.array([[100.0, 60.0]]), to_picture)[0]
    y, x = np.mgrid[:1500, :1600] + 0.5
    near = np.exp(-((x - spot[0]) ** 2 + (y - spot[1]) ** 2) / (2 * (6 * scale) ** 2))
    cut = crop(Image.fromarray((255 * near).astype(np.uint8)), to_picture)
    assert cut.size == (256, 256)
    weight = np.asarray(cut, dtype=np.float64)[..., 0] * (np.asarray(cut)[..., 0] != 128)
    weight[weight < 60] = 0
    y, x = np.mgrid[:256, :256] + 0.5
    assert (weight * x).sum() / weight.sum() == pytest.approx(100, abs=0.6)
    assert (weight * y).sum() / weight.sum() == pytest.approx(60, abs=0.6)


def test_what_lies_outside_of_the_picture_is_grey():
    cut = crop(Image.new("RGB", (100, 100), "red"), np.array([[1.0, 0, -100], [0, 1, -100]]))
    assert cut.getpixel((10, 10)) == (128, 128, 128)
    assert cut.getpixel((150, 150)) == (255, 0, 0)


@pytest.mark.parametrize("points", [np.zeros((68, 2)), np.full((68, 2), np.nan), np.zeros((5, 2))])
def test_landmarks_that_are_no_face_are_refused(points):
    with pytest.raises(ValueError, match="landmarks"):
        crop_map(points)


def test_the_points_of_the_mesh_are_those_of_the_head(head):
    with torch.no_grad():
        mesh = head()
    np.testing.assert_array_equal(ibug_points(mesh.landmarks468[0].numpy()), mesh.landmarks68[0].numpy())


# --- the finder with its real model, where it is installed -----------------------------------------------------------


@pytest.fixture(scope="module")
def finder():
    pytest.importorskip("mediapipe")
    from auface_diffusers.metrics.detectors import MediaPipeFaceFinder

    try:
        return MediaPipeFaceFinder()
    except DetectorError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def rendered(head):
    """Pictures of eight people and their true landmarks (8, 68, 2)."""
    camera, looks = Camera.framed("portrait", 256), sample_appearances(PEOPLE, 1, len(PEOPLE))
    pose = torch.randn(8, 3, generator=torch.Generator().manual_seed(1)) * torch.tensor([12.0, 6.0, 8.0])
    with torch.no_grad():
        mesh = head(PEOPLE, pose=pose)
        images = render(mesh, looks, camera).image.clamp(0, 1)
        points = project_points(mesh.landmarks68, looks, camera)[..., :2].double().numpy()
    return [Image.fromarray((one.permute(1, 2, 0) * 255).round().byte().numpy()) for one in images], points


def test_it_finds_one_face_and_frames_it(finder, rendered):
    pictures, points = rendered
    for found, true in zip(finder(pictures), points, strict=True):
        assert found.faces == 1
        wanted = crop_map(true)
        apart = back(CORNERS, wanted) - found.back(CORNERS)
        assert np.abs(apart).max() / np.hypot(*wanted[:, 0]) < 26, "a tenth of the side, at the corners"
        assert found.image.size == (256, 256)


def test_it_counts(finder, rendered):
    pictures, _ = rendered
    pair = Image.new("RGB", (512, 256))
    pair.paste(pictures[0])
    pair.paste(pictures[1], (256, 0))
    found = finder([pair, Image.new("RGB", (300, 200), "gray"), pictures[2].convert("L")])
    assert [one.faces for one in found] == [2, 0, 1]
    assert found[0].image is None
    assert found[1].to_picture is None


def test_it_finds_small_and_tilted_faces(finder, rendered):
    pictures, points = rendered
    wide = Image.new("RGB", (1000, 700), (120, 140, 110))
    wide.paste(pictures[3].resize((100, 100)), (610, 420))
    small, tilted = finder([wide, pictures[3].rotate(40, expand=True)])
    assert (small.faces, tilted.faces) == (1, 1)
    wanted = back(CORNERS, crop_map(points[3] * 100 / 256 + (610, 420)))
    assert np.abs(wanted - small.back(CORNERS)).max() < 15
    straight = finder([pictures[3]])[0].to_picture
    lean = [np.degrees(np.arctan2(found[1, 0], found[0, 0])) for found in (straight, tilted.to_picture)]
    assert lean[0] - lean[1] == pytest.approx(40, abs=8)


def test_a_photograph_is_read_as_its_crop(finder, rendered, estimator, detector):
    pictures, _ = rendered
    found = finder(pictures[:2])
    seen = AUFaceDetector(estimator, finder=finder)(pictures[:2])
    cut = detector([one.image for one in found])
    np.testing.assert_allclose(seen.presence, cut.presence, atol=1e-3)  # MediaPipe itself differs from run to run
    np.testing.assert_allclose(seen.landmarks[0], found[0].back(cut.landmarks[0]), atol=0.5)


# --- models out of files ---------------------------------------------------------------------------------------------

COLUMNS = ["1", "2", "4", "L12", "R12"]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    """The folder of a toy image classifier with five outputs."""
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=5, layer_type="basic")
    folder = tmp_path_factory.mktemp("classifier")
    ResNetForImageClassification(config).eval().save_pretrained(folder / "model")
    return folder


def described(parent, ending="json", /, **values):
    path = parent / f"detector.{ending}"
    values = {"name": "mine", "folder": "model", "columns": COLUMNS, "image_size": 48, **values}
    if ending == "json":
        path.write_text(json.dumps(values))
    else:
        path.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in values.items()))
    return path


@pytest.mark.parametrize("ending", ["json", "toml"])
def test_a_classifier_is_read_as_its_file_says(classifier, ending):
    from transformers import AutoModelForImageClassification

    made = load_detector(described(classifier, ending, mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.1]))
    picture = noise(48, 48)
    seen = made([picture, picture.resize((96, 96), Image.Resampling.NEAREST)])
    model = AutoModelForImageClassification.from_pretrained(classifier / "model").eval()
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    pixels = (pixels - torch.tensor([0.4, 0.5, 0.6])[:, None, None]) / torch.tensor([0.2, 0.3, 0.1])[:, None, None]
    with torch.no_grad():
        expected = model(pixels).logits[0].sigmoid().double().numpy()
    np.testing.assert_allclose(seen.presence[0], expected, atol=1e-5)
    assert made.columns == tuple(COLUMNS)
    assert (made.name, made.sided, made.calibrated) == ("mine", True, False)
    assert seen.level is None
    assert seen.found.all()


def test_a_model_of_levels_gives_levels(classifier):
    seen = load_detector(described(classifier, output="level", activation="none"))([noise()])
    assert seen.level.min() >= 0
    assert seen.level.max() <= 5
    np.testing.assert_allclose(seen.presence, seen.level / 5)


def test_a_classifier_takes_a_finder(classifier):
    made = load_detector(described(classifier, columns=["1", "2", "4", "5", "6"]), finder=Middle())
    seen = made([noise(64, 64), Image.new("RGB", (64, 64)), Image.new("RGB", (64, 64), "white")])
    assert not made.sided
    assert seen.found.tolist() == [True, False, False]
    assert seen.faces.tolist() == [1, 0, 2]
    assert np.isnan(seen.presence[1:]).all()


def test_the_hash_follows_the_weights_and_the_file(classifier, tmp_path):
    first = load_detector(described(classifier))
    assert first.hash == load_detector(described(classifier)).hash
    assert first.hash != load_detector(described(classifier, image_size=64)).hash
    shutil.copytree(classifier / "model", tmp_path / "model")
    from safetensors.torch import load_file, save_file

    path = tmp_path / "model" / "model.safetensors"
    changed = {name: value + 1 if value.is_floating_point() else value for name, value in load_file(path).items()}
    save_file(changed, path, metadata={"format": "pt"})
    assert first.hash != load_detector(described(tmp_path)).hash


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"columns": ["1", "2"]}, "5 outputs, but 2 columns"),
        ({"columns": ["1", "2", "3", "4", "5"]}, "3"),
        ({"columns": []}, "columns are missing"),
        ({"architecture": "magic"}, "one of transformers, estimator"),
        ({"activation": "softmax"}, "one of sigmoid, none"),
        ({"std": [1, 1, 0]}, "std > 0"),
        ({"sides": 2}, "unknown: sides"),
        ({"calibrated": "yes"}, "calibrated 'yes': true or false"),
        ({"image_size": 4.5}, "image_size 4.5: a whole number"),
        ({"columns": "12"}, "a list"),
        ({"folder": "elsewhere", "licence": "CC BY-NC 4.0"}, "elsewhere is missing.*CC BY-NC"),
    ],
)
def test_a_file_that_is_wrong_says_so(classifier, change, said):
    with pytest.raises(DetectorError, match=said):
        load_detector(described(classifier, **change))


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "detector.json").write_text("{")
    with pytest.raises(DetectorError, match=r"detector\.json"):
        load_detector(tmp_path / "detector.json")


def test_pickles_are_not_loaded(tmp_path, classifier):
    (tmp_path / "model").mkdir()
    shutil.copy(classifier / "model" / "config.json", tmp_path / "model")
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(DetectorError, match="pickle"):
        load_detector(described(tmp_path))


def test_a_file_can_name_an_estimator(estimator, tmp_path):
    estimator.save_pretrained(tmp_path / "model")
    made = load_detector(described(tmp_path, architecture="estimator", columns=["L12", "R12"]))
    assert made.name == "mine"
    assert made.columns == units.channels
    assert made.coverage == ("L12", "R12")
    with pytest.raises(DetectorError, match="no columns 12"):
        load_detector(described(tmp_path, architecture="estimator", columns=["12"]))


# --- loading ---------------------------------------------------------------------------------------------------------


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(DetectorError, match="auface, auface-training, libreface, pyfeat, openface3, mediapipe"):
        load_detector("magic", photos=True)


def test_weights_of_ours_are_not_given_beside_the_name():
    with pytest.raises(DetectorError, match=r"'auface' has its own weights: leave 'x.pt' out.*libreface, openface3"):
        load_detector("auface", weights="x.pt")


def test_a_folder_of_an_estimator_is_a_detector(estimator, tmp_path):
    estimator.save_pretrained(tmp_path / "own")
    assert load_detector(tmp_path / "own").name == "own"
    assert load_detector(str(tmp_path / "own"), finder=Middle()).finder.name == "middle"


def test_a_folder_of_something_else_is_none(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(DetectorError, match="AUEstimator"):
        load_detector(tmp_path)


def test_a_damaged_estimator_is_named(estimator, tmp_path):
    estimator.save_pretrained(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DetectorError, match=r"diffusion_pytorch_model\.safetensors"):
        load_detector(tmp_path)


@pytest.mark.parametrize(("name", "folder"), [("auface", "evaluation_estimator"), ("auface-training", "estimator")])
def test_the_embedded_estimators_have_names(estimator, tmp_path, monkeypatch, name, folder):
    monkeypatch.setattr(au_estimator, "WEIGHTS", tmp_path)
    with pytest.raises(DetectorError, match=folder):
        load_detector(name)
    estimator.save_pretrained(tmp_path / folder)
    assert load_detector(name).name == name
    assert load_detector(name).hash == AUFaceDetector(estimator).hash


def test_the_file_of_the_finder_is_googles(tmp_path, monkeypatch):
    from auface_diffusers.metrics.detectors import face_landmarker

    package = tmp_path / "carrier_of_a_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('it is never imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(face_landmarker, "CARRIER", package.name)
    with pytest.raises(DetectorError, match="no face_landmarker.task.*Apache-2.0"):
        face_landmarker.task_file(None, "x")
    file = package / "models" / "face_landmarker.task"
    file.write_bytes(b"another model")
    with pytest.raises(DetectorError, match="not Google's file"):
        face_landmarker.task_file(None, "x")
    monkeypatch.setattr(face_landmarker, "SHA256", hashlib.sha256(b"another model").hexdigest())
    assert face_landmarker.task_file(None, "x") == file
    with pytest.raises(DetectorError, match=r"elsewhere\.task is missing"):
        face_landmarker.task_file(tmp_path / "elsewhere.task", "x")

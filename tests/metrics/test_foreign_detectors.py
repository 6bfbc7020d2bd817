"""Adapters of other people's tools: order and scale, what is missing, and pictures with no face, one, and two.

The stand-ins give what the real packages give: names, shapes and ranges were compared with py-feat 2.1.5, libreface
0.2.0, openface-test 0.1.26 and mediapipe 1.2.3. A picture's brightness says how many faces they find in it. Where a
package is installed, the real one is used as well.
"""

import inspect
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from auface_diffusers.facs import units
from auface_diffusers.metrics.detectors import AUDetector, DetectorError, FaceCrop, load_detector
from auface_diffusers.metrics.detectors.mediapipe_blendshapes import blendshape_table, presences

NONE, ONE, TWO = (Image.new("RGB", (80, 60), (level,) * 3) for level in (0, 100, 200))
GREY = Image.new("L", (80, 60), 100)
PICTURES = [ONE, NONE, TWO, GREY]


def count(pixels):
    return int(np.asarray(pixels).mean() // 100)


def install(monkeypatch, **modules):
    """Put modules where the import system finds them; ``_`` in a name is a dot."""
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name.replace("__", "."), module)


def module(name, **values):
    made = ModuleType(name)
    vars(made).update(values)
    return made


def check_faces(detector):
    """Grey is as good as colour; no face and two are not found."""
    assert isinstance(detector, AUDetector)
    assert not detector.calibrated
    seen = detector(PICTURES)
    assert seen.found.tolist() == [True, False, False, True]
    assert seen.presence.shape == (4, len(detector.columns))
    assert np.isnan(seen.presence[1:3]).all()
    np.testing.assert_allclose(seen.presence[0], seen.presence[3])
    assert seen.presence[0].min() >= 0
    assert seen.presence[0].max() <= 1
    assert detector([]).presence.shape == (0, len(detector.columns))
    return seen


# --- py-feat ---------------------------------------------------------------------------------------------------------

FEAT_NAMES = [f"AU{int(code):02d}" for code in units.labelled_in("pyfeat")]


class Rows:
    """What is used of py-feat's table: `pandas.DataFrame.to_dict`."""

    def __init__(self, rows):
        self.rows = rows

    def to_dict(self, how):
        assert how == "records"
        return self.rows


class FeatDetector:
    """`feat.Detectorv2`."""

    def __init__(self, device="cpu", identity_model="arcface", multitask_weights=None):
        torch.set_grad_enabled(False)  # as the real one does, for the whole process
        assert identity_model is None
        assert os.path.isfile(multitask_weights)
        self.multitask = SimpleNamespace(au_names=FEAT_NAMES)

    def detect(self, inputs, data_type, progress_bar):
        assert inputs.dtype == torch.uint8
        assert inputs.shape == (1, 3, 60, 80)
        assert (data_type, progress_bar) == ("tensor", False)
        faces = count(inputs.float())
        values = {name: 0.04 * place for place, name in enumerate(FEAT_NAMES)}
        values |= {f"{axis}_{point}": point / 2 for point in range(68) for axis in "xy"}
        blank = dict.fromkeys(values, np.nan)
        print("what a tool says")
        if not faces:
            return Rows([{"FaceRectX": np.nan, **blank}])
        return Rows([{"FaceRectX": 10.0 * face, **values} for face in range(faces)])


def place_in_cache(root, repository, name):
    """A file as huggingface_hub keeps it."""
    folder = root / "resources" / f"models--{repository.replace('/', '--')}"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    path = folder / "snapshots" / "abc" / name
    path.write_bytes(name.encode())
    return path


@pytest.fixture
def feat(monkeypatch, tmp_path):
    install(monkeypatch, feat=module("feat", Detectorv2=FeatDetector, __path__=[str(tmp_path)]))
    return tmp_path


def test_pyfeat_columns_go_by_name(feat, capsys):
    place_in_cache(feat, "py-feat/face_multitask_v2", "face_multitask_v28.safetensors")
    place_in_cache(feat, "py-feat/retinaface_r34", "model.safetensors")
    detector = load_detector("pyfeat", photos=True)
    assert torch.is_grad_enabled()
    assert detector.columns == units.labelled_in("pyfeat")
    seen = check_faces(detector)
    np.testing.assert_allclose(seen.presence[0], 0.04 * np.arange(20))
    assert seen.faces.tolist() == [1, 0, 2, 1]
    np.testing.assert_allclose(seen.landmarks[0, 5], (2.5, 2.5))
    assert np.isnan(seen.landmarks[1]).all()
    assert seen.level is None
    assert not detector.sided
    assert capsys.readouterr().out == "", "stdout belongs to results"


def test_pyfeat_says_which_weights_are_missing(feat):
    with pytest.raises(DetectorError, match=r"face_multitask_v28\.safetensors is missing.*non-commercial"):
        load_detector("pyfeat")
    file = place_in_cache(feat, "py-feat/face_multitask_v2", "face_multitask_v28.safetensors")
    with pytest.raises(DetectorError, match=r"retinaface_r34.*model\.safetensors is missing"):
        load_detector("pyfeat")
    place_in_cache(feat, "py-feat/retinaface_r34", "retinaface_r34.safetensors")
    before = load_detector("pyfeat").hash
    file.write_bytes(b"other weights")
    assert load_detector("pyfeat").hash != before
    with pytest.raises(DetectorError, match=r"own\.safetensors is missing"):
        load_detector("pyfeat", weights=feat / "own.safetensors")


def test_pyfeat_itself_has_the_names_of_our_table():
    multitask = pytest.importorskip("feat.multitask")
    assert multitask.AU_NAMES_V24 == FEAT_NAMES


# --- OpenFace 3 ------------------------------------------------------------------------------------------------------


class OpenFaceFinder:
    """`openface.face_detection.FaceDetector`: boxes with confidence and five points, out of a file."""

    def __init__(self, model_path, device="cpu"):
        self.cfg = {"pretrain": True}
        self.model = self._load_retinaface_model(model_path)

    def _load_retinaface_model(self, model_path):
        assert not self.cfg["pretrain"], "it would be sought in ./weights"
        return model_path

    def detect_faces(self, image_path, resize=1.0):
        pixels = np.array(Image.open(image_path))[:, :, ::-1].copy()
        rows = [[-3, 5, 40 + face, 90, 0.9] + [0] * 10 for face in range(count(pixels))]
        return np.array([*rows, [1, 1, 9, 9, 0.3] + [0] * 10], dtype=np.float32), pixels


class OpenFaceModel:
    """`openface.multitask_model.MultitaskPredictor`: emotions, gaze, and eight cosines."""

    def __init__(self, model_path, device="cpu"):
        print("Loading multitask model")

    def predict(self, face):
        assert face.shape == (55, 40, 3), "the box without what lies outside of the picture"
        assert face.dtype == np.uint8
        return torch.zeros(1, 8), torch.zeros(1, 2), torch.tensor([[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1.0000001]])


@pytest.fixture
def openface(monkeypatch, tmp_path):
    install(
        monkeypatch,
        openface=module("openface"),
        openface__face_detection=module("openface.face_detection", FaceDetector=OpenFaceFinder),
        openface__multitask_model=module("openface.multitask_model", MultitaskPredictor=OpenFaceModel),
    )
    for name in ("Alignment_RetinaFace.pth", "MTL_backbone.pth"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_openface_has_its_own_order(openface, capsys):
    detector = load_detector("openface3", weights=openface)
    assert detector.columns == ("1", "2", "4", "6", "9", "12", "25", "26")
    seen = check_faces(detector)
    np.testing.assert_allclose(seen.presence[0], [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 1], atol=1e-6)
    assert seen.faces.tolist() == [1, 0, 2, 1]
    assert seen.level is None
    assert capsys.readouterr().out == ""


def test_openface_says_which_weights_are_missing(openface):
    (openface / "MTL_backbone.pth").unlink()
    with pytest.raises(DetectorError, match=r"MTL_backbone\.pth is missing.*openface download.*academic"):
        load_detector("openface3", weights_folder=openface)


def test_openface_itself_gives_eight_cosines(tmp_path):
    pytest.importorskip("openface.face_detection")
    from openface.model.MTL import MTL
    from openface.Pytorch_Retinaface.data import cfg_mnet
    from openface.Pytorch_Retinaface.models.retinaface import RetinaFace

    torch.save(MTL().state_dict(), tmp_path / "MTL_backbone.pth")
    finder = RetinaFace(cfg={**cfg_mnet, "pretrain": False}, phase="test")
    torch.save(finder.state_dict(), tmp_path / "Alignment_RetinaFace.pth")
    detector = load_detector("openface3", weights_folder=tmp_path)
    values = detector._presence(np.random.default_rng(0).integers(0, 256, (90, 70, 3), dtype=np.uint8))
    assert values.shape == (8,)
    assert 0 <= values.min() <= values.max() <= 1
    boxes, _ = detector._finder.detect_faces(save(tmp_path / "one.png", ONE))
    assert boxes.shape[1] == 15


def save(path, image):
    image.save(path)
    return str(path)


# --- LibreFace -------------------------------------------------------------------------------------------------------

DETECTED = (1, 2, 4, 6, 7, 10, 12, 14, 15, 17, 23, 24)
GRADED = (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26)


class Columns:
    """What is used of LibreFace's tables: `pandas.DataFrame.to_dict`."""

    def __init__(self, columns):
        self.columns = columns

    def to_dict(self, how):
        assert how == "list"
        return self.columns


def aligned(image_path, temp_dir="./tmp", verbose=False):
    """`libreface.get_aligned_image`: the file of the face, pose, landmarks; of two faces it takes one."""
    if not count(Image.open(image_path)):
        raise RuntimeError("No face landmarks")
    return image_path.replace(".png", "_aligned.png"), {}, {}


def both_tables(paths, device="cpu", batch_size=256, num_workers=2, weights_download_dir=""):
    """`libreface.get_au_intensities_and_detect_aus_video`."""
    assert num_workers == 0, "worker processes are not worth their start"
    assert Path(weights_download_dir).is_dir()
    rows = range(len(paths))
    detected = {f"au_{code}": [code % 2 for _ in rows] for code in DETECTED}
    return Columns(detected), Columns({f"au_{code}_intensity": [code / 6 for _ in rows] for code in GRADED})


class Counting:
    """A finder that counts as the stand-ins do."""

    name, hash = "counting", "0123456789abcdef"

    def __call__(self, images):
        counts = [count(image) for image in images]
        return [FaceCrop(n, image if n == 1 else None, np.eye(2, 3)) for n, image in zip(counts, images, strict=True)]


@pytest.fixture
def libreface(monkeypatch, tmp_path):
    tool = module("libreface", get_aligned_image=aligned, get_au_intensities_and_detect_aus_video=both_tables)
    install(monkeypatch, libreface=tool)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    for path in ("AU_Recognition/weights/combined_repvgg.pt", "hub/checkpoints/resnet18-f37072fd.pth"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(b"weights")
    return tmp_path


def test_libreface_intensities_are_levels(libreface):
    detector = load_detector("libreface", weights=libreface, finder=Counting())
    assert detector.columns == tuple(map(str, GRADED))
    seen = check_faces(detector)
    np.testing.assert_allclose(seen.level[0], np.array(GRADED) / 6)
    np.testing.assert_allclose(seen.presence[0], np.array(GRADED) / 30)
    assert np.isnan(seen.level[1:3]).all()
    assert seen.faces.tolist() == [1, 0, 2, 1]


def test_libreface_detections_are_presences(libreface):
    detector = load_detector("libreface", weights_folder=libreface, output="detection", finder=Counting())
    assert detector.columns == tuple(map(str, DETECTED))
    seen = check_faces(detector)
    np.testing.assert_allclose(seen.presence[0], np.array(DETECTED) % 2)
    assert seen.level is None
    other = load_detector("libreface", weights_folder=libreface, finder=Counting())
    assert detector.hash != other.hash


def test_libreface_alone_takes_two_faces_for_one(libreface):
    seen = load_detector("libreface", weights_folder=libreface)(PICTURES)
    assert seen.found.tolist() == [True, False, True, True]
    assert seen.faces.tolist() == [-1, 0, -1, -1]
    assert not load_detector("libreface", weights_folder=libreface)([NONE]).found.any()


def test_libreface_says_which_weights_are_missing(libreface):
    with pytest.raises(ValueError, match="intensity, detection"):
        load_detector("libreface", weights_folder=libreface, output="both")
    (libreface / "hub/checkpoints/resnet18-f37072fd.pth").unlink()
    with pytest.raises(DetectorError, match=r"resnet18-f37072fd\.pth is missing.*download\.pytorch\.org"):
        load_detector("libreface", weights_folder=libreface)
    with pytest.raises(DetectorError, match=r"combined_repvgg\.pt is missing.*Google Drive.*USC research"):
        load_detector("libreface", weights_folder=libreface / "elsewhere")


def test_libreface_itself_has_the_functions_that_are_used():
    tool = pytest.importorskip("libreface")
    given = inspect.signature(tool.get_au_intensities_and_detect_aus_video).parameters
    assert {"device", "batch_size", "num_workers", "weights_download_dir"} <= set(given)
    assert "temp_dir" in inspect.signature(tool.get_aligned_image).parameters


# --- MediaPipe -------------------------------------------------------------------------------------------------------

SHAPES = sorted({shape for row in blendshape_table().columns.values() for shape in row})
SIDES = {"Left": "Right", "Right": "Left"}


class MediaPipeModel:
    """`mediapipe.tasks.python.vision.FaceLandmarker`: 478 points as shares, and categories with a score."""

    def __init__(self, options):
        if Path(options["base_options"]["model_asset_path"]).read_bytes() != b"a model":
            raise RuntimeError("Unable to initialize runfiles")
        self.blendshapes = options["output_face_blendshapes"]

    create_from_options = classmethod(lambda cls, options: cls(options))

    def detect(self, image):
        faces = range(count(image["data"]))
        scores = [SimpleNamespace(category_name=name, score=0.5 + i / 1000) for i, name in enumerate(SHAPES)]
        return SimpleNamespace(
            face_landmarks=[[SimpleNamespace(x=0.25, y=0.5 + face / 10) for _ in range(478)] for face in faces],
            face_blendshapes=[scores for _ in faces] if self.blendshapes else [],
        )

    def close(self):
        pass


@pytest.fixture
def task(monkeypatch, tmp_path):
    vision = module("mediapipe.tasks.python.vision", FaceLandmarker=MediaPipeModel, FaceLandmarkerOptions=dict)
    install(
        monkeypatch,
        mediapipe=module("mediapipe", Image=dict, ImageFormat=SimpleNamespace(SRGB=1)),
        mediapipe__tasks=module("mediapipe.tasks"),
        mediapipe__tasks__python=module("mediapipe.tasks.python", BaseOptions=dict),
        mediapipe__tasks__python__vision=vision,
    )
    path = tmp_path / "face_landmarker.task"
    path.write_bytes(b"a model")
    return path


def test_mediapipe_has_sides(task):
    detector = load_detector("mediapipe", weights=task)
    assert detector.sided
    seen = check_faces(detector)
    column = detector.columns.index
    assert seen.presence[0, column("L12")] == pytest.approx(0.5 + SHAPES.index("mouthSmileLeft") / 1000)
    assert seen.presence[0, column("R12")] == pytest.approx(0.5 + SHAPES.index("mouthSmileRight") / 1000)
    assert seen.faces.tolist() == [1, 0, 2, 1]
    np.testing.assert_allclose(seen.landmarks[0], np.tile([20.0, 30.0], (478, 1)))
    assert seen.level is None
    assert set(detector.coverage) < set(detector.columns)


def test_mediapipe_says_what_is_missing(task):
    with pytest.raises(DetectorError, match=r"other\.task is missing.*storage\.googleapis\.com"):
        load_detector("mediapipe", task=task.with_name("other.task"))
    task.write_bytes(b"something else")
    with pytest.raises(DetectorError, match=r"face_landmarker\.task is no Face Landmarker"):
        load_detector("mediapipe", task=task)


def test_every_column_is_one_that_targets_know():
    table = blendshape_table()
    for name in table.columns:
        assert name in units.channels or name in units
    assert table.blind < set(table.columns)
    assert "tongueOut" not in SHAPES


def test_sides_mirror_each_other():
    columns = blendshape_table().columns
    for name, row in columns.items():
        if name[0] in "LR":
            partner = columns[{"L": "R", "R": "L"}[name[0]] + name[1:]]
            swapped = {swap(shape): weight for shape, weight in row.items()}
            assert partner == swapped, name


def swap(shape):
    for side, other in SIDES.items():
        if shape.endswith(side):
            return shape.removesuffix(side) + other
    raise AssertionError(f"{shape} has no side")


def test_looking_left_is_to_the_persons_left():
    table = blendshape_table()
    shapes = dict.fromkeys(SHAPES, 0.0) | {"eyeLookOutLeft": 1.0, "eyeLookInRight": 1.0}
    seen = dict(zip(table.columns, presences(shapes, table), strict=True))
    assert (seen["61"], seen["62"]) == (1, 0)


def test_presence_stays_in_its_range_and_names_a_missing_shape():
    table = blendshape_table()
    for value in (0.0, 1.0):
        found = presences(dict.fromkeys(SHAPES, value), table)
        assert min(found) >= 0
        assert max(found) <= 1
    shapes = dict.fromkeys(SHAPES, 0.0) | {"mouthClose": 1.0}
    assert presences(shapes, table)[list(table.columns).index("25")] == 0
    with pytest.raises(DetectorError, match="does not give jawOpen"):
        presences({name: 0 for name in SHAPES if name != "jawOpen"}, table)


def test_mediapipe_itself_sees_each_side():
    pytest.importorskip("mediapipe")
    from auface_diffusers.anatomy import Camera, HeadModel, render, sample_appearances
    from auface_diffusers.facs import AUSet

    try:
        detector = load_detector("mediapipe")
    except DetectorError as error:
        pytest.skip(str(error))
    people, scores = [7001, 7002, 7003], ["0", "L12E", "R12E", "L2E", "L43E", "27E", "18E", "61E", "62E"]
    head, camera = HeadModel.from_default(), Camera.framed("portrait", 256)
    looks, mean = sample_appearances(people, 1, len(people)), {}
    for score in scores:
        aus = [AUSet.parse(score)] * len(people)
        with torch.no_grad():
            images = render(head(people, aus), looks, camera, head.levels(aus)).image.clamp(0, 1)
        pictures = [Image.fromarray((one.permute(1, 2, 0) * 255).byte().numpy()) for one in images]
        mean[score] = dict(zip(detector.columns, np.nanmean(detector(pictures).presence, 0), strict=True))
    for score in scores[1:]:
        rise = {name: value - mean["0"][name] for name, value in mean[score].items()}
        name = score.removesuffix("E")
        assert rise[name] > 0.15
        if name[0] in "LR":
            assert rise[name] > rise[{"L": "R", "R": "L"}[name[0]] + name[1:]] + 0.1
    assert mean["61E"]["61"] > mean["61E"]["62"]
    assert mean["62E"]["62"] > mean["62E"]["61"]


# --- packages that are not there -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "missing", "said"),
    [
        ("pyfeat", "feat", r"auface\[pyfeat\]"),
        ("openface3", "openface.face_detection", "openface-test.*non-commercial"),
        ("libreface", "libreface", "pip install --no-deps libreface.*USC"),
    ],
)
def test_a_missing_package_says_how_to_install_it(monkeypatch, name, missing, said):
    monkeypatch.setitem(sys.modules, missing, None)  # importing it fails
    with pytest.raises(DetectorError, match=said):
        load_detector(name)


def test_without_mediapipe_it_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    (tmp_path / "face_landmarker.task").write_bytes(b"a model")
    with pytest.raises(DetectorError, match=r"mediapipe cannot be imported.*auface\[photos\]"):
        load_detector("mediapipe", task=tmp_path / "face_landmarker.task")

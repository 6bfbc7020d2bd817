"""Control images against the published formats: pixels, colours, points and JSON."""

import json
import math

import numpy as np
import pytest
import torch

from auface_diffusers.anatomy import control_draw, control_points, control_surface
from auface_diffusers.anatomy.camera import Camera
from auface_diffusers.anatomy.control import KINDS, control_image, pose_keypoints
from auface_diffusers.anatomy.control_surface import PARTS
from auface_diffusers.anatomy.control_view import CameraView
from auface_diffusers.anatomy.head import HeadModel
from auface_diffusers.facs import AUSet, units

SMILE = AUSet.parse("12E")


@pytest.fixture(scope="module")
def head():
    return HeadModel.from_default()


def score(text):
    return AUSet.parse(text or "0")


def pixels(image):
    """(H, W, 3) of one image in 0..255."""
    assert len(image) == 1
    scaled = image[0].permute(1, 2, 0) * 255
    return scaled.round().byte().numpy()


def colours(image):
    return {tuple(colour) for colour in np.unique(image.reshape(-1, 3), axis=0).tolist()}


def part(head, aus, name, **options):
    """Pixels (H, W) that show a part."""
    image = pixels(control_image(aus, "parts", 256, head=head, **options))
    return (image == PARTS[name]).all(-1)


def photo(head, identity=11, pose=(20.0, 5.0, 8.0), size=512):
    """Landmarks (68, 2) as a photo of somebody else would have them."""
    return Camera(size).project(head(identity, pose=pose).landmarks68)[0, :, :2]


# Drawing: bitmaps made with OpenCV 4.11 (cv2.circle, cv2.line, cv2.ellipse2Poly + cv2.fillConvexPoly)

DISCS = {3: [3, 2, 2, 0], 4: [4, 3, 3, 2, 0], 10: [10, 9, 9, 9, 9, 8, 8, 7, 6, 4, 0]}  # half widths by row
LINES = {
    (5, 5, 12, 5): [(4, 5, 12), (5, 4, 13), (6, 5, 12)],
    (6, 4, 6, 9): [(3, 6, 6), *((row, 5, 7) for row in range(4, 10)), (10, 6, 6)],
    (3, 3, 14, 9): [
        (2, 3, 3), (3, 2, 5), (4, 3, 7), (5, 4, 9), (6, 6, 11), (7, 8, 13), (8, 10, 14), (9, 12, 15), (10, 14, 14),
    ],
    (12, 2, 4, 13): [
        (1, 11, 12), (2, 10, 13), (3, 10, 13), (4, 9, 12), (5, 8, 11), (6, 8, 11), (7, 7, 10), (8, 6, 9), (9, 5, 8),
        (10, 5, 8), (11, 4, 7), (12, 3, 6), (13, 3, 6), (14, 4, 5),
    ],
    (7, 7, 7, 7): [(6, 7, 7), (7, 6, 8), (8, 7, 7)],
}  # fmt: skip
LIMB = [
    (7, 12, 14), (8, 11, 18), (9, 10, 20), (10, 10, 22), (11, 11, 24), (12, 11, 25), (13, 12, 26), (14, 13, 27),
    (15, 14, 28), (16, 15, 29), (17, 16, 29), (18, 18, 30), (19, 20, 30), (20, 22, 29), (21, 26, 28),
]  # fmt: skip


def spans(image):
    painted = image.any(-1)
    for row in np.flatnonzero(painted.any(1)):
        columns = np.flatnonzero(painted[row])
        assert len(columns) == columns[-1] - columns[0] + 1
        yield int(row), int(columns[0]), int(columns[-1])


@pytest.mark.parametrize("radius", DISCS)
def test_disc(radius):
    image = control_draw.canvas((25, 25))
    control_draw.disc(image, 12.9, 12.0, radius, (1, 2, 3))
    rows = [(12 + dy, 12 - DISCS[radius][abs(dy)], 12 + DISCS[radius][abs(dy)]) for dy in range(-radius, radius + 1)]
    assert list(spans(image)) == rows
    assert colours(image) == {(0, 0, 0), (1, 2, 3)}


@pytest.mark.parametrize("line", LINES)
def test_line_of_thickness_two(line):
    image = control_draw.canvas((16, 18))
    control_draw.thick_line(image, line[:2], line[2:], (9, 9, 9))
    expected = np.zeros((16, 18), dtype=bool)
    for row, first, last in LINES[line]:
        expected[row, first : last + 1] = True
    assert (image.any(-1) != expected).sum() <= 2  # OpenCV's fixed-point numbers can round the other way


def test_limb():
    image = control_draw.canvas((40, 40))
    control_draw.limb(image, (10, 8), (30, 20), 4, (9, 9, 9))
    assert list(spans(image)) == LIMB


def test_drawing_is_clipped_at_the_edges():
    image = control_draw.canvas((10, 12))
    control_draw.disc(image, -1, 4, 3, (1, 1, 1))
    control_draw.square(image, 12, 10, 2, (1, 1, 1))
    control_draw.limb(image, (-5, 5), (30, 5), 4, (1, 1, 1))
    control_draw.thick_line(image, (6, -5), (6, 20), (2, 2, 2))
    assert (image[:, 6] == 2).all()
    assert image[9, 11, 0] == 1


# --- OpenPose --------------------------------------------------------------------------------------------------------


def test_openpose_face_is_seventy_white_discs(head):
    image = pixels(control_image(None, "openpose_face", head=head))
    expected = control_draw.canvas((512, 512))
    mesh = head()
    for x, y, _ in Camera(512).project(torch.cat([mesh.landmarks68, mesh.pupils], 1))[0].tolist():
        control_draw.disc(expected, int(x), int(y), 3, (255, 255, 255))
    assert np.array_equal(image, expected)


def test_openpose_shows_the_head_of_the_body_and_the_face_on_top(head):
    image = pixels(control_image(None, head=head))  # openpose is the default
    face = pixels(control_image(None, "openpose_face", head=head)) > 0
    assert (image[face] == 255).all()
    limbs = {(0, 0, 153), (51, 0, 153), (102, 0, 153), (153, 0, 153), (153, 0, 102)}  # 60 % of colours 12-16
    assert limbs < colours(image)
    assert colours(image) <= limbs | {(0, 0, 0), (255, 255, 255)} | set(control_points.BODY_COLOURS)
    neck = np.argwhere((image == (255, 85, 0)).all(-1)).mean(0)
    assert neck[0] > np.argwhere(face.any(-1))[:, 0].max()
    assert neck[1] == pytest.approx(256, abs=1)


def test_pose_keypoints_format(head):
    frames = pose_keypoints([SMILE, AUSet()], (512, 640), head=head)
    assert len(frames) == 2
    for frame in frames:
        assert set(frame) == {"people", "canvas_height", "canvas_width"}
        assert (frame["canvas_height"], frame["canvas_width"]) == (512, 640)
        (person,) = frame["people"]
        assert person["hand_left_keypoints_2d"] is person["hand_right_keypoints_2d"] is None
        face = np.array(person["face_keypoints_2d"]).reshape(70, 3)
        body = np.array(person["pose_keypoints_2d"]).reshape(18, 3)
        assert (face[:, 2] == 1).all()
        assert np.flatnonzero(body[:, 2]).tolist() == [0, 1, 14, 15, 16, 17]
        assert (body[body[:, 2] == 0] == 0).all()
        assert np.array_equal(face[68:], body[14:16])  # as DWPose fills the two points of its 70 that it does not find
        assert body[14, 0] < body[0, 0] < body[15, 0]  # the person's right eye is on the image's left
        assert body[16, 0] < body[14, 0]
        assert body[17, 0] > body[15, 0]
    assert json.loads(json.dumps(frames)) == frames
    shares = pose_keypoints([SMILE, AUSet()], (512, 640), head=head, normalized=True)
    for kind, count in (("face", 70), ("pose", 18)):
        pair = [np.array(f[0]["people"][0][f"{kind}_keypoints_2d"]).reshape(count, 3) for f in (frames, shares)]
        assert np.allclose(pair[0], pair[1] * [640, 512, 1], atol=1e-3)
        assert pair[1].max() <= 1


def test_keypoints_are_what_the_picture_shows(head):
    (frame,) = pose_keypoints(SMILE, head=head)
    expected = control_draw.canvas((512, 512))
    for x, y, seen in np.array(frame["people"][0]["face_keypoints_2d"]).reshape(70, 3):
        assert seen
        control_draw.disc(expected, int(x), int(y), 3, (255, 255, 255))
    assert np.array_equal(pixels(control_image(SMILE, "openpose_face", head=head)), expected)


def test_points_outside_the_image_are_missing(head):
    close = Camera(height=0.6, center=(0.3, 0.0, 0.1))
    (frame,) = pose_keypoints(None, camera=close, head=head)
    face = np.array(frame["people"][0]["face_keypoints_2d"]).reshape(70, 3)
    assert 0 < face[:, 2].sum() < 70
    assert (face[face[:, 2] == 0] == 0).all()
    for kind in KINDS:
        assert control_image(None, kind, 64, camera=close, head=head).isfinite().all()


# --- MediaPipe -------------------------------------------------------------------------------------------------------

MEDIAPIPE = {  # RGB
    "oval": (10, 200, 10), "lips": (10, 180, 10), "right eye": (180, 200, 10), "right brow": (180, 220, 10),
    "left eye": (10, 200, 180), "left brow": (10, 220, 180),
}  # fmt: skip
RIGHT_PUPIL, LEFT_PUPIL = (250, 200, 10), (10, 200, 250)


def test_mediapipe_edges():
    lines = control_points.mediapipe_spec()["lines"]
    assert {name: tuple(group["colour"]) for name, group in lines.items()} == MEDIAPIPE
    counts = {name: len(group["edges"]) for name, group in lines.items()}
    assert counts == {"oval": 36, "lips": 40, "right eye": 16, "left eye": 16, "right brow": 8, "left brow": 8}
    edges = [tuple(edge) for group in lines.values() for edge in group["edges"]]
    assert len(set(edges)) == 124
    assert all(0 <= point < 468 for edge in edges for point in edge)
    for name in ("oval", "right eye", "left eye"):  # closed: each point has one line in and one out
        starts, ends = zip(*lines[name]["edges"], strict=True)
        assert sorted(starts) == sorted(ends) or len(set(starts) | set(ends)) == len(starts)
    pupils = control_points.mediapipe_spec()["pupils"]
    assert (pupils["right"]["point"], pupils["left"]["point"]) == (468, 473)


def test_mediapipe_picture(head):
    image = pixels(control_image(None, "mediapipe_face", head=head))
    assert colours(image) == {(0, 0, 0), *MEDIAPIPE.values(), RIGHT_PUPIL, LEFT_PUPIL}
    where = {name: np.argwhere((image == colour).all(-1)).mean(0) for name, colour in MEDIAPIPE.items()}
    for name in ("eye", "brow"):
        assert where[f"right {name}"][1] < 256 < where[f"left {name}"][1]
        assert where[f"right {name}"][0] < where["lips"][0]
    pupils = Camera(512).project(head().pupils)[0]
    for colour, (x, y, _) in zip((RIGHT_PUPIL, LEFT_PUPIL), pupils.tolist(), strict=True):
        found = np.argwhere((image == colour).all(-1))
        assert found.min(0).tolist() == [int(y) - 2, int(x) - 2]
        assert found.max(0).tolist() == [int(y) + 1, int(x) + 1]
        assert len(found) == 16


def test_gaze_moves_the_pupils_alone(head):
    straight, left = (pixels(control_image(a, "mediapipe_face", head=head)) for a in (None, AUSet.parse("61E")))
    for colour in (RIGHT_PUPIL, LEFT_PUPIL):
        before, after = (np.argwhere((image == colour).all(-1))[:, 1].mean() for image in (straight, left))
        assert after > before + 4  # to the person's left: the image's right
    for name in ("oval", "lips", "right brow", "left brow"):
        assert ((straight == MEDIAPIPE[name]).all(-1) == (left == MEDIAPIPE[name]).all(-1)).all()


# --- InstantID -------------------------------------------------------------------------------------------------------


def test_instantid(head):
    image = pixels(control_image(None, "instantid", head=head))
    points = Camera(512).project(head().landmarks68)[0, :, :2]
    five = [points[36:42].mean(0), points[42:48].mean(0), points[30], points[48], points[54]]
    five_colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255)]
    expected = control_draw.canvas((512, 512))
    for start, dim in ((0, (153, 0, 0)), (1, (0, 153, 0)), (3, (153, 153, 0)), (4, (153, 0, 153))):
        control_draw.limb(expected, five[start].tolist(), five[2].tolist(), 4, dim)
    for point, colour in zip(five, five_colours, strict=True):
        control_draw.disc(expected, *point.tolist(), 10, colour)
    assert np.array_equal(image, expected)
    assert five[0][0] < five[2][0] < five[1][0]


# --- surfaces --------------------------------------------------------------------------------------------------------


class Sphere:
    """As much of a mesh as a normal map needs."""

    def __init__(self, steps=64):
        theta, phi = torch.meshgrid(
            torch.linspace(0.01, math.pi - 0.01, steps), torch.arange(steps) * 2 * math.pi / steps, indexing="ij"
        )
        points = torch.stack([theta.sin() * phi.cos(), theta.cos(), theta.sin() * phi.sin()], -1)
        self.vertices = points.reshape(1, -1, 3)
        self.normals = self.vertices
        grid = torch.arange(steps * steps).view(steps, steps)
        a, b, c, d = grid[:-1], grid[1:], grid[:-1].roll(-1, 1), grid[1:].roll(-1, 1)
        both = torch.cat([torch.stack([a, b, c], -1).view(-1, 3), torch.stack([c, b, d], -1).view(-1, 3)])
        self.triangles = torch.cat([both, both.flip(1)])  # whichever way round is the outside


def test_normal_signs_on_a_sphere(head, monkeypatch):
    def look(head, mesh, view, size):
        found = control_surface.rasterize(view.project(mesh.vertices), mesh.triangles, size)
        return control_surface.Seen(found, torch.arange(len(mesh.triangles)))

    monkeypatch.setattr(control_surface, "_look", look)
    view = CameraView.fit(Camera(distance=100.0, height=2.2, center=(0.0, 0.0, 0.0)), (101, 101))
    image = control_surface.normal(head, Sphere(), view, (101, 101))[0]
    r = 45.0
    for row, column, expected in (  # BAE: red is left, green is top, blue is front
        (50, 50, (0.5, 0.5, 1.0)),
        (50, 10, (0.94, 0.5, 0.5 + 0.5 * math.sqrt(1 - (40 / r) ** 2))),
        (50, 90, (0.06, 0.5, 0.5 + 0.5 * math.sqrt(1 - (40 / r) ** 2))),
        (10, 50, (0.5, 0.94, 0.5 + 0.5 * math.sqrt(1 - (40 / r) ** 2))),
        (90, 50, (0.5, 0.06, 0.5 + 0.5 * math.sqrt(1 - (40 / r) ** 2))),
    ):
        assert image[:, row, column].tolist() == pytest.approx(expected, abs=0.05), (row, column)
    assert image[:, 0, 0].tolist() == [0.5, 0.5, 1.0]  # the background faces the viewer


@pytest.mark.parametrize("kind", ["normal", "depth", "heatmap"])
def test_outlines_are_soft(head, kind, monkeypatch):
    soft = control_image(SMILE, kind, 128, head=head)
    monkeypatch.setattr(control_surface, "STEP", math.inf)
    hard = control_image(SMILE, kind, 128, head=head)
    changed = (soft - hard).abs().amax(1)[0] > 1e-6
    assert 0.005 < changed.float().mean() < 0.15, "few pixels are on an outline"
    steps = [image.diff(dim=-1).abs().flatten(1).topk(200).values.mean() for image in (hard, soft)]
    assert steps[1] < 0.75 * steps[0]


def test_normals_are_unit_vectors(head):
    image = control_image(SMILE, "normal", 256, head=head, identity=4)
    inside = part(head, SMILE, "skin", identity=4)
    length = (image[0] * 2 - 1).norm(dim=0).numpy()[inside]
    assert np.median(length) == pytest.approx(1, abs=1e-3)
    assert length.max() < 1 + 1e-5


@pytest.mark.parametrize("size", [32, 64, 512])
def test_the_nearest_point_is_white_at_every_size(head, size):
    assert control_image(None, "depth", size, head=head).max() == 1


def test_depth_is_near_white(head):
    image = control_image(None, "depth", 256, head=head)[0]
    assert torch.equal(image[0], image[1])
    assert torch.equal(image[0], image[2])
    assert image.min() == 0
    assert image.max() == pytest.approx(1)
    nose = Camera(256).project(head().landmarks68)[0, 30]
    assert image[0, int(nose[1]), int(nose[0])] > 0.99
    hit = (pixels(control_image(None, "parts", 256, head=head)) != 0).any(-1)
    depth = image[0].numpy()
    assert depth[part(head, None, "nose")].mean() > depth[part(head, None, "skin")].mean() > 0
    assert depth[part(head, None, "skin")].mean() > depth[part(head, None, "neck")].mean()
    assert np.median(depth[hit]) > 0.3
    assert depth[0, 0] == 0


def test_parts_have_the_published_colours(head):
    assert len(set(PARTS.values())) == len(PARTS)
    published = {"skin": (0, 153, 255), "nose": (255, 102, 255), "upper lip": (102, 0, 51), "lower lip": (255, 0, 102),
                 "inner mouth": (255, 204, 255), "right eye": (0, 204, 153), "left eye": (255, 153, 0)}  # fmt: skip
    assert {name: PARTS[name] for name in published} == published
    image = pixels(control_image(AUSet.parse("27E+10D"), "parts", 512, head=head))
    assert colours(image) <= set(PARTS.values())
    assert colours(image) >= {PARTS[name] for name in set(PARTS) - {"inner mouth", "lower teeth"}}


def test_parts_lie_where_they_should(head):
    image = pixels(control_image(None, "parts", 256, head=head))
    found = {name: np.argwhere((image == colour).all(-1)) for name, colour in PARTS.items()}
    centre = {name: where.mean(0) for name, where in found.items() if len(where)}
    rows = ["left brow", "left eye", "nose", "upper lip", "lower lip", "neck"]
    assert [name for name in sorted(rows, key=lambda name: centre[name][0])] == rows
    for name in ("eye", "brow"):
        assert centre[f"right {name}"][1] < 128 < centre[f"left {name}"][1]
    ears = found["ears"][:, 1]
    assert ((ears < 90) | (ears > 166)).all()


@pytest.mark.parametrize("identity", [None, 0, 1, 2, 3])
def test_parts_follow_the_units(head, identity):
    def area(text, *names):
        image = pixels(control_image(score(text), "parts", 256, head=head, identity=identity))
        return sum((image == PARTS[name]).all(-1).sum() for name in names)

    inside = ("inner mouth", "upper teeth", "lower teeth", "tongue")
    assert area("27E", *inside) > area("26E", *inside) > 3 * max(1, area("24E", *inside))
    assert area("5E", "left eye", "right eye") > 1.15 * area("", "left eye", "right eye")
    assert area("43E", "left eye", "right eye") == 0
    assert area("L46E", "left eye") == 0
    assert area("L46E", "right eye") == area("", "right eye")
    assert area("28E", "upper lip", "lower lip") < 0.6 * area("", "upper lip", "lower lip")


def test_heatmap_is_grey_without_units_and_warm_where_they_act(head):
    def warmth(text):
        image = control_image(score(text), "heatmap", 256, head=head)[0]
        return (image[0] - image[2]).numpy()

    assert np.abs(warmth("")).max() < 1e-6
    brow = Camera(256).project(head().landmarks68)[0, [21, 22, 48], :2].int().tolist()
    full, trace = warmth("L1E"), warmth("L1A")
    (x, y) = brow[1]
    around = (slice(y - 8, y + 2), slice(x - 2, x + 4))
    assert full[around].max() > trace[around].max() > 0.05
    assert np.abs(full[:, :110]).max() < 1e-6  # the person's right
    assert warmth("12C")[brow[2][1], brow[2][0]] > 0.1
    eye = part(head, AUSet.parse("61C"), "left eye")
    assert warmth("61C")[eye].max() > 0.1


def test_activation_is_the_level_where_a_unit_moves_most(head):
    levels = torch.zeros(2, len(units.channels))
    levels[0, head.channel["L12"]] = 2.5
    heat = control_surface.activation(head, levels)
    assert heat[0].max() == pytest.approx(0.5)
    assert (heat[1] == 0).all()
    assert (heat[0, head.vertices[:, 0] < -0.15] == 0).all()


# --- all kinds -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_contract(head, kind):
    image = control_image([SMILE, AUSet.parse("4C")], kind, (96, 128), head=head, identity=3, pose=(10, 0, 0))
    assert image.shape == (2, 3, 96, 128)
    assert image.dtype == torch.float32
    assert image.is_contiguous()
    assert not image.requires_grad
    assert image.min() >= 0
    assert image.max() <= 1
    one = control_image(AUSet.parse("4C"), kind, (96, 128), head=head, identity=3, pose=(10, 0, 0))
    assert torch.allclose(image[1:], one, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_image_is_the_square_one_with_more_on_the_sides(head, kind):
    wide = control_image(SMILE, kind, (64, 96), head=head)
    square = control_image(SMILE, kind, 64, head=head)
    # the face alone: the neck reaches out of a square; a pixel of rounding may differ
    assert ((wide[..., 16:80] - square).abs() > 0.1).float().mean() < 0.01


@pytest.mark.parametrize("kind", ["normal", "depth", "heatmap"])  # the others colour left and right differently
def test_the_mirrored_score_gives_the_mirrored_picture(head, kind):
    aus = AUSet.parse("L12D+R2C")
    # from further away than usual: what differs are pixels along outlines, whose share grows with the face
    camera = Camera(size=128, height=3.4)
    one, other = (control_image(x, kind, 128, head=head, camera=camera) for x in (aus, aus.mirror()))
    if kind == "normal":
        other = torch.cat([1 - other[:, :1], other[:, 1:]], 1)
    if kind == "heatmap":  # the light comes from one side
        one, other = ((x[:, 0] - x[:, 2]) > 0.1 for x in (one, other))
    assert ((one.float() - other.float().flip(-1)).abs() > 0.1).float().mean() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_zero_is_identity(head, kind):
    nothing = torch.zeros(1, len(units.channels))
    first = control_image(None, kind, 96, head=head)
    for aus in (AUSet(), nothing):
        assert torch.equal(control_image(aus, kind, 96, head=head), first)


# --- photos ----------------------------------------------------------------------------------------------------------


def test_without_units_the_photos_points_stay(head):
    points = photo(head)
    (frame,) = pose_keypoints(None, landmarks68=points, head=head)
    face = torch.tensor(frame["people"][0]["face_keypoints_2d"]).view(70, 3)
    assert torch.equal(face[:68, :2], points)
    body = torch.tensor(frame["people"][0]["pose_keypoints_2d"]).view(18, 3)
    truth = Camera(512).project(head(11, pose=(20.0, 5.0, 8.0)).pupils)[0, :, :2]
    assert (body[14:16, :2] - truth).norm(dim=1).max() < 6
    assert torch.equal(body[0, :2], points[30])


@pytest.mark.parametrize("text", ["12E", "1E+2E+26E", "L12E+R46", "4E+15D"])
@pytest.mark.parametrize("pose", [(0.0, 0.0, 0.0), (25.0, -8.0, 10.0), (-20.0, 10.0, -15.0)])
def test_units_move_the_photos_points_as_they_would_that_head(head, text, pose):
    aus = score(text)
    for identity in (2, 11):
        before = photo(head, identity, pose)
        truth = Camera(512).project(head(identity, aus, pose=pose).landmarks68)[0, :, :2]
        (frame,) = pose_keypoints(aus, landmarks68=before, head=head)
        after = torch.tensor(frame["people"][0]["face_keypoints_2d"]).view(70, 3)[:68, :2]
        wanted, found = truth - before, after - before
        assert (found - wanted).norm(dim=1).max() < 0.25 * wanted.norm(dim=1).max() + 0.5


def test_a_turn_is_added_to_the_photos_pose(head):
    points = photo(head, pose=(0.0, 0.0, 0.0))
    by_pose = pose_keypoints(None, landmarks68=points, pose=(20, 0, 0), head=head)
    nose = torch.tensor(by_pose[0]["people"][0]["face_keypoints_2d"]).view(70, 3)[30, :2]
    assert nose[0] > points[30, 0] + 10


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_takes_a_photo(head, kind):
    points = torch.stack([photo(head, 11), photo(head, 5, (-10.0, 0, 0))])
    image = control_image(SMILE, kind, (512, 600), landmarks68=points, head=head)
    assert image.shape == (2, 3, 512, 600)
    # the drawn face lies where the landmarks are
    background = 0.0 if kind != "normal" else torch.tensor([0.5, 0.5, 1.0]).view(3, 1, 1)
    drawn = ((image[0] - background).abs() > 0.02).any(0).nonzero().float()
    low, high = points[0].amin(0).flip(0), points[0].amax(0).flip(0)
    assert (drawn.mean(0) > low).all()
    assert (drawn.mean(0) < high).all()


def test_rendered_parts_fit_the_photo(head):
    points = photo(head, 11, size=256)
    eye = np.argwhere(part(head, None, "left eye", landmarks68=points)).mean(0)
    assert np.abs(eye - points[42:48].mean(0).numpy()[::-1]).max() < 4


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "canny"}, "there are openpose, .*heatmap"),
        ({"size": 0}, "size"),
        ({"size": 100_000}, "size"),
        ({"size": (64, 64, 3)}, "size"),
        ({"size": (64.0, 64.0)}, "size"),
        ({"landmarks68": torch.zeros(68, 2)}, "no face"),
        ({"landmarks68": torch.rand(1, 68, 2) * torch.tensor([100.0, 0.0])}, "no face"),
        ({"landmarks68": torch.full((68, 2), math.nan)}, "finite"),
        ({"landmarks68": torch.rand(68, 3)}, "landmarks68"),
        ({"landmarks68": torch.rand(70, 2)}, "landmarks68"),
        ({"landmarks68": torch.rand(3, 68, 2) * 100, "aus": [SMILE, SMILE]}, "batch sizes differ"),
        ({"landmarks68": torch.rand(68, 2) * 100, "camera": Camera()}, "exclude"),
        ({"pose": (math.nan, 0, 0)}, "pose"),
        ({"aus": AUSet.parse("U12C")}, "side"),
    ],
)
def test_bad_input_is_refused(head, arguments, message):
    with pytest.raises(ValueError, match=message):
        control_image(**{"aus": SMILE, "head": head, **arguments})

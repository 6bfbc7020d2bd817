"""Geometry of the head: which of the iBUG-68 points an action unit moves, which way, and which stay."""

import math

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from auface_diffusers.anatomy.asset import PATH, AssetError, load_asset
from auface_diffusers.anatomy.head import HeadModel, rotation_matrix
from auface_diffusers.anatomy.identity import CODE_SIZE, neutral_code, sample_identity
from auface_diffusers.facs import AUSet, units

IDENTITIES = [0, 1, 2, 3]
MM = 0.01  # dm
STILL = 1.0  # mm: less is not seen as motion
MIRROR68 = [
    *range(16, -1, -1), *range(26, 16, -1), 27, 28, 29, 30, 35, 34, 33, 32, 31, 45, 44, 43, 42, 47, 46, 39, 38, 37, 36,
    41, 40, 54, 53, 52, 51, 50, 49, 48, 59, 58, 57, 56, 55, 64, 63, 62, 61, 60, 67, 66, 65,
]  # fmt: skip
RIGHT_BROW, RIGHT_EYE, RIGHT_CORNER = range(17, 22), range(36, 42), (48, 60)  # the person's right: the image's left
BROWS, EYES, NOSE, MOUTH, JAW = range(17, 27), range(36, 48), range(27, 36), range(48, 68), range(17)

UP, DOWN, OUT, IN, FORWARD, BACK = ("y", 1), ("y", -1), ("side", 1), ("side", -1), ("z", 1), ("z", -1)

# Unit: the points that move at level E (on the person's right or on the midline: the left mirrors them), which way,
# and by how many millimetres at least.
MOVES = {
    "1": [((21,), UP, 4)],
    "2": [((17,), UP, 2), ((18,), UP, 4)],
    "4": [((19, 20, 21), DOWN, 3), ((21,), IN, 3)],
    "5": [((37, 38), UP, 2)],
    "6": [((40, 41), UP, 1)],
    "7": [((40, 41), UP, 2), ((37, 38), DOWN, 0.5)],
    "8": [((61, 62, 63), DOWN, 1), ((65, 66, 67), UP, 1)],
    "9": [((31, 32), UP, 2), ((50, 51), UP, 1), ((20, 21), DOWN, 1)],
    "10": [((50, 51, 61, 62), UP, 3)],
    "11": [((49, 50), UP, 0.5)],
    "12": [((48, 60), UP, 6), ((48, 60), OUT, 4), ((48, 60), BACK, 1)],
    "13": [((48, 60), UP, 6)],
    "14": [((48, 60), BACK, 2)],
    "15": [((48, 60), DOWN, 5)],
    "16": [((56, 57, 58, 65, 66, 67), DOWN, 3)],
    "17": [((56, 57, 58, 65, 66, 67), UP, 3)],
    "18": [((48,), IN, 3), ((50, 51, 52, 56, 57, 58), FORWARD, 3)],
    "20": [((48, 60), OUT, 5)],
    "22": [((48,), IN, 1), ((51, 57, 62, 66), FORWARD, 1)],
    "23": [((50, 51, 52), DOWN, 1), ((56, 57, 58), UP, 1)],
    "24": [((61, 62, 63), DOWN, 1), ((65, 66, 67), UP, 1), ((57,), UP, 1)],
    "25": [((61, 62, 63), UP, 1), ((65, 66, 67), DOWN, 2)],
    "26": [((6, 7, 8), DOWN, 6), ((56, 57, 58, 65, 66, 67), DOWN, 8)],
    "27": [((6, 7, 8), DOWN, 15), ((56, 57, 58, 65, 66, 67), DOWN, 20), ((48,), DOWN, 3), ((48,), IN, 1)],
    "28": [((50, 51, 52), DOWN, 3), ((56, 57, 58), UP, 3), ((62, 66), BACK, 3)],
    "29": [((6, 7, 8), FORWARD, 5)],
    "33": [((3,), FORWARD, 1)],
    "34": [((3,), FORWARD, 2)],
    "35": [((3,), BACK, 1)],
    "38": [((31,), OUT, 0.7)],
    "39": [((31,), IN, 1)],
    "41": [((37, 38), DOWN, 2)],
    "42": [((37, 38), DOWN, 6)],
    "43": [((37, 38), DOWN, 9)],
    "44": [((37, 38), DOWN, 1), ((40, 41), UP, 2)],
    "45": [((37, 38), DOWN, 9)],
}
# Regions of the face whose points a unit leaves alone. AU9 reaches from the brow to the lip and has no entry.
STAYS = {
    **dict.fromkeys(("1", "2"), (NOSE, MOUTH, JAW)),
    "4": (range(29, 36), MOUTH, JAW),  # procerus takes the root of the nose along
    **dict.fromkeys(("5", "6", "7", "41", "42", "43", "44", "45"), (BROWS, NOSE, MOUTH, JAW)),
    **dict.fromkeys(("8", "10", "11", "13", "14", "15", "16", "20", "23", "24", "25", "26", "27"), (BROWS, EYES)),
    **dict.fromkeys(("17", "18", "22", "28", "29", "33", "34", "35"), (BROWS, EYES)),
    **dict.fromkeys(("19", "38", "39"), (BROWS, EYES, MOUTH, JAW)),
    "12": (BROWS,),
    "21": (BROWS, EYES, NOSE),
}
SHAPED = [name for name in units.channels if int(name.strip("LR:TB")) not in (37, *range(51, 70))]


@pytest.fixture(scope="module")
def head():
    return HeadModel.from_default()


@pytest.fixture(scope="module")
def rest(head):
    return head(IDENTITIES)


def moved(head, rest, text, **options):
    """Motion (4, 68, 3) of the landmarks in mm."""
    mesh = head(IDENTITIES, AUSet.parse(text), **options)
    return (mesh.landmarks68 - rest.landmarks68) / MM


def along(motion, direction):
    """Motion (4, n) along a direction, for points of the person's right."""
    axis, sign = direction
    return motion[..., "xyz".index(axis)] * sign if axis != "side" else -motion[..., 0] * sign


@pytest.mark.parametrize("code", MOVES)
def test_a_unit_moves_its_points_its_way(head, rest, code):
    motion = moved(head, rest, f"{code}E")
    flip = torch.tensor([-1.0, 1.0, 1.0])
    for points, direction, least in MOVES[code]:
        for side in (motion[:, list(points)], motion[:, [MIRROR68[p] for p in points]] * flip):
            assert along(side, direction).min() >= least, (points, direction)


@pytest.mark.parametrize("code", STAYS)
def test_a_unit_leaves_the_other_regions_alone(head, rest, code):
    length = moved(head, rest, f"{code}E").norm(dim=-1)
    for region in STAYS[code]:
        worst = length[:, list(region)].max(0)[0]
        assert worst.max() < STILL, dict(zip(region, worst.tolist(), strict=True))


def test_inner_and_outer_brow_are_apart(head, rest):
    inner, outer = moved(head, rest, "1E"), moved(head, rest, "2E")
    assert inner[:, [17, 26]].norm(dim=-1).max() < STILL
    assert outer[:, [21, 22]].norm(dim=-1).max() < STILL


def test_the_lips_part_and_meet(head, rest):
    def gap(text):
        points = head(IDENTITIES, AUSet.parse(text)).landmarks68
        return (points[:, 62, 1] - points[:, 66, 1]) / MM

    still = (rest.landmarks68[:, 62, 1] - rest.landmarks68[:, 66, 1]) / MM
    assert (gap("25E") > still + 3).all()
    assert (gap("26E") > still + 8).all()
    assert (gap("27E") > gap("26E") + 8).all()
    for pressed in ("24E", "8E+26E", "24E+26E"):  # a lowered jaw does not part lips that are held together
        assert (gap(pressed) < still).all(), pressed


def test_the_lids_meet(head, rest):
    upper, lower = (
        head(IDENTITIES, AUSet.parse("43E")).landmarks68[:, [[37, 38, 43, 44], [41, 40, 47, 46]], 1].unbind(1)
    )
    open_eye = (rest.landmarks68[:, [37, 38, 43, 44], 1] - rest.landmarks68[:, [41, 40, 47, 46], 1]).abs()
    assert ((upper - lower).abs() < 0.2 * open_eye).all(), (upper - lower) / MM


@pytest.mark.parametrize("side", ["L", "R"])
def test_a_wink_closes_one_eye(head, rest, side):
    length = moved(head, rest, f"{side}46E").norm(dim=-1)
    closed, other = ([43, 44], list(RIGHT_EYE)) if side == "L" else ([37, 38], list(range(42, 48)))
    assert length[:, closed].min() > 9
    assert length[:, other].max() < 0.01


@pytest.mark.parametrize("code", [c for c in units if units[c].parts == "sides" and f"L{c}" in SHAPED and c != "30"])
def test_left_is_the_persons_left(head, rest, code):
    mesh = head(IDENTITIES, AUSet.parse(f"L{code}E"))
    motion = (mesh.vertices - rest.vertices).norm(dim=-1)
    right = rest.vertices[..., 0] < -0.15  # x grows to the person's left; the middle may follow
    assert motion[right].max() < STILL * MM
    assert motion[~right].max() > 0.5 * MM
    points = (mesh.landmarks68 - rest.landmarks68).norm(dim=-1)
    assert points[:, [*range(7), *RIGHT_BROW, *RIGHT_EYE, *RIGHT_CORNER]].max() < STILL * MM


def test_the_jaw_goes_to_the_named_side(head, rest):
    assert moved(head, rest, "L30E")[:, 6:11, 0].min() > 4
    assert moved(head, rest, "R30E")[:, 6:11, 0].max() < -4


@pytest.mark.parametrize("text", ["L1E", "L12D+R46", "L30C+26E+4B", "L2E+R14C+17D", "61D+L5E", "51C+55E+R10E", "65E"])
def test_the_mirrored_score_gives_the_mirrored_face(head, text):
    aus = AUSet.parse(text)
    flip = torch.tensor([-1.0, 1.0, 1.0])
    mirror = head.asset.mirror
    rest = head().vertices[0]
    assert (rest[mirror] * flip - rest).abs().max() < 1e-6  # the average head is symmetric
    one, other = head(aus=aus), head(aus=aus.mirror())
    assert (one.vertices[0, mirror] * flip - other.vertices[0]).abs().max() < 1e-5
    assert (one.pupils[0, [1, 0]] * flip - other.pupils[0]).abs().max() < 1e-5


def test_landmarks_are_symmetric(head):
    points = head().landmarks68[0]
    assert (points[MIRROR68] * torch.tensor([-1.0, 1.0, 1.0]) - points).norm(dim=-1).max() < 2 * MM


def test_no_unit_is_the_neutral_face(head, rest):
    nothing = torch.zeros(len(IDENTITIES), len(units.channels))
    for aus in (None, AUSet(), nothing):
        mesh = head(IDENTITIES, aus, pose=(0, 0, 0), gaze=(0, 0))
        assert torch.equal(mesh.vertices, rest.vertices)
        assert torch.equal(mesh.landmarks68, rest.landmarks68)
    assert (rest.vertices - head.neutral(torch.stack([sample_identity(i) for i in IDENTITIES]))).abs().max() < 1e-5


def test_every_channel_has_a_shape_or_a_turn(head):
    unmoved = set(units.channels) - set(head.moved) - {n for n, i in head.channel.items() if head.turns[i].any()}
    assert unmoved == {"L37", "R37"}  # the tongue wipes inside a closed mouth: nothing to see in a mesh


@pytest.mark.parametrize("name", SHAPED)
def test_motion_grows_with_the_level(head, name):
    levels = torch.zeros(6, len(units.channels))
    levels[:, head.channel[name]] = torch.arange(6.0)
    vertices = head(aus=levels).vertices
    motion = (vertices - vertices[0]).norm(dim=-1).amax(1)
    assert motion[0] == 0
    assert (motion.diff() > 0).all()
    assert motion[5] > 1 * MM


@pytest.mark.parametrize(
    ("text", "right", "left"),
    [
        ("61E", (1, 0), (1, 0)), ("62E", (-1, 0), (-1, 0)), ("63E", (0, 1), (0, 1)), ("64E", (0, -1), (0, -1)),
        ("65E", (-1, 0), (1, 0)), ("66E", (1, 0), (-1, 0)),
    ],
)  # fmt: skip
def test_gaze(head, rest, text, right, left):
    mesh = head(IDENTITIES, AUSet.parse(text))
    for index, expected in enumerate((right, left)):
        for motion in ((mesh.pupils - rest.pupils)[:, index, :2] / MM, mesh.gaze[:, index, :2]):
            for axis in range(2):
                assert (motion[:, axis].sign() == expected[axis]).all() or motion[:, axis].abs().max() < 1e-4
        assert ((mesh.pupils - rest.pupils)[:, index].norm(dim=-1) > 1.5 * MM).all()


def test_the_lid_follows_the_eye(head, rest):
    assert moved(head, rest, "64E")[:, [37, 38, 43, 44], 1].max() < -1
    assert moved(head, rest, "63E")[:, [37, 38, 43, 44], 1].min() > 0.5


def test_gaze_adds_to_units(head):
    by_unit = head(aus=AUSet.parse("61E")).gaze
    yaw = math.degrees(math.asin(by_unit[0, 0, 0]))
    assert torch.allclose(head(gaze=(yaw, 0)).gaze, by_unit, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "points", "axis", "sign"),
    [
        ("51E", [30], 0, 1), ("52E", [30], 0, -1), ("53E", [30], 1, 1), ("54E", [30], 1, -1),
        ("55E", [27], 0, 1), ("56E", [27], 0, -1), ("57E", range(68), 2, 1), ("58E", range(68), 2, -1),
    ],
)  # fmt: skip
def test_head_position(head, rest, text, points, axis, sign):
    assert (moved(head, rest, text)[:, list(points), axis] * sign).min() > 2
    assert (head(aus=AUSet.parse(text)).vertices[0, :, 1].argmin() == head().vertices[0, :, 1].argmin()).item()


def test_a_turned_head_keeps_its_face(head, rest):
    mesh = head(IDENTITIES, AUSet.parse("51C+54B"), pose=(5, 3, -10))
    face = [*range(17, 68)]
    before, after = (torch.cdist(x.landmarks68[:, face], x.landmarks68[:, face]) for x in (rest, mesh))
    assert (before - after).abs().max() < 0.5 * MM


def test_rotation_matrix_is_a_rotation():
    rotation = rotation_matrix(torch.tensor([[30.0, -20.0, 50.0]]))
    assert torch.allclose(rotation @ rotation.transpose(1, 2), torch.eye(3)[None], atol=1e-6)
    assert torch.det(rotation).item() == pytest.approx(1)
    assert (rotation_matrix(torch.tensor([[90.0, 0, 0]]))[0] @ torch.tensor([0.0, 0, 1]))[0] == pytest.approx(1)


def test_identities_differ_and_repeat(head):
    vertices = head([1, 2, 1]).vertices
    assert torch.equal(vertices[0], vertices[2])
    assert (vertices[0] - vertices[1]).abs().max() > 3 * MM
    assert torch.equal(head(neutral_code()).vertices, head().vertices)


def test_batches_broadcast(head):
    aus = [AUSet.parse("12C"), AUSet.parse("4E")]
    both = head(5, aus)
    assert torch.equal(head(5, ["12C", aus[1]]).vertices, both.vertices)
    assert torch.equal(head(5, "12C").vertices, head(5, aus[0]).vertices)
    for index, one in enumerate(aus):
        assert torch.allclose(both.vertices[index], head(5, one).vertices[0], atol=1e-6)
    assert both.normals.norm(dim=-1).sub(1).abs().max() < 1e-4
    with pytest.raises(ValueError, match="batch sizes differ"):
        head([1, 2, 3], aus)


def test_gradients_reach_every_input(head):
    levels = torch.full((1, len(units.channels)), 1.5, requires_grad=True)
    codes = neutral_code()[None].requires_grad_()
    pose = torch.tensor([[5.0, 0.0, 0.0]], requires_grad=True)
    head(codes, levels, pose=pose).landmarks468.square().sum().backward()
    for tensor in (levels, codes, pose):
        assert torch.isfinite(tensor.grad).all()
        assert tensor.grad.abs().sum() > 0


LEVELS = torch.zeros(1, len(units.channels))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"identity": torch.full((1, CODE_SIZE), math.nan)}, "identity code"),
        ({"identity": torch.zeros(1, 7)}, "identity code"),
        ({"identity": torch.zeros(1, CODE_SIZE, dtype=torch.int64)}, "identity code"),
        ({"identity": neutral_code() + 100}, "identity code"),
        ({"pose": (720.0, 0, 0)}, "pose"),
        ({"identity": torch.tensor([0.5] * (CODE_SIZE - 1) + [math.nan])}, "identity code nan"),
        ({"pose": (math.nan, 0, 0)}, "pose nan"),
        ({"pose": (0, 91, 0)}, "pose 91"),
        ({"pose": (1.0, 0)}, "pose"),
        ({"gaze": (0, 91.0)}, "gaze"),
        ({"gaze": (0, 0, 0)}, "gaze"),
        ({"aus": LEVELS.long()}, "levels"),
        ({"aus": LEVELS[:, :-1]}, "levels"),
        ({"aus": LEVELS + 6}, "levels"),
        ({"aus": LEVELS - math.nan}, "levels"),
        ({"aus": AUSet.parse("U12C")}, "side"),
        ({"aus": "12Q"}, "12Q"),
        ({"aus": [12]}, "aus 12: give an AUSet, or codes"),
    ],
)
def test_bad_input_is_refused(head, arguments, message):
    with pytest.raises(ValueError, match=message):
        head(**arguments)


def test_a_damaged_asset_is_refused(tmp_path):
    data = PATH.read_bytes()
    changed = tmp_path / "changed.safetensors"
    changed.write_bytes(data[:-100] + bytes(byte ^ 1 for byte in data[-100:]))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(data[: len(data) // 2])
    foreign = tmp_path / "foreign.safetensors"
    save_file({"weights": torch.zeros(3)}, foreign)
    for path in (changed, cut, foreign, tmp_path / "missing.safetensors"):
        with pytest.raises(AssetError, match=path.name):
            load_asset(path)
    with safe_open(PATH, "pt") as file:
        assert file.metadata()["sha256"]

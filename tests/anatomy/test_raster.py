"""The rasterizer against a slow reference: every pixel and every triangle, in float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auface_diffusers.anatomy.raster import rasterize

EDGE = 1e-4  # of a triangle: nearer to an edge, float32 may decide otherwise


def reference(points, triangles, size, double_sided):
    """For each pixel the distances by triangle (H, W, T), inf where it is not hit, and whether an edge is too near."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    depths, unsure = [], torch.zeros(size, dtype=torch.bool)
    for corners, both in zip(points.double()[triangles], double_sided, strict=True):
        a, b, c = corners
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        hit = torch.zeros(size, dtype=torch.bool)
        depth = torch.full(size, torch.inf, dtype=torch.float64)
        if area != 0 and (area < 0 or both) and (corners[:, 2] > 0).all():
            weights = torch.stack([
                ((q[0] - p[0]) * (y - p[1]) - (q[1] - p[1]) * (x - p[0])) / area for p, q in ((b, c), (c, a), (a, b))
            ])  # fmt: skip
            hit = (weights >= 0).all(0)
            slack = EDGE * (1 + 10 / area.abs())
            unsure |= (weights.abs() < slack).any(0) & (weights > -slack).all(0)
            depth = torch.where(hit, 1 / (weights / corners[:, 2, None, None]).sum(0), torch.inf)
        depths.append(depth)
    return torch.stack(depths, -1), unsure


@given(st.integers(0, 2**31 - 1), st.integers(1, 30), st.booleans())
def test_equals_the_reference(seed, count, spread):
    generator = torch.Generator().manual_seed(seed)
    size = (23, 17)
    centre = torch.rand(count, 1, 2, generator=generator) * torch.tensor([17.0, 23.0])
    reach = 40.0 if spread else 8.0
    xy = centre + (torch.rand(count, 3, 2, generator=generator) - 0.5) * reach
    depth = 1 + 9 * torch.rand(count, 3, 1, generator=generator)
    points = torch.cat([xy, depth], -1).flatten(0, 1)
    triangles = torch.arange(3 * count).view(-1, 3)
    both = torch.rand(count, generator=generator) < 0.5
    expected, unsure = reference(points, triangles, size, both)
    found = rasterize(points[None], triangles, size, both)
    near, index = expected.min(-1)
    second = expected.topk(2, -1, largest=False).values[..., 1] if count > 1 else torch.full(size, torch.inf)
    clear = ~unsure & ~((second - near) < 1e-4 * near)  # of two as near, float32 may choose the other
    hit = clear & near.isfinite()
    assert torch.equal(found.triangle[0][clear] >= 0, near.isfinite()[clear])
    assert torch.equal(found.triangle[0][hit], index[hit])
    assert torch.allclose(found.depth[0][hit].double(), near[hit], rtol=1e-3)
    assert found.depth[0][found.triangle[0] < 0].isinf().all()


def square(depth):
    return torch.tensor([[0.0, 0, depth], [4, 0, depth], [4, 4, depth], [0, 4, depth]])


FRONT = torch.tensor([[0, 2, 1], [0, 3, 2]])  # y is down: counter-clockwise as seen


def test_no_gap_and_no_overlap_on_a_shared_edge():
    found = rasterize(square(2.0)[None], FRONT, (4, 4))
    assert (found.triangle >= 0).all()
    assert torch.allclose(found.depth, torch.tensor(2.0))
    assert (found.barycentric.sum(-1) - 1).abs().max() < 1e-6
    diagonal = found.triangle[0].diagonal()
    assert (diagonal == 0).all()  # a tie goes to the lower index


def test_back_faces_are_culled_unless_double_sided():
    back = FRONT.flip(1)
    assert (rasterize(square(2.0)[None], back, (4, 4)).triangle == -1).all()
    assert (rasterize(square(2.0)[None], back, (4, 4), torch.tensor([True, True])).triangle >= 0).all()


def test_the_nearer_wins_in_each_image_of_a_batch():
    points = torch.stack([torch.cat([square(2.0), square(3.0)]), torch.cat([square(5.0), square(3.0)])])
    found = rasterize(points, torch.cat([FRONT, FRONT + 4]), (4, 4))
    assert (found.triangle[0] < 2).all()
    assert (found.triangle[1] >= 2).all()


@pytest.mark.parametrize("bad", [-1.0, 0.0, float("nan"), float("inf")])
def test_what_reaches_behind_the_camera_or_nowhere_is_left_out(bad):
    points = square(2.0)
    points[1, 2] = bad  # only the first triangle has this corner
    found = rasterize(points[None], FRONT, (4, 4))
    assert not (found.triangle == 0).any()
    assert (found.triangle == 1).any()


def test_interpolation_is_perspective_correct():
    points = torch.tensor([[[0.0, 0, 1], [10, 0, 1], [0, 10, 4]]])
    found = rasterize(points, torch.tensor([[0, 2, 1]]), (10, 10))
    pixel = (found.triangle[0] >= 0).nonzero()[10]
    flat = torch.tensor([1 - (pixel.sum() + 1) / 10, (pixel[0] + 0.5) / 10, (pixel[1] + 0.5) / 10])
    over = flat / torch.tensor([1.0, 4.0, 1.0])
    assert torch.allclose(found.barycentric[0, pixel[0], pixel[1]], over / over.sum(), atol=1e-5)


def test_gradients_flow_to_the_points():
    points = torch.tensor([[[1.0, 1, 2], [9, 2, 3], [3, 9, 4]]], requires_grad=True)
    triangles = torch.tensor([[0, 2, 1]])

    def value(p):
        found = rasterize(p, triangles, (10, 10))
        return (found.barycentric * torch.tensor([1.0, 2.0, -3.0])).sum() + found.depth[found.triangle >= 0].sum()

    value(points).backward()
    assert torch.isfinite(points.grad).all()
    step = torch.zeros_like(points)
    step[0, 1, 2] = 1e-2  # a corner's depth: no pixel enters or leaves
    with torch.no_grad():
        numeric = (value(points + step) - value(points - step)) / 2e-2
    assert points.grad[0, 1, 2] == pytest.approx(numeric.item(), rel=2e-2)


POINTS = square(2.0)[None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((POINTS[0], FRONT, (4, 4)), "points"),
        ((POINTS[..., :2], FRONT, (4, 4)), "points"),
        ((POINTS.double(), FRONT, (4, 4)), "points"),
        ((POINTS, FRONT.int(), (4, 4)), "triangles"),
        ((POINTS, FRONT[:, :2], (4, 4)), "triangles"),
        ((POINTS, FRONT + 2, (4, 4)), "triangles"),
        ((POINTS, FRONT - 1, (4, 4)), "triangles"),
        ((POINTS, FRONT, (0, 4)), "size"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        rasterize(*arguments)


def test_nothing_to_draw():
    found = rasterize(POINTS, torch.zeros(0, 3, dtype=torch.int64), (2, 3))
    assert found.triangle.shape == (1, 2, 3)
    assert (found.triangle == -1).all()

"""Find MediaPipe's face mesh points on the head: writes ``auface_diffusers/anatomy/landmarks.json``.

    pip install mediapipe==0.10.14 scipy && python -m train_lora.data.fit_landmarks

Neutral heads of many identities are drawn from the front with simple shading; the landmark model, trained on
photographs, finds its 468 points in them; each point's median place on the mesh counts, made symmetric. Points of
inner lips and lids are then moved to the nearest vertex on their own side of the gap, so that they part when it
opens. Run it again after ``build_head`` has changed the mesh: the numbers of triangles are part of the result.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from auface_diffusers.anatomy.camera import Camera
from auface_diffusers.anatomy.head import HeadModel
from auface_diffusers.anatomy.raster import Fragments, rasterize
from auface_diffusers.facs import AUSet

OUT = Path(__file__).resolve().parents[2] / "auface_diffusers/anatomy/landmarks.json"
HEADS = 40
CAMERA = Camera(size=512, height=2.6, center=(0.0, -0.35, 0.0))
# MediaPipe's numbers of the iBUG-68 points, as face-alignment code commonly maps them: jaw, brows, nose, eyes, mouth.
IBUG68 = [162, 234, 93, 58, 172, 136, 149, 148, 152, 377, 378, 365, 397, 288, 323, 454, 389]
IBUG68 += [71, 63, 105, 66, 107, 336, 296, 334, 293, 301, 168, 197, 5, 4, 75, 97, 2, 326, 305]
IBUG68 += [33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380]
IBUG68 += [61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181, 78, 82, 13, 312, 308, 317, 14, 87]
MIDDLE = [10, 151, 9, 8, 168, 6, 197, 195, 5, 4, 1, 19, 94, 2, 164, 0, 11, 12, 13, 14, 15, 16, 17, 18, 200]
MIDDLE += [199, 175, 152]
RIGHT_LIP = {"upper": [191, 80, 81, 82, 13], "lower": [95, 88, 178, 87, 14]}
RIGHT_LID = {"upper": [246, 161, 160, 159, 158, 157, 173], "lower": [7, 163, 144, 145, 153, 154, 155]}
SEARCH = 6  # pixels around a point in which the skin is looked for


def draw(head: HeadModel, seed: int) -> tuple[np.ndarray, Fragments]:
    """A neutral head from the front: image (H, W, 3) uint8 and its fragments."""
    mesh = head(identity=seed)
    seen = rasterize(CAMERA.project(mesh.vertices), head.triangles, (CAMERA.size, CAMERA.size))
    corners = head.triangles[seen.triangle.clamp(min=0)]  # (1, H, W, 3)

    def at_pixels(values: Tensor) -> Tensor:
        return (values[corners] * seen.barycentric[..., None]).sum(-2)[0]

    normal = torch.nn.functional.normalize(at_pixels(mesh.normals[0]), dim=-1)
    light = torch.nn.functional.normalize(torch.tensor([0.3, 0.5, 1.0]), dim=0)
    place = at_pixels(head.asset.vertices)
    lips = at_pixels(head.asset.masks["lips"][:, None])
    colour = torch.tensor([0.85, 0.65, 0.55]) * (1 - 0.5 * lips) + torch.tensor([0.35, 0.15, 0.15]) * lips
    x, y = place[..., 0].abs(), place[..., 1]
    arch = torch.from_numpy(np.interp(x.numpy(), [0.1, 0.2, 0.3, 0.42, 0.52], [0.16, 0.195, 0.215, 0.2, 0.14]))
    brow = torch.exp(-(((y - arch) / 0.03) ** 2)) * (x > 0.09) * (x < 0.54) * (place[..., 2] > 0)
    colour = colour * (1 - 0.75 * brow[..., None]).float()
    for name in ("left eye", "right eye"):
        centre = head.asset.vertices[head.asset.vertices_of(name)].mean(0)
        forward = torch.nn.functional.normalize(place - centre, dim=-1)[..., 2:]
        eye = (head.asset.part[seen.triangle[0].clamp(min=0)] == head.asset.part_names.index(name))[..., None]
        colour = torch.where(eye, torch.where(forward > 0.98, 0.03, torch.where(forward > 0.9, 0.2, 0.95)), colour)
    shaded = colour * ((normal @ light).clamp(0)[..., None] * 0.75 + 0.3)
    image = torch.where(seen.triangle[0, ..., None] >= 0, shaded, 0.6).clamp(0, 1)
    return (image.numpy() * 255).astype(np.uint8), seen


def detect(images: list[np.ndarray]) -> np.ndarray:
    """Points (N, 468, 3) in pixels (z in the model's own scale); NaN where no face was found."""
    import mediapipe

    mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True)
    found = np.full((len(images), 468, 3), np.nan)
    for number, image in enumerate(images):
        faces = mesh.process(image).multi_face_landmarks
        if faces:
            points = [(point.x, point.y, point.z) for point in faces[0].landmark[:468]]
            found[number] = np.array(points) * CAMERA.size
    return found


def places_on_mesh(head: HeadModel, points: np.ndarray, seen: list[Fragments]) -> np.ndarray:
    """Median place (468, 3) on the template: what lies under each point, or the nearest skin beside it."""
    template, triangles = head.asset.vertices.numpy(), head.triangles.numpy()
    skin = head.asset.part.numpy() == 0
    grid = np.mgrid[-SEARCH : SEARCH + 1, -SEARCH : SEARCH + 1].reshape(2, -1).T
    near = grid[np.argsort((grid**2).sum(1), kind="stable")]
    places = np.full(points.shape, np.nan)
    for number, fragments in enumerate(seen):
        owner, weights = fragments.triangle[0].numpy(), fragments.barycentric[0].detach().numpy()
        for k, (x, y, _) in enumerate(points[number]):
            for row, column in near + [int(y), int(x)] if np.isfinite(x) else ():
                inside = 0 <= row < CAMERA.size and 0 <= column < CAMERA.size
                if inside and owner[row, column] >= 0 and skin[owner[row, column]]:
                    places[number, k] = weights[row, column] @ template[triangles[owner[row, column]]]
                    break
    return np.nanmedian(places, 0)


def mirror_pairs(points: np.ndarray) -> np.ndarray:
    """For each point the one on the other side: the best one-to-one match of the mean shape with its mirror image."""
    from scipy.optimize import linear_sum_assignment

    shape = np.nanmean(points - points[:, [168]], 0)
    cost = np.linalg.norm(shape[:, None] * [-1, 1, 0.5] - shape[None] * [1, 1, 0.5], axis=2)
    cost[MIDDLE] = cost[:, MIDDLE] = 1e3
    cost[MIDDLE, MIDDLE] = 0
    pairs = linear_sum_assignment(cost + cost.T)[1]
    assert (pairs[pairs] == np.arange(len(pairs))).all()
    return pairs


class Fit:
    """Points as (triangle, weights) on the mesh, always placed in mirror pairs."""

    def __init__(self, head: HeadModel, pairs: np.ndarray) -> None:
        self.vertices = head.asset.vertices.double().numpy()
        self.triangles = head.triangles.numpy()
        self.mirror = head.asset.mirror.numpy()
        self.skin = np.nonzero(head.asset.part.numpy() == 0)[0]
        self.pairs = pairs
        self.triangle = np.zeros(len(pairs), int)
        self.weights = np.zeros((len(pairs), 3))
        self.of_corners = {tuple(sorted(t)): i for i, t in enumerate(self.triangles.tolist())}

    def put(self, k: int, triangle: int, weights: np.ndarray) -> None:
        self.triangle[k], self.weights[k] = triangle, weights
        other = self.pairs[k]
        if other != k:
            corners = [int(self.mirror[v]) for v in self.triangles[triangle]]
            there = self.of_corners[tuple(sorted(corners))]
            self.triangle[other] = there
            self.weights[other] = [weights[corners.index(v)] for v in self.triangles[there].tolist()]

    def snap(self, k: int, vertex: int) -> None:
        triangle = next(i for i in self.skin if vertex in self.triangles[i])
        self.put(k, triangle, (self.triangles[triangle] == vertex).astype(float))

    def put_nearest(self, k: int, place: np.ndarray) -> None:
        """The nearest point of the skin; of a point in the middle the nearest vertex there."""
        if self.pairs[k] == k:
            middle = [v for v in np.unique(self.triangles[self.skin]) if self.mirror[v] == v]
            self.snap(k, min(middle, key=lambda v: float(np.linalg.norm(self.vertices[v] - place))))
            return
        a, b, c = (self.vertices[self.triangles[self.skin, i]] for i in range(3))
        u, v, w = b - a, c - a, place - a
        uu, uv, vv, wu, wv = ((p * q).sum(1) for p, q in ((u, u), (u, v), (v, v), (w, u), (w, v)))
        scale = np.maximum(uu * vv - uv**2, 1e-12)
        second, third = (vv * wu - uv * wv) / scale, (uu * wv - uv * wu) / scale
        weights = np.clip(np.stack([1 - second - third, second, third], 1), 0, None)
        weights /= weights.sum(1, keepdims=True)
        reached = weights[:, :1] * a + weights[:, 1:2] * b + weights[:, 2:] * c
        best = int(np.linalg.norm(reached - place, axis=1).argmin())
        self.put(k, int(self.skin[best]), weights[best])


def to_their_side(head: HeadModel, fit: Fit, places: np.ndarray) -> None:
    """Move the points of inner lips and lids to the lip or lid that they are of."""
    vertices, skin = fit.vertices, np.unique(fit.triangles[fit.skin])

    def motion(score: str) -> np.ndarray:
        return (head(aus=AUSet.parse(score)).vertices - head().vertices)[0].numpy()

    jaw, lids = np.linalg.norm(motion("26E"), axis=1), -motion("43E")[:, 1]
    lips = [v for v in skin if head.asset.masks["lips"][v] > 0.25 and vertices[v, 2] > 0]
    jaw, lids = jaw / jaw[lips].max(), lids / lids.max()
    for side, points in RIGHT_LIP.items():
        for k in points:
            x, _, z = places[k]
            own = [v for v in lips if (jaw[v] > 0.45 if side == "lower" else jaw[v] < 0.22)]
            own = [v for v in own if abs(vertices[v, 0] - x) < 0.05]
            own = [v for v in own if fit.pairs[k] != k or fit.mirror[v] == v]
            far = np.abs(vertices - places[k])
            cost = {v: far[v, 0] + 1.5 * far[v, 1] + max(0.0, z - vertices[v, 2]) for v in own}
            fit.snap(k, min(cost, key=lambda v: float(cost[v])))
    shut = vertices + motion("43E")
    upper_lid = [v for v in skin if lids[v] > 0.5]
    for side, points in RIGHT_LID.items():
        for k in points:
            away = np.linalg.norm(vertices - places[k], axis=1)
            if side == "upper":
                own = [v for v in skin if away[v] < 0.1 and lids[v] > 0.25]
            else:  # the rim that the upper lid comes down to, not what it slides over
                rim = min((shut[v, 1] for v in upper_lid if abs(shut[v, 0] - places[k][0]) < 0.03), default=np.inf)
                own = [v for v in skin if away[v] < 0.1 and abs(lids[v]) < 0.12 and vertices[v, 1] < rim + 0.015]
            if own:
                fit.snap(k, min(own, key=lambda v: float(away[v])))


def main() -> None:
    head = HeadModel.from_default()
    with torch.no_grad():
        drawn = [draw(head, seed) for seed in range(HEADS)]
        points = detect([image for image, _ in drawn])
        places = places_on_mesh(head, points, [seen for _, seen in drawn])
        pairs = mirror_pairs(points)
        places = (places + places[pairs] * [-1, 1, 1]) / 2
        fit = Fit(head, pairs)
        for k in range(len(pairs)):
            if k <= pairs[k]:
                fit.put_nearest(k, places[k])
        to_their_side(head, fit, places)
    data = {
        "ibug68": IBUG68,
        "triangle": fit.triangle.tolist(),
        "weights": fit.weights.round(4).tolist(),
        "mirror": pairs.tolist(),
    }
    OUT.write_text(json.dumps(data, separators=(",", ":")), encoding="utf-8")
    sys.stdout.write(f"{OUT}: faces found in {int(np.isfinite(points[:, 0, 0]).sum())} of {HEADS} drawings\n")


if __name__ == "__main__":
    main()

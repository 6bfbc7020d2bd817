"""Pictures as faces of the parametric head: what a picture lacks is fitted, or said to be unknown.

The generator is given a structure map, an identity and attributes beside the text. A face of ``train_lora synth`` has
all three. Of a picture of ``train_lora data`` nobody knows them. So the head is fitted to its landmarks, as
`VQAUFaceEditPipeline` does: that gives head pose, camera and the shape of the face, and with the levels of its label
the structure map. Identity and attributes are left out in training, by name in ``unknown_sources``. Where a fit is
poor, the structure map is left out as well.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from auface_diffusers.anatomy import Appearance, Camera, HeadModel
from auface_diffusers.anatomy.fit import FittedHead, fit_head, fit_person
from train_lora.data.faces import Batch, FaceBatch, FaceLabels, RenderSource, ShardSource

POOR = 0.035
"""Root mean square distance of the landmarks, as a share of the picture, from which a fit is not used: 4.5 pixels of
128. Fits of rendered faces lie near 0.01."""
BATCH = 32
TOGETHER = 64
"""Most pictures that the shape of one person is fitted to; that of all 20 takes two seconds."""

Look = Callable[[Tensor], Tensor]
"""Pictures (B, 3, S, S) in [0, 1] to iBUG points (B, 68, 2), shares of the picture."""


class FittedSource:
    """Faces of a source in which every picture has pose, identity code and appearance.

    Levels that nobody knows count as 0. Labels get ``attributes``, and ``unknown_sources``: what is to be left out.

    Args:
        source: of faces or pictures.
        look: finds the landmarks of pictures that have none.
        framing: of the camera.
        place: a file to keep the fits in, or None.
        one_person: all pictures show the same one, who gets one identity code.
    """

    def __init__(
        self,
        source: ShardSource | RenderSource,
        look: Look,
        framing: str,
        place: Path | None = None,
        one_person: bool = False,
    ) -> None:
        self.one_person = one_person
        self.source = source
        self.pictures = isinstance(source, ShardSource) and source.pictures
        self.fits: dict[str, Tensor] = {}
        if self.pictures:
            self.fits = self._kept(place, look, framing)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def person(self) -> tuple[float, ...]:
        """The identity code (46) of the one who is seen; empty if nobody says that it is one, or without pictures."""
        return tuple(self.fits["codes"][0].tolist()) if self.pictures and self.one_person else ()

    @property
    def poor(self) -> int:
        """How many pictures the head does not fit."""
        return int((self.fits["error"] > POOR).sum()) if self.pictures else 0

    def __getitems__(self, numbers: Sequence[int]) -> FaceBatch:
        """The faces of these numbers."""
        return self._fitted(self.source.__getitems__(numbers), numbers)

    def told(self, numbers: Sequence[int]) -> FaceLabels:
        """The same without pictures."""
        return self._fitted(self.source.told(numbers), numbers)

    def _fitted(self, faces: Batch, numbers: Sequence[int]) -> Batch:
        if not self.pictures:
            return faces
        fits = {name: value[list(numbers)] for name, value in self.fits.items()}
        labels = [self._label(label, fits, row) for row, label in enumerate(faces.labels)]
        return replace(
            faces,
            levels=faces.levels.nan_to_num(0.0),
            identity=fits["codes"],
            pose=fits["pose"],
            gaze=torch.zeros(len(numbers), 2),
            landmarks=fits["landmarks"],
            labels=tuple(labels),
        )

    def _label(self, label: dict[str, Any], fits: dict[str, Tensor], row: int) -> dict[str, Any]:
        zoom, x, y = fits["camera"][row].tolist()
        look = Appearance(zoom=round(zoom, 4), shift_x=round(x, 4), shift_y=round(y, 4))
        unknown = ["identity", "attributes"] + (["structure"] if fits["error"][row] > POOR else [])
        return {**label, "attributes": look.to_dict(), "unknown_sources": unknown}

    def _kept(self, place: Path | None, look: Look, framing: str) -> dict[str, Tensor]:
        made_of = torch.tensor([_fingerprint(self.source, framing + (" one person" if self.one_person else ""))])
        if place is not None and place.exists():
            kept = load_file(place)
            if torch.equal(kept.pop("made_of"), made_of):
                return kept
        fits = self._fit(look, Camera.framed(framing))
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_suffix(f".{uuid.uuid4().hex}.part")  # several processes may begin at once
            save_file({**fits, "made_of": made_of}, part)
            part.replace(place)
        return fits

    def _fit(self, look: Look, camera: Camera) -> dict[str, Tensor]:
        head = HeadModel.from_default()
        known: list[tuple[Tensor, Tensor]] = []
        for begin in range(0, len(self.source), BATCH):
            faces = self.source.__getitems__(list(range(begin, min(begin + BATCH, len(self.source)))))
            lost = faces.landmarks.isnan().flatten(1).any(1)
            points = faces.landmarks.clone()
            if lost.any():
                with torch.no_grad():
                    points[lost] = look(faces.images[lost]).float().cpu()
            known.append((points, faces.levels.nan_to_num(0.0)))
        who = self._person(head, known, camera) if self.one_person else None
        parts = [_described(fit_head(head, *some, camera, who), some[0]) for some in known]
        return {name: torch.cat([part[name] for part in parts]).contiguous() for name in parts[0]}

    def _person(self, head: HeadModel, known: Sequence[tuple[Tensor, Tensor]], camera: Camera) -> Tensor:
        points, levels = (
            torch.cat(column)[:: -(-len(self.source) // TOGETHER)] for column in zip(*known, strict=True)
        )
        return fit_person(head, points, levels, camera).codes[:1]


def _described(found: FittedHead, points: Tensor) -> dict[str, Tensor]:
    places = [[one.zoom, one.shift_x, one.shift_y] for one in found.appearances]
    return {
        "codes": found.codes,
        "pose": found.pose,
        "camera": torch.tensor(places),
        "error": found.error,
        "landmarks": points,
    }


class Some:
    """Some faces of a source, under numbers of their own."""

    def __init__(self, source: Any, numbers: Sequence[int]) -> None:  # noqa: ANN401 - whatever has __getitems__
        self.source, self.numbers = source, list(numbers)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitems__(self, numbers: Sequence[int]) -> Any:  # noqa: ANN401 - as above
        """The faces of these numbers."""
        return self.source.__getitems__([self.numbers[number] for number in numbers])


def _fingerprint(source: ShardSource | RenderSource, framing: str) -> int:
    """Of the pictures: names, places and sizes in the shards."""
    assert isinstance(source, ShardSource)
    names = [path.name for path in source.paths] + [str(path.stat().st_size) for path in source.paths]
    return zlib.crc32(f"{framing} {names} {source.entries}".encode())

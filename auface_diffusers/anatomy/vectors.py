"""Small vector helpers."""

from __future__ import annotations

from torch import Tensor


def unit(vectors: Tensor) -> Tensor:
    """Vectors (..., 3) at length 1; several times faster than `functional.normalize` on so short a dimension."""
    x, y, z = vectors.unbind(-1)
    return vectors * (x * x + y * y + z * z).clamp(min=1e-20).rsqrt()[..., None]

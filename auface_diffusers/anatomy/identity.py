"""Identity codes: who a head is, apart from what it does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PHENOTYPE = ("gender", "age", "african", "asian", "caucasian", "weight")
"""The first entries of a code: 0 female..1 male, 0 young..1 old, three shares of ancestry, 0 lean..1 heavy."""
COMPONENTS = 40
CODE_SIZE = len(PHENOTYPE) + COMPONENTS
"""Length of a code: the phenotype, then components of the face in standard deviations."""
MAX_COMPONENT = 6.0


def neutral_code() -> Tensor:
    """The code (46,) of the average head."""
    return torch.tensor([0.5, 0.25, 1 / 3, 1 / 3, 1 / 3, 0.5, *[0.0] * COMPONENTS])


def sample_identity(seed: int) -> Tensor:
    """A random code (46,); the same seed gives the same person on every device."""
    generator = torch.Generator().manual_seed(seed)
    gender, age, weight = torch.rand(3, generator=generator)
    # a gender is mostly clear, an ancestry mostly one of three with some of the others
    gender = (gender - 0.5).sign() * (1 - (1 - (2 * gender - 1).abs()) ** 3) / 2 + 0.5
    shares = torch.rand(3, generator=generator).clamp(min=1e-3).log().neg().pow(2)
    components = torch.randn(COMPONENTS, generator=generator).clamp(-2.5, 2.5) * 0.8
    phenotype = torch.stack([gender, age, *(shares / shares.sum()), 0.2 + 0.6 * weight])
    return torch.cat([phenotype, components])


def identity_codes(identity: int | Sequence[int] | Tensor | None) -> Tensor:
    """Codes (B, 46) of seeds or codes; None is the average head.

    Raises:
        ValueError: for a code of another length, a number that is not finite, or one out of range.
    """
    if identity is None:
        return neutral_code()[None]
    if isinstance(identity, int):
        return sample_identity(identity)[None]
    if not isinstance(identity, Tensor):
        return torch.stack([sample_identity(seed) for seed in identity])
    codes = identity if identity.ndim == 2 else identity[None]
    if codes.ndim != 2 or codes.shape[1] != CODE_SIZE or not codes.is_floating_point():
        raise ValueError(
            f"identity code {tuple(identity.shape)} {identity.dtype}: give floats (B, {CODE_SIZE}) or a seed"
        )
    phenotype, components = codes[:, : len(PHENOTYPE)], codes[:, len(PHENOTYPE) :]
    bad = ~((phenotype >= 0) & (phenotype <= 1))  # also catches NaN
    if bad.any():
        names = ", ".join(PHENOTYPE)
        raise ValueError(f"identity code {phenotype[bad][0]:g}: the first {len(PHENOTYPE)} ({names}) lie in 0..1")
    bad = ~(components.abs() <= MAX_COMPONENT)
    if bad.any():
        allowed = f"-{MAX_COMPONENT}..{MAX_COMPONENT} standard deviations"
        raise ValueError(f"identity code {components[bad][0]:g}: components lie in {allowed}")
    return codes


def phenotype_weights(codes: Tensor, names: Sequence[str]) -> Tensor:
    """Weights (B, P) of the phenotype fields: products of what their names say, as MakeHuman mixes them."""
    gender, age, african, asian, caucasian, weight = codes[:, : len(PHENOTYPE)].unbind(1)
    total = (african + asian + caucasian).clamp(min=1e-6)
    share = {
        "female": 1 - gender,
        "male": gender,
        "young": 1 - age,
        "old": age,
        "african": african / total,
        "asian": asian / total,
        "caucasian": caucasian / total,
        "minweight": (1 - 2 * weight).clamp(min=0),
        "averageweight": 1 - (2 * weight - 1).abs(),
        "maxweight": (2 * weight - 1).clamp(min=0),
    }
    return torch.stack([torch.stack([share[word] for word in name.split("-")]).prod(0) for name in names], 1)

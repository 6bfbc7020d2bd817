"""From an estimator's logits to probabilities at equal priors, and how good they are: one number a channel.

Shapes: N pictures, C channels. ``mask`` (N, C) says which labels count. The score that the probabilities serve weighs
both answers alike, so everything here does: ``balanced`` gives all pictures with the unit the weight of all without.
"""

from __future__ import annotations

import torch
from torch import Tensor

N_MIN = 20
"""Pictures of either kind that a channel needs to get a number."""
STEPS = 100


def fit_platt(
    logits: Tensor, labels: Tensor, mask: Tensor, balanced: bool = True, n_min: int = N_MIN
) -> tuple[Tensor, Tensor]:
    """Platt's scale and bias of every channel: ``p = sigmoid(scale * logit + bias)``.

    Newton's method, damped, on the log loss with Platt's targets (n + 1) / (n + 2), which keep the scale finite where
    a channel makes no mistake (Platt 1999, Probabilistic outputs for support vector machines, §2.2).

    Args:
        logits: (N, C) floats. labels: (N, C) bool. mask: (N, C) bool.
        balanced: correct to equal priors; else the pictures' own share stays in the bias.
        n_min: a channel with fewer pictures with the unit, or without, keeps scale 1 and bias 0.

    Returns:
        scale, bias: (C,) float32.

    Raises:
        ValueError: for shapes or types that do not fit, or logits that are not finite where they count.
    """
    _check(logits, labels, mask, "logits")
    fits = [_fit_one(logits[m, c], labels[m, c], balanced, n_min) for c, m in enumerate(mask.unbind(1))]
    scale, bias = torch.tensor(fits, dtype=torch.float32).reshape(-1, 2).unbind(1)
    return scale, bias


def _fit_one(logits: Tensor, labels: Tensor, balanced: bool, n_min: int) -> tuple[float, float]:
    x, y = logits.double(), labels.double()
    positive, total = int(y.sum()), len(y)
    negative = total - positive
    if min(positive, negative) < max(n_min, 1):
        return 1.0, 0.0
    target = torch.where(labels, (positive + 1) / (positive + 2), 1 / (negative + 2)).double()
    weight = _weights(labels[:, None], torch.ones_like(labels)[:, None], balanced)[:, 0]
    mean, spread = x.mean(), x.std().clamp_min(1e-9)
    design = torch.stack([(x - mean) / spread, torch.ones_like(x)], 1)

    def loss(a: Tensor) -> Tensor:
        z = design @ a
        return (weight * (torch.nn.functional.softplus(z) - target * z)).sum()

    found, damping = torch.zeros(2, dtype=torch.float64), 1e-6
    now = loss(found)
    for _ in range(STEPS):
        p = torch.sigmoid(design @ found)
        gradient = design.T @ (weight * (p - target))
        if gradient.abs().max() < 1e-10:
            break
        hessian = (design * (weight * p * (1 - p))[:, None]).T @ design
        step = torch.linalg.solve(hessian + damping * torch.eye(2, dtype=torch.float64), gradient)
        after = loss(found - step)
        better = bool(after <= now)
        found, now = (found - step, after) if better else (found, now)
        damping = damping / 10 if better else damping * 10
    scale = float(found[0] / spread)
    return scale, float(found[1]) - scale * float(mean)


def expected_calibration_error(
    p: Tensor, y: Tensor, mask: Tensor, balanced: bool = True, bins: int = 15, n_min: int = N_MIN
) -> Tensor:
    """Expected calibration error (C,) in 0..1: mean distance of probability and frequency over bins of equal width.

    Args:
        p: (N, C) in [0, 1]. y: (N, C) bool. mask: (N, C) bool.
        balanced: at equal priors, which `fit_platt` corrects to. bins: >= 1.
        n_min: a channel with fewer pictures with the unit, or without, gets NaN.

    Raises:
        ValueError: for shapes or types that do not fit, values outside [0, 1] where they count, or ``bins`` < 1.
    """
    _check(p, y, mask, "p")
    if bins < 1:
        raise ValueError(f"bins {bins}: at least 1")
    if p[mask].numel() and not (p[mask].min() >= 0 and p[mask].max() <= 1):
        raise ValueError(f"p has values {p[mask].min():g}..{p[mask].max():g}: give probabilities in 0..1, not logits")
    clean = torch.where(mask, p, torch.zeros_like(p)).double()
    weight = _weights(y, mask, balanced)
    place = (clean * bins).long().clamp_(max=bins - 1)
    gap = torch.zeros(bins, p.shape[1], dtype=torch.float64).scatter_add_(0, place, weight * (clean - y.double()))
    return torch.where(_enough(y, mask, n_min), gap.abs().sum(0), torch.nan).float()


def auc(scores: Tensor, labels: Tensor, mask: Tensor, n_min: int = N_MIN) -> Tensor:
    """Area under the ROC curve (C,): how often a picture with the unit scores above one without; ties count half.

    Args:
        scores: (N, C) floats. labels: (N, C) bool. mask: (N, C) bool.
        n_min: a channel with fewer pictures with the unit, or without, gets NaN.

    Raises:
        ValueError: for shapes or types that do not fit, or scores that are not finite where they count.
    """
    _check(scores, labels, mask, "scores")
    areas = torch.full((scores.shape[1],), torch.nan)
    for c in (_enough(labels, mask, n_min)).nonzero()[:, 0].tolist():
        m = mask[:, c]
        x, y = scores[m, c].contiguous(), labels[m, c]
        negatives = x[~y].sort().values
        below, up_to = (torch.searchsorted(negatives, x[y], right=right).double() for right in (False, True))
        areas[c] = ((below + up_to) / 2).mean() / len(negatives)
    return areas


def _enough(labels: Tensor, mask: Tensor, n_min: int) -> Tensor:
    least = torch.minimum((labels & mask).sum(0), (~labels & mask).sum(0))
    return least >= max(n_min, 1)


def _weights(labels: Tensor, mask: Tensor, balanced: bool) -> Tensor:
    """Weights (N, C), float64, that sum to 1 in a channel, half of it on each answer if ``balanced``."""
    counts = mask.double()
    if balanced:
        positive, negative = (labels & mask).sum(0), (~labels & mask).sum(0)
        counts = counts / torch.where(labels, 2 * positive, 2 * negative).clamp_min(1)
    return counts / counts.sum(0).clamp_min(1e-300)


def _check(values: Tensor, labels: Tensor, mask: Tensor, name: str) -> None:
    if values.ndim != 2 or not values.is_floating_point():
        raise ValueError(f"{name} {tuple(values.shape)} {values.dtype}: give floats (N, C)")
    for what, other in (("labels", labels), ("mask", mask)):
        if other.shape != values.shape or other.dtype != torch.bool:
            raise ValueError(f"{what} {tuple(other.shape)} {other.dtype}: give bool {tuple(values.shape)} as {name}")
    if not values[mask].isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity where mask is True: mask it out")

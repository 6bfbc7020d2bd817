"""The critic of the adversarial loss: a small PatchGAN (arXiv 1611.07004) with hinge losses (arXiv 1705.02894)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class Critic(nn.Module):
    """(B, 3, S, S) in [0, 1] to (B, 1, S/16, S/16): how real each patch looks."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, width, 4, stride=2, padding=1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, stride=2, padding=1),
            nn.GroupNorm(8, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv2d(4 * width, 1, 3, padding=1),
        )

    def forward(self, images: Tensor) -> Tensor:
        """How real each patch looks, any real number."""
        scores: Tensor = self.layers(images * 2 - 1)
        return scores


def fooling_loss(critic: nn.Module, painted: Tensor) -> Tensor:
    """What the painter wants: the critic takes its faces for real ones."""
    return -critic(painted).float().mean()


def telling_loss(critic: nn.Module, real: Tensor, painted: Tensor) -> Tensor:
    """What the critic wants: scores above 1 for real faces and below -1 for painted ones."""
    return (F.relu(1 - critic(real).float()).mean() + F.relu(1 + critic(painted).float()).mean()) / 2

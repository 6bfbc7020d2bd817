"""Layers of `FaceTokenizer`."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

NORM_GROUPS = 8


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after a group norm and SiLU, around a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(NORM_GROUPS, width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(NORM_GROUPS, width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)  # starts as identity, which trains faster

    def forward(self, x: Tensor) -> Tensor:
        """(B, W, h, w) to the same."""
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        added: Tensor = x + y
        return added


class Up(nn.Sequential):
    """Twice the size, by a convolution that makes four pixels of one."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__(nn.Conv2d(width, out * 4, 1), nn.PixelShuffle(2), nn.Conv2d(out, out, 3, padding=1))


class Out(nn.Sequential):
    """A convolution after a group norm and SiLU."""

    def __init__(self, width: int, out: int, kernel: int) -> None:
        norm = nn.GroupNorm(NORM_GROUPS, width)
        super().__init__(norm, nn.SiLU(), nn.Conv2d(width, out, kernel, padding=kernel // 2))

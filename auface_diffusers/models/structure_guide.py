"""`StructureGuide`: what a structure map adds to the stages of `FaceTokenizer`'s decoder."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from auface_diffusers.models.face_tokenizer_layers import ResidualBlock


class StructureGuide(nn.Module):
    """From a structure map to features for each stage of a decoder, all zero at first, as in ControlNet
    (arXiv 2302.05543): a decoder goes on with what it has learnt.

    Args:
        channels: of the map. patch: pixels a side that are folded into channels, as the decoder's last stage has them.
        widths: channels of the decoder's stages, the largest stage first; each of the others has half the size.
    """

    def __init__(self, channels: int, patch: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.patch = patch
        stem = nn.Sequential(nn.Conv2d(channels * patch**2, widths[0], 3, padding=1), ResidualBlock(widths[0]))
        down = [nn.Conv2d(wide, width, 2, stride=2) for wide, width in zip(widths, widths[1:], strict=False)]
        self.stages = nn.ModuleList([stem, *down])
        outs = [nn.Conv2d(width, width, 1, bias=False) for width in widths]
        for out in outs:
            nn.init.zeros_(out.weight)
        self.outs = nn.ModuleList(outs)

    def forward(self, structure: Tensor) -> list[Tensor]:
        """(B, K, S, S) to features (B, W, h, w) of each stage, the largest first."""
        x = F.pixel_unshuffle(structure, self.patch)
        found = []
        for stage, out in zip(self.stages, self.outs, strict=True):
            x = stage(x)
            found.append(out(F.silu(x)))
        return found

"""Pictures from files and callers, brought to plain RGB as they are seen."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps


def plain_rgb(image: Image.Image) -> Image.Image:
    """A picture as it is seen: turned as its EXIF data says, white where it is transparent, 16 bits brought to 8."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        image = Image.fromarray((np.asarray(image, dtype=np.float64) / 257).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")

"""AUFace: FACS Action Units to anatomically consistent text and faces.

Importing this package loads nothing heavy: `auface_diffusers.facs` works without torch.
"""

__version__ = "0.1.0"

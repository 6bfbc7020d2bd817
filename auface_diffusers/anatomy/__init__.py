"""Anatomy: a parametric head with exact action unit shapes, its rasterizer, and control images made from it."""

from auface_diffusers.anatomy.appearance import Appearance, project_points
from auface_diffusers.anatomy.asset import AssetError
from auface_diffusers.anatomy.camera import Camera
from auface_diffusers.anatomy.control import control_image, pose_keypoints
from auface_diffusers.anatomy.head import HeadMesh, HeadModel
from auface_diffusers.anatomy.identity import sample_identity
from auface_diffusers.anatomy.raster import rasterize
from auface_diffusers.anatomy.render import Rendering, render, render_faces, sample_appearances

__all__ = [
    "Appearance",
    "AssetError",
    "Camera",
    "HeadMesh",
    "HeadModel",
    "Rendering",
    "control_image",
    "pose_keypoints",
    "project_points",
    "rasterize",
    "render",
    "render_faces",
    "sample_appearances",
    "sample_identity",
]

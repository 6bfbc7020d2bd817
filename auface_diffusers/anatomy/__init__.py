"""Anatomy: a parametric head with exact action unit shapes, its rasterizer, and control images made from it."""

from auface_diffusers.anatomy.appearance import Appearance, project_points
from auface_diffusers.anatomy.asset import AssetError
from auface_diffusers.anatomy.attributes import ATTRIBUTE_NAMES, ATTRIBUTE_SIZE, attribute_vector
from auface_diffusers.anatomy.camera import Camera
from auface_diffusers.anatomy.control import control_image, pose_keypoints
from auface_diffusers.anatomy.fit import FittedHead, fit_head, fit_person
from auface_diffusers.anatomy.head import HeadMesh, HeadModel
from auface_diffusers.anatomy.identity import sample_identity
from auface_diffusers.anatomy.people import PeopleAttributes, resolve_attributes
from auface_diffusers.anatomy.raster import rasterize
from auface_diffusers.anatomy.render import Rendering, render, render_faces, sample_appearances
from auface_diffusers.anatomy.structure import STRUCTURE_CHANNELS, region_mask, structure_map

__all__ = [
    "ATTRIBUTE_NAMES",
    "ATTRIBUTE_SIZE",
    "STRUCTURE_CHANNELS",
    "Appearance",
    "AssetError",
    "Camera",
    "FittedHead",
    "HeadMesh",
    "HeadModel",
    "PeopleAttributes",
    "Rendering",
    "attribute_vector",
    "control_image",
    "fit_head",
    "fit_person",
    "pose_keypoints",
    "project_points",
    "rasterize",
    "region_mask",
    "render",
    "render_faces",
    "resolve_attributes",
    "sample_appearances",
    "sample_identity",
    "structure_map",
]

"""Run a face-landmark model that was trained on photographs over pictures, in an environment of its own.

    python photo_model.py PICTURES.npy POINTS.npy

PICTURES (N, H, W, 3) uint8 RGB; POINTS (N, 478, 2) in pixels, NaN where no face was found.
"""

import sys

import mediapipe
import numpy as np

pictures = np.load(sys.argv[1])
model = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True, refine_landmarks=True)
points = np.full((len(pictures), 478, 2), np.nan)
for number, picture in enumerate(pictures):
    faces = model.process(picture).multi_face_landmarks
    if faces:
        points[number] = [(p.x * picture.shape[1], p.y * picture.shape[0]) for p in faces[0].landmark]
np.save(sys.argv[2], points)

"""Where the ego car's sensors sit and which way their rays go: nuScenes' own set-up."""

from functools import cache

import numpy as np

RINGS, AZIMUTHS = 32, 1080
# Name, position in the ego frame (metres), yaw (degrees), focal length (pixels of 1600 × 900).
CAMERAS = (
    ("CAM_FRONT", (1.70, 0.02, 1.51), 0.0, 1266.0),
    ("CAM_FRONT_RIGHT", (1.55, -0.49, 1.50), -56.0, 1260.0),
    ("CAM_BACK_RIGHT", (1.01, -0.48, 1.56), -110.0, 1260.0),
    ("CAM_BACK", (0.03, 0.0, 1.57), 180.0, 809.0),
    ("CAM_BACK_LEFT", (1.04, 0.48, 1.59), 108.0, 1257.0),
    ("CAM_FRONT_LEFT", (1.52, 0.49, 1.51), 55.0, 1273.0),
)


def _spin(vectors: np.ndarray, degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.round(vectors @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]]), 9)


@cache
def lidar_rays() -> np.ndarray:
    """Unit directions (32, 1080, 3) in the ego frame; ring 0 looks farthest down (-30.67°)."""
    elevation = np.radians(-30.67 + (10.67 + 30.67) / (RINGS - 1) * np.arange(RINGS))[:, None]
    azimuth = (2.0 * np.pi / AZIMUTHS * np.arange(AZIMUTHS))[None, :]
    flat = np.cos(elevation)
    rays = [flat * np.cos(azimuth), flat * np.sin(azimuth), np.sin(elevation) + 0.0 * azimuth]
    return np.round(np.stack(rays, -1), 9)


@cache
def camera_rays() -> list[tuple[np.ndarray, np.ndarray]]:
    """For each camera its position and unit directions (R, 3), one per 14 × 14 pixels."""
    views = []
    for _, position, yaw, focal in CAMERAS:
        u, v = np.meshgrid(np.arange(7, 1600, 14) - 800.0, np.arange(7, 900, 14) - 450.0)
        rays = np.stack([np.full(u.shape, focal), -u, -v], -1).reshape(-1, 3)
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        views.append((np.array(position), _spin(rays, yaw)))
    return views

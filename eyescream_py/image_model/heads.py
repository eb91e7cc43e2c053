"""Parametric heads: an ellipsoid with Gaussian bumps, seen as a depth map and as a photo.

Angles: azimuth (0 at the nose, positive to the viewer's right) and elevation, in radians. Space: x
right, y up, z towards the viewer; the head is about 2 units tall. The ranges that values are drawn
from are in SHAPE, POSE and LOOK.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from eyescream_py.image_model.ply import Mesh
from eyescream_py.image_model.prepare import fill_rows, zbuffer

Ranges = dict[str, tuple[float, float]]
Values = dict[str, float]

SHAPE: Ranges = {  # what makes a person; amplitudes are shares of the local radius
    "width": (0.66, 0.80),
    "height": (0.92, 1.04),
    "depth": (0.76, 0.92),
    "jaw": (0.05, 0.28),
    "nose": (0.13, 0.24),
    "nose_width": (0.09, 0.15),
    "bridge": (0.05, 0.10),
    "brow": (0.02, 0.06),
    "socket": (0.04, 0.09),
    "eye_spacing": (0.34, 0.44),
    "lips": (0.03, 0.06),
    "mouth_width": (0.18, 0.28),
    "mouth_height": (-0.52, -0.44),
    "chin": (0.02, 0.09),
    "cheeks": (0.0, 0.06),
    "ears": (0.10, 0.24),
}
POSE: Ranges = {  # degrees; `scale` is the head's share of the picture's height; shifts are shares
    "yaw": (-35.0, 35.0),
    "pitch": (-12.0, 12.0),
    "roll": (-10.0, 10.0),
    "scale": (0.64, 0.96),
    "shift_x": (-0.10, 0.10),
    "shift_y": (-0.07, 0.07),
}
LOOK: Ranges = {  # albedos and brightness are shares of white; light angles in degrees
    "skin": (0.65, 0.85),
    "hair": (0.06, 0.20),
    "hairline": (0.66, 0.76),
    "brow_darkness": (0.3, 0.7),
    "lip_darkness": (0.15, 0.40),
    "light_azimuth": (-15.0, 15.0),
    "light_elevation": (5.0, 30.0),
    "ambient": (0.40, 0.55),
    "background": (0.05, 0.13),
    "background_slope": (-0.03, 0.03),
    "noise": (0.004, 0.012),
}


def draw(ranges: Ranges, rng: np.random.Generator) -> Values:
    """One value per name, uniform in its range."""
    return {name: float(rng.uniform(low, high)) for name, (low, high) in ranges.items()}


@dataclass(frozen=True)
class Head:
    """A grid of `points` (3, E, A) with `normals` (3, E, A) and `albedo` (E, A) in 0..1."""

    points: np.ndarray
    normals: np.ndarray
    albedo: np.ndarray

    def mesh(self) -> Mesh:
        """The grid as triangles."""
        rows, columns = self.albedo.shape
        index = np.arange(rows * columns).reshape(rows, columns)
        a, b = index[:-1, :-1].ravel(), index[:-1, 1:].ravel()
        c, d = index[1:, :-1].ravel(), index[1:, 1:].ravel()
        triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
        return Mesh(self.points.reshape(3, -1).T, triangles)


def _bell(values: np.ndarray, centre: float, spread: float) -> np.ndarray:
    return np.exp(-0.5 * ((values - centre) / spread) ** 2)


def _bump(
    elevation: np.ndarray, azimuth: np.ndarray, at: tuple[float, float], spread: tuple[float, float]
) -> np.ndarray:
    """Gaussian (E, A) around `at` = (elevation, azimuth)."""
    return np.outer(_bell(elevation, at[0], spread[0]), _bell(azimuth, at[1], spread[1]))


def _relief(shape: Values, elevation: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    """Radius (E, A) relative to the ellipsoid."""

    def bump(height: float, at: tuple[float, float], spread: tuple[float, float]) -> np.ndarray:
        return height * _bump(elevation, azimuth, at, spread)

    mouth, spacing = shape["mouth_height"], shape["eye_spacing"]
    relief = 1 + bump(shape["nose"], (-0.17, 0), (0.10, shape["nose_width"]))
    relief += bump(shape["bridge"], (0.06, 0), (0.16, 0.08))
    relief += bump(shape["brow"], (0.28, 0), (0.07, 0.45))
    relief += bump(shape["lips"], (mouth + 0.05, 0), (0.035, shape["mouth_width"]))
    relief += bump(shape["lips"], (mouth - 0.06, 0), (0.04, 0.8 * shape["mouth_width"]))
    relief += bump(shape["chin"], (-0.85, 0), (0.15, 0.35))
    for side in (-1, 1):
        relief -= bump(shape["socket"], (0.12, side * spacing), (0.09, 0.14))
        relief += bump(0.03, (0.11, side * spacing), (0.05, 0.08))
        relief += bump(shape["cheeks"], (-0.15, side * 0.6), (0.18, 0.2))
        relief += bump(shape["ears"], (0.0, side * 1.5), (0.14, 0.09))
    return relief


def _albedo(shape: Values, look: Values, elevation: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    spacing, mouth = shape["eye_spacing"], shape["mouth_height"]

    def spot(at: tuple[float, float], spread: tuple[float, float]) -> np.ndarray:
        """1 inside an ellipse, 0 outside, with a soft rim."""
        ellipse = -2 * np.log(_bump(elevation, azimuth, at, spread) + 1e-30)
        return 1 / (1 + np.exp(np.clip(8 * (ellipse - 1), -50, 50)))

    albedo = np.full((len(elevation), len(azimuth)), look["skin"])
    for side in (-1, 1):
        albedo *= 1 - look["brow_darkness"] * spot((0.31, side * spacing), (0.045, 0.19))
        eye = spot((0.11, side * spacing), (0.055, 0.12))
        iris = spot((0.11, side * spacing), (0.05, 0.05))
        albedo = albedo * (1 - eye) + 0.9 * eye * (1 - iris) + 0.08 * eye * iris
        albedo *= 1 - 0.5 * spot((-0.26, side * 0.06), (0.025, 0.035))
    albedo *= 1 - look["lip_darkness"] * spot((mouth, 0), (0.10, 1.1 * shape["mouth_width"]))
    albedo *= 1 - 0.5 * spot((mouth, 0), (0.012, shape["mouth_width"]))
    line = look["hairline"] - 0.9 * np.clip(np.abs(azimuth) - 0.7, 0, None) ** 1.5
    hair = 1 / (1 + np.exp(-np.clip((elevation[:, None] - line) / 0.02, -50, 50)))
    behind = 1 / (1 + np.exp(-(np.abs(azimuth) - 1.75) / 0.03))
    hair = np.maximum(hair, behind * (elevation[:, None] > -0.5))
    return albedo * (1 - hair) + look["hair"] * hair


def _rotation(pose: Values) -> np.ndarray:
    """Yaw about y, then pitch about x, then roll about z."""
    yaw, pitch, roll = (np.deg2rad(pose[name]) for name in ("yaw", "pitch", "roll"))
    about_y = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    about_x = [[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]]
    about_z = [[np.cos(roll), np.sin(roll), 0], [-np.sin(roll), np.cos(roll), 0], [0, 0, 1]]
    return np.array(about_z) @ np.array(about_x) @ np.array(about_y)


def build_head(shape: Values, look: Values, pose: Values, samples: int) -> Head:
    """A turned head of `samples` elevations and half as many azimuths again."""
    elevation = np.linspace(-1.5, 1.5, samples)
    azimuth = np.linspace(-2.3, 2.3, 3 * samples // 2)
    relief = _relief(shape, elevation, azimuth)
    taper = 1 - shape["jaw"] * np.clip(-np.sin(elevation), 0, 1) ** 1.5
    x = shape["width"] * relief * np.outer(taper * np.cos(elevation), np.sin(azimuth))
    y = shape["height"] * np.broadcast_to(np.sin(elevation)[:, None], relief.shape)
    z = shape["depth"] * relief * np.outer(np.cos(elevation), np.cos(azimuth))
    points = np.tensordot(_rotation(pose), np.stack([x, y, z]), 1)
    along_elevation, along_azimuth = np.gradient(points, axis=(1, 2))
    normals = np.cross(along_azimuth, along_elevation, axis=0)
    normals /= np.linalg.norm(normals, axis=0) + 1e-12
    return Head(points, normals, _albedo(shape, look, elevation, azimuth))


def render(
    head: Head, look: Values, pose: Values, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Depth map (0 background) and photo (0..1) of `head`, both (size, size) float.

    Orthographic; both are drawn at twice the size and averaged down.
    """
    fine = 2 * size
    x, y, z = head.points.reshape(3, -1)
    unit = fine * pose["scale"] / 2
    columns = np.floor(fine * (0.5 + pose["shift_x"]) + unit * x).astype(int)
    rows = np.floor(fine * (0.5 + pose["shift_y"]) - unit * y).astype(int)
    seen = np.flatnonzero((columns >= 0) & (columns < fine) & (rows >= 0) & (rows < fine))
    top = zbuffer(rows[seen], columns[seen], z[seen], fine)
    near = z[seen] - z[seen][top[top >= 0]].min() + 0.02
    depth = fill_rows(np.where(top >= 0, near[top], 0.0))
    nearest = ndimage.distance_transform_edt(top < 0, return_distances=False, return_indices=True)
    vertex = seen[top[tuple(nearest)]]
    shade = _shade(head, look).ravel()[vertex]
    ramp = look["background"] + look["background_slope"] * np.linspace(-1, 1, fine)
    photo = np.where(depth > 0, shade, ramp)
    photo = _halve(photo) + look["noise"] * rng.standard_normal((size, size))
    return _halve(depth), np.clip(photo, 0, 1)


def _shade(head: Head, look: Values) -> np.ndarray:
    """Lambert's law under one distant light and some ambient light, (E, A)."""
    azimuth, elevation = np.deg2rad([look["light_azimuth"], look["light_elevation"]])
    light = np.array(
        [
            np.sin(azimuth) * np.cos(elevation),
            np.sin(elevation),
            np.cos(azimuth) * np.cos(elevation),
        ]
    )
    direct = np.clip(np.tensordot(light, head.normals, 1), 0, None)
    return head.albedo * (look["ambient"] + (1 - look["ambient"]) * direct)


def _halve(plane: np.ndarray) -> np.ndarray:
    size = len(plane) // 2
    return plane.reshape(size, 2, size, 2).mean((1, 3))

"""Carry what moves on: objects in the past voxels, their velocities, and where these lead."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from occdistill.data.occ3d import FREE, MOVABLE, Grid
from occdistill.data.resample import nearest, voxel_map, warp

# metres per keyframe
FASTEST = 10.0  # 20 m/s: what is farther away is another object
SLOWEST = 0.35  # less is what voxels do to the centre of something that stands still
MOST = 200  # objects of a frame; more are noise, in which nothing can be followed
STEADY = 1.5  # how far two steps of one object may differ


@dataclass
class Objects:
    """The objects of one frame.

    Attributes:
        labels: object of each voxel, from 1; 0 for none; int32 `(X, Y, Z)`.
        classes: class of each, `(N,)`.
        sizes: voxels of each, `(N,)`.
        centres: mean voxel centre in the ego frame, metres, `(N, 3)`.
    """

    labels: np.ndarray
    classes: np.ndarray
    sizes: np.ndarray
    centres: np.ndarray


def find_objects(voxels: np.ndarray, grid: Grid) -> Objects:
    """Voxels `(X, Y, Z)` of one movable class whose columns touch, edges and corners included."""
    labels, classes = np.zeros(voxels.shape, np.int32), []
    for which in np.intersect1d(voxels, MOVABLE):
        mask = voxels == which
        columns, count = ndimage.label(mask.any(2), np.ones((3, 3), int))
        x, y, z = np.nonzero(mask)
        labels[x, y, z] = columns[x, y] + len(classes)
        classes += [int(which)] * count
    where = np.nonzero(labels)
    owner = labels[where] - 1
    sizes = np.bincount(owner, minlength=len(classes))
    sums = [np.bincount(owner, axis, minlength=len(classes)) for axis in where]
    centres = (np.stack(sums, 1) / np.maximum(sizes, 1)[:, None] + 0.5) * grid.voxel_size
    return Objects(labels, np.array(classes, int), sizes, centres + grid.origin)


def velocities(frames: list[Objects], poses: np.ndarray, grid: Grid) -> np.ndarray:
    """Steps per keyframe of the newest frame's objects, by the steadiest track of three frames.

    A step counts only if it brings more of the oldest frame's voxels onto the object than standing
    still does: an object's centre also moves where the grid's edge cuts it.

    Args:
        frames: objects of at least three keyframes, the newest last.
        poses: each frame to the newest one, `(P, 4, 4)`.
        grid: the grid of all.

    Returns:
        Metres per keyframe in the newest ego frame, `(N, 2)`; zero for what stands, and for what
        has no track.
    """
    older, old, new = frames[-3:]
    p_older, p_old, p_new = (
        (f.centres @ pose[:3, :3].T + pose[:3, 3])[:, :2]
        for f, pose in zip(frames[-3:], poses[-3:])
    )
    steps = np.zeros_like(p_new)
    counts = len(p_new), len(p_old), len(p_older)
    if not 0 < min(counts) <= max(counts) <= MOST:
        return steps
    step = p_new[:, None] - p_old  # (N, M, 2)
    length = np.linalg.norm(step, axis=-1)
    miss = np.linalg.norm((p_old - step)[:, :, None] - p_older, axis=-1)  # (N, M, L)
    miss = np.where(old.classes[:, None] == older.classes, miss, np.inf)
    ratio = new.sizes[:, None] / old.sizes
    possible = (new.classes[:, None] == old.classes) & (ratio < 3) & (ratio > 1 / 3)
    possible &= (length < FASTEST) & (miss.min(-1) < STEADY)
    cost = np.where(possible, miss.min(-1) + 0.3 * length, np.inf)
    while np.isfinite(cost).any():  # the surest pair first; each object belongs to one pair
        i, j = np.unravel_index(cost.argmin(), cost.shape)
        k = miss[i, j].argmin()
        cost[i], cost[:, j] = np.inf, np.inf
        step = (p_new[i] - p_older[k]) / 2
        if np.linalg.norm(step) >= SLOWEST:
            cells = np.argwhere(older.labels == k + 1) + 0.5
            points = cells * grid.voxel_size + grid.origin
            points = points @ poses[-3, :3, :3].T + poses[-3, :3, 3]
            still, moved = (
                _share(points + shift, new.labels, i + 1, grid)
                for shift in (np.zeros(3), np.append(2 * step, 0.0))
            )
            if moved > still:
                steps[i] = step
    return steps


def _share(points: np.ndarray, labels: np.ndarray, label: int, grid: Grid) -> float:
    """Of the points that lie in the grid, how many lie in an object."""
    cells = np.floor((points - grid.origin) / grid.voxel_size).astype(int)
    cells = cells[((cells >= 0) & (cells < labels.shape)).all(1)]
    return float((labels[tuple(cells.T)] == label).mean()) if len(cells) else 0.0


def carry_objects(past: Tensor, poses: Tensor, future: Tensor, grid: Grid) -> Tensor:
    """The newest frame from each future ego frame, its objects moved on at constant velocity.

    Args:
        past: uint8 `(B, P, X, Y, Z)`, P >= 3.
        poses: past frame to newest frame, `(B, >= P, 4, 4)`.
        future: future ego frame to newest frame, `(B, F, 4, 4)`.
        grid: the grid the voxels lie on.

    Returns:
        uint8 `(B, F, X, Y, Z)`, on the device of `past`; the search for objects runs on the CPU.

    Raises:
        ValueError: fewer than three past frames.
    """
    if past.shape[1] < 3:
        raise ValueError("an object's velocity needs three past frames")
    device, count = past.device, future.shape[1]
    out = []
    for clip, pose, targets in zip(past.cpu().numpy(), poses.cpu().double().numpy(), future.cpu()):
        frames = [find_objects(voxels, grid) for voxels in clip[-3:]]
        steps = velocities(frames, pose[: len(clip)], grid)
        newest, labels = clip[-1].copy(), frames[-1].labels
        moving = np.flatnonzero(steps.any(1))
        newest[np.isin(labels, moving + 1)] = FREE
        still = torch.from_numpy(newest).expand(count, *newest.shape)
        seen = warp(still, targets, grid).numpy()
        boxes = ndimage.find_objects(labels)
        for f, target in enumerate(targets.double().numpy()):
            for i in moving:
                shift = np.append(steps[i] * (f + 1), 0.0)
                _paint(seen[f], labels, i + 1, frames[-1].classes[i], boxes[i], target, shift, grid)
        out.append(torch.from_numpy(seen))
    return torch.stack(out).to(device)


def _paint(seen, labels, label, which, box, target, shift, grid: Grid) -> None:
    """Draw an object, `shift` metres from where `labels` has it, into the frame `seen`."""
    carried = target.copy()
    carried[:3, 3] -= shift
    scale, offset = voxel_map(carried, grid, grid)
    corners = np.array(list(product(*((s.start, s.stop) for s in box))))
    cells = (corners - offset) @ scale  # labels' frame to target frame: the inverse rotation
    low = np.maximum(np.floor(cells.min(0)).astype(int), 0)
    high = np.minimum(np.ceil(cells.max(0)).astype(int), seen.shape)
    if (low < high).all():
        part = np.zeros(high - low, labels.dtype)
        nearest(labels, scale, offset, low, part)
        seen[tuple(map(slice, low, high))][part == label] = which

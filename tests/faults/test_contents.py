"""Files that change in place, to the same size: nothing made from them before is used again."""

import json
import os

import numpy as np

from occdistill.data import contents
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import load_labels, save_labels
from occdistill.data.voxel_cache import VoxelCache

VERSION = "v1.0-tiny"
LABELS = "gts/scene-0002/sample1-4/labels.npz"


def clips(root, **options):
    return ClipDataset(root, VERSION, "val", past=1, future=1, **options)


def relabel(path):
    """Another class at one voxel, uncompressed so that the size stays."""
    labels = load_labels(path)
    semantics = labels.semantics.copy()
    semantics[100, 100, 4] = 9 if semantics[100, 100, 4] != 9 else 8
    np.savez(path, **labels._replace(semantics=semantics)._asdict())
    return path.stat()


def test_labels_changed_at_the_same_size_and_time_are_read_again(world, tmp_path):
    path = world / LABELS
    before = relabel(path)
    first = clips(world)
    assert VoxelCache(first, tmp_path / "cache").voxels[4, 100, 100, 4] == 9
    after = relabel(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as some copies do
    assert after.st_size == before.st_size
    second = clips(world)
    assert second.fingerprint != first.fingerprint
    assert VoxelCache(second, tmp_path / "cache").voxels[4, 100, 100, 4] == 8


def test_a_point_that_moves_changes_the_fingerprint(world):
    first = clips(world, past_from="lidar").fingerprint
    path = world / "samples/LIDAR_TOP/data-l1-sample1-4.pcd.bin"
    cloud = np.fromfile(path, np.float32)
    cloud[0] += 1
    cloud.tofile(path)
    assert clips(world, past_from="lidar").fingerprint != first
    assert clips(world).fingerprint == clips(world).fingerprint


def test_files_that_are_only_touched_or_packed_anew_are_the_same(world, monkeypatch):
    first = clips(world).fingerprint
    read = []
    checksum = contents._checksum
    monkeypatch.setattr(contents, "_checksum", lambda path: read.append(path) or checksum(path))
    assert clips(world).fingerprint == first and not read  # remembered
    os.utime(world / LABELS)
    assert clips(world).fingerprint == first
    assert read == [world / LABELS]
    np.savez(world / LABELS, **load_labels(world / LABELS)._asdict())  # not compressed
    assert clips(world).fingerprint == first


def test_a_memory_that_is_damaged_is_made_again(world):
    first = clips(world).fingerprint
    memory = world / ".occdistill" / "contents.json"
    for text in ("{", "[]", '{"format": 1, "files": []}', '{"format": 9}',
                 json.dumps({"format": 1, "files": {LABELS: 3}})):  # fmt: skip
        memory.write_text(text)
        assert clips(world).fingerprint == first


def test_a_file_that_is_no_archive_has_a_checksum_too(world):
    before = clips(world).fingerprint
    (world / LABELS).write_bytes(b"no archive")
    damaged = clips(world).fingerprint
    (world / LABELS).write_bytes(b"no archive at all")
    assert len({before, damaged, clips(world).fingerprint}) == 3
    save_labels(world / LABELS, *load_labels(world / LABELS.replace("-4", "-3")))
    assert clips(world).fingerprint != before

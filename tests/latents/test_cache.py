import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from occdistill import arrays as arrays_module
from occdistill.arrays import build_arrays, open_arrays
from occdistill.autoencoder.vae import VAE
from occdistill.data.clips import ClipDataset
from occdistill.data.occ3d import FREE, GridTransform, save_labels
from occdistill.data.resample import warp
from occdistill.data.voxel_cache import VoxelCache
from occdistill.errors import UserError
from occdistill.latents.cache import LatentClips, mirrored, mirrored_motion, moving_cells
from occdistill.latents.codec import Codec

TRANSFORM = GridTransform(crop=12.8, coarsen=4)  # 16 × 16 × 4 voxels


def write_world(root, keyframes=6):
    """Two scenes of Occ3D's annotations.json and labels; the ego drives forward and turns left."""
    random = np.random.default_rng(0)
    scenes = {}
    for name in ("scene-0001", "scene-0002"):
        scenes[name] = {}
        for k in range(keyframes):
            labels = np.full((200, 200, 16), FREE, np.uint8)
            labels[:, :, :2] = 11
            for x, y in random.integers(70, 120, (8, 2)):
                labels[x : x + 9, y : y + 6, 2:9] = random.integers(1, 17)
            path = root / "gts" / name / f"{name}-{k}" / "labels.npz"
            save_labels(path, labels, np.ones_like(labels), np.ones_like(labels))
            scenes[name][f"{name}-{k}"] = {
                "timestamp": str(k * 500_000),
                "ego_pose": {
                    "translation": [2.0 * k, 0.1 * k * k, 0.0],
                    "rotation": [np.cos(0.05 * k), 0.0, 0.0, np.sin(0.05 * k)],
                },
            }
    splits = {"train_split": ["scene-0001", "scene-0002"], "val_split": []}
    (root / "annotations.json").write_text(json.dumps({"scene_infos": scenes, **splits}))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("annotated")
    write_world(root)
    return root


def clips_of(world, **options):
    return ClipDataset(world, "any", "train", past=2, future=2, transform=TRANSFORM, **options)


def codec_of(clips, seed=0, **options):
    torch.manual_seed(seed)
    vae = VAE(
        clips.grid.shape, channels=4, embedding=2, width=(8, 8), blocks=(1, 1), decoder_width=8
    )
    vae.latent_scale.fill_(2.5)
    return Codec(vae.eval(), clips.grid, future=2, **({"align": (0, 1)} | options))


def latents(clips, codec, folder, fingerprint="vae0", **options):
    return LatentClips(clips, codec, fingerprint, folder, **options)


def test_voxel_cache_holds_every_keyframe(world, tmp_path):
    clips = clips_of(world)
    cache = VoxelCache(clips, tmp_path)
    assert len(cache) == 12 and cache.voxels.dtype == np.uint8
    for index in (0, len(clips) - 1):
        item = clips[index]
        for name, rows in zip(("past", "future"), clips.rows(index)):
            assert np.array_equal(cache.voxels[rows], item[name])
    assert torch.equal(cache[3]["voxels"], torch.from_numpy(cache.voxels[3].copy()))
    clips.reader = SimpleNamespace(past_from="occ3d")  # the second time no label file is read
    assert len(VoxelCache(clips, tmp_path)) == 12


def expected_item(codec, past, poses, trajectory):
    """Of one clip, without a cache."""
    aligned = codec.encode(codec.aligned_voxels(past[None], poses[None]).flatten(0, 2))
    return {
        "past": codec.encode(past),
        "aligned": aligned.reshape(codec.future, -1, *aligned.shape[-2:]),
        "trajectory": codec.visible_trajectory(trajectory[None], len(past))[0],
    }


@pytest.mark.parametrize("conditioning", ["gt", "hist"])
def test_cached_clips_are_what_the_codec_makes_of_them(world, tmp_path, conditioning):
    clips = clips_of(world)
    codec = codec_of(clips, conditioning=conditioning)
    cached = latents(clips, codec, tmp_path, dtype=np.float32)
    assert len(cached) == len(clips) == 6
    for index in (0, 5):
        item, clip = cached[index], clips[index]
        expected = expected_item(codec, clip["past"], clip["poses"], clip["trajectory"])
        expected["future"] = codec.encode(clip["future"])
        aligned = codec.aligned_voxels(clip["past"][None], clip["poses"][None])
        cells = codec.vae.latent_shape[1:]
        expected["moving"] = moving_cells(aligned, cells)[0].float()
        for key, value in expected.items():
            torch.testing.assert_close(item[key], value, atol=1e-5, rtol=1e-5)
        assert item["index"] == index and item["past"].dtype == torch.float32


def test_mirror_images_are_the_clips_of_the_mirrored_world(world, tmp_path):
    clips = clips_of(world)
    codec = codec_of(clips)
    cached = latents(clips, codec, tmp_path, mirror=True, dtype=np.float32)
    assert len(cached) == 12
    clip = clips[4]
    expected = expected_item(
        codec, mirrored(clip["past"]), *mirrored_motion(clip["poses"], clip["trajectory"])
    )
    for key, value in expected.items():
        torch.testing.assert_close(cached[10][key], value, atol=1e-5, rtol=1e-5)
    plain = latents(clips, codec, tmp_path, dtype=np.float32)  # its half of the cache will do
    assert len(plain) == 6 and torch.equal(plain[4]["past"], cached[4]["past"])


def test_mirroring_commutes_with_warping(world):
    clips = clips_of(world)
    clip = clips[0]
    past, poses, trajectory = clip["past"], clip["poses"], clip["trajectory"]
    seen = warp(past[1:], poses[3:4], clips.grid)
    mirrored_past = mirrored(past)
    mirrored_poses, mirrored_trajectory = mirrored_motion(poses, trajectory)
    seen_mirrored = warp(mirrored_past[1:], mirrored_poses[3:4], clips.grid)
    assert (seen_mirrored.flip(-2) == seen).float().mean() > 0.999  # but for ties of rounding
    assert not torch.equal(seen_mirrored, seen)
    # left in the ego frame becomes right: the LiDAR frame's x changes sign, its y (forward) doesn't
    assert torch.equal(mirrored_trajectory, trajectory * torch.tensor([-1.0, 1.0]))
    assert mirrored_poses[3, 1, 3] == -poses[3, 1, 3] and mirrored_poses[3, 0, 3] == poses[3, 0, 3]
    assert torch.linalg.det(mirrored_poses[3, :3, :3]) == pytest.approx(1.0)


def test_caches_of_different_things_lie_side_by_side(world, tmp_path):
    clips = clips_of(world)
    codec = codec_of(clips)
    first = latents(clips, codec, tmp_path)[2]
    made = sorted(os.listdir(tmp_path))
    assert [name.rsplit("-", 1)[0] for name in made] == [
        "latents-clips-plain", "latents-frames-plain", "voxels-labels"
    ]  # fmt: skip
    # another conditioning needs no frame anew, another autoencoder needs all
    for new, options in (
        ("clips", dict(codec=codec_of(clips, conditioning="hist"))),
        ("clips", dict(codec=codec_of(clips, align=(0,)))),
        ("clips", dict(clips=clips_of(world, stride=2))),
        ("frames clips", dict(fingerprint="vae1")),
    ):
        latents(**{"clips": clips, "codec": codec, "folder": tmp_path, **options})
        there = sorted(os.listdir(tmp_path))
        assert sorted(x.split("-")[1] for x in {*there} - {*made}) == sorted(new.split())
        made = there
    codec.encode = None  # nothing is encoded again
    again = latents(clips, codec, tmp_path)[2]
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_a_cache_of_something_else_is_refused_with_what_differs(world, tmp_path):
    clips = clips_of(world)
    latents(clips, codec_of(clips), tmp_path)
    (meta,) = tmp_path.glob("latents-frames-*/meta.json")
    meta.write_text(meta.read_text().replace("vae0", "vae7"))
    with pytest.raises(UserError, match="vae is 'vae7', not 'vae0'.*delete"):
        latents(clips, codec_of(clips), tmp_path)


def test_voxels_are_not_kept_where_each_is_read_once(world, tmp_path):
    clips = clips_of(world)
    codec = codec_of(clips, align=())
    cached = latents(clips, codec, tmp_path, dtype=np.float32)
    assert not [*tmp_path.glob("voxels*")]
    assert torch.allclose(cached[4]["future"], codec.encode(clips[4]["future"]), atol=1e-5)
    poses, trajectory = map(torch.from_numpy, clips.motion(4))
    assert torch.equal(cached[4]["trajectory"], trajectory)
    both = latents(clips, codec, tmp_path, dtype=np.float32, mirror=True)
    assert torch.equal(both[10]["trajectory"], mirrored_motion(poses, trajectory)[1])
    # once they are there, others read them, and latents alone need neither files nor voxels
    VoxelCache(clips, tmp_path)
    other = clips_of(world)
    other.reader = SimpleNamespace(past_from="occ3d")
    assert torch.equal(latents(other, codec, tmp_path, "vae1", dtype=np.float32)[4]["past"],
                       cached[4]["past"])  # fmt: skip
    shutil.rmtree(next(tmp_path.glob("voxels*")))
    assert len(latents(other, codec, tmp_path, dtype=np.float32)) == 6


def test_latents_are_encoded_a_frame_at_a_time_on_a_cpu(world, tmp_path, monkeypatch):
    """So that the bar moves: at full size a frame takes seconds."""
    clips = clips_of(world)
    codec, seen = codec_of(clips, align=()), []
    encode = codec.encode
    monkeypatch.setattr(codec, "encode", lambda x: seen.append(len(x)) or encode(x))
    bars = []

    class Bar(arrays_module.tqdm):
        def __init__(self, **options):
            super().__init__(**{**options, "disable": True})
            bars.append((options["total"], []))

        def update(self, n=1):
            bars[-1][1].append(n)

    monkeypatch.setattr(arrays_module, "tqdm", Bar)
    latents(clips, codec, tmp_path)
    assert seen == [1] * 12 and bars[0] == (12, [1] * 12)


def test_a_damaged_cache_is_refused(world, tmp_path):
    clips = clips_of(world)
    codec = codec_of(clips)
    latents(clips, codec, tmp_path)
    (path,) = tmp_path.glob("latents-clips-plain-*/aligned.npy")
    whole = path.read_bytes()
    for damaged in (whole[:-100], whole[:50], b"", whole[:4000] + b"\0" * 64 + whole[4064:]):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="aligned.npy.*(truncated|changed).*delete"):
            latents(clips, codec, tmp_path)
    path.write_bytes(whole)
    meta = path.parent / "meta.json"
    meta.write_text(meta.read_text()[:20])
    with pytest.raises(UserError, match="meta.json is truncated .*; delete .* built again"):
        latents(clips, codec, tmp_path)


def fill_squares(arrays, start, stop):
    arrays["squares"][start:stop] = np.arange(start, stop) ** 2


def test_a_flipped_byte_anywhere_is_noticed(tmp_path):
    folder, depends = tmp_path / "arrays", {"rule": "squares"}
    items = 3_000_001  # 24 MB
    build_arrays(folder, depends, {"squares": ((items,), np.int64)}, fill_squares, items, items, "")
    for place in np.random.default_rng(0).integers(1000, items * 8, 5):
        with open(folder / "squares.npy", "rb+") as file:
            file.seek(place)
            byte = file.read(1)
            file.seek(place)
            file.write(bytes([byte[0] ^ 1]))
        with pytest.raises(UserError, match="squares.npy has changed"):
            open_arrays(folder, depends)
        with open(folder / "squares.npy", "rb+") as file:
            file.seek(place)
            file.write(byte)
    assert (open_arrays(folder, depends)["squares"][:3] == [0, 1, 4]).all()


def test_a_killed_build_goes_on_where_it_stopped(tmp_path):
    code = """
        import os, signal, sys
        import numpy as np
        from occdistill import arrays
        from occdistill.arrays import build_arrays

        arrays.SAVE_EVERY = 0

        def fill(arrays, start, stop):
            if start == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            arrays["squares"][start:stop] = np.arange(start, stop) ** 2

        build_arrays(sys.argv[1], {"a": 1}, {"squares": ((10,), np.int64)}, fill, 10, 2, "squares")
    """
    folder = tmp_path / "arrays"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(folder)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL and not folder.exists()
    starts = []

    def fill(arrays, start, stop):
        starts.append(start)
        fill_squares(arrays, start, stop)

    build_arrays(folder, {"a": 1}, {"squares": ((10,), np.int64)}, fill, 10, 2, "squares")
    assert starts == [6, 8]
    assert open_arrays(folder, {"a": 1})["squares"].tolist() == [i * i for i in range(10)]
    assert sorted(os.listdir(tmp_path)) == ["arrays"]


def test_quick_pieces_are_saved_together_and_slow_ones_one_by_one(tmp_path, monkeypatch):
    clock, saved = [0.0], []
    write = arrays_module.write_json
    monkeypatch.setattr(arrays_module.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(
        arrays_module, "write_json",
        lambda path, content, **rest: saved.append(content.get("marks", [])[-1:])
        or write(path, content, **rest),
    )  # fmt: skip

    def fill(arrays, start, stop):
        clock[0] += 0.3 if start < 6 else 5.0
        fill_squares(arrays, start, stop)

    build_arrays(tmp_path / "s", {}, {"squares": ((10,), np.int64)}, fill, 10, 1, "squares")
    assert [mark[0][0] for mark in saved if mark] == [4, 7, 8, 9, 10]


def test_an_interrupted_build_of_something_else_starts_again(tmp_path):
    def stop(arrays, start, stop):
        if start:
            raise KeyboardInterrupt
        fill_squares(arrays, start, stop)

    shape = {"squares": ((4,), np.int64)}
    with pytest.raises(KeyboardInterrupt):
        build_arrays(tmp_path / "s", {"a": 1}, shape, stop, 4, 2, "squares")
    build_arrays(tmp_path / "s", {"a": 2}, shape, fill_squares, 4, 2, "squares")
    assert open_arrays(tmp_path / "s", {"a": 2})["squares"].tolist() == [0, 1, 4, 9]


def test_no_room_is_said_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="cannot build the cache .*No space left"):
        build_arrays(tmp_path / "s", {}, {"x": ((1 << 50,), np.uint8)}, fill_squares, 1, 1, "x")


def test_moving_cells_are_those_that_something_has_entered_or_left():
    aligned = torch.full((1, 2, 2, 8, 4, 3), FREE, dtype=torch.uint8)
    aligned[0, 0, 1, 5, 2, 2] = 4  # a car that was there
    aligned[0, 0, 0, 0, 0, 0] = aligned[0, 0, 1, 1, 1, 2] = 4  # one that stays in its cell
    aligned[0, 1, 0, 0, 3, 0] = 15  # a wall
    assert moving_cells(aligned, (4, 2)).nonzero().tolist() == [[0, 0, 2, 1]]
    assert moving_cells(aligned[:, :, :1], (4, 2)).nonzero().tolist() == [[0, 0, 0, 0]]

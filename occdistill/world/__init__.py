"""The embedded world: simulate a town, scan it, write it as nuScenes and Occ3D files.

A world is a folder like any nuScenes data root with Occ3D labels, so every tool reads it as it
reads the real thing:

- `v1.0-synthetic/*.json`: the tables, which nuscenes-devkit opens
- `samples/LIDAR_TOP/*.pcd.bin`, `lidarseg/v1.0-synthetic/*.bin`: sweeps and their point labels
- `gts/<scene>/<sample token>/labels.npz`: Occ3D's `semantics`, `mask_lidar`, `mask_camera`
- `annotations.json`, `splits.json`: Occ3D's list of scenes; which scenes are train and val
- `world.json`: the arguments it was made with

`town` plans streets, `traffic` drives and walks on them, `scenery` builds what lines them as
`columns`, `simulate` joins these to one scene, `labels` and `scan` look at it, `tables` and
`world` write it. Where recorded drives are re-enacted, `recordings` reads them as `motion`,
`mending` makes their tracks fit, and `surface` puts a town where their streets are.
"""

from occdistill.world.world import VERSION, make_recorded_world, make_world, summary

__all__ = ["VERSION", "make_recorded_world", "make_world", "summary"]

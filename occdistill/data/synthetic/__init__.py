"""The embedded world: simulate a town, scan it, write it as nuScenes and Occ3D files."""

from .world import VERSION, make_world

__all__ = ["VERSION", "make_world"]

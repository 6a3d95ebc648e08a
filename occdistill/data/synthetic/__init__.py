"""The embedded world: simulate a town, scan it, write it as nuScenes and Occ3D files."""

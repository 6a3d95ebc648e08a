"""From past voxels to future voxels, timed."""

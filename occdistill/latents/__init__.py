"""Voxels to latents, and what is known of a clip as a condition."""

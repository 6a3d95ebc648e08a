"""Voxels to latents and back."""

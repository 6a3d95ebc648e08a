"""Velocity networks."""

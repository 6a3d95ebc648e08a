"""Distillation methods, one short file each."""

"""Measures beyond mIoU, one small module each."""

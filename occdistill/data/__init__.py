"""What is on disk, turned into tensors."""

"""The mmengine glue: loops, hooks, safe checkpoints."""

"""OccFM's published files: key mapping, fill rule, safe import."""

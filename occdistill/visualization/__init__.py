"""Pictures of occupancy: Open3D scenes, bird's-eye views, animations."""

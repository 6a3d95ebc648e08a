"""Real-time 3D occupancy forecasting by distilling latent flow-matching world models."""

__version__ = "0.1.0"

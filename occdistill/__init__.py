"""Real-time 3D occupancy forecasting by distilling latent flow-matching world models.

forecaster = occdistill.Forecaster.from_pretrained("demo")
clip = occdistill.load_scene(forecaster)[0]
future = forecaster(clip.past, clip.poses, clip.plan)
occdistill.score(future, clip.future)
occdistill.draw("forecast.gif", clip.past, {"student": future}, forecaster.grid)
"""

from importlib import import_module as _import_module

__version__ = "0.2.0"

# imported when they are first asked for: torch takes seconds; `__init__.pyi` tells type checkers
_FROM = {
    "Forecaster": "occdistill.build.pretrained",
    **dict.fromkeys(("Clip", "constant_velocity", "draw", "load_scene", "score"), "occdistill.api"),
    "UserError": "occdistill.errors",
}
__all__ = [
    "Clip", "Forecaster", "UserError", "__version__", "constant_velocity", "draw", "load_scene",
    "score",
]  # fmt: skip


def __getattr__(name: str):
    if name not in _FROM:
        raise AttributeError(f"module 'occdistill' has no attribute {name!r}")
    value = globals()[name] = getattr(_import_module(_FROM[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)

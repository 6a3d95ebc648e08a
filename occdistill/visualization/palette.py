"""What is drawn in which colour: the field's classes, what a forecast gets wrong, how likely it is,
and a GIF's 256.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from occdistill.data.occ3d import CLASS_NAMES, FREE, PALETTE

RIGHT, MISSED, INVENTED, CONFUSED = range(FREE + 1, FREE + 5)  # ids that no class has
ERROR_NAMES = ("right", "missed: truth only", "invented: forecast only", "another class")
ERROR_COLOURS = np.array([(196, 200, 206), (214, 64, 60), (36, 104, 190), (240, 176, 32)], np.uint8)
LEVELS = range(CONFUSED + 1, CONFUSED + 5)  # quarters of what goes from 0 to 1
LEVEL_NAMES = ("up to 25 %", "up to 50 %", "up to 75 %", "up to 100 %")
LEVEL_COLOURS = np.array([(250, 226, 120), (226, 126, 92), (150, 44, 124), (52, 16, 84)], np.uint8)
COLOURS = np.concatenate([PALETTE, ERROR_COLOURS, LEVEL_COLOURS])  # by id
NAMES = (*(name.replace("_", " ") for name in CLASS_NAMES), *ERROR_NAMES, *LEVEL_NAMES)
SHADES = 12  # per class in a GIF
DARKEST = 0.38  # of the light that surfaces are drawn in
GIF_DISTANCE = 12  # per channel, that a GIF's colours are at most off


def errors(truth: np.ndarray, forecast: np.ndarray) -> np.ndarray:
    """Where a forecast is right and how it is wrong: ids of `COLOURS`, free where both are free.

    Args:
        truth: class ids uint8, any shape.
        forecast: of the same shape.
    """
    wrong = np.select(
        [truth == forecast, forecast == FREE, truth == FREE], [RIGHT, MISSED, INVENTED], CONFUSED
    ).astype(np.uint8)
    return np.where((truth == FREE) & (forecast == FREE), np.uint8(FREE), wrong)


def levels(values: np.ndarray, filled: np.ndarray) -> np.ndarray:
    """What goes from 0 to 1, such as a probability, in quarters: ids of `COLOURS`.

    Args:
        values: in [0, 1], any shape; a quarter holds its upper end.
        filled: bool, of the same shape; free elsewhere.
    """
    quarter = np.ceil(len(LEVELS) * np.asarray(values, np.float64)).clip(1, len(LEVELS))
    return np.where(filled, LEVELS.start - 1 + quarter, FREE).astype(np.uint8)


def gif_palette() -> Image.Image:
    """A palette for all frames of all GIFs: every colour in its shades, and greys for the rest.

    A palette made of the frames themselves gives a whole street many shades of the road, and the
    one motorcycle on it none.
    """
    light = np.linspace(DARKEST, 1, SHADES)[:, None, None]
    classes = (light * PALETTE[1:FREE]).reshape(-1, 3)
    others = COLOURS[len(PALETTE) :]
    wrong = (np.linspace(DARKEST, 1, SHADES // 2)[:, None, None] * others).reshape(-1, 3)
    greys = np.linspace(0, 255, 256 - len(classes) - len(wrong))[:, None].repeat(3, 1)
    table = np.concatenate([greys, classes, wrong]).round().astype(np.uint8)
    image = Image.new("P", (1, 1))
    image.putpalette(table.tobytes())
    return image

"""The same as `price.py` on the past alone, where futures differ and diversity is worth something."""

from mmengine.config import read_base

with read_base():
    from .price import *

base = "configs/demo_hist.py"
title = "The price of MFD on the past alone, measured"
work_dir = "work_dirs/price-hist"

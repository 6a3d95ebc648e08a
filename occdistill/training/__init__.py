"""From a config to trained weights: `train.py`; a module for each training says what it is made of."""

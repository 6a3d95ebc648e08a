"""From a config file to the objects it describes."""

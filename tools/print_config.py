"""What a config is, after inheritance and options, checked as every tool checks it.

python tools/print_config.py CONFIG [--cfg-options key=value …]
"""

import _options as common

from occdistill.errors import run


def main() -> None:
    """Print it as a Python file."""
    parser = common.parser(__doc__)
    common.add_config(parser.add_argument)
    print(common.read_config(parser.parse_args()).pretty_text.rstrip())


if __name__ == "__main__":
    run(main)

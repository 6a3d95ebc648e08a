"""What a config is, after inheritance and options, checked as every tool checks it.

python tools/print_config.py CONFIG [--cfg-options key=value …]
"""

from __future__ import annotations

from _options import add_config, parser, read_config

from occdistill.errors import run


def main() -> None:
    """Print it as a Python file."""
    options = parser(__doc__)
    add_config(options.add_argument)
    print(read_config(options.parse_args()).pretty_text.rstrip())


if __name__ == "__main__":
    run(main)

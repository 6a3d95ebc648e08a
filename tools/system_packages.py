"""Install the system libraries that Open3D renders with, or say which ones are missing.

    python tools/system_packages.py [--yes]

pip can't bring them. On a Debian-like machine, as root, the command is shown, and run once somebody
at a terminal has agreed (in a script: at once); elsewhere it is only shown. Everything but 3-D
pictures works without them.
"""

from occdistill.doctor.system_packages import install
from occdistill.errors import Parser, run


def main() -> None:
    """Say what is missing, and install it where that may be done."""
    parser = Parser(description=__doc__.splitlines()[0])
    parser.add_argument("--yes", action="store_true", help="install without asking")
    print(install(parser.parse_args().yes))


if __name__ == "__main__":
    run(main)

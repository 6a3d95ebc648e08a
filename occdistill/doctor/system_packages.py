"""The system libraries that Open3D renders with: pip can't bring them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

from occdistill.errors import UserError
from occdistill.visualization.open3d_scene import missing_packages


def install(agreed: bool) -> str:
    """Install what is missing where that may be done, after saying so and asking at a terminal.

    Args:
        agreed: nobody need be asked.

    Returns:
        What to tell the user.

    Raises:
        UserError: apt-get fails.
    """
    packages = missing_packages()
    if not packages:
        return "nothing is missing: Open3D has the system libraries that it renders with"
    install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    command = f"apt-get update -qq && {' '.join(install)}"
    lacking = f"3-D pictures need system packages that aren't installed ({' '.join(packages)})"
    if not shutil.which("apt-get") or os.geteuid():
        return (
            f"{lacking}; until then they are bird's-eye views."
            f" On Debian or Ubuntu: sudo sh -c '{command}'"
        )
    print(f"{lacking}. To be run: {command}", flush=True)
    asked = not agreed and sys.stdin.isatty()
    if asked and input("run it? [y/N] ").lower() not in ("y", "yes"):
        return "nothing was installed; pictures are bird's-eye views"
    subprocess.run(["apt-get", "update", "-qq"], check=False)
    if subprocess.run(install, stdout=subprocess.DEVNULL, check=False).returncode:
        raise UserError("apt-get failed (see above); pictures are bird's-eye views until it works")
    return "installed"

"""Install the system libraries that Open3D renders with, or say which ones are missing.

pip can't bring them. On a Debian-like machine, as root, they are installed; elsewhere the command
to type is printed and everything but 3-D rendering works without them.
"""

import os
import shutil
import subprocess

from occdistill.visualization.open3d_scene import missing_packages


def main() -> None:
    """Install what is missing if that is possible without asking anybody."""
    packages = missing_packages()
    if not packages:
        return
    command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages]
    if shutil.which("apt-get") and os.geteuid() == 0:
        print("installing system packages for 3-D rendering:", " ".join(packages))
        subprocess.run(["apt-get", "update", "-qq"], check=False)
        if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0:
            return
    print(
        "3-D rendering needs system packages that are not installed; pictures fall back to a "
        f"bird's-eye view. On Debian or Ubuntu: sudo {' '.join(command)}"
    )


if __name__ == "__main__":
    main()

"""Install the system libraries that Open3D renders with, or say which ones are missing.

pip can't bring them. On a Debian-like machine, as root, they are installed; elsewhere the command
to type is printed and everything but 3-D rendering works without them.
"""

import os
import shutil
import subprocess

PACKAGES = ("libusb-1.0-0", "libgl1", "libegl1", "libgomp1", "libvulkan1", "mesa-vulkan-drivers")


def missing() -> list[str]:
    """Packages that dpkg doesn't list as installed; all of them where there is no dpkg."""
    if shutil.which("dpkg-query") is None:
        return list(PACKAGES)
    query = ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", *PACKAGES]
    found = subprocess.run(query, check=False, capture_output=True, text=True).stdout.splitlines()
    installed = {line.split()[0] for line in found if line.endswith(" installed")}
    return [name for name in PACKAGES if name not in installed]


def main() -> None:
    """Install what is missing if that is possible without asking anybody."""
    packages = missing()
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

"""A headless Chromium, driven over DevTools' pipe: what the tests look at pages with.

    python tests/browser.py PAGE.html PICTURE.png [--size 1280 720] [--run JAVASCRIPT]

writes a screenshot, as docs/ has them.
"""

import argparse
import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def find_chromium() -> str | None:
    """The browser's command, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page of a Chromium of its own; `errors` collects what its console complains about."""

    def __init__(self, size=(1280, 720)):
        self.errors, self._number, self._rest = [], 0, b""
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs, self._write = os.pipe()
        self._read, back = os.pipe()
        options = [
            "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist",
            "--no-first-run", "--force-device-scale-factor=1", "--remote-debugging-pipe",
            f"--user-data-dir={self._profile.name}", f"--window-size={size[0]},{size[1]}",
            "about:blank",
        ]  # fmt: skip
        shell = f'exec "$0" "$@" 3<&{theirs} 4>&{back}'  # Chromium reads 3 and writes 4
        self._process = subprocess.Popen(
            ["bash", "-c", shell, find_chromium(), *options], pass_fds=(theirs, back),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(theirs)
        os.close(back)
        targets = self._call("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self._call(f"{domain}.enable")
        self._call(
            "Emulation.setDeviceMetricsOverride", width=size[0], height=size[1],
            deviceScaleFactor=1, mobile=False,
        )  # fmt: skip

    _session = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(20)
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def open(self, address, timeout=60):
        """Load a file or address and wait until the page has drawn."""
        if isinstance(address, Path):
            assert address.is_file(), address
            address = address.resolve().as_uri()
        self._call("Page.navigate", url=address)
        self.wait("document.body && document.body.dataset.ready", timeout)

    def wait(self, condition, timeout=60):
        """Until a JavaScript expression is true."""
        end = time.monotonic() + timeout
        while not self.run(condition):
            assert time.monotonic() < end, f"{condition} stays false; {self.errors}"
            time.sleep(0.05)

    def run(self, expression):
        """The value of a JavaScript expression; promises are waited for."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def settle(self):
        """Wait for two animation frames: what was asked for has been drawn."""
        self.run("new Promise(f => requestAnimationFrame(() => requestAnimationFrame(() => f(1))))")

    def screenshot(self):
        """The page as PNG bytes."""
        self.settle()
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def _call(self, method, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self._note(answer)

    def _note(self, event):
        details = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(details["exceptionDetails"])[:500])
        if event.get("method") == "Log.entryAdded" and details["entry"]["level"] != "verbose":
            self.errors.append(details["entry"]["text"])
        if event.get("method") == "Runtime.consoleAPICalled" and details["type"] != "log":
            self.errors.append(json.dumps(details["args"])[:500])

    def _next(self, timeout=60):
        while b"\0" not in self._rest:
            assert select.select([self._read], [], [], timeout)[0], "Chromium says nothing"
            piece = os.read(self._read, 1 << 20)
            assert piece, "Chromium has ended"
            self._rest += piece
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)


def main():
    """Write a screenshot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--size", type=int, nargs=2, default=(1280, 720))
    parser.add_argument("--run", default="0", help="JavaScript to run before")
    args = parser.parse_args()
    with Browser(args.size) as browser:
        browser.open(args.page)
        browser.run(args.run)
        args.picture.write_bytes(browser.screenshot())
        print("\n".join(browser.errors) or f"{args.picture}: no console errors")


if __name__ == "__main__":
    main()

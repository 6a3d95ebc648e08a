"""The newest forecast of a live run in a browser: the page of `page.py`, sent over HTTP."""

from __future__ import annotations

import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlparse

import numpy as np
from torch import Tensor

from occdistill.data.occ3d import Grid
from occdistill.errors import UserError
from occdistill.runtime.live import LiveRunner
from occdistill.visualization.page import Panel, content, html

PATIENCE = 5.0  # seconds that a browser's question waits for a newer forecast


class LiveView:
    """A listener of live runs that serves a page; its browser asks for what is newer than it has.

    Nothing is packed before a browser asks, so that a run that nobody watches loses no time.

    Args:
        grid: where the voxels are.
        port: 0 for any that is free.
        host: which of this machine's addresses answers; by default only this machine can ask.

    Attributes:
        address: where the page is.

    Raises:
        UserError: the port is in use or not allowed.
    """

    def __init__(self, grid: Grid, port: int, host: str = "127.0.0.1") -> None:
        self.grid = grid
        self._news = threading.Condition()
        self._newest: tuple[int, np.ndarray, np.ndarray, str] | None = None
        try:
            self._server = ThreadingHTTPServer((host, port), self._handler())
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"no page can be served at port {port} ({reason}): choose another with --view PORT"
            ) from error
        self._server.daemon_threads = True
        self.address = f"http://{host}:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, name="view", daemon=True).start()

    def __call__(self, runner: LiveRunner, future: Tensor) -> bool:
        """Keep the newest forecast; the run goes on."""
        now = runner.rolling.frames[-1].voxels.cpu().numpy()
        with self._news:
            number = 0 if self._newest is None else self._newest[0] + 1
            self._newest = number, now, future.cpu().numpy(), status(runner.report())
            self._news.notify_all()
        return True

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def after(self, number: int, patience: float = PATIENCE) -> dict[str, Any] | None:
        """What the page is sent, once there is a forecast of a higher number; None: not in time."""
        with self._news:
            self._news.wait_for(lambda: self._newest and self._newest[0] > number, patience)
            newest = self._newest
        if newest is None or newest[0] <= number:
            return None
        number, now, future, words = newest
        panels = [Panel("forecast", future)]
        return {"number": number, **content(panels, self.grid, now[None], "live", words)}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        view = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = urlparse(self.path)
                if asked.path == "/":
                    self.answer("text/html; charset=utf-8", html({"live": "newest"}))
                elif asked.path == "/newest":
                    after = parse_qs(asked.query).get("after", ["-1"])[0]
                    payload = view.after(int(after) if after.isdecimal() else -1)
                    if payload is None:
                        self.send_response(HTTPStatus.NO_CONTENT)
                        self.end_headers()
                    else:
                        self.answer("application/json", json.dumps(payload))
                else:
                    self.send_error(HTTPStatus.NOT_FOUND)

            def answer(self, kind: str, text: str) -> None:
                body = text.encode()
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Cache-Control", "no-store")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """The run's own output is for the run."""

        return Handler


def status(report: dict) -> str:
    """A live run's report in a line, once it has made a forecast."""
    frames, total = report["frames"], report["stages"]["total"]
    return (
        f"{frames['forecasts']} forecasts, p50 {total['p50_ms']:.0f} ms, p99 {total['p99_ms']:.0f} ms"
        f" (deadline {report['deadline_ms']:.0f}): {report['missed']} late; {frames['dropped']} frames"
        f" dropped, {frames['bad']} bad"
    )

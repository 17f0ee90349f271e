"""Web server of one folder, on the loopback interface only."""

from __future__ import annotations

import os
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any

from unrolled.engine.errors import ModelFileError

LOOPBACK = "127.0.0.1"

# Fixed here, because the system's table of MIME types may lack them or differ.
MIME_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".mjs": "text/javascript; charset=utf-8",
    ".wasm": "application/wasm",
    ".onnx": "application/octet-stream",
}


class _Handler(SimpleHTTPRequestHandler):
    """Handler that forbids caching, because a new export has the same file names."""

    def guess_type(self, path: str | os.PathLike[str]) -> str:
        return MIME_TYPES.get(Path(path).suffix) or super().guess_type(path)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


class WebServer:
    """Server that runs inside a ``with`` block: ``with WebServer(folder) as server: server.url``.

    Args:
        folder: folder to serve, with an index.html.
        port: port to listen on; 0: any free port.

    Raises:
        ModelFileError: the folder has no index.html.
        OSError: the port is in use.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        if not (folder / "index.html").is_file():
            raise ModelFileError(f"{folder}: holds no page; unrolled export RUN --format web writes one")
        self._server = ThreadingHTTPServer((LOOPBACK, port), partial(_Handler, directory=str(folder)))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self._server.server_port}/"

    def wait(self) -> None:
        """Serve until interrupted."""
        while self._thread.is_alive():
            self._thread.join(0.5)  # with a timeout, because an endless join cannot be interrupted on Windows

    def __enter__(self) -> WebServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

"""A server that shows something in browsers, by viser, and looks for what is new until it is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from hardy import checks
from hardy.errors import InputError, install


class BrowserServer:
    """What viewers share; one says what it shows, and calls `start` once that is there.

    Args:
        shown: "Gaussians".
        host: where to listen.
        port: the next free one is taken if it is not.

    Attributes:
        server: viser's, once started.
        url: of it.
        closed: set once it is stopped.

    Raises:
        InputError: viser is not installed, or the port is out of range.
    """

    server: Any
    url: str

    def __init__(self, shown: str, host: str, port: int) -> None:
        try:
            import viser  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise InputError(f"showing {shown} in the browser needs viser: {install('view')}") from None
        self._viser, self._host = viser, host
        self._port = checks.integer("port", port, at_least=0, at_most=65535)
        self.closed = threading.Event()

    def start(self) -> None:
        """Begin to listen."""
        self.server = self._viser.ViserServer(host=self._host, port=self._port, label="hardy", verbose=False)
        self.url = f"http://{self._host}:{self.server.get_port()}"

    def watch(self, look: Callable[[], object], every: float) -> None:
        """Call `look` every so many seconds, in a thread of its own, until `stop`."""

        def watching() -> None:
            while not self.closed.wait(every):
                look()

        self._watcher = threading.Thread(target=watching, daemon=True)
        self._watcher.start()

    def stop(self) -> None:
        """Close the server."""
        self.closed.set()
        self._watcher.join()
        self.server.stop()

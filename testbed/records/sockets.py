"""Unix sockets that only their owner can use, from the first moment on."""

from __future__ import annotations

import os
import socket


def bind_private(endpoint: socket.socket, path: str) -> None:
    """Bind a Unix socket at `path`, so that nobody but its owner may ever connect or send to it.

    A mode that is given to the file afterwards comes too late for whoever was quick. Raises
    OSError.
    """
    os.fchmod(endpoint.fileno(), 0o600)  # bind gives the file the mode of the socket
    endpoint.bind(path)

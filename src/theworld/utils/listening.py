"""Sockets of the servers that this package starts."""

import socket

from .errors import FileError, TheWorldError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free port.

    Raises:
        ValueError: `port` is not from 0 to 65535.
        OSError: The port is in use, or `host` is not an address of this machine.
    """
    if not 0 <= port <= 65535:
        raise TheWorldError(f"port={port}: expected 0 to 65535; 0 takes any free port")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise FileError(
            f"cannot listen on {host}, port {port}: the port is in use, or this machine does not have the address; "
            "choose another (port 0 takes any free port)"
        ) from error

"""Sockets of the servers that this package starts."""

import socket

from .errors import FileError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes any free port.

    Raises:
        OSError: The port is in use, or `host` is not an address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise FileError(
            f"cannot listen on {host}, port {port}: the port is in use, or this machine does not have the address; "
            "choose another (port 0 takes any free port)"
        ) from error

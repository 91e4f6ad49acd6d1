"""A Ray cluster to share work out over: that of RAY_ADDRESS, or else one on this machine."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core.errors import InputError

RETRIES = 5
"""Times that work is begun again whose worker died."""


@contextmanager
def connected(flow: str) -> Iterator[Any]:
    """Give Ray, connected to its cluster; what still runs there when the block ends is ended with it.

    Args:
        flow: The extra that is installed with Ray's.

    Raises:
        InputError: Ray is not installed, or its cluster cannot be reached.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError(f"--engine ray needs Ray.\nInstall the extra: pip install -e '.[{flow},cluster]'") from error
    address = os.environ.get("RAY_ADDRESS", "local")
    try:
        _check_reachable(address)
        if not ray.is_initialized():
            ray.init(address=address, log_to_driver=False, include_dashboard=False)
    except OSError as error:
        raise InputError(
            f"Ray's cluster at {address} cannot be reached: {error.strerror or error}.\nStart it, or unset RAY_ADDRESS."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError if nobody listens at HOST:PORT, for which Ray itself would wait for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()


def result(ray: Any, reference: Any) -> Any:
    """Return what a worker made; its InputError is raised as it was there, without Ray's traceback."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise

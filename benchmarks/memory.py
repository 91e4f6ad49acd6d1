"""The most memory that this process has held."""

import re
import resource
import sys
from pathlib import Path

import jax

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak() -> int:
    """Return the bytes of RAM that this process held at most: since `reset`, where the system can tell."""
    if _STATUS.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset() -> None:
    """Begin a new peak (Linux; elsewhere nothing happens, and a later stage's peak includes the earlier ones')."""
    try:
        _RESET.write_text("5")
    except OSError:
        return


def device_peak() -> int | None:
    """Return the bytes that all accelerators together held at most; None without one."""
    statistics = [device.memory_stats() for device in jax.local_devices()]
    return sum(one["peak_bytes_in_use"] for one in statistics if one) if all(statistics) else None

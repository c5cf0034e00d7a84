"""How much memory there is, and a refusal in words before too much of it is asked for."""

import math
import os

import jax

from ..problems import _checks as checks


def free_memory() -> float:
    """Bytes that are free: on the accelerator in use, else on this machine; infinite where nobody knows."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats["bytes_in_use"])
    try:
        with open("/proc/meminfo") as lines:
            kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
        return 1024.0 * kilobytes
    except (OSError, StopIteration):
        pass
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, OSError, ValueError):
        return float("inf")


def check_memory(
    needs: dict[str, int | float], remedies: dict[str, str], function: str, sizes: str, memory_limit
) -> None:
    """Raises `MemoryError`, naming the largest of `needs` (bytes by purpose), if together they exceed what is free."""
    if memory_limit is not None:
        memory_limit = float(checks.number("memory_limit", memory_limit, above=0.0, finite=False))
    available = free_memory() if memory_limit is None else memory_limit
    if sum(needs.values()) <= available:
        return
    worst = max(needs, key=lambda name: needs[name])
    raise MemoryError(
        f"{function} would need about {_size(needs[worst])} for {worst} ({sizes}) and {_size(available)} are free; "
        f"{remedies[worst]} (memory_limit= overrides the free amount)."
    )


def _size(count: float) -> str:
    power = min(int(math.log2(max(count, 1)) // 10), 3)
    return f"{count / 1024**power:.{0 if count >= 10 * 1024**power else 1}f} {('bytes', 'kiB', 'MiB', 'GiB')[power]}"

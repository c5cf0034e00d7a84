"""What a solution takes, known from its sizes alone, and a refusal in words before too much is asked for."""

import math
import os
from dataclasses import dataclass, field

import jax

from ..problems import _checks as checks


@dataclass(frozen=True)
class Cost:
    """What a `solve` would take, estimated before any work.

    **Fields:** `needs`, bytes on each device by what needs them; `flops`, floating-point operations of all devices
    together, to leading order and without what derivatives add (for a gradient about four times as many); `remedies`,
    how to need less of each; `sizes`, what the numbers follow from.
    """

    needs: dict[str, float]
    flops: float
    remedies: dict[str, str] = field(repr=False)
    sizes: str = ""

    @property
    def bytes(self) -> float:
        """All bytes on each device."""
        return float(sum(self.needs.values()))

    def check(self, function: str, memory_limit=None) -> None:
        """**Raises:** `MemoryError` if the bytes exceed `memory_limit`, by default what is free."""
        check_memory(self.needs, self.remedies, function, self.sizes, memory_limit)


def free_memory() -> float:
    """Bytes that are free: on the accelerator in use, else on this machine; infinite where nobody knows."""
    stats = jax.local_devices()[0].memory_stats()
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

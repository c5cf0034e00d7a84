"""Every test runs with the shapes in the signatures of `solvers` checked at each call.

Elsewhere a wrong value is answered by a sentence of our own, which must come first.
"""

import gc
import os
import sys
from pathlib import Path

import jax
import jaxtyping
import pytest

jaxtyping.install_import_hook("limitax.solvers", "beartype.beartype")
# In a clone that is called limitax, pytest has imported the package already, unchecked, as the parent of this file.
for name in list(sys.modules):
    if name.startswith("limitax") and not name.startswith("limitax.tests"):
        del sys.modules[name]

MAPS = Path("/proc/self/maps")

# Most of the fast tests' time is compilation of programs that run for a moment. The slow ones run as users do.
QUICK_COMPILATION = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


def pytest_configure(config):
    if config.getoption("markexpr") == "not slow":
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {QUICK_COMPILATION}"


@pytest.fixture(autouse=True, scope="module")
def _room_for_programs():
    """Every compiled program holds memory maps, of which a process has 65530: beyond, the compiler aborts."""
    yield
    if MAPS.exists() and len(MAPS.read_bytes().splitlines()) > 12_000:
        jax.clear_caches()
        gc.collect()

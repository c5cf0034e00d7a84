"""Several processes that are one job, by JAX's own runtime."""

import multiprocessing
import os
import threading
from collections.abc import Callable
from typing import Any

import jax


def in_child(function: Callable[..., Any], *arguments: Any) -> int:
    """Runs a function of a module in a process of its own, and returns the code with which that ends, the negative
    number of a signal for one that a signal ended.

    JAX ends a process at once, and from within, when another one of its job is lost; who waits here outlives that, and
    can say so. If this process is killed, so is the other.
    """
    process = multiprocessing.get_context("spawn").Process(target=_beside_parent, args=(function, arguments))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def _beside_parent(function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_it():
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()
    function(*arguments)


def join_processes(timeout: int = 100) -> int:
    """Joins the other processes of this job, before anything else is computed; returns the number of this one.

    Who they are is read from the environment in which SLURM, Open MPI, Kubernetes or a TPU slice starts them
    (`jax.distributed.initialize`). From then on `devices` spans the devices of all.

    **Arguments:**

    - `timeout`: seconds to wait for the others at the start, and after which one that is silent counts as dead.

    **Raises:** `ValueError` where there is no such environment, or something was computed before; `TimeoutError` if
    the others do not come.
    """
    try:
        jax.distributed.initialize(
            initialization_timeout=timeout, heartbeat_timeout_seconds=timeout, shutdown_timeout_seconds=timeout
        )
    except ValueError as error:
        raise ValueError(
            "several processes need an environment that says who they are: that of srun (SLURM), mpirun (Open MPI), "
            f"Kubernetes or a TPU slice; none was detected ({str(error).rstrip('.')})."
        ) from error
    except jax.errors.JaxRuntimeError as error:
        raise TimeoutError(f"the other processes did not come within {timeout} s: {first_line(error)}") from error
    except RuntimeError as error:
        raise ValueError(f"this process cannot join the others of its job: {error}") from error
    return jax.process_index()


def first_line(error: Exception) -> str:
    """The first line of an error's message."""
    return str(error).strip().partition("\n")[0]

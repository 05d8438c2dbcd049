"""Several processes as one program: how they connect, and how they share the values of process 0.

A single process needs nothing. On TPU pods, under SLURM and under Open MPI the environment says
enough. Elsewhere (Kubernetes, or by hand) every process gets flags.
"""

import glob
import importlib.util
import json
import math
import os
import re
import socket
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

from lift_jax.errors import UserError
from lift_jax.parallel import exchange, meeting

# Seconds after which a silent process counts as dead; the others then end and name its number.
HEARTBEAT = 60
# Seconds that JAX waits for the processes of an environment that it knows. Their machines may start
# minutes apart, and the environment starts them again if they fail. JAX may wait twice as long.
ENVIRONMENT_SECONDS = 300
PART = 2**28  # bytes that are sent at once, which every device holds meanwhile
HIGHEST_PORT = 2**16 - 1


def start(
    coordinator: str = "",
    process_id: int = -1,
    process_count: int = 0,
    seconds: float = 0,
) -> None:
    """Connects this process with the others; does nothing for a single process.

    Call it before anything touches a device.

    Args:
        coordinator: HOST:PORT of process 0, reachable from all; "" asks the environment.
        process_id: number of this process, from 0; -1 asks the environment.
        process_count: number of processes; 0 asks the environment.
        seconds: time that the processes wait for each other; 0 stands for `meeting.SECONDS`, or
            `ENVIRONMENT_SECONDS` if the environment is asked.

    Raises UserError if the flags contradict each other or the other processes cannot be reached.
    """
    process_id, process_count = _fill_in_from_launcher(process_id, process_count)
    if process_count == 1 and not coordinator:
        return
    given = bool(coordinator), process_id >= 0, process_count > 0
    _check_flags(coordinator, process_id, process_count)
    if not any(given) and not _on_tpu():
        return
    arguments = {
        "coordinator_address": coordinator or None,
        "process_id": process_id if process_id >= 0 else None,
        "num_processes": process_count or None,
    }
    if all(given) and not _finds_coordinator():
        arguments["cluster_detection_method"] = "deactivate"
    if devices := _gpus_of_whole_node():
        arguments["local_device_ids"] = devices
    seconds = seconds or (meeting.SECONDS if all(given) else ENVIRONMENT_SECONDS)
    if all(given):
        meeting.meet(coordinator, process_id, process_count, seconds)
    try:
        jax.distributed.initialize(
            heartbeat_timeout_seconds=HEARTBEAT,
            initialization_timeout=math.ceil(seconds),
            **arguments,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"Cannot connect the processes (coordinator {coordinator or 'of the environment'}, "
            f"process {process_id} of {process_count}): {error}"
        ) from error


def _check_flags(coordinator: str, process_id: int, process_count: int) -> None:
    """Raises UserError if flags are missing or contradict each other."""
    given = bool(coordinator), process_id >= 0, process_count > 0
    if not all(given) and any(given) and not _finds_coordinator():
        names = ("--coordinator=HOST:PORT", "--process_id=I", "--process_count=N")
        missing = [name for name, has in zip(names, given, strict=True) if not has]
        raise UserError(
            f"Several processes need all of {', '.join(names)}; missing: {', '.join(missing)}. "
            "Leave all out for a single process, on TPU pods and under SLURM."
        )
    if process_count and not process_id < process_count:
        raise UserError(
            f"--process_id is {process_id}; with --process_count={process_count} it runs from 0 "
            f"to {process_count - 1}."
        )
    host, _, port = coordinator.rpartition(":")
    valid = re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= HIGHEST_PORT
    if coordinator and not (host and valid):
        raise UserError(
            f"--coordinator is {coordinator!r}; expected HOST:PORT, with a port from 1 to "
            f"{HIGHEST_PORT}. Give the address of process 0."
        )


def all_hosts() -> list[str]:
    """Returns the host name of every process, by process number. All processes call it."""
    return exchange.gather(socket.gethostname())


def print_hosts(hosts: Sequence[str], console: Console) -> None:
    """Prints which process runs on which host; nothing for a single process."""
    if len(hosts) == 1:
        return
    listed = ", ".join(f"{i} on {host}" for i, host in enumerate(hosts[:64]))
    more = ", ..." if len(hosts) > 64 else ""
    console.print(f"{len(hosts)} processes with {jax.device_count()} devices: {listed}{more}")


def from_first(make: Callable[[], Any]) -> Any:
    """Returns on all processes the value that `make` returns on process 0, sent as JSON.

    All processes call it, process 0 alone calls `make`. If that raises UserError, all raise it.
    """
    if jax.process_count() == 1:
        return make()
    return json.loads(_bytes_from_first(lambda: json.dumps(make()).encode()))


def arrays_from_first(
    make: Callable[[], Sequence[np.ndarray]], like: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Returns on all processes the arrays that `make` returns on process 0, bit for bit.

    Works as `from_first`. The arrays have the shapes and dtypes of `like`.
    """
    if jax.process_count() == 1:
        return list(make())
    joined = _bytes_from_first(lambda: b"".join(array.tobytes() for array in make()))
    ends = np.cumsum([array.nbytes for array in like])
    parts = np.split(np.frombuffer(joined, np.uint8), ends[:-1])
    return [
        part.copy().view(array.dtype).reshape(array.shape)
        for part, array in zip(parts, like, strict=True)
    ]


def _bytes_from_first(make: Callable[[], bytes]) -> bytes:
    """Returns on all processes the bytes that `make` returns on process 0, sent part by part."""
    sent, failed = b"", False
    if jax.process_index() == 0:
        try:
            sent = make()
        except UserError as error:  # raised here alone it would leave the other processes waiting
            sent, failed = str(error).encode(), True
    told = np.array([*divmod(len(sent), PART), failed], np.int32)  # a size may exceed 32 bits
    parts, rest, failed = multihost_utils.broadcast_one_to_all(told).tolist()
    received = bytearray(parts * PART + rest)
    for start in range(0, len(received), PART):
        size = min(PART, len(received) - start)
        part = np.frombuffer(sent, np.uint8, size, start) if sent else np.zeros(size, np.uint8)
        received[start : start + size] = multihost_utils.broadcast_one_to_all(part).tobytes()
    if failed:
        raise UserError(received.decode())
    return bytes(received)


def _fill_in_from_launcher(process_id: int, process_count: int) -> tuple[int, int]:
    """Returns number and count of processes as given, or else as SLURM's srun or Open MPI says."""
    for number, count in (
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ):
        if number in os.environ and count in os.environ and process_id < 0 and not process_count:
            return int(os.environ[number]), int(os.environ[count])
    return process_id, process_count


def _finds_coordinator() -> bool:
    """Returns True if JAX finds process 0 itself: under srun, and Open MPI before version 5."""
    return "SLURM_STEP_NODELIST" in os.environ or "OMPI_MCA_orte_hnp_uri" in os.environ


def _gpus_of_whole_node() -> list[int]:
    """Returns all GPUs of the node if srun started one process on it, else an empty list.

    JAX by itself would take the first GPU only.
    """
    tasks, nodes = (os.environ.get(f"SLURM_STEP_NUM_{what}", "") for what in ("TASKS", "NODES"))
    gpus = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return list(range(int(gpus))) if tasks and tasks == nodes and gpus.isdigit() else []


def _on_tpu() -> bool:
    """Returns True on a host with TPUs, where JAX finds the other hosts of the pod itself."""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    libtpu = importlib.util.find_spec("libtpu") is not None
    return bool(chips) and libtpu and ("tpu" in wanted or not wanted)

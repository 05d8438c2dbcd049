"""Several processes as one program: starts `jax.distributed` where something says that there are.

A single process needs nothing. On TPU pods, under SLURM and under Open MPI the launcher's variables
say enough; elsewhere (Kubernetes, by hand) every process is told by flags.
"""

import glob
import importlib.util
import json
import os
import socket
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

from lift_jax.errors import UserError

# Seconds after which a silent process counts as dead; the others then end with its number.
HEARTBEAT = 60


def start(coordinator: str = "", process_id: int = -1, process_count: int = 0) -> None:
    """Connects this process with the others; does nothing where it is alone.

    Call it before anything touches a device.

    Args:
        coordinator: host:port of process 0, which all can reach; "" asks the environment.
        process_id: of this one, from 0; -1 asks the environment.
        process_count: of all; 0 asks the environment.

    Raises:
        UserError: for flags that contradict each other, and if the others cannot be reached.
    """
    process_id, process_count = _of_launcher(process_id, process_count)
    given = bool(coordinator), process_id >= 0, process_count > 0
    if process_count == 1 and not coordinator:
        return
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
    if coordinator and not coordinator.rpartition(":")[2].isdigit():
        raise UserError(f"--coordinator is {coordinator!r}; expected HOST:PORT.")
    if not any(given) and not _on_tpu():
        return
    arguments = {
        "coordinator_address": coordinator or None,
        "process_id": process_id if process_id >= 0 else None,
        "num_processes": process_count or None,
    }
    if all(given) and not _finds_coordinator():
        arguments["cluster_detection_method"] = "deactivate"
    if devices := _of_whole_node():
        arguments["local_device_ids"] = devices
    try:
        jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT, **arguments)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"Cannot connect the processes (coordinator {coordinator or 'of the environment'}, "
            f"process {process_id} of {process_count}): {error}"
        ) from error


def all_hosts() -> list[str]:
    """The name of every process's host; all processes call it."""
    if jax.process_count() == 1:
        return [socket.gethostname()]
    name = np.zeros(64, np.uint8)
    host = socket.gethostname().encode()[: len(name)]
    name[: len(host)] = np.frombuffer(host, np.uint8)
    rows = multihost_utils.process_allgather(name)
    return [bytes(row).rstrip(b"\0").decode() for row in rows]


def print_hosts(hosts: Sequence[str], console: Console) -> None:
    """Prints which process runs on which host."""
    if len(hosts) == 1:
        return
    listed = ", ".join(f"{i} on {host}" for i, host in enumerate(hosts[:64]))
    more = ", ..." if len(hosts) > 64 else ""
    console.print(
        f"{len(hosts)} processes with {jax.device_count()} devices: {listed}{more}", markup=False
    )


def from_first(make: Callable[[], Any]) -> Any:
    """What `make` gives on process 0, as JSON, on all; its UserError is raised on all."""
    if jax.process_count() == 1:
        return make()
    return json.loads(_of_first(lambda: json.dumps(make()).encode()))


def arrays_from_first(
    make: Callable[[], Sequence[np.ndarray]], like: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """The same for arrays of the shapes and dtypes of `like`, bit for bit."""
    if jax.process_count() == 1:
        return list(make())
    whole = np.frombuffer(_of_first(lambda: b"".join(a.tobytes() for a in make())), np.uint8)
    ends = np.cumsum([array.nbytes for array in like])
    return [
        part.copy().view(array.dtype).reshape(array.shape)
        for part, array in zip(np.split(whole, ends[:-1]), like, strict=True)
    ]


def _of_first(make: Callable[[], bytes]) -> bytes:
    sent, failed = b"", False
    if jax.process_index() == 0:
        try:
            sent = make()
        except UserError as error:  # one that only process 0 knew of would leave the others waiting
            sent, failed = str(error).encode(), True
    size, failed = multihost_utils.broadcast_one_to_all(np.array([len(sent), failed], np.int32))
    row = np.frombuffer(sent, np.uint8) if sent else np.zeros(size, np.uint8)
    found = multihost_utils.broadcast_one_to_all(row).tobytes() if size else b""
    if failed:
        raise UserError(found.decode())
    return found


def _of_launcher(process_id: int, process_count: int) -> tuple[int, int]:
    """Fills in what SLURM's srun or Open MPI's mpirun say of this process."""
    for number, count in (
        ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
        ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ):
        if number in os.environ and count in os.environ and process_id < 0 and not process_count:
            return int(os.environ[number]), int(os.environ[count])
    return process_id, process_count


def _finds_coordinator() -> bool:
    """Whether JAX finds process 0 by itself: under srun, and Open MPI before version 5."""
    return "SLURM_STEP_NODELIST" in os.environ or "OMPI_MCA_orte_hnp_uri" in os.environ


def _of_whole_node() -> list[int]:
    """All GPUs of a node where srun started one process on it: JAX would take the first alone."""
    tasks, nodes = (os.environ.get(f"SLURM_STEP_NUM_{what}", "") for what in ("TASKS", "NODES"))
    gpus = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return list(range(int(gpus))) if tasks and tasks == nodes and gpus.isdigit() else []


def _on_tpu() -> bool:
    """Whether this is a host of TPUs, whose pod JAX finds out by itself."""
    wanted = os.environ.get("JAX_PLATFORMS", "")
    chips = glob.glob("/dev/accel*") or glob.glob("/dev/vfio/[0-9]*")
    libtpu = importlib.util.find_spec("libtpu") is not None
    return bool(chips) and libtpu and ("tpu" in wanted or not wanted)

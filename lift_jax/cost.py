"""What a compiled step holds, computes and sends, read off the program before it runs."""

import math
import re
from collections import Counter
from typing import Any

import jax
from rich.console import Console

from lift_jax.state import State

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
BYTES = {"f64": 8, "s64": 8, "u64": 8, "f32": 4, "s32": 4, "u32": 4, "bf16": 2, "f16": 2}


def device_bytes(leaves: Any) -> int:
    """Bytes on one device of arrays or shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(leaves)
    )


def collective_bytes(hlo: str) -> Counter[str]:
    """Bytes that come out of each kind of collective of a compiled program, on one device."""
    found: Counter[str] = Counter()
    for line in hlo.splitlines():
        match = re.search(rf" = (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", line)
        if match is None:
            continue
        for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1]):
            found[match[2]] += BYTES.get(kind, 1) * math.prod(
                map(int, filter(None, shape.split(",")))
            )
    return found


def tell(
    state: State, frozen: Any, batch: Any, compiled: Any, console: Console
) -> tuple[float, int]:
    """Prints memory, network and FLOPs of a compiled step; returns one device's FLOPs, and bytes
    over the network.

    The arguments of the step are arrays, or shapes with shardings.
    """
    memory, flops = compiled.memory_analysis(), compiled.cost_analysis()["flops"]
    console.print(
        f"Per device: frozen {mega(device_bytes(frozen))}, tuned with optimizer "
        f"{mega(device_bytes(state))}, batch {mega(device_bytes(batch))}, activations and scratch "
        f"{mega(memory.temp_size_in_bytes)}; {flops / 1e12:.3f} TFLOP a step."
    )
    sent: Counter[str] = Counter()
    if jax.device_count() > 1:
        sent = collective_bytes(compiled.as_text())
        listed = ", ".join(f"{kind} {mega(size)}" for kind, size in sorted(sent.items()))
        console.print(f"Per step over the network, of each device: {listed or 'nothing'}.")
    return flops, sent.total()


def mega(size: int) -> str:
    """Bytes for people."""
    for least, unit, name in ((1e9, 1e9, "GB"), (1e5, 1e6, "MB")):
        if size >= least:
            return f"{size / unit:.2f} {name}"
    return f"{size / 1e3:.2f} kB"

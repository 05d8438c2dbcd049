"""What a compiled step holds, computes and sends, read off the program before it runs."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from rich.console import Console

from lift_jax.training.state import State

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


def matmul_flops(program: Any) -> float:
    """FLOPs of the matrix products of a traced program (a jaxpr), on all devices together.

    Loops count as often as they run, branches as the dearest. A compiler's own figure is not asked:
    that of a GPU leaves out what its libraries do, which is nearly all.
    """
    total = 0.0
    for step in program.eqns:
        name, options = step.primitive.name, step.params
        inside = [matmul_flops(own) for own in _programs(options)]
        if name == "dot_general":
            (contracted, _), _ = options["dimension_numbers"]
            rows = step.invars[0].aval.shape
            total += 2 * step.outvars[0].aval.size * math.prod(rows[i] for i in contracted)
        elif name == "conv_general_dilated":
            kernel, axes = step.invars[1].aval, options["dimension_numbers"].rhs_spec
            total += 2 * step.outvars[0].aval.size * kernel.size / kernel.shape[axes[0]]
        elif name.startswith("dot_product_attention"):  # cuDNN's: two products, or their gradients
            (b, n, heads, d), m = step.invars[0].aval.shape, step.invars[1].aval.shape[1]
            total += (8 if "bwd" in name else 4) * b * n * m * heads * d
        elif name == "cond":
            total += max(inside)
        else:
            total += options.get("length", 1) * sum(inside) if name == "scan" else sum(inside)
    return total


def _programs(options: Mapping[str, Any]) -> Iterator[Any]:
    """The jaxprs among the options of a primitive."""
    for option in options.values():
        for one in option if isinstance(option, (tuple, list)) else (option,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one


@dataclass(frozen=True)
class StepCost:
    """A compiled step, the FLOPs of one device, and the bytes that one sends over the network."""

    step: jax.stages.Compiled
    flops: float
    sent: int


def compile_step(step: Any, state: State, frozen: Any, batch: Any, console: Console) -> StepCost:
    """Compiles a jitted step and prints what a device holds, computes and sends.

    The arguments of the step are arrays, or shapes with shardings.
    """
    traced = step.trace(state, frozen, batch)
    flops = matmul_flops(traced.jaxpr) / jax.device_count()
    compiled = traced.lower().compile()
    console.print(
        f"Per device: frozen {mega(device_bytes(frozen))}, tuned with optimizer "
        f"{mega(device_bytes(state))}, batch {mega(device_bytes(batch))}, activations and scratch "
        f"{mega(compiled.memory_analysis().temp_size_in_bytes)}; {flops / 1e12:.3f} TFLOP a step."
    )
    sent: Counter[str] = Counter()
    if jax.device_count() > 1:
        sent = collective_bytes(compiled.as_text())
        listed = ", ".join(f"{kind} {mega(size)}" for kind, size in sorted(sent.items()))
        console.print(f"Per step over the network, of each device: {listed or 'nothing'}.")
    return StepCost(compiled, flops, sent.total())


def mega(size: int) -> str:
    """Bytes for people."""
    for least, unit, name in ((1e9, 1e9, "GB"), (1e5, 1e6, "MB")):
        if size >= least:
            return f"{size / unit:.2f} {name}"
    return f"{size / 1e3:.2f} kB"

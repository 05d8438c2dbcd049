"""The cost of a step before it runs: memory, FLOPs and network traffic of the compiled program."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import PyTree
from rich.console import Console
from rich.filesize import decimal

from lift_jax.parallel import freed_memory

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


def device_bytes(leaves: PyTree) -> int:
    """Returns the bytes that arrays, or shapes with shardings, take on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(leaves)
    )


def collective_bytes(hlo: str) -> Counter[str]:
    """Returns the bytes that each kind of collective puts out on one device.

    Args:
        hlo: text of a compiled program.
    """
    sizes: Counter[str] = Counter()
    for line in hlo.splitlines():
        match = re.search(rf" = (.*?) ({'|'.join(COLLECTIVES)})(?:-start)?\(", line)
        if match is None:
            continue
        for kind, shape in re.findall(r"(\w+)\[([\d,]*)\]", match[1]):
            count = math.prod(map(int, filter(None, shape.split(","))))
            sizes[match[2]] += math.ceil(count * _bits(kind) / 8)
    return sizes


def _bits(kind: str) -> int:
    """Returns the bits of a number of a type of HLO, by the type's name: 16 for bf16, 8 for pred.

    A token, which carries no number, has none.
    """
    found = re.match(r"[a-z]+(\d+)", kind)
    return int(found[1]) if found else 8 * (kind == "pred")


def matmul_flops(program: Any) -> float:
    """Returns the FLOPs of the matrix products of a jaxpr, on all devices together.

    The body of a loop counts as often as it runs, a branch as its most expensive side. The
    compiler's own figure is no use: on a GPU it leaves out library calls, which are nearly all.
    """
    total = 0.0
    for equation in program.eqns:
        name, options = equation.primitive.name, equation.params
        inside = [matmul_flops(inner) for inner in _inner_programs(options)]
        if name == "dot_general":
            (contracted, _), _ = options["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(shape[i] for i in contracted)
        elif name == "conv_general_dilated":
            kernel, axes = equation.invars[1].aval, options["dimension_numbers"].rhs_spec
            total += 2 * equation.outvars[0].aval.size * kernel.size / kernel.shape[axes[0]]
        elif name.startswith("dot_product_attention"):  # cuDNN's: two products, or their gradients
            (b, n, heads, d), m = equation.invars[0].aval.shape, equation.invars[1].aval.shape[1]
            total += (8 if "bwd" in name else 4) * b * n * m * heads * d
        elif name == "cond":
            total += max(inside)
        else:
            total += options.get("length", 1) * sum(inside) if name == "scan" else sum(inside)
    return total


def _inner_programs(options: Mapping[str, Any]) -> Iterator[Any]:
    """Yields the jaxprs among the options of a primitive."""
    for option in options.values():
        for value in option if isinstance(option, (tuple, list)) else (option,):
            program = getattr(value, "jaxpr", value)
            if hasattr(program, "eqns"):
                yield program


@dataclass(frozen=True)
class StepCost:
    """The cost of a compiled step.

    Attributes:
        step: the compiled step.
        flops: matrix-product FLOPs of one device.
        sent: bytes that come out of collectives on one device.
    """

    step: jax.stages.Compiled
    flops: float
    sent: int


def compile_step(
    step: Any, state: PyTree, frozen: PyTree, batch: PyTree, console: Console
) -> StepCost:
    """Compiles a jitted step and prints the memory, FLOPs and traffic of one device.

    Args:
        step: a jitted function of state, frozen and batch.
        state: the training state; like the next two, arrays or shapes with shardings.
        frozen: the frozen weights.
        batch: the training batch.
        console: where to print.
    """
    traced = step.trace(state, frozen, batch)
    flops = matmul_flops(traced.jaxpr) / jax.device_count()
    compiled = traced.lower().compile()
    freed_memory.give_back()
    held, tuned, rows = (decimal(device_bytes(leaves)) for leaves in (frozen, state, batch))
    scratch = decimal(scratch_bytes(compiled))
    console.print(
        f"Per device: frozen {held}, tuned with optimizer {tuned}, batch {rows}, activations and "
        f"scratch {scratch}; {flops / 1e12:.3f} TFLOP a step."
    )
    sent: Counter[str] = Counter()
    if jax.device_count() > 1:
        sent = collective_bytes(compiled.as_text())
        by_kind = ", ".join(f"{kind} {decimal(size)}" for kind, size in sorted(sent.items()))
        console.print(f"Per step over the network, of each device: {by_kind or 'nothing'}.")
    return StepCost(compiled, flops, sent.total())


def scratch_bytes(compiled: Any) -> int:
    """Returns the bytes that a program takes on one device beside arguments and results."""
    return compiled.memory_analysis().temp_size_in_bytes

"""The stack machine of a pickle, run by hand with the steps that tensors need and nothing else.

A pickle is a program that may call any function by its name. Here a name is looked up in the tables
below, never imported, so that whatever a file asks for, nothing of it is executed.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

# Names and shapes of some 20 thousand tensors; it bounds the time and memory of a malicious file.
LARGEST_PICKLE = 4 * 2**20

DTYPES = {
    f"torch.{name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Float": "<f4", "Half": "<f2", "BFloat16": ml_dtypes.bfloat16, "Double": "<f8",
        "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?",
    }.items()
}  # fmt: skip
# The steps of a pickle: those that push their own argument or a constant, and how many objects the
# others take from the stack ("mark": all since the last mark).
VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TAKES: dict[str, int | str] = {
    "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": "mark", "APPEND": 1, "APPENDS": "mark",
    "SETITEM": 2, "SETITEMS": "mark", "STACK_GLOBAL": 2, "BINPERSID": 1, "REDUCE": 2, "NEWOBJ": 2,
    "BUILD": 1, "STOP": 1,
}  # fmt: skip


class ForeignError(Exception):
    """Something other than plain tensors; says what."""


class _Global(str):
    """A name that a pickle asks for. It stands for itself: nothing is imported."""


@dataclass
class Module:
    """A module of a TorchScript archive."""

    attributes: dict[str, Any] = field(default_factory=dict)


def part(memory: memoryview, start: int, size: int) -> memoryview:
    """So many bytes; raises ValueError if they are not all there."""
    if not 0 <= start <= start + size <= len(memory):
        raise ValueError(f"{size} bytes are expected at {start}, there are {len(memory)} in all")
    return memory[start : start + size]


class _Storage(NamedTuple):
    dtype: np.dtype
    memory: memoryview


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any = None, hooks: Any = None,
    bits: Any = None,
) -> np.ndarray | None:  # fmt: skip
    """A tensor as a view of its storage; `offset` and `strides` count elements."""
    if storage is None:  # the first reading of a legacy file
        return None
    if bits:
        raise ForeignError("a tensor to be negated or conjugated")
    dtype, memory = expect(storage, _Storage)
    if len(expect(shape, tuple)) != len(expect(strides, tuple)) or len(shape) > 32:
        raise ValueError("the shape of a tensor does not fit its strides")
    for number in (offset, *shape, *strides):
        _count(number)
    size, item, count = math.prod(shape), dtype.itemsize, len(memory) // dtype.itemsize
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if size > count:  # strides of 0 can blow up a few numbers beyond all memory
        raise ForeignError(f"a tensor of shape {shape} that repeats {count} elements")
    if size and last >= count:
        raise ValueError(f"a tensor of shape {shape} does not fit its storage of {count} elements")
    if not size:
        return np.zeros(shape, dtype)
    return np.ndarray(shape, dtype, memory, offset * item, [stride * item for stride in strides])


# What a pickle may call. The arguments are as untrusted as the name: each takes a fixed number of
# them, and makes no copy of one that may be large and named many times.
CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": lambda: {},
    "torch.Size": lambda sizes: expect(sizes, tuple),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": lambda data, requires_grad, hooks: data,
    "torch.jit._pickle.restore_type_tag": lambda value, tag: value,
    "torch.jit._pickle.build_intlist": lambda value: value,
    "torch.jit._pickle.build_doublelist": lambda value: value,
    "torch.jit._pickle.build_boollist": lambda value: value,
    "torch.jit._pickle.build_tensorlist": lambda value: value,
}


def _allowed(name: str) -> _Global:
    if name not in CALLS and name not in DTYPES and not name.startswith("__torch__."):
        raise ForeignError(f"{name!r:.100}")
    return _Global(name)


def expect(value: Any, kind: type) -> Any:
    """Insists on a type exactly: a subclass, or a bool for an int, is never what PyTorch writes."""
    if type(value) is not kind:
        raise ValueError(f"found {type(value).__name__}, expected {kind.__name__}")
    return value


def _count(value: Any) -> int:
    if not 0 <= expect(value, int) < 2**63:
        raise ValueError("a size, stride or offset is negative or beyond all memory")
    return value


def _set(target: dict, items: list) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        # other keys could be built so that hashing them takes forever, or too deep a stack
        if type(key) is not int or key.bit_length() > 63:
            expect(key, str)
        target[key] = value


Find = Callable[[np.dtype, str, int], memoryview | None]


def unpickle(memory: memoryview, start: int, find: Find = lambda *_: None) -> tuple[Any, int]:
    """Runs one pickle; returns the object and where the pickle ends. `find` gives storages."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    data = bytes(memory[start : start + LARGEST_PICKLE])
    for opcode, argument, position in pickletools.genops(data):
        step, taken = opcode.name, []
        if step in TAKES:
            first = marks.pop() if TAKES[step] == "mark" else len(stack) - int(TAKES[step])
            if not 0 <= first <= len(stack):
                raise ValueError("the pickle takes more than it made")
            taken = stack[first:]
            del stack[first:]
        match step:
            case "PROTO" | "FRAME":
                pass
            case _ if step in VALUES:
                stack.append(argument)
            case _ if step in CONSTANTS:
                stack.append(CONSTANTS[step])
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "MARK":
                marks.append(len(stack))
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(taken))
            case "APPEND" | "APPENDS":
                expect(stack[-1], list).extend(taken)
            case "SETITEM" | "SETITEMS":
                _set(expect(stack[-1], dict), taken)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_allowed(str(argument).replace(" ", ".")))
            case "STACK_GLOBAL":
                stack.append(_allowed(".".join(expect(word, str) for word in taken)))
            case "BINPERSID":
                stack.append(_storage(taken[0], find))
            case "REDUCE":
                function, arguments = taken
                stack.append(CALLS[expect(function, _Global)](*expect(arguments, tuple)))
            case "NEWOBJ":
                if not expect(taken[0], _Global).startswith("__torch__."):
                    raise ValueError("an object is made of what is no module")
                stack.append(Module())
            case "BUILD" if isinstance(stack[-1], Module):
                stack[-1].attributes = expect(taken[0], dict)
            case "BUILD":  # the `_metadata` of a state dict, versions of its modules
                expect(stack[-1], dict)
            case "STOP":
                return taken[0], start + (position or 0) + 1
            case _:
                raise ForeignError(f"the pickle step {step} ({argument!r:.100})")
    raise EOFError("the pickle has no end")


def _storage(reference: Any, find: Find) -> _Storage | None:
    """The storage that a pickle refers to: "storage", dtype, key, device, count, None if legacy."""
    if len(expect(reference, tuple)) not in (5, 6) or expect(reference[0], str) != "storage":
        raise ValueError("an unknown kind of reference")
    if len(reference) == 6 and reference[5] is not None:
        raise ValueError("a view of a storage, as PyTorch wrote before 0.4")
    dtype, count = DTYPES[expect(reference[1], _Global)], _count(reference[4])
    memory = find(dtype, expect(reference[2], str), count)
    return None if memory is None else _Storage(dtype, part(memory, 0, count * dtype.itemsize))

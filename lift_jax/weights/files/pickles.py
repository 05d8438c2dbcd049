"""A safe pickle reader: a small stack machine that knows only the steps that tensors need.

A pickle is a program that may call any function by name. This reader never imports a name. It looks
the name up in the tables below and never calls any other, so no code of a file is ever executed. An
object with another name is refused, or where the reader may pass over it becomes a Foreign, which
has nothing but that name.
"""

import math
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from lift_jax.weights.files import headers

# The largest pickle in bytes. It has room for the names and shapes of about 20 thousand tensors.
# The limit bounds the time and memory that a malicious file can take.
LARGEST_PICKLE = 4 * 2**20

DTYPES = {
    f"torch.{name}Storage": np.dtype(dtype)
    for name, dtype in {
        "Float": "<f4", "Half": "<f2", "BFloat16": ml_dtypes.bfloat16, "Double": "<f8",
        "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1", "Byte": "u1", "Bool": "?",
    }.items()
}  # fmt: skip
# The steps of a pickle. VALUES push their own argument and CONSTANTS a fixed value. TAKES gives how
# many objects the other steps take from the stack ("mark": all since the last mark).
VALUES = {
    "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT",
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8",
}  # fmt: skip
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TAKES: dict[str, int | str] = {
    "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "TUPLE": "mark", "APPEND": 1, "APPENDS": "mark",
    "SETITEM": 2, "SETITEMS": "mark", "STACK_GLOBAL": 2, "BINPERSID": 1, "REDUCE": 2, "NEWOBJ": 2,
    "BUILD": 1, "STOP": 1, "NEWOBJ_EX": 3, "FROZENSET": "mark", "ADDITEMS": "mark",
}  # fmt: skip


# the steps that change the object before them, and those that make one
CHANGES = {"APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"}
MAKES = {"REDUCE", "NEWOBJ", "NEWOBJ_EX", "BINPERSID"}
MOST_FOREIGN = 100  # names that are kept of objects that are passed over


class ForeignError(Exception):
    """An object in a file that plain tensors do not need. The message names the object."""


class Foreign:
    """An object that plain tensors do not need, passed over: its name, and nothing else."""

    def __init__(self, name: str):
        self.name = name

    def __repr__(self) -> str:
        return self.name


class _Global(str):
    """A function or class that a pickle names, kept as its name. Nothing is imported."""


@dataclass
class Module:
    """A module of a TorchScript archive, with its attributes by name."""

    attributes: dict[str, Any] = field(default_factory=dict)


def part(memory: memoryview, start: int, size: int) -> memoryview:
    """Returns `size` bytes from `start` on. Raises ValueError if the memory is shorter."""
    if not 0 <= start <= start + size <= len(memory):
        raise ValueError(f"{size} bytes are expected at {start}, there are {len(memory)} in all")
    return memory[start : start + size]


class _Storage(NamedTuple):
    """The memory of one or more tensors, and the dtype of its elements."""

    dtype: np.dtype
    memory: memoryview


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any = None, hooks: Any = None,
    bits: Any = None,
) -> np.ndarray | None:  # fmt: skip
    """Returns a tensor as a view of its storage; `offset` and `strides` count elements.

    Raises ForeignError or ValueError if the view is not a plain one that lies within the storage.
    """
    if storage is None:  # in the first of two passes over a legacy file
        return None
    if bits:
        raise ForeignError("a tensor to be negated or conjugated")
    dtype, memory = expect(storage, _Storage)
    if len(expect(shape, tuple)) != len(expect(strides, tuple)):
        raise ValueError("the shape of a tensor does not fit its strides")
    for number in (offset, *strides):
        _count(number)
    count = len(memory) // dtype.itemsize
    # with strides of 0, a few numbers could expand beyond all memory
    if math.prod(headers.check_shape(shape)) > count:
        raise ForeignError(f"a tensor of shape {shape} that repeats {count} elements")
    return headers.tensor(memory, dtype, shape, offset, strides)


# The functions that a pickle may call. Arguments are as untrusted as names, so each function takes
# a fixed number and copies none: a small file could name a large argument many times.
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


# What training scripts store beside the tensors: made empty, and its attributes are left out.
INERT = ("argparse.Namespace",)


def _allowed(name: str, foreign: list[str] | None) -> _Global | Foreign:
    """Returns the name as a _Global, or one that no table has as `_foreign` does."""
    known = name in CALLS or name in DTYPES or name in INERT
    if not known and not name.startswith("__torch__."):
        return _foreign(f"{name!r:.100}", foreign)
    return _Global(name)


def _foreign(what: str, foreign: list[str] | None) -> Foreign:
    """Returns a Foreign and adds its name to the list. Raises ForeignError without a list."""
    if foreign is None:
        raise ForeignError(what)
    if what not in foreign and len(foreign) < MOST_FOREIGN:
        foreign.append(what)
    return Foreign(what)


def _is_inert(value: Any) -> bool:
    return isinstance(value, _Global) and value in INERT


def expect(value: Any, kind: type) -> Any:
    """Returns the value. Raises ValueError unless its type is exactly `kind`.

    PyTorch never writes a subclass, or a bool where an int belongs.
    """
    if type(value) is not kind:
        raise ValueError(f"found {type(value).__name__}, expected {kind.__name__}")
    return value


def _count(value: Any) -> int:
    """Returns the value. Raises ValueError unless it is an int from 0 to 2^63 - 1."""
    if not 0 <= expect(value, int) < 2**63:
        raise ValueError("a size, stride or offset is negative or beyond all memory")
    return value


def _set(target: dict, items: list, foreign: list[str] | None) -> None:
    """Adds keys and values, which alternate in `items`.

    Raises ValueError for an unusual key; with a list `foreign` the key becomes a Foreign.
    """
    for key, value in zip(items[::2], items[1::2], strict=True):
        # other keys could be built so that their hash takes forever, or overflows the stack
        if type(key) is not str and (type(key) is not int or key.bit_length() > 63):
            if foreign is None:
                expect(key, str)
            key = _foreign(f"a key of type {type(key).__name__}", foreign)
        target[key] = value


# Returns the memory of a storage by its dtype, its key and its number of elements. None: not yet
# known, so the tensors in it are None as well.
Find = Callable[[np.dtype, str, int], memoryview | None]


# long: one step of the stack machine for each opcode, in one table to compare with the format
def unpickle(
    memory: memoryview,
    start: int,
    find: Find = lambda *_: None,
    foreign: list[str] | None = None,
) -> tuple[Any, int]:
    """Reads the pickle that begins at `start`; returns (object, position after the pickle).

    With a list `foreign`, objects that plain tensors do not need are passed over: each becomes a
    Foreign, and its name is added to the list.

    Raises ForeignError for a step or name that plain tensors do not need, and ValueError,
    TypeError, LookupError or EOFError for a damaged pickle.
    """
    # long, but one branch for each step that is allowed: the whole language can be checked here
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}
    data = bytes(memory[start : start + LARGEST_PICKLE])
    for opcode, argument, position in pickletools.genops(data):
        step = opcode.name
        taken = _take(step, stack, marks) if step in TAKES else []
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
            case "EMPTY_SET" | "FROZENSET":
                stack.append(_foreign(f"the pickle step {step}", foreign))
            case "MARK":
                marks.append(len(stack))
            case "TUPLE" | "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(taken))
            case _ if step in CHANGES and isinstance(stack[-1], Foreign):
                pass
            case "APPEND" | "APPENDS":
                expect(stack[-1], list).extend(taken)
            case "SETITEM" | "SETITEMS":
                _set(expect(stack[-1], dict), taken, foreign)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_allowed(str(argument).replace(" ", "."), foreign))
            case "STACK_GLOBAL":
                stack.append(_allowed(".".join(expect(word, str) for word in taken), foreign))
            case _ if step in MAKES and (found := _first_foreign(step, taken)):
                stack.append(found)
            case "BINPERSID":
                stack.append(_storage(taken[0], find))
            case "REDUCE":
                function, arguments = taken
                if _is_inert(function):
                    stack.append(_foreign(f"a call of {function!r:.100}", foreign))
                    continue
                stack.append(CALLS[expect(function, _Global)](*expect(arguments, tuple)))
            case "NEWOBJ" if _is_inert(taken[0]):
                stack.append({})
            case "NEWOBJ":
                if not expect(taken[0], _Global).startswith("__torch__."):
                    raise ValueError("an object is made of what is no module")
                stack.append(Module())
            case "BUILD" if isinstance(stack[-1], Module):
                stack[-1].attributes = expect(taken[0], dict)
            case "BUILD":  # the `_metadata` of a state dict: versions of its modules, not needed
                expect(stack[-1], dict)
            case "STOP":
                return taken[0], start + (position or 0) + 1
            case _:
                raise ForeignError(f"the pickle step {step} ({argument!r:.100})")
    raise EOFError("the pickle has no end")


def _first_foreign(step: str, taken: list[Any]) -> Foreign | None:
    """Returns the first Foreign of what a step makes an object from, None without one."""
    parts = list(taken[:1])  # the function or the class
    if step in ("REDUCE", "BINPERSID") and isinstance(taken[-1], tuple):
        parts += taken[-1]
    return next((part for part in parts if isinstance(part, Foreign)), None)


def _take(step: str, stack: list[Any], marks: list[int]) -> list[Any]:
    """Takes the objects that a step needs from the stack. Raises ValueError if there are fewer."""
    first = marks.pop() if TAKES[step] == "mark" else len(stack) - int(TAKES[step])
    if not 0 <= first <= len(stack):
        raise ValueError("the pickle takes more than it made")
    taken = stack[first:]
    del stack[first:]
    return taken


def _storage(reference: Any, find: Find) -> _Storage | None:
    """Returns the storage that a pickle refers to, None if `find` does not know its memory.

    `reference` is ("storage", dtype, key, device, number of elements), and in legacy files a sixth
    item, None. Raises ValueError for any other reference.
    """
    if len(expect(reference, tuple)) not in (5, 6) or expect(reference[0], str) != "storage":
        raise ValueError("an unknown kind of reference")
    if len(reference) == 6 and reference[5] is not None:
        raise ValueError("a view of a storage, as PyTorch wrote before 0.4")
    dtype, count = DTYPES[expect(reference[1], _Global)], _count(reference[4])
    memory = find(dtype, expect(reference[2], str), count)
    return None if memory is None else _Storage(dtype, part(memory, 0, count * dtype.itemsize))

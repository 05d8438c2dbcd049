"""AFT, arbitrary fine-tuning: trains a random fixed share of existing weights (LIFT section 3)."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Int

from lift_jax.errors import UserError
from lift_jax.models.tunable import Fixed, Site, Tuned, Tuner

LEAVES = ("kernel", "bias")
Groups = Mapping[str, Sequence[str]]
# Indices of the chosen entries, by group of layers and leaf ("kernel" or "bias").
Chosen = dict[tuple[str, str], Int[np.ndarray, " k"]]


# -- random orders, as the authors' code draws them


@lru_cache(maxsize=32)
def random_entries(size: int, count: int, seed: int) -> np.ndarray:
    """Returns the first `count` of a random order of 0 to size - 1, sorted, i32[count].

    The order is that of torch's randperm for this seed, so checkpoints of the authors' code fit.
    """
    draws = _words(np.random.RandomState(seed), count)
    return _first_shuffled(size, count, draws)


def joint_entries(
    sizes: Sequence[int], ratio: float, seed: int, block: int = 0
) -> list[Int[np.ndarray, " k"]]:
    """Returns the first int(ratio size) of a random order for each size, sorted.

    One generator draws the orders one after another, after it has drawn those of `block` equal
    blocks.
    """
    generator = np.random.RandomState()
    generator.set_state(_state_after(seed, block, sum(sizes) - len(sizes)))
    # an order of n takes n - 1 draws
    draws = [_words(generator, size - 1) for size in sizes]
    return [
        _first_shuffled(size, int(size * ratio), own)
        for size, own in zip(sizes, draws, strict=True)
    ]


def _words(generator: np.random.RandomState, count: int) -> np.ndarray:
    """Returns the next `count` words of 32 bits of a generator, u32[count]."""
    return generator.randint(0, 2**32, count, dtype="uint32")


@lru_cache(maxsize=64)
def _state_after(seed: int, blocks: int, draws: int) -> Any:
    """Returns the state of the generator after so many blocks with so many draws each."""
    generator = np.random.RandomState(seed)
    if blocks:
        generator.set_state(_state_after(seed, blocks - 1, draws))
        _words(generator, draws)
    return generator.get_state()


def _first_shuffled(size: int, count: int, draws: Int[np.ndarray, " n"]) -> Int[np.ndarray, " k"]:
    """Returns the first `count` of 0 to size - 1 after a Fisher-Yates shuffle, sorted."""
    order = np.arange(size, dtype=np.int32)
    for i, draw in enumerate(draws[:count].tolist()):
        j = i + draw % (size - i)
        order[i], order[j] = order[j], order[i]
    return np.sort(order[:count])


# -- which entries of a block are trained


def separate_choice(site: Site, groups: Groups, ratio: float) -> Chosen:
    """Returns LIFT+'s choice: int(ratio size) entries of each kernel and bias separately.

    Every block has the same choice.
    """
    chosen = {}
    for group, members in groups.items():
        for i, leaf in enumerate(LEAVES):
            arrays = [site.weights[name][i] for name in members]
            size = sum(array.size for array in arrays if array is not None)
            chosen[group, leaf] = random_entries(size, int(size * ratio), site.settings.seed)
    return chosen


def joint_choice(site: Site, groups: Groups, ratio: float) -> Chosen:
    """Returns LIFT's choice: int(ratio size) entries of the rows [kernel bias] of each layer.

    The order continues through all blocks. Biases that a layer lacks are drawn as well, and then
    left out.
    """
    weights = {group: [site.weights[name] for name in own] for group, own in groups.items()}
    columns = {group: own[0][0].shape[0] + 1 for group, own in weights.items()}
    has_bias = {  # for each row
        group: np.concatenate([np.full(k.shape[1], b is not None) for k, b in own])
        for group, own in weights.items()
    }
    sizes = [len(has_bias[group]) * columns[group] for group in groups]
    drawn = joint_entries(sizes, ratio, site.settings.seed, site.index)
    chosen = {}
    for group, entries in zip(groups, drawn, strict=True):
        row, column = np.divmod(entries, columns[group])
        in_bias = column == columns[group] - 1
        bias_rows = row[in_bias & has_bias[group][row]]
        chosen[group, "kernel"] = (row * (columns[group] - 1) + column)[~in_bias]
        chosen[group, "bias"] = (np.cumsum(has_bias[group]) - 1)[bias_rows]
    return {key: entries.astype(np.int32) for key, entries in chosen.items()}


class RandomMask(Tuner):
    """AFT: trains a random fixed share of the entries of kernels and biases (LIFT section 3).

    The entries start at their frozen values. tuner.parts chooses the layers, but never the gate of
    a gated MLP; q, k and v count as one layer. tuner.ratio is the share, and tuner.mask the rule of
    the choice: "each" is `separate_choice`, "joint" is `joint_choice`.
    """

    merges = True
    groups = {"qkv": ("q", "k", "v"), "out": ("out",), "fc1": ("fc1",), "fc2": ("fc2",)}

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        settings = site.settings
        layers = [name for name in site.chosen_layers if not name.startswith("ln")]
        if not layers:
            raise UserError(f"{settings.group}.parts is {settings.parts!r}: aft needs attn or mlp.")
        size = sum(a.size for name in layers for a in site.weights[name] if a is not None)
        ratio = settings.ratio or min(1, self.auto_ratio(site, size))
        groups = {group: own for group, own in self.groups.items() if own[0] in layers}
        choose = joint_choice if settings.mask == "joint" else separate_choice
        chosen = choose(site, groups, ratio)
        offsets: dict[str, tuple[int, ...]] = {}
        for group, members in groups.items():
            entries = {}
            for i, leaf in enumerate(LEAVES):
                # the authors' kernels are [outputs inputs]; entries are counted in that order
                own = [site.weights[name][i] for name in members]
                rows = [None if a is None else a.T.reshape(-1) for a in own]
                ends = np.cumsum([0 if a is None else a.size for a in rows]).tolist()
                for name, offset in zip(members, [0, *ends], strict=False):
                    offsets[name] = (*offsets.get(name, ()), offset)
                at = chosen[group, leaf]
                if len(at):
                    whole = jnp.concatenate([a for a in rows if a is not None])
                    entries[leaf] = Tuned(whole[at].astype(jnp.float32))
                    entries[f"{leaf}_at"] = Fixed(jnp.asarray(at))
            setattr(self, group, nnx.Dict(entries))
        # first index of each layer's kernel and bias among the entries of its group
        self.offsets = tuple(offsets.items())

    @staticmethod
    def auto_ratio(site: Site, size: int) -> float:
        """Returns the share that gives all tuned blocks together as many weights as the head.

        `size` is the number of entries in one block.
        """
        return site.classes * site.width / (site.tuned_blocks * size)

    def weights(self, name: str, kernel: Array, bias: Array | None) -> tuple[Array, Array | None]:
        offsets = dict(self.offsets)
        if name not in offsets:
            return kernel, bias
        group = next(g for g, members in self.groups.items() if name in members)
        entries, (kernel_offset, bias_offset) = getattr(self, group), offsets[name]

        def insert(leaf: str, own: Array, offset: int) -> Array:
            if leaf not in entries:
                return own
            at: Int[Array, " k"] = entries[f"{leaf}_at"][...] - offset
            at = jnp.where(at < 0, own.size, at)  # drops entries of the group's other layers
            values = entries[leaf][...].astype(own.dtype)
            return own.T.reshape(-1).at[at].set(values, mode="drop").reshape(own.T.shape).T

        kernel = insert("kernel", kernel, kernel_offset)
        return kernel, None if bias is None else insert("bias", bias, bias_offset)

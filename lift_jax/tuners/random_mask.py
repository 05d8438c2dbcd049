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
from lift_jax.tuners.sizes import chosen_layers


@lru_cache(maxsize=32)
def random_entries(size: int, count: int, seed: int) -> np.ndarray:
    """The first `count` of a random order of 0 .. size - 1, sorted: i32[count].

    It is the order that torch's randperm gives for the seed, so that the authors' checkpoints fit.
    """
    draws = np.random.RandomState(seed).randint(0, 2**32, count, np.uint32)
    return _first(size, count, draws)


def joint_entries(
    sizes: Sequence[int], ratio: float, seed: int, block: int = 0
) -> list[Int[np.ndarray, " k"]]:
    """The same share of several orders, which are drawn one after another.

    Before them come those of so many equal blocks.
    """
    generator = np.random.RandomState()
    generator.set_state(_after(seed, block, sum(sizes) - len(sizes)))
    # an order takes a draw less than it has places
    draws = [generator.randint(0, 2**32, size - 1, np.uint32) for size in sizes]
    return [_first(s, int(s * ratio), own) for s, own in zip(sizes, draws, strict=True)]


@lru_cache(maxsize=64)
def _after(seed: int, blocks: int, draws: int) -> Any:
    """The generator's state after the draws of so many blocks."""
    generator = np.random.RandomState(seed)
    if blocks:
        generator.set_state(_after(seed, blocks - 1, draws))
        generator.randint(0, 2**32, draws, np.uint32)
    return generator.get_state()


def _first(size: int, count: int, draws: Int[np.ndarray, " n"]) -> Int[np.ndarray, " k"]:
    """The first `count` places of the order that the draws give, sorted."""
    order = np.arange(size, dtype=np.int32)
    for i, draw in enumerate(draws[:count].tolist()):
        j = i + draw % (size - i)
        order[i], order[j] = order[j], order[i]
    return np.sort(order[:count])


class RandomMask(Tuner):
    """AFT: trains a random fixed share of the entries of kernels and biases (LIFT section 3).

    They start at the frozen values. q, k and v count as one layer; `tuner.parts` chooses the
    layers, of which the gate of a gated MLP is none. With `tuner.mask` "each" each kernel and each
    bias gives int(share x size) entries, the same in every block (LIFT+); with "joint" a layer's
    rows [kernel bias] together give them, from one order that runs through all blocks (LIFT).
    """

    merges = True
    groups = {"qkv": ("q", "k", "v"), "out": ("out",), "fc1": ("fc1",), "fc2": ("fc2",)}

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        chosen = [n for n in chosen_layers(site) if not n.startswith("ln")]
        if not chosen:
            asked = site.options
            raise UserError(f"{asked.group}.parts is {asked.parts!r}: aft needs attn or mlp.")
        sizes = [a.size for name in chosen for a in site.weights[name] if a is not None]
        ratio = site.options.ratio or min(1, self.auto_ratio(site, sum(sizes)))
        groups = {group: own for group, own in self.groups.items() if own[0] in chosen}
        joint = self.joint(site, groups, ratio) if site.options.mask == "joint" else {}
        offsets = {}  # of a layer's kernel and bias in those of its group
        for group, members in groups.items():
            entries = {}
            for i, leaf in enumerate(("kernel", "bias")):
                # their kernels are [outputs inputs], which is the order that entries are counted in
                own = [site.weights[name][i] for name in members]
                parts = [None if a is None else a.T.reshape(-1) for a in own]
                ends = np.cumsum([0 if a is None else a.size for a in parts]).tolist()
                for name, offset in zip(members, [0, *ends], strict=False):
                    offsets[name] = (*offsets.get(name, ()), offset)
                at = (
                    joint[group, leaf]
                    if joint
                    else random_entries(ends[-1], int(ends[-1] * ratio), site.options.seed)
                )
                if len(at):
                    whole = jnp.concatenate([a for a in parts if a is not None])
                    entries[leaf] = Tuned(whole[at].astype(jnp.float32))
                    entries[f"{leaf}_at"] = Fixed(jnp.asarray(at))
            setattr(self, group, nnx.Dict(entries))
        self.offsets = tuple(offsets.items())

    @staticmethod
    def joint(
        site: Site, groups: Mapping[str, Sequence[str]], ratio: float
    ) -> dict[tuple[str, str], Int[np.ndarray, " k"]]:
        """The entries of each group's kernel and bias, by LIFT's rule; biases that a layer lacks
        are drawn as well, and left out."""
        weights = {group: [site.weights[name] for name in own] for group, own in groups.items()}
        columns = {group: own[0][0].shape[0] + 1 for group, own in weights.items()}
        has = {  # of each row whether it has a bias
            group: np.concatenate([np.full(k.shape[1], b is not None) for k, b in own])
            for group, own in weights.items()
        }
        sizes = [len(has[group]) * columns[group] for group in groups]
        drawn = joint_entries(sizes, ratio, site.options.seed, site.index)
        found = {}
        for group, at in zip(groups, drawn, strict=True):
            row, column = np.divmod(at, columns[group])
            last = column == columns[group] - 1
            found[group, "kernel"] = (row * (columns[group] - 1) + column)[~last]
            found[group, "bias"] = (np.cumsum(has[group]) - 1)[row[last & has[group][row]]]
        return {key: at.astype(np.int32) for key, at in found.items()}

    @staticmethod
    def auto_ratio(site: Site, size: int) -> float:
        """The share that gives the tuned layers together as many weights as the head."""
        return site.classes * site.width / (site.layers * size)

    def weights(self, name: str, kernel: Array, bias: Array | None) -> tuple[Array, Array | None]:
        offsets = dict(self.offsets)
        if name not in offsets:
            return kernel, bias
        group = next(g for g, members in self.groups.items() if name in members)
        entries, (kernel_offset, bias_offset) = getattr(self, group), offsets[name]

        def put(leaf: str, own: Array, offset: int) -> Array:
            if leaf not in entries:
                return own
            at: Int[Array, " k"] = entries[f"{leaf}_at"][...] - offset
            at = jnp.where(at < 0, own.size, at)  # entries of other layers are dropped
            values = entries[leaf][...].astype(own.dtype)
            return own.T.reshape(-1).at[at].set(values, mode="drop").reshape(own.T.shape).T

        kernel = put("kernel", kernel, kernel_offset)
        return kernel, None if bias is None else put("bias", bias, bias_offset)

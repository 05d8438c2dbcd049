"""The tuners of LIFT and LIFT+, a class each."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from lift_jax.errors import UserError
from lift_jax.models.hooks import INITS, Fixed, Site, Tuned, Tuner
from lift_jax.models.layers import LayerNorm, Linear, Normal


def power_of_two(x: float) -> int:
    """The largest power of two up to x, and 1 where x is smaller."""
    return 2 ** max(0, math.floor(math.log2(x)))


class Adapter(Tuner):
    """A bottleneck behind the MLP: m += Up(relu(Down(LN(m)))).

    Up starts at zero, so that the tuned model starts as the frozen one. Parameters: 2 width for
    the LayerNorm, (width + 1) dim + (dim + 1) width for the bottleneck.
    """

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        dim = site.options.dim or self.auto_dim(site.classes, site.layers)
        init, zeros = INITS[site.options.init], nnx.initializers.zeros
        # eps is 1e-5 even where the backbone's own LayerNorms have 1e-6, as in the authors' code
        self.norm = LayerNorm(site.width, eps=1e-5, param=Tuned)
        self.down = Linear(site.width, dim, rngs=rngs, init=init, param=Tuned)
        self.up = Linear(dim, site.width, rngs=rngs, init=zeros, param=Tuned)

    @staticmethod
    def auto_dim(classes: int, layers: int) -> int:
        """The size that gives the tuned layers together about as many weights as the head."""
        return power_of_two(classes / (2 * layers))

    def branch(self, x: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return self.up(jax.nn.relu(self.down(self.norm(x))))

    def mlp(self, x: Float[Array, "b n d"], m: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return m + self.branch(m)


class AdaptFormer(Adapter):
    """A bottleneck beside the MLP: x += s * Up(relu(Down(LN(x)))), x before LN2 (LIFT section 4).

    Parameters: those of an `Adapter`, and 1 for s.
    """

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        super().__init__(site, rngs=rngs)
        self.scale = Tuned(jnp.ones((), jnp.float32))

    def mlp(self, x: Float[Array, "b n d"], m: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return m + self.scale[...].astype(x.dtype) * self.branch(x)


class LowRank(nnx.Module):
    """y A B / r, A = down f32[inputs r], B = up f32[r outputs]; B starts at zero."""

    def __init__(self, inputs: int, outputs: int, rank: int, *, rngs: nnx.Rngs):
        # the authors store A so that torch's rule takes r for the number of inputs
        bound = rank**-0.5
        down = jax.random.uniform(rngs.params(), (inputs, rank), jnp.float32, -bound, bound)
        self.down = Tuned(down)
        self.up = Tuned(jnp.zeros((rank, outputs), jnp.float32))

    def __call__(self, y: Float[Array, "... i"]) -> Float[Array, "... o"]:
        down, up = self.down[...].astype(y.dtype), self.up[...].astype(y.dtype)
        return y @ down @ up / down.shape[1]


class LoRA(Tuner):
    """q += y A B / r and v += y A B / r, with y = LN1 x.

    Parameters: r (inputs + outputs) for each of the two layers.
    """

    merges = True
    names = ("q", "v")

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        options = site.options
        rank = options.dim or self.auto_dim(site.classes, site.layers, options.budget)
        for name in self.names:
            inputs, outputs = site.weights[name][0].shape
            setattr(self, name, LowRank(inputs, outputs, rank, rngs=rngs))

    @staticmethod
    def auto_dim(classes: int, layers: int, budget: str = "joint") -> int:
        """The rank at which q and v together (LIFT+), or each (LIFT), are as large as the head.

        LIFT takes the whole depth for `layers`, which here are those that are tuned.
        """
        return power_of_two(classes / ((4 if budget == "joint" else 2) * layers))

    def linear(self, name: str, y: Float[Array, "b n i"], out: Float[Array, "b n o"]) -> Array:
        return out + getattr(self, name)(y) if name in self.names else out

    def fold(self, name: str, kernel: Array, bias: Array | None) -> tuple[Array, Array | None]:
        return self.linear(name, jnp.eye(len(kernel)), kernel), bias


class LoRAMLP(LoRA):
    """The same on both projections of the MLP, fc1 and fc2; not on the gate of a gated one."""

    names = ("fc1", "fc2")


class ScaleShift(nnx.Module):
    """y * scale + shift along the last axis; they start near 1 and 0."""

    def __init__(self, width: int, *, rngs: nnx.Rngs):
        self.scale = Tuned(1 + Normal(0.02)(rngs.params(), (width,), jnp.float32))
        self.shift = Tuned(Normal(0.02)(rngs.params(), (width,), jnp.float32))

    def __call__(self, y: Float[Array, "... d"]) -> Float[Array, "... d"]:
        return y * self.scale[...].astype(y.dtype) + self.shift[...].astype(y.dtype)


class SSF(Tuner):
    """y * scale + shift behind the linear layers (fc1: in front of the activation) or LayerNorms.

    `tuner.parts` chooses them, of which the gate of a gated MLP is none; of a ResNet it is its
    feature. Parameters: twice their widths.
    """

    merges = True

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        widths = {name: site.weights[name][0].shape[-1] for name in _within(site)}
        for name, width in (widths or {"pool": site.width}).items():
            setattr(self, name, ScaleShift(width, rngs=rngs))
        self.names = tuple(widths) or ("pool",)

    def normed(self, name: str, y: Float[Array, "b n d"]) -> Float[Array, "b n d"]:
        return getattr(self, name)(y) if name in self.names else y

    def linear(self, name: str, y: Float[Array, "b n i"], out: Float[Array, "b n o"]) -> Array:
        return self.normed(name, out)

    def fold(self, name: str, kernel: Array, bias: Array | None) -> tuple[Array, Array | None]:
        if name not in self.names:
            return kernel, bias
        start = jnp.zeros(kernel.shape[-1]) if bias is None else bias
        return kernel * getattr(self, name).scale[...], self.normed(name, start)


def _within(site: Site) -> list[str]:
    """The layers of the site that `tuner.parts` names."""
    return [name for name in site.options.names if name in site.weights]


class Prompts(Tuner):
    """Learned tokens, right after the first one or at the end, new ones in every chosen block.

    Prompts pass through blocks that have none of their own. Where tokens see all others their
    place changes nothing; "end" also means LIFT's start, uniform between +-sqrt(6 / (3 patch^2 +
    width)), and "start" LIFT+'s, normal of standard deviation 0.02. They have no rotary angle.
    SigLIP's pooling attends to them as to patches. Parameters: length x width in each block.
    """

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        length = site.options.prompts or self.auto_dim(site.classes, site.layers)
        self.end = site.options.place == "end"
        if self.end and not site.patch:
            raise UserError("tuner.place is 'end', but no text looks behind its end: give start.")
        shape, key = (length, site.width), rngs.params()
        bound = math.sqrt(6 / (3 * site.patch**2 + site.width))
        uniform = jax.random.uniform(key, shape, jnp.float32, -bound, bound)
        self.prompt = Tuned(uniform if self.end else Normal(0.02)(key, shape, jnp.float32))

    @staticmethod
    def auto_dim(classes: int, layers: int) -> int:
        """The length that gives the tuned layers together about as many weights as the head."""
        return power_of_two(classes / layers)

    def tokens(
        self, x: Float[Array, "b n d"], angles: Float[Array, "n h"] | None, prompts: int
    ) -> tuple[Array, Array | None, int]:
        start = x.shape[1] - prompts if self.end else 1
        rows = self.prompt[...].astype(x.dtype)

        def put(old: Array, new: Array) -> Array:
            before, after = old[..., :start, :], old[..., start + prompts :, :]
            return jnp.concatenate([before, new, after], axis=-2)

        if angles is not None:
            angles = put(angles, jnp.zeros((len(rows), angles.shape[1]), angles.dtype))
        return put(x, jnp.broadcast_to(rows, (len(x), *rows.shape))), angles, len(rows)


class ShallowPrompts(Prompts):
    """The same in the first chosen block alone."""

    @staticmethod
    def blocks(chosen: Sequence[int]) -> Sequence[int]:
        return chosen[:1]


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


class Arbitrary(Tuner):
    """AFT: trains a random fixed share of the entries of kernels and biases (LIFT section 3).

    They start at the frozen values. q, k and v count as one layer; `tuner.parts` chooses the
    layers, of which the gate of a gated MLP is none. With `tuner.mask` "each" each kernel and each
    bias gives int(share x size) entries, the same in every block (LIFT+); with "joint" a layer's
    rows [kernel bias] together give them, from one order that runs through all blocks (LIFT).
    """

    merges = True
    groups = {"qkv": ("q", "k", "v"), "out": ("out",), "fc1": ("fc1",), "fc2": ("fc2",)}

    def __init__(self, site: Site, *, rngs: nnx.Rngs):
        chosen = [n for n in _within(site) if not n.startswith("ln")]
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

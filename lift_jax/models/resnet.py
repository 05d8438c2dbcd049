"""The ResNet image towers: CLIP's, with attention pooling, and the plain ResNet-50, 101, 152."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from lift_jax.models.blocks.layers import LayerNorm, Linear, Normal, attention, block_border
from lift_jax.models.precision import Precision, types_of
from lift_jax.models.tunable import Tunable

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EXPANSION = 4  # output channels of a bottleneck for each inner channel


@dataclass(frozen=True)
class ResNetConfig:
    """Sizes of a ResNet.

    With `heads` > 0 it is CLIP's ResNet: three convolutions in the stem, average pooling instead of
    strides, and attention pooling with that many heads. With 0 heads it is the plain one.

    Attributes:
        resolution: image size in pixels.
        width: width of the feature.
        stem: number of channels of the stem.
        channels: number of inner channels of the bottlenecks, for each stage.
        layers: number of bottlenecks, for each stage.
        heads: number of attention heads of the pooling.
        mean, std: of RGB values in 0..1.
    """

    resolution: int
    width: int
    stem: int
    channels: tuple[int, ...]
    layers: tuple[int, ...]
    heads: int = 0
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    @property
    def grid(self) -> int:
        """Returns the number of positions along a side of the last feature map."""
        return self.resolution // 2 ** (len(self.layers) + 1)


class Conv(nnx.Module):
    """A convolution without bias, kernel f32[size size inputs outputs], padded by size // 2."""

    def __init__(self, inputs: int, outputs: int, size: int = 1, stride: int = 1, *, rngs):
        init = Normal((2 / (inputs * size * size)) ** 0.5)
        self.kernel = nnx.Param(init(rngs.params(), (size, size, inputs, outputs), jnp.float32))
        self.stride = stride

    def __call__(self, x: Float[Array, "b h w i"]) -> Float[Array, "b H W o"]:
        kernel = self.kernel[...].astype(x.dtype)
        pad = kernel.shape[0] // 2
        y = jax.lax.conv_general_dilated(
            x, kernel, (self.stride, self.stride), ((pad, pad), (pad, pad)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        # jax 0.12's CPU compiler fuses a convolution with a mean after it, and then the result in
        # bfloat16 is wrong, often NaN
        return block_border(y)


class BatchNorm(nnx.Module):
    """A BatchNorm that always uses the statistics of pre-training. It computes in float32."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones(width, jnp.float32))
        self.bias = nnx.Param(jnp.zeros(width, jnp.float32))
        self.mean = nnx.BatchStat(jnp.zeros(width, jnp.float32))
        self.var = nnx.BatchStat(jnp.ones(width, jnp.float32))

    def __call__(self, x: Float[Array, "... d"]) -> Float[Array, "... d"]:
        mean, var = self.mean[...].astype(jnp.float32), self.var[...].astype(jnp.float32)
        scale = self.scale[...].astype(jnp.float32) * jax.lax.rsqrt(var + 1e-5)
        shift = self.bias[...].astype(jnp.float32) - mean * scale
        return (x.astype(jnp.float32) * scale + shift).astype(x.dtype)


def _mean_pool(x: Float[Array, "b h w d"], size: int) -> Float[Array, "b H W d"]:
    """Returns the means over squares of size x size."""
    b, h, w, d = x.shape
    return x.reshape(b, h // size, size, w // size, size, d).mean((2, 4))


def _max_pool(x: Float[Array, "b h w d"]) -> Float[Array, "b H W d"]:
    """Returns the maxima over 3 x 3 windows at stride 2."""
    padding = ((0, 0), (1, 1), (1, 1), (0, 0))
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding)


class Bottleneck(nnx.Module):
    """A bottleneck block, relu(x + conv3 conv2 conv1 x), each convolution with its BatchNorm.

    With `antialias` (CLIP) average pooling takes the place of strides.
    """

    def __init__(self, inputs: int, inner: int, stride: int, antialias: bool, *, rngs):
        outputs = EXPANSION * inner
        step = 1 if antialias else stride
        self.conv1 = Conv(inputs, inner, rngs=rngs)
        self.bn1 = BatchNorm(inner)
        self.conv2 = Conv(inner, inner, 3, step, rngs=rngs)
        self.bn2 = BatchNorm(inner)
        self.conv3 = Conv(inner, outputs, rngs=rngs)
        self.bn3 = BatchNorm(outputs)
        short = stride == 1 and inputs == outputs
        self.down = None if short else Conv(inputs, outputs, 1, step, rngs=rngs)
        self.down_bn = None if short else BatchNorm(outputs)
        self.pool = stride // step

    def __call__(self, x: Float[Array, "b h w i"], products: DTypeLike) -> Float[Array, "b H W o"]:
        """Returns the block's output in the dtype of x; `products` is that of convolutions."""
        stream = x.dtype
        y = jax.nn.relu(self.bn1(self.conv1(x.astype(products))))
        y = jax.nn.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(_mean_pool(y, self.pool)))
        if self.down is not None and self.down_bn is not None:
            x = self.down_bn(self.down(_mean_pool(x, self.pool).astype(products)))
        return jax.nn.relu(x.astype(stream) + y.astype(stream))


class Stem(nnx.Module):
    """The stem: one convolution, or with `clip` three, and a pooling of stride 2.

    Each convolution is followed by BatchNorm and relu.
    """

    def __init__(self, width: int, clip: bool, *, rngs):
        half = width // 2
        sizes = ((3, half, 3, 2), (half, half, 3, 1), (half, width, 3, 1))
        convs = sizes if clip else ((3, width, 7, 2),)
        self.convs = nnx.List(Conv(*conv, rngs=rngs) for conv in convs)
        self.bns = nnx.List(BatchNorm(conv[1]) for conv in convs)
        self.clip = clip

    def __call__(self, x: Float[Array, "b h w 3"]) -> Float[Array, "b H W d"]:
        for conv, bn in zip(self.convs, self.bns, strict=True):
            x = jax.nn.relu(bn(conv(x)))
        return _mean_pool(x, 2) if self.clip else _max_pool(x)


class MeanQueryPool(nnx.Module):
    """CLIP's attention pooling: the mean over all positions attends to itself and to them."""

    def __init__(self, width: int, outputs: int, cells: int, heads: int, *, rngs):
        init = Normal(width**-0.5)
        self.positions = nnx.Param(init(rngs.params(), (cells + 1, width), jnp.float32))
        self.q = Linear(width, width, rngs=rngs)
        self.k = Linear(width, width, rngs=rngs)
        self.v = Linear(width, width, rngs=rngs)
        self.out = Linear(width, outputs, rngs=rngs)
        self.heads = heads

    def __call__(self, x: Float[Array, "b n d"], products: DTypeLike) -> Float[Array, "b e"]:
        """Returns the pooled feature; `products` is the dtype of matrix products."""
        x = jnp.concatenate([x.mean(1, keepdims=True), x], axis=1)
        x = (x + self.positions[...].astype(x.dtype)).astype(products)
        return self.out(attention(self.q(x[:, :1]), self.k(x), self.v(x), self.heads))[:, 0]


class ResNet(Tunable):
    """A ResNet: stem, the bottlenecks of all stages in one list, pooling."""

    def __init__(self, config: ResNetConfig, *, rngs: nnx.Rngs):
        c = config
        clip = c.heads > 0
        self.config = config
        self.precision: Precision | None = None  # None: the dtype of the stem's weights in all
        self.stem = Stem(c.stem, clip, rngs=rngs)
        blocks, inputs = [], c.stem
        for stage, (inner, layers) in enumerate(zip(c.channels, c.layers, strict=True)):
            for layer in range(layers):
                stride = 2 if stage > 0 and layer == 0 else 1
                blocks.append(Bottleneck(inputs, inner, stride, clip, rngs=rngs))
                inputs = EXPANSION * inner
        self.blocks = nnx.List(blocks)
        self.pool = MeanQueryPool(inputs, c.width, c.grid**2, c.heads, rngs=rngs) if clip else None
        self.hold({})

    def layers(self) -> dict[str, Linear | LayerNorm]:
        """Returns the attention pooling's output layer as "pool"; nothing in a plain ResNet."""
        return {} if self.pool is None else {"pool": self.pool.out}

    @property
    def width(self) -> int:
        """Returns the width of the feature."""
        return self.config.width

    @property
    def types(self) -> Precision:
        """Returns the types of the arrays in this tower; its stream is that of feature maps."""
        return types_of(self.precision, self.stem.convs[0].kernel[...])

    def maps(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n H W d"]:
        """Returns the feature maps of the last stage, before the pooling."""
        own = self.types
        x = self.stem(images.astype(own.products)).astype(own.stream)
        for block in self.blocks:
            x = block(x, own.products)
        return x

    def __call__(self, images: Float[Array, "n h w 3"]) -> Float[Array, "n d"]:
        """Returns the feature of normalised images: attention-pooled, or the mean of the maps.

        The dtype is that of the feature maps. Raises ValueError unless h and w are
        `config.resolution`; a plain ResNet takes any size.
        """
        c = self.config
        if self.pool is not None and images.shape[1:] != (c.resolution, c.resolution, 3):
            raise ValueError(
                f"expected images [n, {c.resolution}, {c.resolution}, 3], found {images.shape}"
            )
        x = self.maps(images)
        x = x.reshape(x.shape[0], -1, x.shape[3])
        y = x.mean(1) if self.pool is None else self.pool(x, self.types.products).astype(x.dtype)
        for tuner in self.held:
            y = tuner.linear("pool", x, y)
        return y

    def lower(self, images: Float[Array, "n h w 3"], k: int) -> Float[Array, "n d"]:
        """Returns the feature. A ResNet is not run in parts, so k must be its depth.

        Raises ValueError for another k.
        """
        if k != len(self.blocks):
            raise ValueError(f"expected k = {len(self.blocks)}, found {k}")
        return self(images)

    def upper(self, x: Float[Array, "n d"], k: int) -> Float[Array, "n d"]:
        """Returns the feature from the output of `lower`, which is the feature."""
        return x

"""The sizes of a ViT, and how CLIP's, SigLIP's, DINO's and other ViTs differ."""

from dataclasses import dataclass

from lift_jax.models.sizes import later

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# the values of VisionConfig's fields that are words
WORDS = {
    "pool": ("cls", "avg", "pair", "map", "map_all", "query"),
    "positioned": ("cls", "all", "none"),
    "last_norm": ("before", "after", "none"),
    "rope_order": ("yx", "xy"),
}


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of a ViT. The defaults are CLIP's; the fields after `std` are how other ViTs differ.

    `resolution` and `patch` are in pixels; `mean` and `std` are of RGB values in 0..1. `layers` is
    the number of blocks, `mlp` the width of their hidden layer. `pool` says what the feature is:

    cls      the class token
    avg      the mean of the patches
    pair     the mean of the class token and the first register (a distilled DeiT)
    map      the output of SigLIP's `AttentionPool`, which sees the patches
    map_all  the same, which sees the class token too (PE-Core)
    query    the output of OpenCLIP's `QueryPool` (CoCa)
    """

    resolution: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp: int
    activation: str = "quick_gelu"
    eps: float = 1e-5
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    pool: str = "cls"
    stem_bias: bool = False
    ln_pre: bool = True
    registers: int = 0  # number of learned tokens behind CLS (DINOv2, DINOv3)
    rope: float = 0.0  # base of rotary positions (DINOv3, EVA-02, PE); 0: learned ones alone
    layer_scale: bool = False
    gated: bool = False
    unbiased: tuple[str, ...] = ()  # names of the blocks' linear layers without bias
    class_token: bool | None = later(None)  # None: with the pools "cls" and "pair" alone
    positioned: str = later("cls")  # tokens with a position beside patches: CLS, or all, or none
    last_norm: str = later("before")  # ln_post acts before the pooling, or after it; none: no norm
    feature: int = later(0)  # width of the feature of pool "query"; 0: `width`
    pool_heads: int = later(0)  # of a pool with weights; 0: `heads`
    rope_grid: int = later(0)  # side in EVA-02's rotary positions, beside learned ones; 0: DINOv3's
    inner_norms: tuple[str, ...] = later(())  # the blocks' linear layers with a LayerNorm before
    rope_order: str = later("yx")  # the axis that a head's first frequencies are of (PE: x)
    rope_start: int = later(0)  # place of the first patch in the grid of `rope_grid` (PE: 1)
    pool_mlp: int = later(0)  # of pools "map" and "map_all"; 0: `mlp`

    @property
    def grid(self) -> int:
        """Returns the number of patches along a side."""
        return self.resolution // self.patch

    @property
    def has_class_token(self) -> bool:
        """Returns True if there is a class token, which is then the first token."""
        return self.pool in ("cls", "pair") if self.class_token is None else self.class_token

    @property
    def prefix(self) -> int:
        """Returns the number of tokens before the patches: class token and registers."""
        return self.has_class_token + self.registers

    @property
    def has_positions(self) -> bool:
        """Returns True if there are learned positions."""
        return not self.rope or self.rope_grid > 0

    @property
    def placed(self) -> int:
        """Returns the number of tokens before the patches that have a position."""
        return {"none": 0, "cls": int(self.has_class_token), "all": self.prefix}[self.positioned]

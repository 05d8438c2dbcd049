"""The lowest block of a tower that is tuned: all below it is the same in every run."""

from collections.abc import Iterable

from lift_jax.models import tree
from lift_jax.models.backbone import Tower
from lift_jax.models.resnet import ResNet


def lowest_tuned_block(visual: Tower, tuned: Iterable[str]) -> int:
    """Returns the index of the lowest block that holds a tuned leaf, counted from 0.

    `tuned` holds the paths of tuned leaves in a classifier; those of the head count as above the
    tower. Returns the number of blocks if nothing in the tower is tuned, and 0 if its first block
    or its stem is. Returns 0 for a ResNet with a tuned leaf: ResNets do not run in parts.
    """
    depth = len(visual.blocks)
    inside = [tree.parts(path)[1:] for path in tuned if path.startswith("visual/")]
    if isinstance(visual, ResNet):
        return 0 if inside else depth

    def block(path: tuple[str | int, ...]) -> int:
        if path[0] == "blocks":
            return int(path[1])
        # The last block returns only CLS, so the layers after it start from its inputs.
        return depth - 1 if path[0] in ("ln_post", "pool") else 0

    return min(map(block, inside), default=depth)

"""The max pooling of ResNets in the form of ONNX: over height and width alone.

jax2onnx makes batch and channels part of the window, which then has four dimensions. onnxruntime
takes at most three.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

FIRST, LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # permutations: channels to the front, and back


def over_height_and_width(graph: "onnx.GraphProto") -> None:
    """Rewrites every pooling of four dimensions, in place.

    Unsqueeze, Unsqueeze, MaxPool, Squeeze of images [b h w d] become Transpose, MaxPool, Transpose.
    """
    from onnx import helper

    made_by = {name: node for node in graph.node for name in node.output}
    used_by = {name: node for node in graph.node for name in node.input}
    for pool in list(graph.node):
        settings = {entry.name: helper.get_attribute_value(entry) for entry in pool.attribute}
        if pool.op_type != "MaxPool" or len(settings["kernel_shape"]) != 4:
            continue
        outer, squeeze = made_by[pool.input[0]], used_by[pool.output[0]]
        inner = made_by[outer.input[0]]
        across = {key: value[1:3] for key, value in settings.items() if key != "pads"}
        if pads := settings.get("pads"):
            across["pads"] = [*pads[1:3], *pads[5:7]]
        name = squeeze.output[0]
        rewritten = (
            helper.make_node("Transpose", inner.input[:1], [f"{name}_first"], perm=FIRST),
            helper.make_node("MaxPool", [f"{name}_first"], [f"{name}_pooled"], **across),
            helper.make_node("Transpose", [f"{name}_pooled"], [name], perm=LAST),
        )
        place = list(graph.node).index(pool)
        for old in (inner, outer, pool, squeeze):
            graph.node.remove(old)
        for new in reversed(rewritten):
            graph.node.insert(place - 2, new)
    used = {name for node in graph.node for name in node.input}
    for constant in [one for one in graph.initializer if one.name not in used]:
        graph.initializer.remove(constant)  # the axes of what was removed

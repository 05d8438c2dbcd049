"""Tests of the mesh: the rule that splits weights, and the weights that it refuses."""

import jax
import pytest

from lift_jax.errors import UserError
from lift_jax.parallel import mesh

P = jax.P


@pytest.mark.parametrize(("shape", "model", "spec"), [
    ((64, 256), 8, P(None, "model")), ((256, 64), 8, P("model", None)),
    ((64, 64), 4, P("model", None)),  # the first of equal axes
    ((197, 768), 8, P(None, "model")),  # the longest that divides evenly
    ((3, 3, 32, 64), 2, P(None, None, None, "model")),
    ((768,), 8, P()), ((), 8, P()),  # vectors are copied
    ((7, 5), 8, P()),  # small, and not divisible
    ((64, 256), 1, P()),
])  # fmt: skip
def test_the_rule(shape, model, spec):
    devices = mesh.make_mesh(8 // model, model)
    assert mesh.frozen_sharding(devices, "visual/x", shape).spec == spec


def test_what_cannot_be_cut_is_an_error():
    devices = mesh.make_mesh(1, 8)
    with pytest.raises(UserError, match=r"visual/x \[1001, 1002\] into mesh.model=8.*mesh.model=2"):
        mesh.frozen_sharding(devices, "visual/x", (1001, 1002))


def test_large_heads_are_cut_and_other_tuned_leaves_are_not():
    devices = mesh.make_mesh(4, 2)
    assert mesh.tuned_sharding(devices, "head/weight", (8142, 768)).spec == P("model", None)
    assert mesh.tuned_sharding(devices, "head/weight", (100, 768)).spec == P()
    assert mesh.tuned_sharding(devices, "visual/blocks/0/q/kernel", (4096, 4096)).spec == P()
    whole = mesh.make_mesh()
    assert mesh.tuned_sharding(whole, "head/weight", (8142, 768)).spec == P()


@pytest.mark.parametrize(("options", "shape"), [
    ({}, (8, 1)), ({"strategy": "fsdp"}, (1, 8)), ({"strategy": "fsdp", "model": 2}, (4, 2)),
    ({"data": 2, "model": 4}, (2, 4)),
])  # fmt: skip
def test_meshes(options, shape):
    assert tuple(mesh.make_mesh(**options).shape.values()) == shape

"""Tests of losses against values and gradients of the reference, and of their padding."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import base
from lift_jax.data import prior
from lift_jax.errors import UserError
from lift_jax.parallel import mesh
from lift_jax.settings.parse import parse
from lift_jax.training import losses

# The reference's name, ours, options, and which rows: all, the logits times four, the first alone.
NAMES = ("CE", "Focal", "LDAM", "CB", "GRW", "BS", "LA", "LADE")
CASES = [
    *[(key, key.lower(), {}, rows) for key in NAMES for rows in ("", "big_", "one_")],
    ("LA_tau15", "la", {"tau": 1.5}, ""), ("Focal_g1", "focal", {"gamma": 1}, ""),
    ("LDAM_s30", "ldam", {"scale": 30}, ""), ("GRW_12", "grw", {"exponent": 1.2}, ""),
    ("CB_099", "cb", {"beta": 0.99}, ""), ("LADE_05", "lade", {"weight": 0.5}, ""),
]  # fmt: skip
ADDITIVE = [name for name in losses.LOSSES if name != "lade"]


@pytest.mark.parametrize("key, name, options, rows", CASES)
def test_value_and_gradient_equal_the_reference(golden, key, name, options, rows):
    data = golden("losses")
    logits, labels = data["logits"], data["labels"]
    if rows == "big_":
        logits = np.float16(logits * 4).astype(np.float32)
    if rows == "one_":
        logits, labels = logits[:1], labels[:1]
    loss = losses.make(name, data["cls_num_list"], **options)
    value, gradient = jax.jit(jax.value_and_grad(loss))(logits, labels)
    assert value.dtype == gradient.dtype == jnp.float32
    # The reference has its class-balanced weights from float32, which are good to 3e-5.
    rtol = 1e-4 if name == "cb" else 1e-5
    np.testing.assert_allclose(value, data[f"{rows}loss_{key}"], rtol=rtol)
    # The absolute term is for small entries of labels: the reference rounds softmax minus 1, as
    # float32 does near 1, before it divides by the number of rows.
    rounding = np.finfo(np.float32).eps / len(logits)
    np.testing.assert_allclose(gradient, data[f"{rows}grad_{key}"], rtol=rtol, atol=rounding)


@pytest.mark.parametrize("name", ["ce", "la", "ldam", "focal", "cb", "grw"])
@pytest.mark.parametrize("expected", [1e-8, 1e-6, 1e-4, 1e-2, 0.5, 3.0, 50.0])
def test_small_losses_have_all_digits(name, expected):
    """The reference is computed in float64, without logsumexp where a small loss loses digits."""
    counts = np.array([40, 10, 3, 1])
    shift = {
        "la": np.log(counts / counts.sum()), "ldam": np.array([0, 0, -0.5 * 3**-0.25 * 25, 0])
    }.get(name, np.zeros(4))  # fmt: skip
    logits = np.float32([7.25, -3.5, 0, 6.0])
    others = np.delete(logits.astype(np.float64) + shift, 2)
    aim = np.log(np.exp(others).sum()) - np.log(np.expm1(expected))  # of the label, adjusted
    logits[2] = aim - shift[2]
    gaps = others - (logits[2].astype(np.float64) + shift[2])
    entropy = np.log1p(np.exp(gaps).sum())
    np.testing.assert_allclose(entropy, expected, rtol=1e-5)
    pulls = np.insert(np.exp(gaps) / (1 + np.exp(gaps).sum()), 2, np.expm1(-entropy))
    wrong = -np.expm1(-entropy)
    if name == "focal":  # (1 - p)^2 L, whose derivative by L is (1 - p)^2 + 2 (1 - p) p L
        pulls *= wrong**2 + 2 * wrong * (1 - wrong) * entropy
        entropy *= wrong**2
    graded = jax.jit(jax.value_and_grad(losses.make(name, counts)))
    value, gradient = graded(logits[None], np.int32([2]))
    np.testing.assert_allclose(value, entropy, rtol=1e-5)
    np.testing.assert_allclose(gradient[0], pulls, rtol=1e-5)


def test_priors_margins_and_weights_equal_the_reference(golden):
    data = golden("losses")
    counts = data["cls_num_list"].astype(np.float64)
    np.testing.assert_allclose(prior.log_prior(counts), data["log_prior"], rtol=1e-5)
    np.testing.assert_allclose(losses.margins(counts, 0.5), data["margins_LDAM"], rtol=1e-5)

    def weights(name):  # the denominator of one row is the weight of its class
        loss = losses.make(name, counts)
        return jax.vmap(lambda c: loss.terms(jnp.zeros((1, 10)), c[None])[1])(jnp.arange(10))

    np.testing.assert_allclose(weights("grw"), data["weights_GRW"], rtol=1e-5)
    np.testing.assert_allclose(weights("cb"), data["weights_CB"], rtol=1e-4)
    np.testing.assert_allclose(weights("cb"), data["weights_CB_float64"], rtol=1e-6)


L2, L3, L43 = np.log([2, 3, 4 / 3])
HALF, THREE_QUARTERS = [[0.0, 0.0]], [[0.0, L3]]  # probability of class 1


@pytest.mark.parametrize(("name", "counts", "options", "logits", "labels", "by_hand"), [
    ("ce", [9, 1], {}, HALF + THREE_QUARTERS, [0, 1], (L2 + L43) / 2),
    # (1 - 1/2)^2 and (1 - 3/4)^2 times the cross-entropy
    ("focal", [9, 1], {}, HALF + THREE_QUARTERS, [0, 1], (L2 / 4 + L43 / 16) / 2),
    # margins 16^(-1/4) and 1 to a largest of 1/2: 1/4 and 1/2
    ("ldam", [16, 1], {"scale": 4}, HALF + HALF, [0, 1], np.log((1 + np.e) * (1 + np.e**2)) / 2),
    # weights 1 and (1/2) / (3/4), which is 3 : 2
    ("cb", [1, 2], {"beta": 0.5}, HALF + THREE_QUARTERS, [0, 1], (3 * L2 + 2 * L43) / 5),
    # weights 4 and 4/3, which is 3 : 1
    ("grw", [1, 3], {}, HALF + THREE_QUARTERS, [0, 1], (3 * L2 + L43) / 4),
    # T of class 0: log of the mean of 1 and 1; of class 1: log of the mean of 1 and 3
    ("lade", [7, 7], {}, HALF + THREE_QUARTERS, [0, 1],
     (L2 + L43) / 2 + 0.1 * (L2 + 0.1 * L2**2 - L3) / 2),
    # no row of class 1, and the prior 3/4, 1/4 taken to 1/2, 1/2: factors 2/3, 2 on exp(z)
    ("lade", [9, 3], {"weight": 1.0}, HALF, [0],
     L43 + 3 / 4 * (np.log(2 / 3) + 0.1 * np.log(2 / 3)**2) + 1 / 4 * (L2 + 0.1 * L2**2)),
])  # fmt: skip
def test_values_by_hand(name, counts, options, logits, labels, by_hand):
    loss = losses.make(name, counts, **options)
    np.testing.assert_allclose(loss(jnp.array(logits), jnp.array(labels)), by_hand, rtol=1e-6)


def test_logit_adjustment_by_hand():
    # Equal logits: the softmax of log(pi) is pi itself.
    loss = losses.make("la", [6, 3, 1])
    value = loss(jnp.zeros((2, 3)), jnp.array([0, 2]))
    np.testing.assert_allclose(value, -(np.log(0.6) + np.log(0.1)) / 2, rtol=1e-6)
    # tau 2: pi squared, normalised: 36, 9, 1 of 46.
    value = losses.make("la", [6, 3, 1], tau=2.0)(jnp.zeros((1, 3)), jnp.array([1]))
    np.testing.assert_allclose(value, -np.log(9 / 46), rtol=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_padding_reaches_neither_value_nor_gradient(name):
    rng = np.random.default_rng(3)
    graded = jax.jit(jax.value_and_grad(losses.make(name, [97, 13, 5])))
    real = np.float32(rng.normal(size=(7, 3)))
    labels = np.int32(rng.integers(0, 3, 7))
    want = graded(real, labels)
    mask = np.arange(9) < 7
    for garbage in (np.nan, np.inf, 1e30):
        logits = np.concatenate([real, np.full((2, 3), garbage, np.float32)])
        value, gradient = graded(logits, np.append(labels, np.int32([-1, 10**6])), mask)
        np.testing.assert_allclose(value, want[0], rtol=1e-6)
        np.testing.assert_allclose(gradient[:7], want[1], rtol=1e-6, atol=1e-8)  # lade cancels
        assert not np.any(gradient[7:])


@pytest.mark.parametrize("name", losses.LOSSES)
def test_a_batch_without_rows_costs_nothing(name):
    loss = losses.make(name, [3, 2])
    value, gradient = jax.jit(jax.value_and_grad(loss))(
        np.full((5, 2), np.nan, np.float32), np.zeros(5, np.int32), np.zeros(5, bool)
    )
    assert value == 0 and not np.any(gradient)


@pytest.mark.parametrize("counts", [[1], [1, 0], [900, 1], [5, 0, 1]], ids=str)
@pytest.mark.parametrize("name", losses.LOSSES)
def test_extremes_are_finite(name, counts):
    """Losses are finite for counts of 0 and 1, one class, logits of +-1e4, and bfloat16."""
    classes = len(counts)
    graded = jax.jit(jax.value_and_grad(losses.make(name, counts)))
    for dtype in (jnp.float32, jnp.bfloat16):
        for sign in (1, -1):
            logits = jnp.full((4, classes), sign * 1e4, dtype).at[:2, 0].multiply(-1)
            for labels in (np.zeros(4, np.int32), np.arange(4, dtype=np.int32) % classes):
                value, gradient = graded(logits, labels, np.arange(4) < 3)
                assert value.dtype == jnp.float32 and gradient.dtype == dtype
                assert np.isfinite(value) and jnp.isfinite(gradient).all(), (value, gradient)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_focal_gradient_is_finite_where_the_row_is_right(gamma):
    loss = losses.make("focal", [2, 1], gamma=gamma)
    value, gradient = jax.value_and_grad(loss)(jnp.array([[1e3, 0.0]]), jnp.array([0]))
    assert value == 0 and not np.any(gradient)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_eight_devices_give_the_loss_of_one(name):
    rng = np.random.default_rng(7)
    devices = mesh.make_mesh()
    rows = {
        "logits": np.float32(rng.normal(size=(24, 5))),
        "labels": np.int32(rng.integers(0, 5, 24)),
        "mask": rng.random(24) < 0.7,
    }
    graded = jax.jit(jax.value_and_grad(losses.make(name, [41, 11, 3, 0, 1])))
    found = graded(*mesh.put_batch(devices, rows).values())
    assert found[1].sharding.spec == mesh.batch_sharding(devices).spec
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8),
        found, graded(*rows.values()),
    )  # fmt: skip


def test_whether_micro_batches_add_up_is_said():
    assert all(losses.make(name, [2, 1]).additive for name in ADDITIVE)
    assert not losses.make("lade", [2, 1]).additive


@pytest.mark.parametrize("name", ADDITIVE)
def test_micro_batches_add_up_to_the_whole(name):
    rng = np.random.default_rng(5)
    loss = losses.make(name, [41, 11, 3, 2, 1])
    logits = jnp.asarray(rng.normal(size=(11, 5)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 5, 11), jnp.int32)
    mask = jnp.asarray(rng.random(11) < 0.7)

    def accumulated(logits):
        parts = [loss.terms(logits[a:b], labels[a:b], mask[a:b]) for a, b in [(0, 4), (4, 11)]]
        return sum(p[0] for p in parts) / sum(p[1] for p in parts)

    want = jax.jit(jax.value_and_grad(loss))(logits, labels, mask)
    got = jax.jit(jax.value_and_grad(accumulated))(logits)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), got, want)
    denominator = jax.jit(jax.grad(lambda z: loss.terms(z, labels, mask)[1]))(logits)
    assert not np.any(denominator)


def test_low_precision_logits_are_computed_in_float32():
    loss = losses.make("la", [5, 3])
    logits = jnp.array([[2.5, -1.25]], jnp.bfloat16)  # exact in bfloat16
    labels = jnp.array([1])
    value = jax.jit(loss)(logits, labels)
    assert value.dtype == jnp.float32
    np.testing.assert_allclose(value, loss(logits.astype(jnp.float32), labels), rtol=1e-6)


def test_an_empty_class_counts_as_the_smallest():
    logits, labels = jnp.array([[0.5, -1.0, 2.0]]), jnp.array([1])
    value = losses.make("la", [8, 0, 2])(logits, labels)
    assert np.isfinite(value)
    np.testing.assert_allclose(value, losses.make("la", [8, 2, 2])(logits, labels), rtol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(UserError, match="Unknown loss .*'las'.*Did you mean 'la'"):
        losses.make("las", [1, 2])
    with pytest.raises(UserError, match="'la' has no option 'tua': it takes tau"):
        losses.make("la", [1, 2], tua=1.0)
    with pytest.raises(UserError, match="'bs' has no option 'tau': it takes no options"):
        losses.make("bs", [1, 2], tau=1.0)
    with pytest.raises(
        UserError, match="'ldam' has no option 'margin': it takes max_margin, scale"
    ):
        losses.make("ldam", [1, 2], margin=1.0)
    for value in ("2", None, True, -1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="'focal' has gamma=.*at least 0.*takes gamma"):
            losses.make("focal", [1, 2], gamma=value)
    with pytest.raises(UserError, match=r"beta=1.0.*\[0, 1\)"):
        losses.make("cb", [1, 2], beta=1.0)
    for counts in ([], [0, 0], [3, -1], [[1, 2]], [1.0, float("nan")], 5, {"a": 3}, "many"):
        with pytest.raises(UserError, match="training counts"):
            losses.make("la", counts)


@pytest.mark.parametrize(("logits", "labels", "mask", "words"), [
    ((3, 4), 3, None, r"logits of shape \(3, 4\).* each of the 2 classes"),
    ((2,), 2, None, r"logits of shape \(2,\)"),
    ((3, 2), 2, None, r"labels of shape \(2,\).* 3 rows"),
    ((3, 2), 3, 1, r"a mask of \(1,\).* 3 rows"),  # it would broadcast
])  # fmt: skip
def test_shapes_that_do_not_belong_together(logits, labels, mask, words):
    mask = None if mask is None else np.ones(mask, bool)
    for name in losses.LOSSES:
        with pytest.raises(ValueError, match=words):
            losses.make(name, [1, 2])(np.zeros(logits), np.zeros(labels, np.int32), mask)


def test_lists_and_masks_of_numbers_are_taken():
    loss = losses.make("la", [5, 3])
    rows = [[1.0, 2.0], [0.5, 0.0], [9.0, 9.0]]
    expected = loss(np.float32(rows[:2]), np.int32([1, 0]))
    for mask in ([True, True, False], [1, 1, 0], [1.0, 1.0, 0.0]):
        np.testing.assert_allclose(loss(rows, [1, 0, 1], mask), expected, rtol=1e-6)


@pytest.mark.parametrize("name", losses.LOSSES)
def test_the_config_holds_the_options_of_every_loss(name):
    config = base.get_config()
    config.loss.name = name
    parameters = inspect.signature(losses.LOSSES[name]).parameters
    defaults = {key: p.default for key, p in parameters.items() if key != "counts"}
    assert parse(config).loss.options == defaults


def test_options_of_the_config():
    config = base.get_config()
    config.loss.name, config.head.scale = "ldam", 30.0
    assert parse(config).loss.options == {"max_margin": 0.5, "scale": 30.0}
    config.loss.scale = 20.0
    assert parse(config).loss.options == {"max_margin": 0.5, "scale": 20.0}
    config.loss.name = "lade"
    with pytest.raises(UserError, match="loss.scale is 20.0, but .* 'lade': .*belongs to 'ldam'"):
        parse(config)

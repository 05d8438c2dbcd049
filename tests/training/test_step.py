"""Tests of training steps: the golden trajectory, freezing, accumulation, padding, sharding."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P
from rich.console import Console
from support import author_leaves
from support.paths import GOLDEN

import lift_jax
from lift_jax.data import loader
from lift_jax.evaluation import forward
from lift_jax.models import tree
from lift_jax.models.backbone import Classifier
from lift_jax.models.heads import CosineHead
from lift_jax.models.precision import Precision
from lift_jax.models.vit.config import VisionConfig
from lift_jax.models.vit.tower import VisionTransformer
from lift_jax.parallel import mesh
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.training import losses, state
from lift_jax.training.optimizer import freeze, schedule, sgd
from lift_jax.training.step import make_pull_back, make_train_step
from lift_jax.tuners import attach, rules

several = pytest.mark.skipif(jax.device_count() < 2, reason="a single device: nothing is split")


def classifier(weight, names=("adaptformer",), **options):
    clip = lift_jax.load_backbone(GOLDEN / "clip_openai.safetensors", heads=2, text_heads=2)
    attach.attach(clip.visual, names, len(weight), TunerSettings(**options), rngs=nnx.Rngs(0))
    model = Classifier(clip.visual, CosineHead(jnp.asarray(weight)))
    return model, rules.trainable(names, 3, options.get("partial", 0))


TRAJECTORIES = {  # tuners, their options, and the loss
    "adaptformer_la": ("adaptformer", {}, ("la", {})),
    "lora_ldam": ("lora", {"dim": 2}, ("ldam", {"scale": 25.0})),
    "ssf_lade": ("ssf", {}, ("lade", {})),
}


FIRST, *OTHERS = TRAJECTORIES


@pytest.fixture(
    scope="module",
    params=[FIRST, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)],
)
def trained(request, golden):
    """Returns our run of the 20 golden steps: losses, first and last leaves, expected values."""
    name, options, (loss_name, loss_options) = TRAJECTORIES[request.param]
    data, expected = golden("trajectory_data"), golden(f"trajectory_{request.param}")
    model, is_trainable = classifier(expected["init/classifier.weight"], (name,), **options)
    graph, tuned, frozen = state.split_trainable(model, is_trainable)
    init = author_leaves.leaves(expected, "init/", tuned)
    assert init.keys() == tuned.keys()
    devices = mesh.make_mesh()
    optimizer = sgd(schedule(0.02, 5, 4), 0.9, 5e-4)
    current = state.create_state({k: jnp.array(v) for k, v in init.items()}, optimizer)
    current = jax.device_put(current, mesh.replicated(devices))
    before = jax.tree.map(lambda x: np.array(x), frozen)
    frozen = jax.device_put(frozen, mesh.replicated(devices))
    loss = losses.make(loss_name, data["cls_num_list"], **loss_options)
    step = make_train_step(graph, model.visual.config, loss, optimizer, devices)
    found = []
    for row in data["order"].reshape(20, 8):
        images = data["images_u8"][row].astype(np.uint8)
        batch = {"image": images, "label": data["labels"][row], "mask": np.ones(8, bool)}
        current, loss = step(current, frozen, mesh.put_batch(devices, batch))
        found.append(float(loss))
    predict = jax.jit(forward.make_predict(graph, model.visual.config))
    held = {"image": jnp.asarray(data["images_u8"][data["held"]].astype(np.uint8))}
    first = {path: jnp.asarray(leaf) for path, leaf in init.items()}
    logits = [predict(tuned | before, held) for tuned in (first, jax.device_get(current.tuned))]
    return found, current, before, frozen, expected, step, logits


def test_trajectory_of_the_authors(trained):
    found, current, _, _, expected, _, logits = trained
    np.testing.assert_allclose(found, expected["loss"], rtol=1e-4, atol=2e-5)
    final = author_leaves.leaves(expected, "final/", current.tuned)
    assert final.keys() == current.tuned.keys()
    for path, leaf in final.items():
        np.testing.assert_allclose(current.tuned[path], leaf, atol=1e-5, rtol=1e-4, err_msg=path)
    np.testing.assert_allclose(logits[0], expected["held_logits_init"], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits[1], expected["held_logits"], rtol=1e-4, atol=1e-4)
    rate = schedule(0.02, 5, 4)
    np.testing.assert_allclose([rate(step) for step in range(20)], expected["lr"], rtol=1e-5)


@pytest.mark.slow
def test_accumulation_as_the_authors_divide_it(golden):
    """They divide the mean of every micro-batch by 2, also that of an epoch's lone last one.

    Ours gives the gradient of the whole batch, so this is a step of the test's own.
    """
    data, expected = golden("trajectory_data"), golden("trajectory_accum2")
    model, is_trainable = classifier(expected["init/classifier.weight"], dim=2)
    graph, tuned, frozen = state.split_trainable(model, is_trainable)
    tuned = {k: jnp.array(v) for k, v in author_leaves.leaves(expected, "init/", tuned).items()}
    optimizer = sgd(schedule(0.02, 5, 3), 0.9, 5e-4)
    loss, vision = losses.make("la", data["cls_num_list"]), model.visual.config

    @jax.jit
    @jax.value_and_grad
    def gradient(tuned, images, labels):
        logits = tree.merge(graph, tuned | frozen)(forward.normalise(images, vision))
        return loss(logits, labels)

    found, total, opt = [], jax.tree.map(jnp.zeros_like, tuned), optimizer.init(tuned)
    for order in data["order"]:
        for row in np.split(order, np.cumsum(expected["micro_batch_sizes"])[:-1]):
            value, grads = gradient(tuned, data["images_u8"][row], data["labels"][row])
            total = jax.tree.map(lambda a, b: a + b / 2, total, grads)
            if len(found) in expected["step_after_microbatch"]:
                updates, opt = optimizer.update(total, opt, tuned)
                tuned = jax.tree.map(jnp.add, tuned, updates)
                total = jax.tree.map(jnp.zeros_like, total)
            found.append(float(value))
    np.testing.assert_allclose(found, expected["loss"], rtol=1e-4, atol=2e-5)
    rate = schedule(0.02, 5, 3)  # theirs is of micro-batches, of which an epoch has five
    epochs = np.arange(len(found)) // len(expected["micro_batch_sizes"])
    np.testing.assert_allclose([rate(3 * epoch) for epoch in epochs], expected["lr"], rtol=1e-5)
    predict = jax.jit(forward.make_predict(graph, vision))
    held = {"image": jnp.asarray(data["images_u8"][data["held"]].astype(np.uint8))}
    logits = predict(tuned | frozen, held)
    np.testing.assert_allclose(logits, expected["held_logits"], rtol=1e-4, atol=1e-4)
    for path, leaf in author_leaves.leaves(expected, "final/", tuned).items():
        np.testing.assert_allclose(tuned[path], leaf, atol=1e-5, rtol=1e-4, err_msg=path)


def test_frozen_leaves_are_unchanged_bit_for_bit(trained):
    _, current, before, frozen, *_ = trained
    assert len(before) > 40 and not before.keys() & current.tuned.keys()
    for path, leaf in before.items():
        assert np.array_equal(leaf, frozen[path]), path


def test_the_step_compiles_once(trained):
    assert trained[5]._cache_size() == 1


def test_semantic_head_of_the_authors(golden):
    """The trajectory's first classifier comes from the tokens of its prompts."""
    from lift_jax.training.start import head_init
    from lift_jax.training.texts import encode

    data, expected = golden("trajectory_data"), golden("trajectory_adaptformer_la")
    clip = lift_jax.load_backbone(GOLDEN / "clip_openai.safetensors", heads=2, text_heads=2)
    texts = encode.class_texts(clip, lambda texts: data["tokens"], [[""]] * 10, Console(quiet=True))
    head = head_init.head_from_texts(texts, clip.image_proj[...])
    np.testing.assert_allclose(head, expected["init/classifier.weight"], rtol=1e-5, atol=1e-6)


def test_learning_rates_by_hand():
    rate = schedule(0.02, 5, 4)
    found = [float(rate(step)) for step in (0, 3, 4, 19)]
    by_hand = [0.02, 0.02, 0.01 * (1 + np.cos(np.pi / 5)), 0.01 * (1 + np.cos(np.pi * 4 / 5))]
    np.testing.assert_allclose(found, by_hand, rtol=1e-6)


def random_batch(n, real, k=None, seed=0):
    rng = np.random.default_rng(seed)
    shape = (n, 32, 32, 3) if k is None else (n, k, 32, 32, 3)
    images = rng.integers(0, 256, shape, np.uint8)
    mask = np.arange(n) < real
    return {"image": images, "label": rng.integers(0, 7, n, np.int32), "mask": mask}


def tiny(weight):
    """Returns a classifier of one block, which compiles in seconds."""
    visual = VisionTransformer(VisionConfig(32, 16, 128, 1, 2, 8), rngs=nnx.Rngs(0))
    attach.attach(visual, ("adaptformer",), len(weight), rngs=nnx.Rngs(0))
    return Classifier(visual, CosineHead(jnp.asarray(weight))), rules.trainable((), 1)


def placed_step(batch, accum=1, loss="la", build=classifier):
    """Returns a training step of a small model and its arguments, placed on all devices."""
    rng = np.random.default_rng(1)
    model, is_trainable = build(rng.normal(size=(7, 128)).astype(np.float32))
    graph, tuned, frozen = state.split_trainable(model, is_trainable)
    devices = mesh.make_mesh()
    everywhere = mesh.replicated(devices)
    optimizer = sgd(schedule(0.1, 1, 1), 0.9, 5e-4)
    step = make_train_step(
        graph, model.visual.config, losses.make(loss, [90, 40, 20, 9, 4, 2, 1]), optimizer,
        devices, accum,
    )  # fmt: skip
    start = jax.device_put(state.create_state(tuned, optimizer), everywhere)
    return step, start, jax.device_put(frozen, everywhere), mesh.put_batch(devices, batch)


def one_step(*given, **options):
    step, *arguments = placed_step(*given, **options)
    after, loss = step(*arguments)
    return float(loss), after


@pytest.mark.slow
def test_padding_does_not_count():
    full, partial = random_batch(16, 11), random_batch(16, 11)
    partial["image"][11:], partial["label"][11:] = 77, 3
    (loss_a, a), (loss_b, b) = one_step(full), one_step(partial)
    assert loss_a == loss_b
    for path in a.tuned:
        assert np.array_equal(a.tuned[path], b.tuned[path]), path


@pytest.mark.slow
@pytest.mark.parametrize("accum", [2, 4])
def test_accumulation_is_the_loss_of_the_whole_batch(accum):
    batch = random_batch(32, 27)
    (loss_a, a), (loss_b, b) = one_step(batch), one_step(batch, accum)
    np.testing.assert_allclose(loss_b, loss_a, rtol=1e-5)
    for path in a.tuned:
        np.testing.assert_allclose(b.tuned[path], a.tuned[path], rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", losses.LOSSES)
def test_accumulation_of_every_loss(name):
    batch = random_batch(32, 27)
    (loss_a, a), (loss_b, b) = (one_step(batch, accum, name, tiny) for accum in (1, 4))
    np.testing.assert_allclose(loss_b, loss_a, rtol=1e-5)
    assert any("tuners" in path for path in a.tuned)
    for path in a.tuned:
        np.testing.assert_allclose(b.tuned[path], a.tuned[path], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("names", [("adaptformer",), (), ("full",)])
def test_the_optax_mask_and_the_split_agree(names):
    """An optax mask over the whole tree gives the update of the split, leaf for leaf."""
    model, is_trainable = classifier(np.ones((7, 128), np.float32), names)
    graph, leaves = tree.flatten(model)
    mask = state.trainable_mask(leaves, is_trainable)
    _, tuned, frozen = state.split_trainable(model, is_trainable)
    assert tuned.keys() == {path for path, trained in mask.items() if trained}
    assert frozen.keys() == {path for path, trained in mask.items() if not trained}

    whole = {path: leaf[...] for path, leaf in leaves.items()}
    grads = {path: jnp.full(leaf.shape, 0.5) for path, leaf in whole.items()}
    optimizer = sgd(schedule(0.1, 1, 1), 0.9, 5e-4)
    masked = freeze(optimizer, mask)
    updates, _ = masked.update(grads, masked.init(whole), whole)
    split_updates, _ = optimizer.update(
        {path: grads[path] for path in tuned}, optimizer.init(tuned), tuned
    )
    for path in whole:
        expected = split_updates.get(path, jnp.zeros_like(whole[path]))
        assert np.array_equal(updates[path], expected), path
    assert isinstance(optax.apply_updates(whole, updates), dict)


@several
def test_ensemble_is_the_mean_of_the_logits_and_stays_sharded():
    rng = np.random.default_rng(1)
    model, is_trainable = classifier(rng.normal(size=(7, 128)).astype(np.float32))
    graph, tuned, frozen = state.split_trainable(model, is_trainable)
    devices = mesh.make_mesh()
    leaves = jax.device_put(tuned | frozen, mesh.replicated(devices))
    predict = jax.jit(forward.make_predict(graph, model.visual.config))
    batch = random_batch(16, 16, k=5)
    logits = predict(leaves, mesh.put_batch(devices, batch))
    assert logits.sharding.spec == P("data")
    each = [
        predict(leaves, mesh.put_batch(devices, batch | {"image": batch["image"][:, i]}))
        for i in range(5)
    ]
    np.testing.assert_allclose(logits, np.mean(each, axis=0), rtol=1e-4, atol=1e-4)


@several
def test_only_tuned_gradients_cross_the_devices():
    """The compiled data-parallel step's collectives move the tuned gradients and three scalars."""
    import re

    step, start, *rest = placed_step(random_batch(16, 16))
    text = step.lower(start, *rest).compile().as_text()
    assert not re.search(r"all-gather|all-to-all|collective-permute", text)
    moved = 0
    for line in re.findall(r"= (.*?) all-reduce(?:-start)?\(", text):
        for dims in re.findall(r"f32\[([\d,]*)\]", line):
            moved += int(np.prod([int(d) for d in dims.split(",") if d]))
    wanted = sum(leaf.size for leaf in start.tuned.values())
    assert wanted <= moved <= wanted + 250


def test_normalise_by_hand():
    config = lift_jax.load_backbone("debug").visual.config
    images = np.full((1, 2, 2, 3), 255, np.uint8)
    found = forward.normalise(jnp.asarray(images), config)
    expected = (1 - np.array(config.mean)) / np.array(config.std)
    np.testing.assert_allclose(found[0, 0, 0], expected, rtol=1e-6)


def test_evaluation_is_exact_under_padding():
    """31 images in batches of 16 and of 8 give the same counts, and each image counts once."""
    from functools import partial

    from lift_jax.data.images import views
    from lift_jax.data.types import ArrayImages, Split
    from lift_jax.evaluation.candidate import Candidate, Chain
    from lift_jax.evaluation.programs import Programs
    from lift_jax.evaluation.stream import evaluate
    from lift_jax.parallel import mesh

    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (31, 32, 32, 3), np.uint8)
    split = Split(ArrayImages(pixels, "made up", np.arange(31)), rng.integers(0, 7, 31))
    model, is_trainable = classifier(rng.normal(size=(7, 128)).astype(np.float32))
    graph, leaves = tree.flatten(model)
    devices = mesh.make_mesh()
    leaves = jax.device_put({k: v[...] for k, v in leaves.items()}, mesh.replicated(devices))
    chain = Chain(devices, model.visual.config, Programs())
    counter = partial(chain.counts, candidate=Candidate.of(graph, leaves), top=0)
    found = [
        evaluate(
            loader.eval_batches(split, views.TestTransform(32), batch=batch),
            {"test": counter},
            devices,
        )["test"]
        for batch in (8, 16)
    ]
    assert found[0]["total"].tolist() == np.bincount(split.labels, minlength=7).tolist()
    for key in ("correct", "total", "predicted", "bin_total", "bin_correct"):
        assert np.array_equal(found[0][key], found[1][key]), key


@pytest.mark.parametrize("size", [2.0**-30, 1.0, 2.0**20])
def test_float16_loses_no_small_gradient(size):
    """Gradients of any size have the digits of float16; by themselves small ones would be 0."""
    visual = VisionTransformer(VisionConfig(8, 4, 16, 1, 2, 32), rngs=nnx.Rngs(0))
    attach.attach(visual, ("lora",), 3, rngs=nnx.Rngs(1))
    model = Classifier(visual, CosineHead(jax.random.normal(jax.random.key(2), (3, 16))))
    images = jax.random.normal(jax.random.key(3), (2, 8, 8, 3))
    pull = size * jax.random.normal(jax.random.key(4), (2, 3))

    def gradient(precision, scaled):
        visual.precision = precision
        graph, tuned, frozen = state.split_trainable(model, rules.trainable((), 1))

        @jax.jit  # one program instead of one for each operation
        def leaves(tuned, frozen, pull):
            _, back = jax.vjp(lambda tuned: tree.merge(graph, tuned | frozen)(images), tuned)
            return make_pull_back(graph)(tuned, frozen, back, pull) if scaled else back(pull)[0]

        return leaves(tuned, frozen, pull)["visual/blocks/0/tuners/lora/v/up"] / size

    wanted, half = gradient(None, True), Precision.of("float16", "float32")
    bound = 3e-3 * jnp.abs(wanted).max()
    assert jnp.abs(gradient(half, True) - wanted).max() < bound
    if size != 1:
        assert not jnp.abs(gradient(half, False) - wanted).max() < bound

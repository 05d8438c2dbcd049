"""Tests of the contract of all tuners: in every kind of tower, alone and with each other."""

import itertools
import re
import subprocess
import sys
from dataclasses import replace
from unittest import mock

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console
from support.paths import ROOT, TESTS
from support.towers import (
    BLOCKS,
    CLASSES,
    CLIP_RESNET,
    VIT,
    WIDTH,
    WORDS,
    close,
    differentiated,
    filled,
    new,
    stirred,
    tuned_model,
)  # fmt: skip

from lift_jax.commands.line import options
from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.backbone import Backbone, BackboneConfig, Classifier
from lift_jax.models.tunable import Tunable
from lift_jax.runs.weights import export
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.settings.rules import TEXT_FEATURE_TUNERS
from lift_jax.training import checkpoint, state
from lift_jax.training.optimizer import sgd
from lift_jax.tuners import attach
from lift_jax.tuners.prompt_learning import TunedTextHead
from lift_jax.tuners.rules import PATH_RULES, trainable

pytestmark = pytest.mark.slow  # whole runs, or many compilations

UNCHANGED = {"adaptformer", "adapter", "lora", "lora_mlp", "aft", *PATH_RULES}
EVERYWHERE = ("ssf", "bitfit", "full")
IN_BLOCKS = (
    "adapter", "adaptformer", "lora", "lora_mlp", "vpt_shallow", "vpt_deep", "aft", "ln",
    *EVERYWHERE,
)  # fmt: skip
PLACES = {"vit": IN_BLOCKS, "text": IN_BLOCKS, "resnet": ("bn", *EVERYWHERE)}


@pytest.mark.parametrize("kind", PLACES)
def test_where_each_tuner_applies(kind):
    _, tower, _ = new(kind)
    found = {name for name in (*attach.TUNERS, *PATH_RULES) if attach.applies(name, tower)}
    assert found == set(PLACES[kind])


# Tuned parameters of a block, by hand: width 12, hidden width 20, dim 3, 2 prompts, ratio 0.1.
SIZES = {
    "adapter": 2 * 12 + 12 * 3 + 3 + 3 * 12 + 12,
    "adaptformer": 2 * 12 + 12 * 3 + 3 + 3 * 12 + 12 + 1,
    "lora": 2 * 3 * (12 + 12),
    "lora_mlp": 2 * 3 * (12 + 20),
    "ssf": 2 * (3 * 12 + 12 + 20 + 12),
    "vpt_deep": 2 * 12,
    # tenths of 432 + 36 entries of q, k and v, 144 + 12 of out, 240 + 20 and 240 + 12 of the MLP
    "aft": 43 + 3 + 14 + 1 + 24 + 2 + 24 + 1,
    "bitfit": 12 + 3 * 12 + 12 + 12 + 20 + 12,
    "ln": 2 * 2 * 12,
    "full": 2 * 2 * 12 + 4 * (12 * 12 + 12) + (12 * 20 + 20) + (20 * 12 + 12),
}
# the tiny ResNet: a stem of 2, 2, 4 channels, bottlenecks 4-3-12, 12-3-12, 12-4-16
NORMS = 2 * (3 + 3 + 12) + (4 + 4 + 16) + (12 + 16)
STEM_NORMS = 2 + 2 + 4
STEM = 9 * (3 * 2 + 2 * 2 + 2 * 4)
BOTTLENECKS = (12 + 81 + 36) + (36 + 81 + 36) + (48 + 144 + 64) + (4 * 12 + 12 * 16)
POOL = (4 * 4 + 1) * 16 + 3 * (16 * 16 + 16) + (16 * 12 + 12)
OF_RESNET = {
    "ssf": 2 * 12,
    "bn": 2 * (NORMS + STEM_NORMS),
    "bitfit": NORMS,  # of the blocks alone, as in LIFT+
    "full": BOTTLENECKS + 2 * NORMS,
}
OF_LIFT = {  # tuner.stem: stem and pooling as well
    "bn": OF_RESNET["bn"],
    "bitfit": NORMS + STEM_NORMS + 3 * 16 + 12,
    "full": STEM + BOTTLENECKS + 2 * (NORMS + STEM_NORMS) + POOL,
}


def stepped(tuned, grads):
    """Returns the leaves after a step of gradient descent; asserts that every leaf moves."""
    assert grads.keys() == tuned.keys()
    after = {path: leaf - 0.1 * grads[path] for path, leaf in tuned.items()}
    for path, leaf in tuned.items():
        shifts_keys = path.endswith(("/k/bias", "/k/shift"))  # softmax ignores these
        assert shifts_keys or not np.array_equal(after[path], leaf), path
    return after


@pytest.mark.parametrize("name", OF_LIFT)
def test_lift_tunes_stem_and_pooling_of_a_resnet_too(name):
    _, _, (_, tuned, _) = tuned_model((name,), "resnet", stem=True)
    assert sum(leaf.size for leaf in tuned.values()) - CLASSES * WIDTH == OF_LIFT[name]


def through_checkpoint(workdir, tuned, like):
    """Returns leaves after saving and restoring them; `like` are the leaves that are expected."""
    optimizer = sgd(0.1, 0.9, 0.0)
    with checkpoint.open_manager(workdir, 1) as manager:
        checkpoint.save(manager, state.create_state(tuned, optimizer), {})
        checkpoint.wait(manager)
        expected = state.create_state(like, optimizer)
        return checkpoint.restore(manager, expected, Console(quiet=True)).tuned


# Other poolings meet the tuners of the last block's tokens, and those that insert tokens.
AT_POOLING = [("full", "pair"), *(("vpt_deep", kind) for kind in ("avg_class", "map", "query"))]


@pytest.mark.parametrize(
    ("name", "kind"),
    [*((n, kind) for kind in PLACES for n in PLACES[kind]), *AT_POOLING],
)
def test_contract(name, kind, tmp_path):
    base, _, inputs = new(kind)
    expected = base(inputs)
    model, _, (graph, tuned, frozen) = tuned_model((name,), kind)

    # the tuned model starts as the frozen one, where the method says so
    started, _ = differentiated(graph, tuned, frozen, inputs)
    same = np.allclose(started, expected, rtol=1e-5, atol=1e-5)
    assert same == (name in UNCHANGED)

    # the number of parameters is that of the formula
    count = sum(leaf.size for leaf in tuned.values()) - CLASSES * WIDTH
    if kind == "resnet":
        assert count == OF_RESNET[name]
    else:
        assert count == (2 * 12 if name == "vpt_shallow" else BLOCKS * SIZES[name])

    # every tuned leaf moves in a step, and nothing else does
    away = stirred(tuned)
    _, grads = differentiated(graph, away, frozen, inputs)
    after = stepped(away, grads)
    moved, _ = differentiated(graph, after, frozen, inputs)
    _, leaves = tree.flatten(tree.merge(graph, after | frozen))
    _, original = tree.flatten(base)
    kept = original.keys() - tuned.keys()
    assert kept and leaves.keys() - tuned.keys() >= kept
    for path in kept:
        assert np.array_equal(leaves[path][...], original[path][...]), path

    # a checkpoint fits a model that is built anew
    _, _, (graph_2, tuned_2, frozen_2) = tuned_model((name,), kind)
    read = through_checkpoint(tmp_path, after, tuned_2)
    assert read.keys() == after.keys()
    again, _ = differentiated(graph_2, read, frozen_2, inputs)
    assert np.array_equal(again, moved)

    # without the tuner the base is left
    for _, module in nnx.iter_modules(model):
        if isinstance(module, Tunable):
            module.hold({})
    assert np.array_equal(model(inputs), expected)


# -- tuners of the text features


EMBED, WORD = 6, 20  # width of the space that images and texts share; a token of all texts
SHARED = {  # tuned parameters by hand: 2 words of width 12; both bottlenecks of width 8 on 6
    "coop": 2 * WIDTH,
    "clip_adapter": 2 * (2 * EMBED + EMBED * 8 + 8 + 8 * EMBED + EMBED),
    "proj": {"vit": 2 * WIDTH * EMBED, "resnet": WIDTH * EMBED},
}


def joint_model(names, kind, in_texts=(), in_images=()):
    """Returns a classifier on texts, its images, and its split (graph, tuned, frozen).

    CLIP's ResNet has no image projection: its features have the width of the shared space.
    """
    vision = VIT if kind == "vit" else replace(CLIP_RESNET, width=EMBED)
    projections = ("image", "text") if kind == "vit" else ("text",)
    sizes = BackboneConfig(vision, WORDS, EMBED, projections)
    backbone = filled(lambda: Backbone(sizes, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, WORD, (CLASSES, 7))
    tokens[:, 1:3], tokens[:, 5:] = WORD, WORDS.eot
    coop = "coop" in names
    words = backbone.text.tokens[...][jnp.array([WORD, WORD])]
    head = TunedTextHead(
        backbone, tokens, context=words if coop else None, word_positions=(0, 1) * coop,
        proj="proj" in names, adapter=8 * ("clip_adapter" in names), rngs=nnx.Rngs(1),
    )  # fmt: skip
    towers = ("visual", backbone.visual, in_images), ("text", backbone.text, in_texts)
    rules = []
    for prefix, tower, own in towers:
        attach.attach(
            tower, own, CLASSES, TunerSettings(dim=5, prompts=2, ratio=0.1), rngs=nnx.Rngs(2)
        )
        rules.append(trainable(own, len(tower.blocks), prefix=prefix))
    model = Classifier(backbone.visual, head)
    images = jnp.asarray(rng.normal(size=(3, vision.resolution, vision.resolution, 3)), jnp.float32)
    return (
        model,
        images,
        state.split_trainable(
            model, lambda path, leaf: rules[0](path, leaf) or rules[1](path[1:], leaf)
        ),
    )


def moved_away(tuned):
    """Returns all leaves with noise added; `stirred` would leave those of the head."""
    rng = np.random.default_rng(2)
    return {
        path: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32)
        for path, leaf in sorted(tuned.items())
    }


@pytest.mark.parametrize("kind", ["vit", "resnet"])
@pytest.mark.parametrize("name", SHARED)
def test_contract_of_what_texts_give(name, kind, tmp_path):
    base, images, (base_graph, nothing, whole) = joint_model((), kind)
    expected, _ = differentiated(base_graph, nothing, whole, images)
    assert not nothing  # nothing is tuned in CLIP's own classifier
    _, _, (graph, tuned, frozen) = joint_model((name,), kind)

    # it starts as zero-shot: the words are those of the texts, Up is 0, projections are copies
    started, _ = differentiated(graph, tuned, frozen, images)
    close(started, expected)
    count = SHARED[name] if name != "proj" else SHARED[name][kind]
    assert sum(leaf.size for leaf in tuned.values()) == count

    # every tuned leaf moves in a step, and nothing else does
    away = moved_away(tuned)
    _, grads = differentiated(graph, away, frozen, images)
    after = stepped(away, grads)
    moved, _ = differentiated(graph, after, frozen, images)
    assert not np.allclose(moved, expected, atol=1e-3)
    for path in whole.keys() - tuned.keys():
        assert np.array_equal(frozen[path], whole[path]), path

    # a checkpoint fits a model that is built anew
    _, _, (graph_2, tuned_2, frozen_2) = joint_model((name,), kind)
    read = through_checkpoint(tmp_path, after, tuned_2)
    again, _ = differentiated(graph_2, read, frozen_2, images)
    assert np.array_equal(again, moved)


@pytest.mark.parametrize("name", [n for n in IN_BLOCKS if n != "vpt_shallow"])
def test_what_texts_give_goes_with_every_tuner_of_both_towers(name):
    """The tuners of the text features train together with a tuner in the blocks of both towers."""
    _, images, (graph, tuned, frozen) = joint_model(tuple(SHARED), "vit", (name,), (name,))
    parts = [joint_model((one,), "vit")[2][1].keys() for one in SHARED]
    parts += [joint_model((), "vit", *own)[2][1].keys() for own in (((name,),), ((), (name,)))]
    assert tuned.keys() == set().union(*parts) and len(tuned) == sum(map(len, parts))
    away = moved_away(tuned)
    stepped(away, differentiated(graph, away, frozen, images)[1])


def test_these_are_all():
    assert tuple(SHARED) == TEXT_FEATURE_TUNERS


# -- several at once


def pairs(names):
    """Returns all pairs but that of vpt_shallow and vpt_deep, which exclude each other."""
    together = itertools.combinations(names, 2)
    return [pair for pair in together if not all(name.startswith("vpt") for name in pair)]


@pytest.fixture(scope="module")
def alone():
    """Returns (graph, tuned, frozen) of each tuner alone, on a tower of one block or a ResNet."""
    return {
        (kind, name): tuned_model((name,), kind, blocks=1)[2]
        for kind in PLACES
        for name in PLACES[kind]
    }


@pytest.mark.parametrize(
    ("kind", "pair"),
    [(kind, pair) for kind in PLACES for pair in pairs(PLACES[kind])],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_any_two_go_together(kind, pair, alone):
    """A pair trains the leaves of both; one that starts as the identity changes nothing."""
    _, inputs, (graph, both, frozen) = tuned_model(pair, kind, blocks=1)
    assert both.keys() == {path for name in pair for path in alone[kind, name][1]}
    for first, second in (pair, pair[::-1]):
        graph_2, tuned, frozen_2 = alone[kind, second]
        if first in UNCHANGED:
            away = stirred(tuned)
            found, _ = differentiated(graph, both | away, frozen, inputs)
            close(found, differentiated(graph_2, away, frozen_2, inputs)[0])
    away = stirred(both)
    stepped(away, differentiated(graph, away, frozen, inputs)[1])


def test_they_act_in_one_order():
    text = ("ssf", "lora", "adaptformer", "adapter")
    (a, x, (_, tuned, _)), (b, _, (_, other, _)) = (
        tuned_model(names, "vit") for names in (text, text[::-1])
    )
    assert np.array_equal(a(x), b(x)) and tuned.keys() == other.keys()
    assert a.visual.blocks[0].order == ("lora", "ssf", "adapter", "adaptformer")


def test_vpt_is_one_of_two():
    with pytest.raises(UserError, match="vpt_deep replaces .*Give one"):
        attach.parse_names("vpt_shallow+lora+vpt_deep")


@mock.patch.dict(attach.TUNERS)
def test_a_tuner_from_outside_plugs_in():
    options.define_tuners(str(TESTS / "support" / "doubler.py"))
    tuned, tower, images = new("vit")
    attach.attach(tower, attach.parse_names("doubler+adaptformer"), CLASSES, rngs=nnx.Rngs(0))
    by_hand, tower, _ = new("vit")
    for block in tower.blocks:
        block.v.kernel[...] *= 2
        block.v.bias[...] *= 2
    close(tuned(images), by_hand(images))
    attach.attach(tower, ("doubler",), CLASSES, rngs=nnx.Rngs(0))
    close(attach.merge(by_hand)(images), by_hand(images))


def test_the_tuner_of_the_docs_plugs_in_by_a_config_file(tmp_path):
    text = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    (code,) = (block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "Gain" in block)
    (tmp_path / "gain.py").write_text(code)
    done = subprocess.run(
        [
            sys.executable, "-m", "lift_jax.main", f"--workdir={tmp_path}/run",
            f"--config={tmp_path}/gain.py:debug,tuner=gain+lora", "--config.test.tte=False",
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=100,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    leaves = export.read_tuned(tmp_path / "run")
    gains = [leaf for path, leaf in leaves.items() if path.endswith("tuners/gain/gain")]
    assert len(gains) == 2 and all(np.abs(gain - 1).max() > 1e-5 for gain in gains)
    assert any("tuners/lora" in path for path in leaves)

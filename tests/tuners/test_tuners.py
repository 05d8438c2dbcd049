"""Tests of each tuner: the authors' golden numbers, merging, prompts, settings and sizes.

test_contract.py tests what holds for all of them.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support import author_leaves
from support.paths import GOLDEN
from support.towers import BLOCKS, HIDDEN, VIT, WIDTH, close, filled, new, run, stirred, tuned_model

import lift_jax
from configs import base
from lift_jax.errors import UserError
from lift_jax.evaluation import forward
from lift_jax.models import tree
from lift_jax.models.backbone import Classifier
from lift_jax.models.blocks.block import Block
from lift_jax.models.heads import CosineHead, l2_normalise
from lift_jax.models.resnet import ResNet, ResNetConfig
from lift_jax.models.tunable import Site
from lift_jax.models.vit.config import VisionConfig
from lift_jax.models.vit.tower import VisionTransformer
from lift_jax.settings import parse
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.settings.methods import METHODS
from lift_jax.training import losses, state
from lift_jax.tuners import adapter, attach
from lift_jax.tuners.adapter import AdaptFormer
from lift_jax.tuners.lora import LoRA
from lift_jax.tuners.prompts import Prompts
from lift_jax.tuners.random_mask import RandomMask
from lift_jax.tuners.rules import chosen_blocks, trainable
from lift_jax.weights.authors import table_of
from lift_jax.weights.authors.names import TABLES
from lift_jax.weights.rename import to_theirs


def gradient(forward, tuned, frozen):
    """Returns ((loss, aux), gradients of the tuned leaves).

    The frozen leaves are an argument, because compiling is slow if they are constants.
    """
    return jax.jit(jax.value_and_grad(forward, has_aux=True))(tuned, frozen)


@pytest.fixture(scope="module")
def clip():
    return lift_jax.load_backbone(GOLDEN / "clip_openai.safetensors", heads=2, text_heads=2)


@pytest.fixture(scope="module")
def expected(golden):
    return golden("tuners")


# -- the authors' numbers

IMAGE = {  # case -> tuners and settings of the image tower
    "none": ("none", {}),
    "adaptformer": ("adaptformer", {}),
    "adaptformer_dim4_last2": ("adaptformer", {"dim": 4, "partial": 2}),
    "adapter": ("adapter", {"dim": 3}),
    "lora": ("lora", {"dim": 3}),
    "ssf": ("ssf", {}),
    "pt": ("vpt_deep", {"prompts": 3}),
    "pt_first_layer_only": ("vpt_shallow", {"prompts": 2}),
    "pt_layers_0_2": ("vpt_deep", {"prompts": 2, "layers": "0,2"}),
    "aft_all": ("aft", {}),
    "aft_attn": ("aft", {"parts": "attn", "ratio": 0.01, "partial": 2}),
    "aft_mlp": ("aft", {"parts": "mlp", "ratio": 0.005, "partial": 2, "seed": 3}),
    "bitfit": ("bitfit", {}),
    "fft_last2": ("full", {"partial": 2}),
    "adaptformer_lora_ssf": ("adaptformer+lora+ssf", {"dim": 2, "partial": 1}),
    "lift_vpt_shallow": ("vpt_shallow", {"prompts": 4, "place": "end"}),
    "lift_vpt_deep": ("vpt_deep", {"prompts": 3, "place": "end"}),
    "lift_vpt_deep_partial2": ("vpt_deep", {"prompts": 2, "place": "end", "partial": 2}),
    "lift_lora_mlp_patched": ("lora_mlp", {"dim": 2, "partial": 1}),
    "lift_ssf_ln": ("ssf", {"parts": "ln", "partial": 2}),
    "lift_ssf_attn_mlp": ("ssf", {"parts": "attn+mlp", "partial": 1}),
    "lift_ln_tuning": ("ln", {}),
    "lift_adaptformer_partial2": ("adaptformer", {"dim": 3, "partial": 2}),
    "lift_adaptformer_partial_list": ("adaptformer", {"dim": 2, "layers": "0:2"}),
    "lift_lora": ("lora", {"dim": 2, "layers": "1:3"}),
    "lift_mask": ("aft", {"ratio": 0.005, "partial": 1, "mask": "joint"}),
}
TEXT = {  # case -> tuners and settings of the image tower, and of the text tower
    "text_adaptformer": (None, ("adaptformer", {"dim": 3})),
    "text_lora": (None, ("lora", {"dim": 2})),
    "text_adapter": (None, ("adapter", {"dim": 2, "partial": 1})),
    "text_ssf": (None, ("ssf", {"partial": 1})),
    "text_pt": (None, ("vpt_deep", {"prompts": 2})),
    "text_image_and_text_adaptformer": (
        ("adaptformer", {"dim": 2, "partial": 1}),
        ("adaptformer", {"dim": 2, "partial": 1}),
    ),
}


# The stored logits are float32 cosines times 25. They differ by up to 3.9e-6 from what the same
# weights give in float64; those of pt_layers_0_2 by more than 1e-6 + 1e-4 of its smallest (0.003).
LOGITS = {"rtol": 1e-4, "atol": 4e-6}


GRADIENTS = {"rtol": 1e-4, "atol": 1e-6}
# Gradients through the text tower are as large as 1.5. Those that are stored for text_adaptformer
# differ from what the same weights give in float64 by up to 1.33e-6, which is 1.1e-6 beyond rtol:
# exact gradients would fail with an atol of 1e-6. Ours are off by 0.1e-6 beyond rtol there.
TEXT_GRADIENTS = {"rtol": 1e-4, "atol": 2e-6}


def same_gradients(expected, case, grads, table, tolerance=GRADIENTS):
    """Asserts that the gradients are those that a case holds under the authors' names."""
    found = {k.removeprefix("tuner."): g for k, g in to_theirs(grads, table).items()}
    for name, grad in found.items():
        prefix = f"{case}/grad/{name}"
        if prefix in expected:
            np.testing.assert_allclose(grad, expected[prefix], **tolerance, err_msg=name)
            continue
        sample = grad.reshape(-1)[:: 13 if grad.size <= 8192 else 499]
        theirs = expected[f"{case}/gradsub/{name}"]
        np.testing.assert_allclose(sample, theirs, **tolerance, err_msg=name)
        norm = np.linalg.norm(grad.astype(np.float64))
        np.testing.assert_allclose(norm, expected[f"{case}/gradnorm/{name}"], rtol=1e-4)
    held = {key.split("/", 2)[2] for key in expected if key.startswith(f"{case}/grad")}
    assert held == found.keys()


def test_all_cases_are_tested(expected):
    cases = json.loads(str(expected["cases_json"]))
    others = {case for case in cases if case.startswith(("text_coop", "text_clip", "text_proj"))}
    assert cases.keys() - others == IMAGE.keys() | TEXT.keys()


QUICK = ("adaptformer", "lora", "full")


@pytest.mark.parametrize(
    "case", [c if c in QUICK else pytest.param(c, marks=pytest.mark.slow) for c in IMAGE]
)
def test_logits_loss_and_gradients_of_the_authors(golden, clip, expected, case):
    text, options = IMAGE[case]
    names = attach.parse_names(text)
    visual = nnx.clone(clip.visual)
    attach.attach(visual, names, 10, TunerSettings(**options), rngs=nnx.Rngs(0))
    chosen = options.get("partial", 0), options.get("layers", "")
    head = CosineHead(jnp.asarray(expected["classifier_weight"]))
    is_trainable = trainable(names, 3, *chosen)
    graph, tuned, frozen = state.split_trainable(Classifier(visual, head), is_trainable)
    layout = "lift" if case.startswith("lift_") else "lift_plus"
    table = table_of(tuned, layout)
    start = {"head/weight": expected["classifier_weight"]}
    start |= author_leaves.leaves(expected, f"{case}/param/", tuned, table)
    if text == "full":  # the leaves that are not stored start as in the backbone
        start = tuned | start
    assert {k: v.shape for k, v in start.items()} == {k: v.shape for k, v in tuned.items()}
    loss = losses.make("la", expected["cls_num_list"])
    images = golden("clip_openai")["images"]

    def forward(tuned, frozen):
        logits = tree.merge(graph, tuned | frozen)(images)
        return loss(logits, expected["labels"]), logits

    (value, logits), grads = gradient(forward, start, frozen)
    np.testing.assert_allclose(logits, expected[f"{case}/logits"], **LOGITS)
    close(value, expected[f"{case}/loss"])
    same_gradients(expected, case, grads, table)


@pytest.mark.parametrize("case", TEXT)
def test_texts_of_the_authors(golden, clip, expected, case):
    model, rules = nnx.clone(clip), []
    for prefix, asked in zip(("visual", "text"), TEXT[case], strict=True):
        name, options = asked or ("none", {})
        tower = getattr(model, prefix)
        attach.attach(
            tower, attach.parse_names(name), 10, TunerSettings(**options), rngs=nnx.Rngs(0)
        )
        rules.append(trainable((name,), len(tower.blocks), prefix=prefix))
    graph, tuned, frozen = state.split_trainable(
        model, lambda *leaf: any(rule(*leaf) for rule in rules)
    )
    start = author_leaves.leaves(expected, f"{case}/param/", tuned)
    assert {k: v.shape for k, v in start.items()} == {k: v.shape for k, v in tuned.items()}
    loss = losses.make("la", expected["cls_num_list"])
    inputs = golden("clip_openai")

    def forward(tuned, frozen):
        model = tree.merge(graph, tuned | frozen)
        image = l2_normalise(model.encode_image(inputs["images"], project=True))
        text = l2_normalise(model.encode_text(inputs["tokens"], project=True))
        logits = jnp.exp(model.logit_scale[...]) * image @ text.T
        return loss(logits, expected["labels"]), logits

    (value, logits), grads = gradient(forward, start, frozen)
    np.testing.assert_allclose(logits, expected[f"{case}/logits"], **LOGITS)
    close(value, expected[f"{case}/loss"])
    same_gradients(expected, case, grads, TABLES["lift_plus"], TEXT_GRADIENTS)


@pytest.mark.parametrize("case", ["aft_all", "aft_attn", "aft_mlp"])
def test_random_entries_of_the_authors(clip, expected, case):
    visual = nnx.clone(clip.visual)
    attach.attach(visual, ("aft",), 10, TunerSettings(**IMAGE[case][1]), rngs=nnx.Rngs(0))
    names = {"qkv": "attn.aft.in_proj", "out": "attn.aft.out_proj"}
    names |= {"fc1": "mlp.aft.in_proj", "fc2": "mlp.aft.out_proj"}
    kinds = {"kernel": "weight", "bias": "bias"}
    seen = 0
    for block in (visual.blocks[1], visual.blocks[2]):
        for ours, theirs in names.items():
            entries = getattr(block.tuners["aft"], ours, {})
            for leaf, kind in kinds.items():
                mask = expected.get(f"{case}/mask/{theirs}.masked_{kind}.mask", np.zeros(0))
                at = entries[f"{leaf}_at"][...] if f"{leaf}_at" in entries else np.zeros(0)
                assert np.array_equal(at, mask), (ours, leaf)
                seen += len(at)
    assert seen


@pytest.mark.slow
def test_random_entries_start_at_the_frozen_values(clip):
    visual = nnx.clone(clip.visual)
    attach.attach(visual, ("aft",), 10, TunerSettings(ratio=0.1), rngs=nnx.Rngs(0))
    block = visual.blocks[1]
    for name, kernel in (("out", block.out.kernel), ("fc1", block.fc1.kernel)):
        entries = getattr(block.tuners["aft"], name)
        theirs = np.asarray(kernel[...]).T.reshape(-1)  # entries are counted in [outputs inputs]
        assert len(entries["kernel"][...]) == int(0.1 * kernel[...].size)
        assert np.array_equal(entries["kernel"][...], theirs[entries["kernel_at"][...]])


@pytest.mark.slow
def test_ssf_behind_the_pooling_of_the_authors(golden):
    expected = golden("clip_rn")
    visual = lift_jax.load_backbone(GOLDEN / "clip_rn.safetensors").visual
    attach.attach(visual, ("ssf",), 10, rngs=nnx.Rngs(0))
    ssf = visual.tuners["ssf"].pool
    ssf.scale[...], ssf.shift[...] = expected["ssf_scale"], expected["ssf_shift"]
    images = forward.normalise(jnp.asarray(expected["images_u8"]), visual.config)
    close(run(visual, images), expected["image_features_ssf"])
    close(run(attach.merge(visual), images), expected["image_features_ssf"])


def test_automatic_sizes_of_the_authors():
    cases = json.loads((GOLDEN / "adaptive_dim.json").read_text())
    assert len(cases["liftplus"]) > 40 and len(cases["lift"]) > 4
    for case in cases["liftplus"]:
        c, n, d = case["num_classes"], case["n_layers"], case["width"]
        for sizes, layers in ((case, n), (case["last1"], 1), (case["last2"], 2)):
            assert AdaptFormer.auto_dim(c, layers) == sizes["adaptformer_dim"]
            assert adapter.Adapter.auto_dim(c, layers) == sizes["adapter_dim"]
            assert LoRA.auto_dim(c, layers) == sizes["lora_dim"]
            assert Prompts.auto_dim(c, layers) == sizes["pt_len"]
        attn, mlp = 4 * d * d + 4 * d, 8 * d * d + 5 * d
        site = Site(d, {}, c, tuned_blocks=n)
        for size, part in ((attn, "attn"), (mlp, "mlp"), (attn + mlp, "all")):
            ratio = RandomMask.auto_ratio(site, size)
            assert ratio == pytest.approx(case[f"aft_ratio_{part}"], rel=1e-12)
    for case in cases["lift"]:  # LIFT counts the whole depth, and for aft the kernels alone
        c, n, d = case["num_classes"], case["n_layers"], case["width"]
        assert AdaptFormer.auto_dim(c, n) == case["adapter_dim"]
        assert LoRA.auto_dim(c, n, METHODS["lift"]["tuner"]["budget"]) == case["adapter_dim"]
        assert METHODS["lift"]["tuner"]["prompts"] == case["vpt_len"]
        ratio = RandomMask.auto_ratio(Site(d, {}, c, tuned_blocks=n), 12 * d * d)
        assert int(1000 * ratio) / 1000 == pytest.approx(case["mask_ratio"])


def test_the_rank_of_lora_is_its_methods():
    kernel = jnp.zeros((64, 64))
    for method, rank in (("lift_plus", 2), ("lift", 4)):
        settings = parse(base.get_config(f"method={method}")).tuner
        weights = {"q": (kernel, None), "v": (kernel, None)}
        site = Site(64, weights, 100, tuned_blocks=12, settings=settings)
        assert LoRA(site, rngs=nnx.Rngs(0)).q.down.shape == (64, rank)


# -- merging


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("vit", ("aft",)), ("vit", ("lora",)), ("vit", ("lora_mlp",)), ("vit", ("ssf",)),
        ("vit", ("aft", "lora", "lora_mlp", "ssf", "bitfit", "ln")),
        ("text", ("aft", "lora", "lora_mlp", "ssf")), ("resnet", ("ssf", "bn")),
    ],
)  # fmt: skip
def test_merged_weights_give_the_same_logits(kind, names):
    model, inputs, (graph, tuned, frozen) = tuned_model(names, kind, parts="attn+mlp+ln")
    untuned, _, _ = new(kind)
    model = tree.merge(graph, stirred(tuned) | frozen)
    expected = model(inputs)
    assert not np.allclose(expected, untuned(inputs), atol=0.01)
    merged = attach.merge(model)
    assert tree.flatten(merged)[1].keys() == tree.flatten(untuned)[1].keys()
    close(merged(inputs), expected)
    assert np.array_equal(model(inputs), expected)  # the model itself is unchanged


ROTARY = VisionConfig(
    16, 4, 16, 2, 2, HIDDEN, "silu", ln_pre=False, registers=2, rope=100.0, layer_scale=True,
    gated=True, unbiased=("q", "k", "v"),
)  # fmt: skip
MAP = VisionConfig(16, 8, WIDTH, 2, 2, HIDDEN, "gelu_tanh", pool="map", ln_pre=False)


@pytest.mark.slow
def test_layers_without_bias_get_one_when_merged():
    tower = filled(lambda: VisionTransformer(ROTARY, rngs=nnx.Rngs(0)))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)
    attach.attach(tower, ("aft", "ssf", "lora"), 5, TunerSettings(ratio=0.2), rngs=nnx.Rngs(0))
    graph, tuned, frozen = state.split_trainable(tower, trainable((), 2))
    tower = tree.merge(graph, stirred(tuned) | frozen)
    close(run(attach.merge(tower), images), run(tower, images))


def test_what_cannot_be_merged_is_named():
    model, _, _ = tuned_model(("adapter", "lora", "vpt_deep"), "vit")
    with pytest.raises(UserError, match="^adapter and vpt_deep cannot.*aft, lora, lora_mlp, ssf"):
        attach.merge(model)
    plain = filled(lambda: ResNet(ResNetConfig(32, 8, 4, (2,), (1,)), rngs=nnx.Rngs(0)))
    attach.attach(plain, ("ssf",), 5, rngs=nnx.Rngs(0))
    with pytest.raises(UserError, match="pools by the mean"):
        attach.merge(plain)


# -- prompts, and the last block's shortcut


ALL_AT_ONCE = tuple(name for name in attach.TUNERS if name != "vpt_shallow")


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [ROTARY, MAP, VIT], ids=["rotary", "map", "cls"])
def test_the_place_of_prompts_changes_nothing(sizes):
    """Attention is over a set of tokens, as long as positions and angles stay with their tokens."""
    features, images = [], np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    for place in ("start", "end"):
        tower = filled(lambda: VisionTransformer(sizes, rngs=nnx.Rngs(0)))
        before = run(tower, images)
        attach.attach(
            tower, ("vpt_deep",), 5, TunerSettings(prompts=3, place=place), rngs=nnx.Rngs(0)
        )
        for i, block in enumerate(tower.blocks):
            prompt = block.tuners["vpt_deep"].prompt
            prompt[...] = jnp.asarray(np.random.default_rng(i).normal(size=prompt.shape))
        features.append(run(tower, images))
    close(*features)
    assert not np.allclose(features[0], before, atol=0.01)


def test_the_start_of_prompts():
    def prompts(place):
        sizes = VisionConfig(16, 8, 64, 1, 1, 8)
        tower = filled(lambda: VisionTransformer(sizes, rngs=nnx.Rngs(0)))
        attach.attach(
            tower, ("vpt_deep",), 5, TunerSettings(prompts=99, place=place), rngs=nnx.Rngs(0)
        )
        return np.asarray(tower.blocks[0].tuners["vpt_deep"].prompt[...])

    bound = (6 / (3 * 8**2 + 64)) ** 0.5
    assert prompts("end").min() == pytest.approx(-bound, rel=0.01)
    assert prompts("end").max() == pytest.approx(bound, rel=0.01)
    assert prompts("start").std() == pytest.approx(0.02, rel=0.05)
    _, tower, _ = new("text")
    with pytest.raises(UserError, match="a text attends to nothing behind its end"):
        attach.attach(tower, ("vpt_deep",), 5, TunerSettings(place="end"), rngs=nnx.Rngs(0))


@pytest.mark.slow
@pytest.mark.parametrize("names", [(), ALL_AT_ONCE], ids=["none", "all"])
def test_last_block_for_the_first_token_alone_is_exact(names, monkeypatch):
    """The features equal those of a tower whose last block returns all tokens."""
    _, images, (graph, tuned, frozen) = tuned_model(names, "vit", 3, parts="attn+mlp+ln")
    visual = tree.merge(graph, stirred(tuned) | frozen).visual
    call, shortened = Block.__call__, []

    def whole(block, x, *, first_only, **others):
        shortened.append(first_only)
        return call(block, x, **others)

    found = visual(images)
    monkeypatch.setattr(Block, "__call__", whole)
    close(found, visual(images))
    assert shortened == [False, False, True]
    x, _, prompts = visual.blocks[2].tokens(jnp.ones((3, 5, WIDTH)), None, 0)
    assert prompts == (2 if names else 0) and x.shape == (3, 5 + prompts, WIDTH)
    assert call(visual.blocks[2], x, first_only=True).shape == (3, 1, WIDTH)


# -- which leaves are trained, and mistakes


def test_trainable_leaves_of_each_method():
    def chosen(names, kind="vit", depth=2, **where):
        _, _, (_, tuned, _) = tuned_model(names, kind, **where)
        return {"/".join(path.split("/")[1:depth]) for path in tuned if "head" not in path}

    blocks = {f"blocks/{i}" for i in range(BLOCKS)}
    assert chosen((), depth=3) == set()
    assert chosen(("full",), depth=3) == blocks
    assert chosen(("bitfit",), depth=3, partial=1) == {"blocks/1"}
    assert chosen(("ln",), depth=4, layers="0") == {"blocks/0/ln1", "blocks/0/ln2"}
    assert chosen(("lora",), depth=3, layers="0:1", partial=1) == {"blocks/0"}
    assert chosen(("adaptformer",), depth=3, partial=1) == {"blocks/1"}
    assert chosen(("vpt_shallow",), depth=3) == {"blocks/0"}
    assert chosen(("full",), "text", depth=3) == blocks
    assert chosen(("full",), "resnet", stem=True) == {"stem", "blocks", "pool"}
    assert chosen(("bitfit",), "resnet", stem=True) == {"stem", "blocks", "pool"}
    assert chosen(("full",), "resnet") == chosen(("bitfit",), "resnet") == {"blocks"}  # LIFT+
    assert chosen(("bn",), "resnet") == {"stem", "blocks"}
    assert chosen(("bn", "full"), "resnet", depth=3) - {f"blocks/{i}" for i in range(3)} == {
        "stem/bns"
    }
    assert chosen(("full",), "resnet", partial=1, depth=3) == {"blocks/2"}
    assert chosen(("bn",), "resnet", partial=1, depth=4) == {
        f"blocks/2/{name}" for name in ("bn1", "bn2", "bn3", "down_bn")
    }


@pytest.mark.parametrize("text", ["adaptfromer", "adaptformer+adaptformer", "a,b", ""])
def test_wrong_tuner_names(text):
    with pytest.raises(UserError, match="adaptformer"):
        attach.parse_names(text)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tuner.parts": "atn"}, "tuner.parts.*Did you mean 'attn'"),
        ({"tuner.parts": "attn+"}, "tuner.parts"),
        ({"tuner.place": "ends"}, "tuner.place.*Did you mean 'end'"),
        ({"tuner.ratio": 1.5, "tuner.name": "aft"}, r"tuner.ratio is 1.5; it must be in \[0, 1\]"),
        ({"tuner.ratio": float("nan"), "tuner.name": "aft"}, "tuner.ratio is nan"),
        ({"text_tuner.parts": "atn", "text_tuner.name": "ssf"}, "text_tuner.parts"),
        ({"tuner.budget": "eech"}, "tuner.budget.*Did you mean 'each'"),
        ({"tuner.init": "kaiming_norm"}, "tuner.init.*Did you mean 'kaiming_normal'"),
    ],
)
def test_wrong_options(changes, words):
    config = base.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=words):
        parse(config)


def test_aft_needs_a_part_of_its_own():
    _, tower, _ = new("vit")
    with pytest.raises(UserError, match="aft needs attn or mlp"):
        attach.attach(tower, ("aft",), 5, TunerSettings(parts="ln"), rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("partial", "named", "expected"),
    [
        (0, "", range(12)), (3, "", (9, 10, 11)), (0, "0,2,5", (0, 2, 5)), (3, "3:7", (3, 4, 5, 6)),
        (0, " 10 : 12, 1", (1, 10, 11)),
    ],
)  # fmt: skip
def test_layers_by_hand(partial, named, expected):
    assert tuple(chosen_blocks(12, partial, named)) == tuple(expected)


def test_layers_that_there_are_not():
    with pytest.raises(UserError, match="12 blocks"):
        chosen_blocks(12, 13)
    for named in ("12", "3:13", "5:5", "7:3", "-1", "a", "1;2", "0,", ":"):
        with pytest.raises(UserError, match="blocks 0 to 11.*'6:12'"):
            chosen_blocks(12, 0, named)


@pytest.mark.parametrize(
    ("width", "layers", "classes", "published"),
    [
        (768, 12, 100, 101_436), (768, 12, 365, 175_212),
        (768, 12, 1000, 617_868), (768, 12, 8142, 4_749_324),
        (1024, 24, 100, 172_104), (1024, 24, 365, 270_456),
        (1024, 24, 1000, 860_568), (1024, 24, 8142, 6_368_280),
    ],
)  # fmt: skip
def test_tuned_parameters_are_those_of_the_papers(width, layers, classes, published):
    sizes = VisionConfig(224, 16, width, layers, width // 64, 4 * width)

    def model():
        rngs = tree.NoDraws(0)
        visual = VisionTransformer(sizes, rngs=rngs)
        attach.attach(visual, ("adaptformer",), classes, rngs=rngs)
        return Classifier(visual, CosineHead(jnp.zeros((classes, width))))

    _, leaves = tree.flatten(nnx.eval_shape(model))
    mask = state.trainable_mask(leaves, trainable(("adaptformer",), layers))
    sizes = {path: int(np.prod(leaves[path].shape)) for path, tuned in mask.items() if tuned}
    assert sizes.pop("head/weight") == classes * width
    assert sum(sizes.values()) == published

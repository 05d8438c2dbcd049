"""Tests of the authors' checkpoints: logits, round trips, and files that do not fit."""

import json
import os
import pickle
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from flax import nnx
from safetensors.numpy import load_file, save_file
from support.commands import run_command
from support.paths import GOLDEN
from support.runs import saved_leaves, train_and_test

import lift_jax
from configs import demo
from lift_jax.errors import UserError
from lift_jax.models import tree
from lift_jax.models.backbone import Classifier
from lift_jax.models.heads import CosineHead
from lift_jax.models.resnet import ResNet, ResNetConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.models.vit.tower import VisionTransformer
from lift_jax.runs.weights import export
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.training import state
from lift_jax.tuners import attach, rules
from lift_jax.weights import authors

BACKBONE = GOLDEN / "clip_openai.safetensors"
PLUS = "tuner.image_encoder.blocks"
# golden case -> (layout, dim, partial) of the config that it fits
CASES = {
    "adaptformer": ("lift_plus", 1, 0),
    "adaptformer_dim4_last2": ("lift_plus", 4, 2),
    "lift_adaptformer_partial2": ("lift", 3, 2),
}
FIXTURES = {"adaptformer": "lift_plus", "lift_adaptformer_partial2": "lift"}


def split(visual, names=("adaptformer",), classes=10, partial=0, **options):
    """Returns (graph, tuned leaves, frozen leaves) of a classifier with new tuners."""
    attach.attach(
        visual, names, classes, TunerSettings(partial=partial, **options), rngs=nnx.Rngs(0)
    )
    is_trainable = rules.trainable(names, len(visual.blocks), partial)
    head = CosineHead(jnp.zeros((classes, visual.width)))
    return state.split_trainable(Classifier(visual, head), is_trainable)


def shapes_of(leaves):
    return {path: leaf.shape for path, leaf in leaves.items()}


def golden_vit():
    return lift_jax.load_backbone(BACKBONE, heads=2, text_heads=2).visual


def small_vit():
    return VisionTransformer(VisionConfig(16, 8, 12, 3, 2, 24), rngs=nnx.Rngs(0))


def small_resnet():
    config = ResNetConfig(64, 24, stem=8, channels=(2, 3), layers=(2, 1))
    return ResNet(config, rngs=nnx.Rngs(0))


def made_up(tower, names, **options):
    """Returns the tuned leaves of a tower, with random values."""
    _, tuned, _ = nnx.eval_shape(lambda: split(tower(), names, **options))
    rng = np.random.default_rng(0)
    return {path: rng.normal(size=a.shape).astype(np.float32) for path, a in tuned.items()}


def checkpoint(golden, case) -> dict[str, np.ndarray]:
    """Returns a golden case as the authors' code saves it, with the key before each name."""
    arrays = golden("tuners")
    names = {key: f"tuner.{key.partition('/param/')[2]}" for key in arrays}
    tensors = {names[key]: a for key, a in arrays.items() if key.startswith(f"{case}/param/")}
    head = "head.weight" if case.startswith("lift_") else "tuner.classifier.weight"
    return {head: arrays["classifier_weight"]} | tensors


def wanted(dim=1, blocks=(0, 1, 2), width=128, classes=10) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of AdaptFormer's tuned leaves, written out by hand."""
    one = {
        "norm/scale": (width,), "norm/bias": (width,), "down/kernel": (width, dim),
        "down/bias": (dim,), "up/kernel": (dim, width), "up/bias": (width,), "scale": (),
    }  # fmt: skip
    tuned = {f"visual/blocks/{i}/tuners/adaptformer/{k}": s for i in blocks for k, s in one.items()}
    return {"head/weight": (classes, width)} | tuned


# -- the authors' logits


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "kind"),
    [(case, "safetensors") for case in CASES] + [(case, "pth.tar") for case in FIXTURES],
)
def test_logits_of_their_checkpoints(golden, tmp_path, case, kind):
    path = tmp_path / f"checkpoint.{kind}"
    if kind == "safetensors":
        save_file(checkpoint(golden, case), path)
    else:
        path = GOLDEN / "authors" / f"{FIXTURES[case]}.{kind}"
    layout, dim, partial = CASES[case]
    assert authors.describe(path).layout == layout
    graph, tuned, frozen = split(golden_vit(), dim=dim, partial=partial)
    read = authors.read(path, shapes_of(tuned))
    assert all(leaf.dtype == np.float32 for leaf in read.values())
    logits = tree.merge(graph, read | frozen)(golden("clip_openai")["images"])
    expected = golden("tuners")[f"{case}/logits"]
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("case", FIXTURES)
def test_a_fixture_and_its_golden_case_are_equal_bit_for_bit(golden, tmp_path, case):
    save_file(checkpoint(golden, case), tmp_path / "c.safetensors")
    _, dim, partial = CASES[case]
    shapes = wanted(dim, range(partial and 3 - partial, 3))
    found = authors.read(GOLDEN / "authors" / f"{FIXTURES[case]}.pth.tar", shapes)
    equal(found, authors.read(tmp_path / "c.safetensors", shapes))


def equal(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == np.float32 and found[name].shape == array.shape, name
        assert np.array_equal(found[name], array), name


# -- round trips


@pytest.mark.parametrize("case", CASES)
def test_theirs_to_ours_to_theirs(golden, tmp_path, case):
    tensors = checkpoint(golden, case)
    shapes = {k.removeprefix("tuner."): list(a.shape) for k, a in tensors.items()}
    named = json.loads(str(golden("tuners")["cases_json"]))[case]["param_shapes"]
    assert shapes == named | {"head.weight": [10, 128]} or shapes == named
    save_file(tensors, tmp_path / "theirs.safetensors")
    layout, dim, partial = CASES[case]
    ours = authors.read(
        tmp_path / "theirs.safetensors", wanted(dim, range(partial and 3 - partial, 3))
    )
    authors.write(tmp_path / "again.safetensors", ours, layout)
    equal(load_file(tmp_path / "again.safetensors"), tensors)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "theirs.safetensors"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tower", "names", "layout"),
    [
        (small_vit, ("adaptformer",), "lift"),
        (small_vit, ("adaptformer",), "lift_plus"),
        (small_vit, ("adaptformer", "full"), "lift"),
        (small_vit, ("adaptformer", "full"), "lift_plus"),
        (small_vit, ("lora", "lora_mlp", "ssf", "adapter", "vpt_deep"), "lift"),
        (small_vit, ("aft", "lora", "ssf", "adapter", "adaptformer", "vpt_deep"), "lift_plus"),
        (small_vit, ("ln",), "lift"),
        (small_vit, ("ln",), "lift_plus"),
        (small_vit, ("bitfit",), "lift"),
        (small_vit, ("bitfit",), "lift_plus"),
        (small_vit, ("aft",), "lift"),
        (small_vit, (), "lift"),
        (small_vit, (), "lift_plus"),
        (small_resnet, ("full",), "lift_plus"),
    ],
)
def test_ours_to_theirs_to_ours(tmp_path, tower, names, layout):
    ours = made_up(tower, names, dim=3, partial=2)
    authors.write(tmp_path / "c.safetensors", ours, layout)
    mask = authors.MASKS[layout]
    equal(authors.read(tmp_path / "c.safetensors", shapes_of(ours), mask=mask), ours)
    found = authors.describe(tmp_path / "c.safetensors")
    assert found.layout == layout and found.classes == 10
    assert found.tuners == dict.fromkeys(names, (1, 2))
    with safetensors.safe_open(tmp_path / "c.safetensors", "np") as file:
        assert file.metadata()["layout"] == layout


def test_full_fine_tuning_has_their_names_and_fused_projections(golden, tmp_path):
    _, tuned, _ = split(golden_vit(), ("full",), partial=2)
    authors.write(tmp_path / "plus.safetensors", tuned)
    found = load_file(tmp_path / "plus.safetensors")
    named = json.loads(str(golden("tuners")["cases_json"]))["fft_last2"]["param_shapes"]
    assert {k.removeprefix("tuner."): list(a.shape) for k, a in found.items()} == named
    weights = load_file(BACKBONE)
    original = "visual.transformer.resblocks.1"
    theirs = {
        "attn_in_proj_weight": "attn.in_proj_weight", "attn_in_proj_bias": "attn.in_proj_bias",
        "attn_out_proj_weight": "attn.out_proj.weight", "norm1_weight": "ln_1.weight",
        "norm2_bias": "ln_2.bias", "mlp_in_proj_weight": "mlp.c_fc.weight",
        "mlp_out_proj_bias": "mlp.c_proj.bias",
    }  # fmt: skip
    for name, there in theirs.items():
        assert np.array_equal(found[f"{PLUS}.1.{name}"], weights[f"{original}.{there}"]), name
    # LIFT keeps CLIP's own names
    authors.write(tmp_path / "lift.safetensors", tuned, "lift")
    found = load_file(tmp_path / "lift.safetensors")
    blocks = {k for k in weights if k.startswith(("visual.transformer.resblocks.", original))}
    renamed = {k.replace("visual.transformer.resblocks", "tuner.block_tuned") for k in blocks}
    assert found.keys() == {k for k in renamed if "tuned.0." not in k} | {"head.weight"}
    for name in found.keys() - {"head.weight"}:
        there = name.replace("tuner.block_tuned", "visual.transformer.resblocks")
        assert np.array_equal(found[name], weights[there]), name


def test_lift_counts_its_biases_through_the_blocks_of_clip(tmp_path):
    _, tuned, _ = split(golden_vit(), ("bitfit",))
    authors.write(tmp_path / "c.safetensors", tuned, "lift")
    found = load_file(tmp_path / "c.safetensors")
    assert found.keys() == {f"tuner.bias_tuned.{i}" for i in range(18)} | {"head.weight"}
    weights = load_file(BACKBONE)
    names = ("attn.in_proj_bias", "attn.out_proj.bias", "ln_1.bias", "mlp.c_fc.bias",
             "mlp.c_proj.bias", "ln_2.bias")  # fmt: skip
    for i in range(18):
        there = f"visual.transformer.resblocks.{i // 6}.{names[i % 6]}"
        assert np.array_equal(found[f"tuner.bias_tuned.{i}"], weights[there]), there


def entries(frozen):
    return {path: leaf for path, leaf in frozen.items() if path.endswith("_at")}


@pytest.mark.slow
def test_the_random_entries_of_lift(golden, tmp_path):
    path = tmp_path / "c.safetensors"
    save_file(checkpoint(golden, "lift_mask"), path)
    options = {"ratio": 0.005, "partial": 1, "mask": "joint"}
    graph, tuned, frozen = split(golden_vit(), ("aft",), **options)
    read = authors.read(path, shapes_of(tuned), mask="joint", entries=entries(frozen))
    logits = tree.merge(graph, read | frozen)(golden("clip_openai")["images"])
    expected = golden("tuners")["lift_mask/logits"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())
    with pytest.raises(
        UserError, match="other entries than lift does. Set --config.tuner.mask=joint"
    ):
        authors.read(path, shapes_of(tuned), mask="each")


@pytest.mark.slow
def test_the_order_of_lift_runs_through_the_blocks():
    tower = small_vit()
    attach.attach(
        tower,
        ("aft",),
        10,
        TunerSettings(ratio=0.1, partial=2, mask="joint", seed=5),
        rngs=nnx.Rngs(0),
    )
    draw = np.random.RandomState(5)
    for block in tower.blocks[1:]:
        for name, (rows, columns) in {
            "qkv": (36, 12), "out": (12, 12), "fc1": (24, 12), "fc2": (12, 24)
        }.items():  # fmt: skip
            size = rows * (columns + 1)
            order = list(range(size))
            for i in range(size - 1):  # Fisher and Yates, as torch does it
                j = i + int(draw.randint(0, 2**32, dtype=np.uint32)) % (size - i)
                order[i], order[j] = order[j], order[i]
            mask = np.zeros(size, bool)
            mask[order[: int(size * 0.1)]] = True
            mask = mask.reshape(rows, columns + 1)
            entries = getattr(block.tuners["aft"], name)
            for leaf, own in (("kernel", mask[:, :-1]), ("bias", mask[:, -1])):
                found = entries[f"{leaf}_at"][...] if leaf in entries else []
                assert np.array_equal(found, np.flatnonzero(own)), (name, leaf)


def test_biases_that_a_layer_lacks_are_left_out_of_the_order():
    tower, lacking = small_vit(), small_vit()
    lacking.blocks[0].k.bias = None
    for visual in (tower, lacking):
        attach.attach(
            visual,
            ("aft",),
            10,
            TunerSettings(ratio=0.5, layers="0", mask="joint"),
            rngs=nnx.Rngs(0),
        )
    all_, some = (v.blocks[0].tuners["aft"].qkv for v in (tower, lacking))
    assert np.array_equal(all_["kernel_at"][...], some["kernel_at"][...])
    at = np.asarray(all_["bias_at"][...])
    assert ((at >= 12) & (at < 24)).any()  # the second third holds k
    kept = np.concatenate([at[at < 12], at[at >= 24] - 12])
    assert np.array_equal(some["bias_at"][...], kept)


def test_lift_plus_saves_which_entries_it_trains(golden, tmp_path):
    path, tensors = tmp_path / "c.safetensors", checkpoint(golden, "aft_attn")
    arrays = golden("tuners")
    for name in [name for name in tensors if name.endswith("optimized_params")]:
        key = name.replace("optimized_params", "mask").split(".", 4)[4]
        mask = np.zeros(arrays[f"aft_attn/maskshape/{key}"], bool)
        mask.reshape(-1)[arrays[f"aft_attn/mask/{key}"]] = True
        tensors[name.replace("optimized_params", "mask")] = mask
    save_file(tensors, path)
    options = {"parts": "attn", "ratio": 0.01, "partial": 2}
    graph, tuned, frozen = split(golden_vit(), ("aft",), **options)
    read = authors.read(path, shapes_of(tuned), entries=entries(frozen))
    logits = tree.merge(graph, read | frozen)(golden("clip_openai")["images"])
    expected = arrays["aft_attn/logits"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())

    _, others, elsewhere = split(golden_vit(), ("aft",), seed=1, **options)
    assert shapes_of(others) == shapes_of(tuned)
    with pytest.raises(UserError, match="tunes other entries than aft.*tuner.seed"):
        authors.read(path, shapes_of(others), entries=entries(elsewhere))


def test_full_fine_tuning_of_a_resnet_has_their_names(tmp_path):
    tuned = made_up(small_resnet, ("full",), partial=1)
    authors.write(tmp_path / "c.safetensors", tuned)
    shapes = {
        "conv1_weight": (3, 8, 1, 1),
        "conv2_weight": (3, 3, 3, 3),
        "conv3_weight": (12, 3, 1, 1),
        "downsample_0_weight": (12, 8, 1, 1),
        "downsample_1_weight": (12,),
        "downsample_1_bias": (12,),
    } | {f"bn{i}_{k}": (n,) for i, n in ((1, 3), (2, 3), (3, 12)) for k in ("weight", "bias")}
    # fmt: skip
    expected = {f"{PLUS}.2_{name}": shape for name, shape in shapes.items()}
    expected["tuner.classifier.weight"] = (10, 24)
    assert shapes_of(load_file(tmp_path / "c.safetensors")) == expected
    with pytest.raises(UserError, match="lift have no name for visual/blocks/2/"):
        authors.write(tmp_path / "lift.safetensors", tuned, "lift")
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_writing_where_there_can_be_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/c.safetensors: Not a directory|file: File exists"):
        authors.write(tmp_path / "file" / "c.safetensors", {"head/weight": np.ones((2, 3))})
    (tmp_path / "file").unlink()
    with pytest.raises(UserError, match="'lift\\+'.*Known: lift, lift_plus"):
        authors.write(tmp_path / "c.safetensors", {"head/weight": np.ones((2, 3))}, "lift+")
    assert not list(tmp_path.iterdir())


# -- checkpoints that do not fit


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("lift", authors.Contents("lift", {"adaptformer": (1, 2)}, (), 3, 128, 10)),
        ("lift_plus", authors.Contents("lift_plus", {"adaptformer": (0, 1, 2)}, (), 1, 128, 10)),
        ("lift_lora", authors.Contents("lift", {"lora": (1, 2)}, (), 2, 128, 10)),
        (
            "lift_plus_lora_ssf",
            authors.Contents(
                "lift_plus",
                dict.fromkeys(("lora", "ssf", "adaptformer"), (2,)),
                (),
                2,
                128,
                10,
                parts="attn+mlp",
            ),
        ),
    ],
)
def test_what_a_checkpoint_holds(file, expected):
    assert authors.describe(GOLDEN / "authors" / f"{file}.pth.tar") == expected


def refused(path, shapes) -> str:
    with pytest.raises(UserError) as e:
        authors.read(path, shapes)
    return str(e.value)


def drop(tensors):
    del tensors[f"{PLUS}.1.adaptformer.up.bias"]


def add(tensors):
    tensors[f"{PLUS}.1.adaptformer.extra"] = np.ones(3, np.float32)


def transpose(tensors):
    name = f"{PLUS}.2.adaptformer.down.weight"
    tensors[name] = np.ascontiguousarray(tensors[name].T)


def lengthen(tensors):
    tensors[f"{PLUS}.0.adaptformer.down.bias"] = np.ones(2, np.float32)


def turn(tensors):
    tensors["tuner.classifier.weight"] = np.ones((128, 10), np.float32)


def spoil(tensors):
    tensors[f"{PLUS}.0.adaptformer.norm.bias"] = np.full(128, np.nan, np.float32)


FAULTS = {
    drop: f"missing     {PLUS}.1.adaptformer.up.bias",
    add: f"unexpected  {PLUS}.1.adaptformer.extra",
    transpose: f"wrong shape {PLUS}.2.adaptformer.down.weight: expected (1, 128), found (128, 1)",
    lengthen: f"wrong shape {PLUS}.0.adaptformer.down.bias: expected (1,), found (2,)",
    turn: "wrong shape tuner.classifier.weight: expected (10, 128), found (128, 10)",
    spoil: f"not finite  {PLUS}.0.adaptformer.norm.bias",
}


@pytest.mark.parametrize("damages", [*([d] for d in FAULTS), list(FAULTS)])
def test_every_fault_is_named_in_one_message(golden, tmp_path, damages):
    tensors = checkpoint(golden, "adaptformer")
    for damage in damages:
        damage(tensors)
    save_file(tensors, tmp_path / "c.safetensors")
    message = refused(tmp_path / "c.safetensors", wanted())
    for damage, fault in FAULTS.items():
        assert (fault in message) == (damage in damages), message
    assert f"({len(damages)} of" in message and message.endswith("makes up for that.")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "shapes", "words"),
    [
        (
            "adaptformer_dim4_last2",
            wanted(),
            "It holds adaptformer of width 4 in blocks 1 to 2, and the config asks for adaptformer "
            "of width 1 in blocks 0 to 2: set --config.tuner.name=adaptformer "
            "--config.tuner.dim=4 --config.tuner.partial=2.",
        ),
        (
            "adaptformer",
            wanted(4, (1, 2), classes=100),
            "Its classifier has 10 classes, the data have 100. It holds adaptformer of width 1 in "
            "blocks 0 to 2, and the config asks for adaptformer of width 4 in blocks 1 to 2: set "
            "--config.tuner.name=adaptformer --config.tuner.dim=1 --config.tuner.partial=0.",
        ),
        (
            "lift_adaptformer_partial_list",
            wanted(2),
            "It holds adaptformer of width 2 in blocks 0 to 1, and the config asks for adaptformer "
            "of width 2 in blocks 0 to 2: set --config.tuner.name=adaptformer "
            "--config.tuner.dim=2 --config.tuner.layers=0,1.",
        ),
        ("adaptformer", wanted(width=96), "It belongs to a backbone of width 128, not 96."),
        (
            "none",
            wanted(),
            "It holds no tuner, and the config asks for adaptformer of width 1 in blocks 0 to 2: "
            "set --config.tuner.name=none.",
        ),
        ("bitfit", wanted(), "set --config.tuner.name=bitfit --config.tuner.partial=0."),
        (
            "pt_layers_0_2",
            wanted(),
            "It holds vpt_deep of length 2 in blocks 0, 2, and the config asks for adaptformer of "
            "width 1 in blocks 0 to 2: set --config.tuner.name=vpt_deep --config.tuner.prompts=2 "
            "--config.tuner.layers=0,2.",
        ),
        ("lift_vpt_shallow", wanted(), "It holds vpt_shallow of length 4 in block 0, and"),
        (
            "lift_ssf_attn_mlp",
            wanted(),
            "set --config.tuner.name=ssf --config.tuner.parts=attn+mlp --config.tuner.partial=1.",
        ),
        (
            "lift_mask",
            wanted(),
            "set --config.tuner.name=aft --config.tuner.parts=attn+mlp --config.tuner.mask=joint "
            "--config.tuner.partial=1.",
        ),
        (
            "text_lora",
            wanted(),
            "It holds lora of texts, and the config asks for adaptformer of width 1 in blocks 0 to "
            "2: set --config.tuner.name=none --config.text_tuner.name=lora.",
        ),
        (
            "text_coop_end",
            wanted(),
            "It holds coop, and the config asks for adaptformer of width 1 in blocks 0 to 2: set "
            "--config.tuner.name=coop.",
        ),
    ],
)
def test_a_checkpoint_of_another_config_says_which(golden, tmp_path, case, shapes, words):
    save_file(checkpoint(golden, case), tmp_path / "c.safetensors")
    assert words in refused(tmp_path / "c.safetensors", shapes)


def test_full_fine_tuning_says_so(tmp_path):
    tuned = made_up(small_vit, ("full",), partial=1)
    authors.write(tmp_path / "c.safetensors", tuned, "lift")
    message = refused(tmp_path / "c.safetensors", wanted(width=12))
    assert "It holds full in block 2" in message
    assert "set --config.tuner.name=full --config.tuner.partial=1." in message


@pytest.mark.parametrize("name", ["head.bias", "tuner.classifier.bias"])
def test_a_linear_classifier_is_refused(golden, tmp_path, name):
    case = "adaptformer" if name.startswith("tuner") else "lift_adaptformer_partial2"
    tensors = checkpoint(golden, case) | {name: np.zeros(10, np.float32)}
    save_file(tensors, tmp_path / "c.safetensors")
    message = refused(tmp_path / "c.safetensors", wanted())
    assert f"unexpected  {name}" in message and "holds a classifier with bias" in message


class Code:
    """An object whose pickle makes a folder when Python loads it."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def torch_file(path, contents):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(contents, protocol=2))
        archive.writestr("archive/version", "3\n")
    return path


def test_files_that_are_no_checkpoint(tmp_path):
    whole = (GOLDEN / "authors" / "lift.pth.tar").read_bytes()
    (tmp_path / "cut.pth.tar").write_bytes(whole[:3000])
    (tmp_path / "page.pth.tar").write_text("<!doctype html>")
    save_file({}, tmp_path / "empty.safetensors")
    for path, words in (
        (tmp_path / "absent.pth.tar", "No such file"),
        (tmp_path / "cut.pth.tar", "damaged or cut short"),
        (tmp_path / "page.pth.tar", "HTML"),
        (tmp_path / "empty.safetensors", "not a checkpoint of LIFT or LIFT\\+.*found none"),
        (BACKBONE, "not a checkpoint of LIFT or LIFT\\+"),
        (torch_file(tmp_path / "a", {"tuner": {}, "epoch": 3}), "not a checkpoint .*found epoch"),
        (torch_file(tmp_path / "b", {"tuner": {"x": 1}}), "not a checkpoint .*found tuner.x"),
        (torch_file(tmp_path / "c", {"tuner": 5}), "not a checkpoint .*found tuner"),
        (torch_file(tmp_path / "d", [1]), "not a checkpoint .*found none"),
        (torch_file(tmp_path / "e", {"tuner": Code(tmp_path / "made")}), "nothing .*executed"),
    ):
        with pytest.raises(UserError, match=f"(?s){path.name}.*{words}"):
            authors.read(path, wanted())
        with pytest.raises(UserError, match=path.name):
            authors.describe(path)
    assert not (tmp_path / "made").exists()


# -- the command


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the folder of a finished debug run, and its results."""
    workdir = tmp_path_factory.mktemp("run")
    return workdir, train_and_test(demo.get_config("debug"), workdir)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["lift", "lift_plus"])
def test_an_exported_run_is_read_again_bit_for_bit(run, tmp_path, layout, capsys):
    workdir, _ = run
    torn = workdir / "checkpoints" / "3.orbax-checkpoint-tmp"  # as in a run that is still going on
    torn.mkdir(exist_ok=True)
    before = sorted(workdir.rglob("*"))
    path = tmp_path / "tuned.safetensors"
    run_command("export", f"--run={workdir}", f"--to={path}", f"--layout={layout}")
    assert capsys.readouterr().out == (
        f"{path}: adaptformer of width 4 in blocks 0 to 1; 7 classes; names of {layout}\n"
    )
    assert sorted(workdir.rglob("*")) == before
    expected = saved_leaves(workdir)
    assert len(expected) == 15
    equal(authors.read(path, shapes_of(expected)), expected)


def test_random_entries_are_exported_by_their_own_rule_alone(tmp_path, monkeypatch):
    leaves = made_up(small_vit, ("aft",), ratio=0.1)
    monkeypatch.setattr(export, "read_tuned", lambda run: leaves)
    path = tmp_path / "c.safetensors"
    with pytest.raises(UserError, match="config.json does not hold the setting tuner.mask"):
        export.export(tmp_path, path)
    (tmp_path / "config.json").write_text('{"tuner": {"mask": "each"}}')
    with pytest.raises(UserError, match="other entries than lift does"):
        export.export(tmp_path, path, "lift")
    assert export.export(tmp_path, path) == path and path.exists()


@pytest.mark.slow
def test_an_exported_run_is_tested_from_its_file(run, tmp_path):
    workdir, trained = run
    config = demo.get_config("debug")
    config.model.tuned = str(export.export(workdir, tmp_path / "tuned.safetensors", "lift"))
    found = train_and_test(config, tmp_path / "again", "evaluate")
    assert found["test"] == trained["test"] and found["test_tte"] == trained["test_tte"]


def test_mistakes_of_the_command(run, tmp_path, capsys):
    workdir, _ = run
    there = tmp_path / "there.safetensors"
    there.write_bytes(b"kept")
    damaged = tmp_path / "damaged"
    (damaged / "checkpoints" / "1" / "state").mkdir(parents=True)
    new = tmp_path / "new.safetensors"
    for flags, words in (
        ([f"--run={tmp_path}/none", f"--to={new}"], "expected a run folder"),
        ([f"--run={tmp_path}", f"--to={new}"], "holds no checkpoint"),
        ([f"--run={damaged}", f"--to={new}"], "No checkpoint of this run can be read"),
        ([f"--run={workdir}", f"--to={there}"], "exists"),
        ([f"--run={workdir}", f"--to={tmp_path}/c.pth.tar"], "must end in .safetensors"),
        ([f"--run={workdir}", f"--to={new}", "--layout=lfit"], "Did you mean 'lift'"),
    ):
        with pytest.raises(SystemExit) as e:
            run_command("export", *flags)
        error = capsys.readouterr().err
        assert e.value.code == 2 and error.startswith("error: ") and words in error
    assert there.read_bytes() == b"kept" and not new.exists()

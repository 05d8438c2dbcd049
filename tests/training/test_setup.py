"""Tests of the steps of the setup, each by itself; the tests of runs build whole setups."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rich.console import Console
from support.paths import GOLDEN

import lift_jax
from configs import base
from lift_jax.data.types import ArrayImages, Dataset, Split
from lift_jax.errors import UserError
from lift_jax.evaluation.activations.cache import Cache
from lift_jax.models.backbone import Classifier
from lift_jax.models.heads import CosineHead
from lift_jax.models.precision import FLOAT32, Precision
from lift_jax.models.resnet import ResNet, ResNetConfig
from lift_jax.models.vit.config import VisionConfig
from lift_jax.models.vit.tower import VisionTransformer
from lift_jax.output.terminal import Terminal
from lift_jax.parallel import mesh
from lift_jax.settings.groups.head import HeadSettings
from lift_jax.settings.groups.mesh import MeshSettings
from lift_jax.settings.groups.model import ModelSettings
from lift_jax.settings.groups.test import TestSettings
from lift_jax.settings.groups.train import TrainSettings
from lift_jax.settings.groups.tuner import TunerSettings
from lift_jax.settings.parse import parse
from lift_jax.training import setup
from lift_jax.training.classifier import Assembled, assemble, check_names, make_head
from lift_jax.training.placement import Placement, chosen_precision, stays_float32
from lift_jax.training.start import backbone as start_backbone
from lift_jax.training.start import head_init
from lift_jax.training.start.backbone import encode_class_texts, zero_shot_classifier
from lift_jax.training.start.data import check_validation, print_data, shorten
from lift_jax.training.start.head import HeadSource, start_head
from lift_jax.training.start.leaves import drop_inapplicable, place_frozen, split_weights
from lift_jax.training.start.remat import use_remat
from lift_jax.training.state import split_trainable

SILENT = Console(quiet=True)
ALL_BFLOAT16 = Precision.of("bfloat16", "bfloat16")
FLOAT16 = Precision.of("float16", "float32")


@pytest.fixture
def printed(capsys):
    """Returns what the console of a test has printed, on one line."""
    return lambda: " ".join(capsys.readouterr().out.split())


@pytest.fixture(scope="module")
def vit():
    return VisionTransformer(VisionConfig(8, 4, 8, 2, 2, 16), rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def resnet():
    return ResNet(ResNetConfig(16, 32, 4, (4, 8), (1, 1)), rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def clip():
    """Returns the smallest backbone with a text tower."""
    return lift_jax.load_backbone("debug")


@pytest.fixture(scope="module")
def images_only():
    """Returns a backbone without a text tower."""
    return lift_jax.load_backbone(GOLDEN / "hf_vit")


# -- names


@pytest.mark.parametrize(("tuner", "names"), [
    ("none", ()), ("lora+ssf", ("lora", "ssf")), ("coop", ()), ("coop+lora", ("lora",)),
])  # fmt: skip
def test_the_tuners_of_the_image_tower(tuner, names):
    """The names come without the tuners of text features."""
    config = base.get_config()
    config.tuner.name = tuner
    assert check_names(parse(config)) == names


@pytest.mark.parametrize(("key", "value", "message"), [
    ("head.kind", "cosin", r"Unknown head \(head.kind\) 'cosin'.*'cosine'.*auto"),
    ("loss.name", "las", "Unknown loss .*'la'"),
    ("tuner.name", "lorra", "'lorra'.*'lora'"),
])  # fmt: skip
def test_unknown_names(key, value, message):
    config = base.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=message):
        check_names(parse(config))


# -- devices


@pytest.mark.parametrize(("train", "test", "message"), [
    ({"batch": 12}, {}, "train.batch is 12.*give 16"),
    ({"batch": 16, "accum": 4}, {}, r"train.batch is 16.*8 x 4 \(train.accum\): give 32"),
    ({}, {"batch": 9}, "test.batch is 9.*give 16"),
])  # fmt: skip
def test_batches_that_the_devices_cannot_share(train, test, message):
    with pytest.raises(UserError, match=message):
        setup.prepare_mesh(MeshSettings(), TrainSettings(**train), TestSettings(**test))


def test_the_mesh_of_all_devices():
    devices = setup.prepare_mesh(MeshSettings(), TrainSettings(), TestSettings())
    assert dict(devices.shape) == {"data": 8, "model": 1}


# -- data


def data_of(labels, names, **more):
    images = ArrayImages(np.zeros((len(labels), 2, 2, 3), np.uint8), "made up", np.arange(99))
    split = Split(images, np.array(labels))
    return Dataset(split, split, names, **more)


def test_an_adjustment_needs_a_validation_split():
    data = data_of([0, 1], ("a", "b"))
    check_validation(data, TestSettings(), "folder")
    with pytest.raises(UserError, match="never on the test split.*data.name='folder'.*val_share"):
        check_validation(data, TestSettings(adjust=True), "folder")
    check_validation(replace(data, val=data.train), TestSettings(adjust=True), "folder")


def test_classes_without_training_images_are_named(printed):
    data = data_of([0, 0, 2], ("a", "[b]", "c"), notes=("One [note].",))
    print_data(data, Terminal(width=500))
    out = printed()
    assert "Data: 3 training and 3 test images of 3 classes (0 many, 0 medium, 3 few shot" in out
    assert "2 to 0 images a class" in out and "One [note]." in out
    assert "without a training image (1 of 3)" in out and out.endswith("in the loss: [b]")
    print_data(data_of([0, 1], ("a", "b")), Terminal(width=500))
    assert "Warning" not in printed()


def test_long_lists_of_names_are_shortened():
    names = [str(i) for i in range(11)]
    assert shorten(names[:10]) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9"
    assert shorten(names) == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ..."
    assert shorten([]) == ""


# -- backbone


def test_only_transformer_blocks_compute_again(resnet):
    tower = VisionTransformer(VisionConfig(8, 4, 8, 1, 2, 16), rngs=nnx.Rngs(0))
    for remat in ("none", "dots"):
        use_remat(tower, remat)
        assert tower.remat == remat
    use_remat(resnet, "none")
    with pytest.raises(UserError, match="train.remat is for transformer blocks.*'auto'"):
        use_remat(resnet, "blocks")


# -- class texts


def test_without_a_text_tower_there_are_no_class_texts(images_only):
    texts = encode_class_texts("hf_vit", "auto", images_only, [["a"]], SILENT)
    assert texts is None and zero_shot_classifier(images_only, texts) is None


def test_a_missing_tokenizer_is_an_error_unless_the_start_is_open(clip, monkeypatch, printed):
    """A warning appears with head.init=auto, and otherwise the tokenizer's own error."""

    def missing(*_):
        raise UserError("There is no tokenizer.")

    monkeypatch.setattr(start_backbone, "load_tokenizer", missing)
    console = Terminal(width=500)
    assert encode_class_texts("debug", "auto", clip, [["a"]], console) is None
    assert "Warning: There is no tokenizer. Without it there is no zero-shot" in printed()
    for init in ("text", "class_mean"):
        with pytest.raises(UserError, match="There is no tokenizer"):
            encode_class_texts("debug", init, clip, [["a"]], console)


# -- head


def source(backbone, texts=None, train=None):
    cache = Cache(0.0, "", mesh.make_mesh(), 8, 0, SILENT)
    return HeadSource(backbone, "a_backbone", texts, train, "bicubic", 0, cache)


def start(backbone, texts=None, **settings):
    key = jax.random.key(3)
    head = HeadSettings(**settings)
    return start_head(head, source(backbone, texts), 5, key, SILENT)


def test_a_start_from_texts_needs_texts(images_only):
    with pytest.raises(UserError, match="head.init is 'text', but a_backbone has no text tower"):
        start(images_only, init="text")


def test_shots_belong_to_a_start_from_images(clip):
    texts = jnp.eye(5, clip.config.embed)
    with pytest.raises(UserError, match=r"head.shots is 7.*'text' \(by head.init=auto\)"):
        start(clip, texts, shots=7)


def test_the_start_where_no_image_is_read(clip):
    """The head starts from texts, or unit rows without texts, whatever the images would give."""
    width, texts = clip.visual.width, jnp.eye(5, clip.config.embed)
    from_texts = head_init.head_from_texts(texts, clip.image_proj[...])
    at_random = head_init.unit_row_head(5, width, jax.random.key(3))
    for init in ("auto", "text", "class_mean", "linear_probe"):
        assert np.array_equal(start(clip, texts, init=init), from_texts), init
    for init in ("auto", "class_mean", "linear_probe", "none"):
        assert np.array_equal(start(clip, init=init), at_random), init
    assert np.array_equal(start(clip, texts, init="none"), at_random)
    kaiming = start(clip, texts, init="none", kind="linear", random="kaiming_normal")
    assert np.array_equal(kaiming, head_init.kaiming_head(5, width, jax.random.key(3)))


def test_only_a_cosine_head_has_the_scale():
    weight = jnp.ones((3, 4))
    cosine = make_head(HeadSettings(kind="cosine", scale=7.0), weight)
    assert isinstance(cosine, CosineHead) and cosine.scale == 7.0
    assert not isinstance(make_head(HeadSettings(kind="linear"), weight), CosineHead)


# -- tuners


def test_tuners_that_do_not_apply_are_left_out(vit, resnet, printed):
    console = Terminal(width=500)

    def kept(names, tower):
        return drop_inapplicable(names, tower, "a_backbone", console)

    assert kept(("adaptformer", "ssf"), vit) == ("adaptformer", "ssf") and not printed()
    assert kept((), resnet) == () and not printed()
    assert kept(("lora", "bn"), vit) == ("lora",)
    expected = "bn belongs into a ResNet, and a_backbone is transformer blocks: lora alone"
    assert expected in printed()
    assert kept(("lora", "ssf", "vpt_deep"), resnet) == ("ssf",)
    out = printed()
    assert "lora and vpt_deep belongs into transformer blocks, and a_backbone is a ResNet" in out
    assert kept(("lora",), resnet) == () and "its classifier alone is tuned" in printed()


def test_something_must_be_trained(vit):
    model = Classifier(vit, CosineHead(jnp.ones((5, 8))))
    with pytest.raises(UserError, match="Nothing would be trained"):
        split_weights(Assembled(model, lambda path, leaf: False), SILENT)


def test_weights_are_split_and_listed(printed):
    """The tuner in the last block and the head are trained, each with its kind of parameters."""
    tower = VisionTransformer(VisionConfig(8, 4, 8, 2, 2, 16), rngs=nnx.Rngs(0))
    head = CosineHead(jnp.ones((5, 8)))
    tuner = TunerSettings(name="adaptformer", dim=2, partial=1)
    assembled = assemble(tower, head, tuner.names, tuner, 5, rngs=nnx.Rngs(1))
    graph, tuned, frozen, parameters = split_weights(assembled, Console(width=200))
    assert "Parameters" in printed()
    prefixes = {path.partition("/tuners/")[0] for path in tuned}
    assert prefixes == {"visual/blocks/1", "head/weight"} and not tuned.keys() & frozen.keys()
    expected = split_trainable(assembled.model, assembled.is_trainable)
    assert (graph, tuned.keys(), frozen.keys()) == (
        expected[0], expected[1].keys(), expected[2].keys()
    )  # fmt: skip
    kinds = {parameter.name: parameter.kind for parameter in parameters}
    assert kinds["head/weight"] == "head"
    assert {kind for path, kind in kinds.items() if "/tuners/" in path} == {"tuned"}
    assert {kind for path, kind in kinds.items() if path not in tuned} == {"frozen"}


def test_blocks_must_exist():
    tower = VisionTransformer(VisionConfig(8, 4, 8, 2, 2, 16), rngs=nnx.Rngs(0))
    tuner = TunerSettings(name="lora", layers="0,2")
    with pytest.raises(UserError, match="tuner.layers"):
        assemble(tower, CosineHead(jnp.ones((5, 8))), ("lora",), tuner, 5, rngs=nnx.Rngs(0))


# -- placement


@pytest.mark.parametrize(("precision", "residual", "backend", "expected"), [
    ("auto", "float32", "cpu", ("float32", "float32")),
    ("auto", "float32", "gpu", ("float16", "float32")),
    ("auto", "float32", "tpu", ("bfloat16", "float32")),
    ("auto", "same", "cpu", ("float32", "float32")),  # as in 0.1.0
    ("auto", "same", "gpu", ("bfloat16", "bfloat16")),
    ("auto", "same", "tpu", ("bfloat16", "bfloat16")),
    ("bfloat16", "same", "cpu", ("bfloat16", "bfloat16")),
    ("bfloat16", "float32", "gpu", ("bfloat16", "float32")),
    ("float16", "float32", "cpu", ("float16", "float32")),
    ("float32", "same", "gpu", ("float32", "float32")),
])  # fmt: skip
def test_precisions(precision, residual, backend, expected, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    found = chosen_precision(ModelSettings(precision=precision, residual=residual))
    assert (found.products, found.stream) == expected


def test_a_config_without_residual_means_what_it_meant():
    """Configs of 0.1.0 lack the setting; then bfloat16 is the type of all weights."""
    config = base.get_config()
    config.model.precision = "bfloat16"
    assert chosen_precision(parse(config).model) == Precision.of("bfloat16", "float32")
    with config.unlocked():
        del config.model.residual
    assert chosen_precision(parse(config).model) == ALL_BFLOAT16


def test_leaves_that_stay_float32():
    assert stays_float32("head/weight") and stays_float32("head/image_proj")
    assert not stays_float32("head/text/blocks/0/ln1/scale")
    assert not stays_float32("visual/head/weight")


@pytest.mark.parametrize(("precision", "exact", "kernel", "bias"), [
    (FLOAT32, False, "float32", "float32"), (ALL_BFLOAT16, False, "bfloat16", "bfloat16"),
    (ALL_BFLOAT16, True, "float32", "float32"), (FLOAT16, False, "float16", "float32"),
    (FLOAT16, True, "float32", "float32"),
])  # fmt: skip
def test_the_image_tower_is_loaded_in_its_precision(precision, exact, kernel, bias):
    """The tower is on all devices in its precision, and other leaves are float32."""
    placement = Placement(mesh.make_mesh(), precision, exact)
    array = np.ones((4, 4), np.float16)
    tower = placement.loaded("visual/stem/kernel", array)
    assert tower.dtype == kernel and len(tower.sharding.device_set) == 8
    assert placement.loaded("visual/stem/bias", array).dtype == bias
    assert placement.loaded("text_proj", array).dtype == jnp.float32


def test_leaves_of_both_classifiers_are_placed_once():
    """Shared leaves are the same arrays, and those of the heads are float32."""
    placement = Placement(mesh.make_mesh(), ALL_BFLOAT16, exact=True)
    tower = {"visual/a": jnp.ones((2, 2)), "visual/b": jnp.arange(2)}
    own = {"visual/tuners/c": jnp.ones(2), "head/bias": jnp.ones(3)}
    bare = tower | {"visual/tuned": jnp.ones(2), "head/weight": jnp.zeros((1, 2))}
    zero_shot, untuned, frozen = place_frozen(
        placement, ("graph", tower | {"head/class_texts": jnp.ones((3, 2))}), ("bare", bare),
        own | tower,
    )  # fmt: skip
    assert zero_shot is not None
    graph, leaves = zero_shot
    assert graph == "graph" and leaves.keys() == {*tower, "head/class_texts"}
    assert untuned[0] == "bare" and untuned[1].keys() == bare.keys()
    assert list(frozen) == [*own, *tower]
    assert all(frozen[path] is leaves[path] is untuned[1][path] for path in tower)
    assert leaves["visual/a"].dtype == frozen["visual/tuners/c"].dtype == jnp.bfloat16
    assert leaves["visual/b"].dtype == jnp.int32
    assert leaves["head/class_texts"].dtype == frozen["head/bias"].dtype == jnp.float32
    assert len(frozen["head/bias"].sharding.device_set) == 8


def test_placement_without_a_zero_shot_classifier():
    placement = Placement(mesh.make_mesh(), FLOAT32, exact=False)
    tower = {"visual/a": jnp.ones(2)}
    zero_shot, untuned, frozen = place_frozen(placement, None, ("bare", tower), tower)
    assert zero_shot is None and frozen["visual/a"].dtype == jnp.float32
    assert untuned[1]["visual/a"] is frozen["visual/a"]


def test_a_run_too_long_to_count_is_refused():
    assert setup.count_steps(1000, TrainSettings(batch=100, epochs=3)) == 10
    with pytest.raises(UserError, match="train.epochs=100000 of 1,000,000 steps are more than"):
        setup.count_steps(10**6, TrainSettings(batch=1, epochs=10**5))

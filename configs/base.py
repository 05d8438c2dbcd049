"""The defaults of every config: LIFT+ with AdaptFormer on CLIP ViT-B/16.

The other configs start from here and change what their data set needs. Each takes an argument:

    --config=configs/inat.py:backbone=clip_vit_l14,method=lift,tuner=full
    --config=configs/inat.py:debug      two steps on made-up images, offline

and each field can be set from the command line: --config.train.epochs=3
"""

from ml_collections import ConfigDict

from lift_jax import config as config_lib


def get_config(argument: str | None = None) -> ConfigDict:
    return config_lib.finish(start(argument), argument)


def start(argument: str | None) -> ConfigDict:
    """The defaults with the argument's method applied, for a config to change and `finish`."""
    c = ConfigDict()
    c.label = ""  # set by the method: what tables call the tuned model
    c.seed = 0  # of the head, the tuners, the order and the crops of the images

    c.data = ConfigDict()
    c.data.name = "folder"  # digits, folder, list, cifar100 or fake
    c.data.root = ""  # the folder that holds the images
    c.data.train_list = ""  # list: a file of lines `path label`, paths relative to root
    c.data.test_list = ""
    c.data.class_names = ""  # a text file, a name a line, in the order of the labels
    c.data.test_share = 0.2  # folder without train/ and test/: the share of each class held out
    c.data.imbalance = 1.0  # cifar100, digits: largest class / smallest; 1 leaves all images
    c.data.workers = 0  # processes that decode images; 0 decodes in threads

    c.model = ConfigDict()
    c.model.backbone = "clip_vit_b16"  # a name, a Hugging Face folder, or owner/repository
    c.model.precision = "auto"  # float32 or bfloat16 (of the frozen weights); auto: by the device

    c.tuner = ConfigDict()
    c.tuner.name = "adaptformer"  # adaptformer, full, none (the classifier alone)
    c.tuner.dim = 0  # width of the bottleneck; 0: about as many weights as the head has
    c.tuner.partial = 0  # tune the last so many blocks alone; 0: all
    c.tuner.init = ""  # set by the method

    c.head = ConfigDict()
    c.head.kind = "cosine"
    c.head.scale = 25.0
    c.head.init = "text"  # from the names of the classes; none: random rows of unit length
    c.head.prompt = "a photo of a {}."

    c.loss = ConfigDict()
    c.loss.name = "la"
    c.loss.tau = 1.0

    c.train = ConfigDict()
    c.train.epochs = 0  # set by the method
    c.train.batch = 128  # over all devices and processes
    c.train.accum = 1  # micro-batches a step, for less memory; changes nothing else
    c.train.lr = 0.0  # set by the method; cosine to 0, stepped once an epoch
    c.train.momentum = 0.9
    c.train.weight_decay = 5e-4
    c.train.augment = ""  # set by the method: mda, rrc, or none
    c.train.interpolation = ""  # set by the method
    c.train.mda = "convex"  # how the smallest crop of mda grows: convex, linear, concave, min, max
    c.train.min_area = 0.08  # share of the image that the smallest crop covers
    c.train.flip = False  # set by the method

    c.test = ConfigDict()
    c.test.batch = 128
    c.test.interpolation = ""  # set by the method
    c.test.tte = True  # test-time ensemble of five crops
    c.test.expand = 24  # tte: pixels that the image is larger than its crops

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 500
    c.checkpoint.keep = 2

    c.mesh = ConfigDict()
    c.mesh.data = 0  # devices that share the batch; 0: all that model leaves
    c.mesh.model = 1  # devices that share the frozen weights

    c.update(config_lib.METHODS[config_lib.parse_argument(argument).method])
    return c.lock()  # from here on a mistyped key is an error

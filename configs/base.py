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
    # -- which images
    # folder, list, table, inaturalist, tfds, cifar10, cifar100, digits or fake
    c.data.name = "folder"
    c.data.root = ""  # the folder that holds the images; cifar10, cifar100: "" downloads them
    # list: lines `path label`; table: .csv, .tsv or .jsonl with the columns path, label or class,
    # and maybe split; inaturalist: JSON of the competition. Paths are relative to root
    c.data.train_list = ""
    c.data.test_list = ""
    c.data.val_list = ""  # list, table, inaturalist: to choose settings on; "": none
    # list, table, folder, tfds: a text file, a name a line, in the order of the labels;
    # inaturalist: categories.json, where train_list holds numbers for names (2018)
    c.data.class_names = ""
    c.data.level = "species"  # inaturalist: kingdom, phylum, class, order, family, genus, species
    c.data.tfds = ""  # tfds: name, name:version or name/config:version, prepared as array_record
    # -- what is held out or cut
    c.data.test_share = 0.2  # folder, table without a test split: the share of each class held out
    c.data.val_share = 0.0  # any: the share of each class's training images to choose settings on
    c.data.imbalance = 1.0  # any: largest class / smallest of a long tail; 1 leaves all images
    # training/validation/test images/classes of the papers; the run says if these are others
    c.data.expected = ""
    # -- how they are read
    # where augmentation is off: gigabytes of what enters the lowest tuned block that are kept in
    # the cache folder and read instead of images; 0: none
    c.data.features_gb = 8.0
    c.data.decode = "exact"  # or fast: JPEGs at less than full size and precision
    c.data.prepared = ""  # what --prepare wrote; "": the user's cache; none: not used
    c.data.exif = False  # turn images as their EXIF orientation says; the papers do not
    c.data.on_bad_image = "error"  # or skip: pass over images that cannot be read, and list them
    # processes that decode images; 0: threads; -1: one for four CPUs where there are eight or more
    # and 20,000 views to make, else threads
    c.data.workers = -1

    c.model = ConfigDict()
    c.model.backbone = "clip_vit_b16"  # a name, a folder, a file, or owner/repository[@revision]
    c.model.resolution = 0  # pixels, a multiple of the patch; 0: as pre-trained
    c.model.tuned = ""  # start from a checkpoint of the authors' code, or what `export` wrote
    c.model.precision = "auto"  # float32 or bfloat16 (of the frozen weights); auto: by the device

    c.tuner = ConfigDict()
    # adaptformer, adapter, lora, lora_mlp, ssf, vpt_shallow, vpt_deep, aft (random entries), bitfit
    # (biases), ln, full, bn (of ResNets); several as "lora+ssf"; none: the classifier alone.
    # With head.kind text also coop (learned words), clip_adapter, proj (both projections)
    c.tuner.name = "adaptformer"
    c.tuner.dim = 0  # bottleneck's width, LoRA's rank; 0: about as many weights as the head has
    c.tuner.partial = 0  # tune the last so many blocks alone; 0: all
    c.tuner.layers = ""  # tune these blocks, counted from 0, instead: "0,2" or "3:7" (3 to 6)
    c.tuner.init = ""  # set by the method: kaiming_uniform or kaiming_normal, of bottlenecks
    c.tuner.parts = ""  # set by the method; ssf: "attn", "mlp", "ln" with + between; aft: not ln
    c.tuner.ratio = 0.0  # aft: share of the entries; 0: as many as the head has
    c.tuner.seed = 0  # aft: which entries
    # set by the method; aft: of each kernel and bias by itself (each, as LIFT+), or one order of
    # each layer's kernel and bias, through all blocks (joint, as LIFT)
    c.tuner.mask = ""
    # set by the method; lora, lora_mlp: where dim is 0, the two layers together have about as many
    # weights as the head (joint, as LIFT+), or each of them has (each, as LIFT)
    c.tuner.budget = ""
    c.tuner.prompts = 0  # set by the method; vpt: prompts a block; 0: as many weights as the head
    c.tuner.place = ""  # set by the method; vpt: start (after CLS, as LIFT+) or end (as LIFT)

    c.text_tuner = ConfigDict()  # of the blocks of the text tower, where head.kind is text
    c.text_tuner.name = "none"  # as tuner.name; also the other fields are as those of tuner
    c.text_tuner.dim = 4
    c.text_tuner.partial = 0
    c.text_tuner.layers = ""
    c.text_tuner.parts = "attn+mlp"
    c.text_tuner.ratio = 0.0
    c.text_tuner.seed = 0
    c.text_tuner.prompts = 2

    c.coop = ConfigDict()
    c.coop.init = "random"  # or photo: the words of "a photo of a {}.", whatever the next two say
    c.coop.tokens = 4  # learned words
    c.coop.place = "end"  # of the class name among them: front, middle, end

    c.clip_adapter = ConfigDict()
    c.clip_adapter.dim = 4  # width of both bottlenecks

    c.head = ConfigDict()
    # cosine, linear, l2norm, layernorm; text: no classifier, but the texts of the classes, as in
    # CLIP; auto: text where tuner or text_tuner change what texts give, else cosine
    c.head.kind = "auto"
    c.head.scale = 25.0  # cosine: of its logits
    # text: from the names of the classes; class_mean, linear_probe: from their images; none: at
    # random; auto: text where the backbone has a text tower, else class_mean
    c.head.init = "auto"
    c.head.shots = 0  # set by the method: at most so many images a class for it; 0: all
    c.head.random = ""  # set by the method: linear head, none: uniform (unit rows), kaiming_normal
    # a template, or classname (the name alone), ensemble (CLIP's 80 templates), descriptor
    c.head.prompt = "a photo of a {}."
    c.head.descriptors = ""  # descriptor: a JSON file, {class name: [phrase, ...]}

    c.loss = ConfigDict()
    c.loss.name = "la"  # la, bs, ce, focal, ldam, cb, grw, lade
    # options, each of one loss
    c.loss.tau = 1.0  # la: strength of the adjustment
    c.loss.gamma = 2.0  # focal: how much less rows count that are right already
    c.loss.max_margin = 0.5  # ldam: of the smallest class
    c.loss.scale = 0.0  # ldam: of the margins; 0: head.scale
    c.loss.beta = 0.9999  # cb: 0 weighs all classes alike, towards 1 by 1 / images
    c.loss.exponent = 1.0  # grw: of 1 / images
    c.loss.weight = 0.1  # lade: of its second term

    c.train = ConfigDict()
    c.train.epochs = 0  # set by the method
    c.train.batch = 128  # over all devices and processes
    c.train.accum = 1  # micro-batches a step, for less memory; changes nothing else
    # what blocks compute again in the backward pass instead of keeping it: none, all but their
    # matrix products (dots), or all (blocks); less memory for more work, the same numbers
    c.train.remat = "none"
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
    c.test.tte = True  # test-time ensemble of crops
    # tte: five; ten (those of the mirror image as well); random (resized as for rrc, half mirrored)
    c.test.crops = "five"
    c.test.expand = 24  # tte of five or ten: pixels that the image is larger than its crops
    c.test.views = 10  # tte of random: how many
    # also test with the logits less tau log prior (of the training images), tau chosen on the
    # validation split
    c.test.adjust = False

    c.checkpoint = ConfigDict()
    c.checkpoint.every_steps = 500
    c.checkpoint.every_minutes = 10.0  # and about so often; 0: by steps alone
    c.checkpoint.keep = 2  # the newest
    # validate after each epoch, keep the best (mean over the classes) as well, and test that one
    c.checkpoint.best = False

    c.mesh = ConfigDict()
    c.mesh.strategy = "replicate"  # or fsdp: frozen weights and large heads are cut over model
    # the batch is cut over all devices, which are data groups of model each
    c.mesh.data = 0  # 0: all that model leaves
    c.mesh.model = 0  # 0: one, and with fsdp those of a process

    c.update(config_lib.METHODS[config_lib.parse_argument(argument).method])
    return c.lock()  # from here on a mistyped key is an error

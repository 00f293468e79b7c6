"""Every setting with its default. The other files in this folder change the few that differ.

Each can be set on the command line, for instance `--config.model.bottleneck=32`.
"""

import itertools
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The defaults: MNIST and the recipe for it."""
    config = ConfigDict()

    config.data = data = ConfigDict()
    data.name = "mnist"  # 'rendered', 'folder' (your own images), or any image-classification data set of TFDS
    data.dir = ""  # TFDS: its data folder ('' = TFDS's default); folder: your image folder
    data.split = "train"  # TFDS: training split, in TFDS's notation: 'train+extra', 'train[:10%]', ...
    data.test_split = "test"  # TFDS: test split
    data.image_size = 0  # resize to squares with this side (a multiple of 4); 0 = as stored
    data.channels = 0  # 1 = grey, 3 = RGB, 0 = as stored (folders need 1 or 3)
    data.num_train = 0  # rendered: number of training images; others: size of a random subset (0 or too many: all)
    data.num_test = 0  # the same for the test images
    data.test_fraction = 0.2  # folder without train/ and test/: share of each class that becomes the test split
    data.seed = 0  # chooses the test split of a folder, the subsets and the rendered images
    data.cache_dir = ""  # where decoded images are kept; '' = the user's cache folder

    config.model = model = ConfigDict()
    model.bottleneck = 16  # size of the style latent z
    # 'sphere': the coordinates of a point on a sphere in one more dimension; 'ball': shorter than the root of its size;
    # 'unbounded': as in the paper
    model.latent = "sphere"
    model.hidden = 256  # width of the fully connected layers around the latent
    model.filters = (32, 64, 128)  # channels of the three convolutions; the decoder mirrors them
    model.leak = 0.1  # slope of the leaky rectifiers below 0, in encoder, decoder and deep content classifier
    model.decoder = "dcec"  # 'dcec': mirrored, the last layer gives pixels; 'literal': 128-64-32 and a 3x3 convolution
    model.adversary_hidden = 256  # width of the adversary (network B)
    model.couplings = 80  # coupling layers of the alignment, which is trained after the autoencoder; 0 = no alignment
    model.coupling_hidden = 96  # width of the networks in the couplings
    model.reference_couplings = 0  # coupling layers of the distribution that all classes share; 0 = the normal one
    model.content = "shallow"  # content classifier: 'shallow' (two convolutions) or 'deep' (like the style encoder)

    config.train = train = ConfigDict()  # the first phase: autoencoder, adversary and content classifier
    train.epochs = 10  # passes over the training images
    train.batch_size = 64  # images in a batch; an epoch skips the remainder (other images each time)
    train.learning_rate = 4e-3  # for Adam
    # 'cosine' (falls to 0, Loshchilov & Hutter 2017), 'warmup_cosine' (the same, but rises during the first tenth, as
    # in Goyal et al. 2017, without which some seeds stay far behind) or 'constant'
    train.learning_rate_schedule = "warmup_cosine"
    train.chroma_weight = 0.0  # weight of the error of the colours alone, besides that of the pixels; 0 = skip it
    train.cycle_weight = 2.0  # weight of the error of a reconstruction that is encoded and decoded again; 0 = skip it
    train.swap_weight = 0.005  # weight of the content classifier's cross-entropy on swaps; 0 = skip it
    train.standardise = True  # the networks see pixels less their mean, divided by their deviation (of all images)
    train.view_share = 0.5  # share of this phase's images that are changed as in alignment.views
    train.shift = 1  # each image of this phase, view or not, is shifted by up to this many pixels
    train.augment = "classifier"  # who sees images so changed: the content 'classifier' alone, or 'all' networks
    train.lambda_adv = 0.005  # lambda: how strongly the encoder is pushed to forget the class
    train.lambda_schedule = "linear"  # 'linear' (rises from 0, then stays) or 'constant'
    train.lambda_ramp = 0.5  # share of this phase during which lambda rises
    train.adversary_steps = 3  # steps of the adversary for each step of the autoencoder
    train.seed = 0  # of everything random in a training: initial parameters, order of images, swaps
    train.dtype = "float32"  # precision of the computation: 'float32' or, on accelerators, 'bfloat16'

    config.alignment = alignment = ConfigDict()  # the second phase trains the couplings on frozen latents
    alignment.epochs = 40  # passes over the latents of the training images
    alignment.batch_size = 256  # latents in a batch
    alignment.views = 5  # views: copies of each image, warped and (RGB) recoloured, that the couplings see; 0 = none
    alignment.views_share = 0.8  # share of this phase, from its start, that sees views; to the end, codes leak more
    # Move the latents of views so that each class has the mean and covariance of its images. Otherwise they spread
    # wider, so that rare styles become common.
    alignment.match_views = True
    alignment.learning_rate = 2e-3  # for Adam; rises during the first tenth, then falls to 0 as a cosine
    # Of the couplings, as in AdamW: a step takes off this share times the rate (of the weights by which they see the
    # class, 2.5 times as much); 0 = none.
    alignment.weight_decay = 0.2
    alignment.distance_weight = 0.02  # weight of the distance between the whitened latents of a swap and of its source
    alignment.style_weight = 0.2  # weight of the error between the appearance features of a swap and of its source
    alignment.lambda_adv = 1.0  # lambda of the adversary that sees the aligned latents

    config.refine = refine = ConfigDict()  # the last phase trains the decoder alone, in batches of train.batch_size
    refine.epochs = 0  # passes over the training images; 0 = no refinement
    refine.learning_rate = 1e-3  # for Adam; falls to 0 as a cosine
    refine.chroma_weight = 0.0  # as train.chroma_weight
    refine.style_weight = 0.03  # weight of the error of a latent that is decoded and encoded again
    refine.cycle_weight = 2.0  # weight of the error of the image decoded from that new latent
    refine.swap_weight = 0.1  # as train.swap_weight

    config.log = log = ConfigDict()
    # Steps between the losses in metrics.jsonl; accelerators take all of these steps in one call.
    log.every_steps = 50
    # Generate swaps and measure the test images after these epochs, counted over all phases, and after each phase.
    log.sample_epochs = (0, 1, 2, 5, 10, 20, 50, 100, 200, 300)
    log.tensorboard = False  # also write TensorBoard events (needs the extra 'tensorboard')

    config.checkpoint = checkpoint = ConfigDict()
    # Save at the first log line or end of an epoch after this many seconds, and at the end of each phase.
    checkpoint.every_seconds = 30.0
    checkpoint.keep = 2  # number of newest checkpoints to keep; at least 2, in case one is damaged

    config.evaluate = evaluate = ConfigDict()
    # Measure the finished run as `infoae evaluate` does: 'no', 'quick' or 'full'. Sweeps measure quickly in any case.
    evaluate.at_end = "no"
    return config


def use_colour_recipe(config: ConfigDict) -> None:
    """Sets what was chosen on the rendered data set and a part of SVHN.

    A simple shared distribution, no cycle terms, more weight on colours; all networks see shifted images and views.
    """
    train, alignment, refine = config.train, config.alignment, config.refine
    train.learning_rate = 2e-3
    train.cycle_weight, train.shift, train.augment, train.lambda_adv = 0.0, 2, "all", 0.003
    config.model.latent, config.model.couplings, config.model.coupling_hidden = "ball", 8, 128
    config.model.reference_couplings = 4
    config.model.content = "deep"
    alignment.views_share, alignment.match_views = 0.6, False
    alignment.batch_size, alignment.learning_rate, alignment.weight_decay = 512, 3e-3, 0.0
    alignment.distance_weight, alignment.style_weight, alignment.lambda_adv = 1.0, 0.0, 0.4
    refine.style_weight, refine.cycle_weight, refine.swap_weight = 0.003, 0.0, 0.0075
    train.chroma_weight = refine.chroma_weight = 4.0


def use_paper(config: ConfigDict) -> None:
    """Sets the paper's recipe: 300 epochs, Adam at a constant 1e-3, constant lambda, unbounded latent, one step each.

    The paper states neither its lambda nor its batch; 256 is what was measured here. From a lambda of 0.003 on (MNIST)
    this diverges: the encoder makes its latent ever larger.
    """
    config.train.lambda_adv = 0.001
    config.train.cycle_weight = config.train.swap_weight = config.train.shift = config.train.view_share = 0
    config.train.chroma_weight = 0
    config.train.standardise, config.model.leak = False, 0.0
    config.model.content = "shallow"
    config.model.latent = "unbounded"
    config.model.couplings = config.refine.epochs = 0
    config.train.epochs, config.train.batch_size = 300, 256
    config.train.learning_rate, config.train.learning_rate_schedule = 1e-3, "constant"
    config.train.lambda_schedule = "constant"
    config.train.adversary_steps = 1


def use_large(config: ConfigDict) -> None:
    """Sets networks and a latent of twice the width, and more passes, for a GPU or a night: sharper, and leaks more."""
    config.model.filters = tuple(2 * channels for channels in config.model.filters)
    config.model.hidden *= 2
    config.model.bottleneck *= 2
    config.model.coupling_hidden *= 2
    config.train.epochs *= 3
    config.refine.epochs *= 3


def use_tiny(config: ConfigDict) -> None:
    """Sets what runs in seconds, for tests: few images, narrow layers, two epochs, neither alignment nor refinement."""
    config.data.num_train, config.data.num_test = 256, 64
    config.model.hidden = config.model.adversary_hidden = 32
    config.model.filters = (8, 16, 16)
    config.train.epochs = 2
    config.train.batch_size = 64
    config.train.cycle_weight = config.train.swap_weight = config.train.shift = config.train.view_share = 0
    config.model.couplings = 0  # --config.model.couplings=2 adds an alignment that is as quick
    config.model.coupling_hidden, config.model.reference_couplings = 16, 2
    config.alignment.epochs, config.alignment.batch_size, config.alignment.views = 2, 64, 1
    config.refine.epochs = 0
    config.log.every_steps = 2


VARIANTS = {"paper": use_paper, "large": use_large, "tiny": use_tiny}


def apply_variants(config: ConfigDict, arg: str | None) -> ConfigDict:
    """Changes `config` by the variants after the colon of `--config=configs/mnist.py:paper`, and returns it.

    Args:
      config: what to change.
      arg: names of variants joined by commas, applied in this order; None or '' for none.

    Raises:
      ValueError: for an unknown variant.
    """
    for name in filter(None, (arg or "").split(",")):
        if name not in VARIANTS:
            raise ValueError(f"unknown variant {name!r} after the colon; there are: {', '.join(VARIANTS)}")
        VARIANTS[name](config)
    return config


def sweep_colour(add: Callable[..., None]) -> None:
    """Adds the trials of the configurations with colour images."""
    sweep_over(add, lambdas=(0.0, 0.001, 0.003, 0.01), bottlenecks=(16, 32, 64))


def sweep_over(
    add: Callable[..., None],
    lambdas: Sequence[float] = (0.0, 0.001, 0.0025, 0.005),
    bottlenecks: Sequence[int] = (8, 16, 32),
    seeds: Sequence[int] = (0, 1, 2),
) -> None:
    """Adds a trial for each lambda, bottleneck and seed; all of the first seed come first, to show the trend early."""
    for seed, bottleneck, lam in itertools.product(seeds, bottlenecks, lambdas):
        add(**{"model.bottleneck": bottleneck, "train.lambda_adv": lam, "train.seed": seed})

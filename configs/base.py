"""Every knob, with its default. The other files in this folder change the few that differ.

Any of them can be set on the command line, for instance `--config.model.bottleneck=32`.
"""

import itertools
from collections.abc import Callable, Sequence

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()

    config.data = data = ConfigDict()
    data.name = "mnist"  # 'rendered' (embedded), 'folder' (your images), or any image-classification set of TFDS
    data.dir = ""  # TFDS folder ('' = TFDS's own default), or the image folder
    data.split = "train"  # TFDS split to train on, in TFDS's notation: 'train+extra', 'train[:10%]', ...
    data.test_split = "test"  # TFDS split kept for testing
    data.image_size = 0  # resize to a square with this side (a multiple of 4); 0 = as stored
    data.channels = 0  # 1 = grey, 3 = RGB, 0 = as stored (folders need 1 or 3)
    data.num_train = 0  # rendered: images to draw; others: a random subset of this size (all, if fewer), 0 = all
    data.num_test = 0  # likewise for the test images
    data.test_fraction = 0.2  # folder without train/ and test/: this share of each class becomes the test split
    data.seed = 0  # of the folder's split, of subsets, and of the rendered drawings
    data.cache_dir = ""  # decoded images are kept here; '' = the user's cache folder

    config.model = model = ConfigDict()
    model.bottleneck = 16  # size of the style latent z
    model.latent = "ball"  # 'ball': scaled to a length below 1; 'sphere': to length 1; 'unbounded': as in the paper
    model.hidden = 256  # width of the fully connected layers around the latent
    model.filters = (32, 64, 128)  # of the three convolutions; the decoder mirrors them
    model.decoder = "dcec"  # 'dcec': mirrored, last layer gives pixels; 'literal': 128-64-32 and a 3x3 convolution
    model.adversary_hidden = 256  # width of the adversary (network B)
    model.couplings = 8  # layers of the alignment that follows the autoencoder's training; 0 = no alignment
    model.coupling_hidden = 128  # their width
    model.reference_couplings = 10  # layers of the distribution that all classes come to share; 0 = the normal one

    config.train = train = ConfigDict()
    train.epochs = 15
    train.batch_size = 256  # what is left over of an epoch is left out of it (another part each time)
    train.learning_rate = 1e-3  # Adam
    # 'cosine' (to 0 at the end, Loshchilov & Hutter 2017), 'warmup_cosine' (the same, but rising in the first tenth,
    # as in Goyal et al. 2017) or 'constant'
    train.learning_rate_schedule = "cosine"
    train.cycle_weight = 1.0  # of the image's error when its picture is encoded and drawn again; 0 = it is not
    train.content_shift = 0  # the content classifier sees images shifted by up to so many pixels; for few images
    train.lambda_adv = 0.005  # lambda: how strongly the encoder is pushed to forget the class
    train.lambda_schedule = "linear"  # 'linear' (0 -> lambda, then constant) or 'constant'
    train.lambda_ramp = 0.5  # share of the training over which lambda rises
    train.adversary_steps = 3  # steps of the adversary for each step of the autoencoder
    train.seed = 0
    train.data_on = "auto"  # where the images wait: 'device' memory or 'host'; auto = device on accelerators
    train.steps_per_call = 1  # accelerators: steps in one dispatch, where so many come before a log line or checkpoint
    train.dtype = "float32"  # of the computation, 'float32' or 'bfloat16' (for accelerators); parameters are float32

    config.alignment = alignment = ConfigDict()  # the training of the couplings, on frozen latents
    alignment.epochs = 80
    alignment.batch_size = 1024
    alignment.learning_rate = 2e-3  # Adam, cosine to 0
    alignment.style_weight = 0.1  # of the difference between the look of a swap and that of its source
    alignment.lambda_adv = 0.2  # of the reversed gradient of an adversary on the aligned latents

    config.refine = refine = ConfigDict()  # last, of the decoder alone; in train's batches
    refine.epochs = 3  # 0 = off
    refine.learning_rate = 1e-3  # Adam, cosine to 0
    refine.style_weight = 0.01  # of the difference between a latent and that of its picture or swap, encoded again
    refine.cycle_weight = 2.0  # of the image's error when it is drawn from a picture or swap that was encoded again
    refine.content_weight = 0.002  # of the classifier's cross-entropy on swaps
    refine.content_noise = 0.0  # it sees them with noise of this standard deviation, and shifted a little; 0 = plain

    config.log = log = ConfigDict()
    log.every_steps = 50  # how often losses are read from the device and written to metrics.jsonl
    # Draw swaps and measure on test images after these, and always after the last one.
    log.sample_epochs = (0, 1, 2, 5, 10, 20, 50, 100, 200, 300)
    log.tensorboard = False  # also write TensorBoard events (needs the extra 'tensorboard')

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_steps = 500  # and at the end of every epoch of the autoencoder; 0 = at the end of every epoch only
    checkpoint.keep = 2  # the newest ones that are kept; 2 or more, so that a damaged one can be done without

    config.evaluate = evaluate = ConfigDict()
    # 'quick' or 'full': measure the finished run, as `infoae evaluate` does; a sweep does so quickly anyway. Or 'no'.
    evaluate.at_end = "no"
    return config


def in_colour(config: ConfigDict) -> None:
    """What was chosen on the embedded data set: small batches, simple shared distribution, nothing drawn again."""
    train, alignment, refine = config.train, config.alignment, config.refine
    train.batch_size, train.learning_rate = 64, 2e-3
    train.learning_rate_schedule = "warmup_cosine"  # without the rise some seeds stay far behind
    train.cycle_weight, train.content_shift, train.lambda_adv = 0.0, 2, 0.001
    config.model.reference_couplings = 4
    alignment.batch_size, alignment.learning_rate = 512, 3e-3
    alignment.style_weight, alignment.lambda_adv = 0.3, 0.4
    refine.style_weight, refine.cycle_weight = 0.003, 0.0
    refine.content_weight, refine.content_noise = 0.0075, 0.1


def use_paper(config: ConfigDict) -> None:
    """The paper's settings: 300 epochs, Adam at a constant 1e-3, constant lambda, unbounded latent, one step each.

    The paper does not say its lambda. From 0.003 on (MNIST) this diverges: the encoder makes its latent ever larger.
    """
    config.train.lambda_adv = 0.001
    config.train.cycle_weight = config.train.content_shift = 0
    config.model.latent = "unbounded"
    config.model.couplings = config.refine.epochs = 0
    config.train.epochs = 300
    config.train.learning_rate, config.train.learning_rate_schedule = 1e-3, "constant"
    config.train.lambda_schedule = "constant"
    config.train.adversary_steps = 1


def use_tiny(config: ConfigDict) -> None:
    """Seconds, for tests and a first look: few images, narrow layers, two epochs, no alignment or anything like it."""
    config.data.num_train, config.data.num_test = 256, 64
    config.model.hidden = config.model.adversary_hidden = 32
    config.model.filters = (8, 16, 16)
    config.train.epochs = 2
    config.train.batch_size = 64
    config.train.cycle_weight = 0.0
    config.model.couplings = 0  # --config.model.couplings=2 aligns as well, as quickly
    config.model.coupling_hidden, config.model.reference_couplings = 16, 2
    config.alignment.epochs, config.alignment.batch_size = 2, 64
    config.refine.epochs = 0
    config.log.every_steps = 2


def with_variants(config: ConfigDict, arg: str | None) -> ConfigDict:
    """Applies what stands behind the colon of `--config=configs/mnist.py:paper`.

    Several are joined by commas, and the later wins.

    Raises:
      ValueError: for an unknown variant.
    """
    variants = {"paper": use_paper, "tiny": use_tiny}
    for name in filter(None, (arg or "").split(",")):
        if name not in variants:
            raise ValueError(f"unknown variant {name!r} behind the colon; there are: {', '.join(variants)}")
        variants[name](config)
    return config


def sweep_in_colour(add: Callable[..., None]) -> None:
    sweep_over(add, lambdas=(0.0, 0.001, 0.005, 0.02), bottlenecks=(16, 32, 64))


def sweep_over(
    add: Callable[..., None],
    lambdas: Sequence[float] = (0.0, 0.002, 0.005, 0.02),
    bottlenecks: Sequence[int] = (8, 16, 32),
    seeds: Sequence[int] = (0, 1, 2),
) -> None:
    """lambda x bottleneck x seed: one seed of everything first, so that the whole picture is there early."""
    for seed, bottleneck, lam in itertools.product(seeds, bottlenecks, lambdas):
        add(**{"model.bottleneck": bottleneck, "train.lambda_adv": lam, "train.seed": seed})

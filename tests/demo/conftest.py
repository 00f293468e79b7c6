import threading

import numpy as np
import pytest

from configs import mnist
from infoae_jax.demo.app import Demo
from infoae_jax.demo.server import Server
from infoae_jax.images.handwriting import centre_strokes
from infoae_jax.inference.run_data import Examples
from infoae_jax.inference.styles import StyleBank
from tests.bundles import random_bundle
from tests.drawings import digit


@pytest.fixture(scope="session")
def bundle():
    """Of a model like MNIST's: random numbers decode other images from other latents."""
    bank = StyleBank(np.zeros((1, 16), np.float32), np.zeros(1, np.int32))
    return random_bundle(mnist.get_config("tiny"), (28, 28, 1), tuple("0123456789"), bank)


@pytest.fixture(scope="session")
def examples():
    images = [centre_strokes(np.asarray(digit(box=(60, 40, 100 + 5 * i, 240))))[..., None] for i in range(12)]
    return Examples(np.stack(images), np.arange(12, dtype=np.int32) % 10)


@pytest.fixture(scope="session")
def demo(bundle, examples):
    found = Demo("a <b>model", bundle.model, examples)
    found.warm_up()
    return found


@pytest.fixture(scope="session")
def server(demo):
    with Server(demo) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield found
        found.shutdown()

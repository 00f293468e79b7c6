import threading
import time

import jax
import pytest

from infoae_jax.evaluation.classifier import each_on_a_device


def test_tasks_run_at_once_each_on_its_own_device_and_come_back_in_order():
    together = threading.Barrier(jax.local_device_count(), timeout=300)
    used = set()

    def task(i):
        together.wait()  # passes only if as many run at once as there are devices
        (device,) = (jax.numpy.ones(3) * i).devices()
        used.add(device)
        return i

    count = 2 * jax.local_device_count()
    assert each_on_a_device([lambda i=i: task(i) for i in range(count)]) == list(range(count))
    assert used == set(jax.local_devices())


def test_error_in_a_task_is_raised_and_stops_those_that_have_not_begun():
    ran = []

    def fail():
        raise ValueError("broken")

    tasks = [fail] + [lambda i=i: time.sleep(0.05) or ran.append(i) for i in range(1000)]
    with pytest.raises(ValueError, match="broken"):
        each_on_a_device(tasks)
    assert len(ran) < 1000

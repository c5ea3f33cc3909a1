"""Processes that share the rows of X: one that dies ends the other, and what was solved is resumed."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import l1jax

HEARTBEAT, KILLED_AFTER, L = 5, 8, 30
PROGRAM = """
import os, signal, sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec

jax.config.update("jax_cpu_collectives_implementation", "gloo")
address, number, file = sys.argv[1], int(sys.argv[2]), sys.argv[3]
jax.distributed.initialize(address, 2, number, heartbeat_timeout_seconds={heartbeat})

import l1jax
from l1jax.linear.engines.active_set import _working_set
from l1jax.linear.results import _checkpoint
from tests.test_many_hosts import data

_checkpoint._SECONDS = _checkpoint._TIMES = 0.0  # writes whenever something is solved
done, advance = [0], _working_set.advance

def die(bar, count, *told):
    done[0] += count
    if done[0] >= {after} and number == 1:
        os.kill(os.getpid(), signal.SIGKILL)

_working_set.advance = die
X, y = data()
mesh = jax.make_mesh((2,), ("rows",))
half = slice(number * len(y) // 2, (number + 1) * len(y) // 2)
X, y = (
    jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("rows")), part[half])
    for part in (X, y)
)
l1jax.path(X, y, l1jax.L1(), n_lams={strengths}, checkpoint=file)
print("went on")
"""


def data():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(80, 900))  # more columns than are all taken into a working set
    return X, X[:, :5].sum(axis=1) + rng.normal(size=80)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other_and_the_path_is_resumed_by_one(tmp_path):
    file, home = tmp_path / "run.npz", Path(__file__).parents[1]
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    program = PROGRAM.format(heartbeat=HEARTBEAT, after=KILLED_AFTER, strengths=L)
    environment = os.environ | {
        "JAX_ENABLE_X64": "1",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
        "PYTHONPATH": str(home),
    }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", program, address, str(number), str(file)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        _, why = running[1].communicate(timeout=120)
        out, told = running[0].communicate(timeout=60)  # within a minute of that
    finally:
        for process in running:
            process.kill()
    assert running[1].returncode == -signal.SIGKILL, why[-2000:]
    assert running[0].returncode != 0 and "went on" not in out
    assert "This most likely indicates that another task died" in told, told[-2000:]
    part = l1jax.load(file)
    solved = int((part.status != l1jax.Status.INTERRUPTED).sum())
    assert KILLED_AFTER <= solved < L
    # One process goes on; the optimality conditions of squared error hold to rounding, as without a stop.
    X, y = data()
    again = l1jax.path(X, y, l1jax.L1(), resume=file)
    whole = l1jax.path(X, y, l1jax.L1(), n_lams=L)
    assert (again.status == l1jax.Status.CONVERGED).all()
    np.testing.assert_allclose(again.coefs, whole.coefs, atol=1e-9)
    np.testing.assert_allclose(again.lams, whole.lams, rtol=1e-12)

"""Processes that share X: the answers of one, and what follows where one of them dies."""

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

FITS = """
import sys
import jax, numpy as np

address, count, number, file = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, count, number)

import l1jax
from tests import sharded_fits

found = {}
for name in ("rows", "columns", "both"):
    data = sharded_fits.wide_data() if name == "columns" else sharded_fits.tall_data()
    X, lam = sharded_fits.put(data["X"], sharded_fits.SPECS[name]), sharded_fits.LAM_OF_LOSSES[name]
    found[f"{name} lasso"] = l1jax.path(X, data["y"], l1jax.L1(), lams=sharded_fits.LAMS).coefs
    logistic = l1jax.fit(X, data["labels"], l1jax.L1(lam), loss=l1jax.Logistic())
    found[f"{name} logistic"] = logistic.coef
    sharded_fits.other_penalties_and_losses(found, name, X, data)
np.savez(file, **{name: np.asarray(value) for name, value in found.items()})
"""


def data():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(80, 900))  # more columns than are all taken into a working set
    return X, X[:, :5].sum(axis=1) + rng.normal(size=80)


def free_address():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def start(program, *arguments, flags=""):
    """Starts a process that runs a program; its streams are kept."""
    environment = os.environ | {
        "JAX_ENABLE_X64": "1",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir or "",
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip(),
    }
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_processes_that_share_x_find_what_one_finds(tmp_path):
    """Of 8 devices in all; sums over them differ by rounding, on which solutions depend as on the data."""
    found = {}
    for count in (1, 2, 4):
        address, files = free_address(), [tmp_path / f"{count}-{k}.npz" for k in range(count)]
        flags = f"--xla_force_host_platform_device_count={8 // count}"
        running = [
            start(FITS, address, count, number, file, flags=flags)
            for number, file in enumerate(files)
        ]
        told = [process.communicate(timeout=600)[1] for process in running]
        assert not any(process.returncode for process in running), told[0][-2000:]
        found[count] = [dict(np.load(file)) for file in files]
    (expected,) = found[1]
    assert len(expected) == 3 * 7
    for each in found[2] + found[4]:
        for name, value in expected.items():
            np.testing.assert_allclose(each[name], value, atol=1e-10, err_msg=name)


@pytest.mark.slow
def test_a_process_that_dies_ends_the_other_and_the_path_is_resumed_by_one(tmp_path):
    file, address = tmp_path / "run.npz", free_address()
    program = PROGRAM.format(heartbeat=HEARTBEAT, after=KILLED_AFTER, strengths=L)
    running = [start(program, address, number, file) for number in range(2)]
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

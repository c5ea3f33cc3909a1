"""The lasso path of rows that are spread over many hosts.

On a cluster that JAX knows (Slurm, Open MPI, Kubernetes, Cloud TPU) start it once per host, as in

    srun python examples/lasso_many_hosts.py

On one machine, `--local 4` starts it as four processes that speak to each other as hosts do. Each process has
its own part of the rows, which no other process sees; every process gets the same path.

Where a process dies the others end, within the time of a heartbeat. With `--checkpoint run.npz` what was solved
is in that file, and the same command goes on from there.
"""

import argparse
import hashlib
import os
import socket
import subprocess
import sys

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

import l1jax

NUM_FEATURES = 50
HEARTBEAT = 30  # seconds of silence after which a process counts as dead, and the others end


def main() -> None:
    parser = argparse.ArgumentParser(description="The lasso path of rows on many hosts.")
    parser.add_argument("--local", type=int, default=0, help="processes to start on this machine")
    parser.add_argument("--short", action="store_true", help="two local processes and few rows")
    parser.add_argument("--rows", type=int, default=200_000, help="rows of each process")
    parser.add_argument("--checkpoint", help="a file in a folder that all processes can read")
    parser.add_argument("--join", nargs=3, help=argparse.SUPPRESS)  # address, processes, number
    arguments = parser.parse_args()
    if arguments.short:
        arguments.local, arguments.rows = arguments.local or 2, 2_000
    if arguments.local and not arguments.join:
        sys.exit(start_processes(arguments.local, arguments.rows, arguments.checkpoint))
    jax.config.update("jax_enable_x64", True)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    given = {}
    if arguments.join:
        address, processes, number = arguments.join
        given = {
            "coordinator_address": address,
            "num_processes": int(processes),
            "process_id": int(number),
        }
    jax.distributed.initialize(**given, heartbeat_timeout_seconds=HEARTBEAT)
    fit_path(arguments.rows, arguments.checkpoint)


def fit_path(num_rows: int, checkpoint: str | None) -> None:
    """Fits the path of the rows of all processes."""
    # 1. What this process has: on a cluster, rows that it reads from its own files.
    here, processes = jax.process_index(), jax.process_count()
    rng = np.random.default_rng(here)
    X = rng.normal(size=(num_rows, NUM_FEATURES))
    y = X[:, 0] - 0.5 * X[:, 1] + rng.normal(size=num_rows)
    # 2. One array of all rows, each part of it where it is.
    mesh = jax.make_mesh((jax.device_count(),), ("rows",))
    X, y = (
        jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("rows")), part)
        for part in (X, y)
    )
    # 3. As on one machine. All processes must make the same calls.
    resume = checkpoint if checkpoint and os.path.exists(checkpoint) else None
    path = l1jax.path(X, y, l1jax.L1(), checkpoint=checkpoint, resume=resume)
    cv = l1jax.cross_validate(X, y, l1jax.L1(), n_folds=5)
    predicted = cv.fit_min.predict(X)
    digest = hashlib.sha256(np.asarray(path.coefs).tobytes() + np.asarray(predicted).tobytes())
    if here == 0:
        print(f"{X.shape[0]} rows of {processes} processes, on {jax.device_count()} devices")
        print(
            f"lambda_max {path.lams[0]:.4f}, largest relative gap {path.fits.relative_gap.max():.1e}"
        )
        print(f"cross-validation: lambda {cv.lam_min:.5f} with {cv.fit_min.n_nonzero} features")
    print(f"digest {digest.hexdigest()[:16]} of process {here}", flush=True)


def start_processes(count: int, num_rows: int, checkpoint: str | None) -> int:
    """Runs this file as so many processes on one machine; returns 0 if all have the same path."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    call = [sys.executable, __file__, "--rows", str(num_rows), "--join", address, str(count)]
    call[2:2] = ["--checkpoint", checkpoint] if checkpoint else []
    running = [
        subprocess.Popen([*call, str(number)], stdout=subprocess.PIPE, text=True)
        for number in range(count)
    ]
    outputs = [process.communicate()[0] for process in running]
    print("".join(outputs), end="")
    if any(process.returncode for process in running):
        return 1
    digests = {line.split()[1] for out in outputs for line in out.splitlines() if "digest" in line}
    print("the same path on every process" if len(digests) == 1 else "the paths differ")
    return len(digests) != 1


if __name__ == "__main__":
    main()

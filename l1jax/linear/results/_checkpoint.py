"""What is solved of a path, in a file while the path goes on: `path(checkpoint=...)`."""

from __future__ import annotations

import copy
import os
import time
from pathlib import Path as File
from typing import Any, NamedTuple

import jax
import numpy as np

from ..._saving import save_atomically
from ..._status import Status
from ..._tracing import is_differentiable
from ...losses import Loss
from ..data._sharded import to_numpy
from ..host._sparse_rows import SparseRows, dense, is_large, parts_of, take
from ..model._problem import Problem
from ._fit import Fit
from ._options import FitOptions
from ._path import Path

_SECONDS = 5.0  # from one write to the next, at least
_TIMES = 20  # ... and as often the time that the last one took: it costs a twentieth


class _Solution(NamedTuple):
    """A fit on the user's scale, of which only nonzero coefficients are kept."""

    features: np.ndarray
    values: np.ndarray
    intercept: np.ndarray
    num_steps: int


class _PathFile:
    """The file of a path: written as a whole, by the first process of those that solve it together."""

    def __init__(
        self,
        file: str | os.PathLike,
        lams: Any,
        problem: Problem,
        names: tuple[str, ...] | None,
        loss: Loss,
        options: FitOptions,
    ):
        self.file, self.names, self.loss, self.options = file, names, loss, options
        self.shape, self.dtype = problem.coef_shape, np.dtype(problem.y.dtype)
        self.lams = np.asarray(lams, self.dtype)
        self.solved: dict[int, _Solution] = {}
        self.is_written = True  # all that is solved
        self.is_first = jax.process_index() == 0
        self.last, self.duration = time.monotonic(), 0.0  # of the last write: its end

    def write_if_due(self) -> None:
        wait = max(_SECONDS, _TIMES * self.duration)
        if time.monotonic() - self.last >= wait:
            self.write()

    def write(self, path: Path | None = None) -> None:
        """Writes a path, or else what is solved of it, unless that is in the file."""
        if self.is_first and not (path is None and self.is_written):
            begin = time.monotonic()
            save_atomically(self._path() if path is None else path, self.file)
            self.last, self.is_written = time.monotonic(), True
            self.duration = self.last - begin

    def _path(self) -> Path:
        """What is solved, not certified; all else has the status INTERRUPTED."""
        count, dtype = len(self.lams), self.dtype
        nothing = np.zeros(0, int), np.zeros((0, *self.shape[1:]), dtype)
        rows = [nothing] * count
        intercepts = np.full((count, *self.shape[1:]), np.nan, dtype)
        num_steps = np.zeros(count, np.int32)
        status = np.full(count, Status.INTERRUPTED, np.int32)
        for i, one in self.solved.items():
            rows[i] = one.features, one.values
            intercepts[i], num_steps[i] = one.intercept, one.num_steps
            status[i] = Status.PRECISION_LIMIT  # until a certificate says otherwise
        coefs = SparseRows.of_rows(rows, self.shape, dtype).without(status == Status.INTERRUPTED)
        unknown = np.full(count, np.nan, dtype)
        fits = Fit(
            stored_coef=coefs if is_large(coefs.shape) else np.asarray(coefs.to_array()),
            intercept=intercepts,
            lam=self.lams,
            objective=unknown,
            gap=unknown,
            relative_gap=unknown,
            kkt=unknown,
            relative_kkt=unknown,
            margin=unknown,
            deviance_explained=unknown,
            num_steps=num_steps,
            status=status,
            loss=self.loss,
            feature_names=self.names,
            several_responses=len(self.shape) > 1,
            options=self.options,
        )
        return Path(fits)


class Checkpoint:
    """Takes solutions of some strengths of a path, and writes its file from time to time."""

    def __init__(self, file: _PathFile, places: np.ndarray):
        self.file, self.places = file, places  # (L,): of these strengths in the grid of the file

    @classmethod
    def of(cls, file: Any, lams: Any, *about: Any) -> Checkpoint:
        """Returns the checkpoint of all strengths (L,); `about`: what `_PathFile` is to say beside them."""
        return cls(_PathFile(file, lams, *about), np.arange(np.size(lams)))

    def only(self, some: np.ndarray) -> Checkpoint:
        """Returns the checkpoint of some of the strengths."""
        part = copy.copy(self)
        part.places = self.places[some]
        return part

    def keep(self, at: np.ndarray, coefs: Any, intercepts: Any, num_steps: Any) -> None:
        """Takes fits (m, p, *k) on the user's scale, at the places `at` (m,); not those that are not finite."""
        places, intercepts, num_steps = self.places[at], to_numpy(intercepts), to_numpy(num_steps)
        for some in parts_of(coefs):
            arrays = to_numpy(dense(take(coefs, some))), intercepts[some], num_steps[some]
            for place, coef, intercept, steps in zip(places[some], *arrays, strict=True):
                if np.isfinite(coef).all() and np.isfinite(intercept).all():
                    features = np.flatnonzero(coef.reshape(len(coef), -1).any(axis=1))
                    one = _Solution(features, coef[features], np.array(intercept), int(steps))
                    self.file.solved[int(place)] = one
                    self.file.is_written = False
        self.file.write_if_due()

    @property
    def note(self) -> str:
        """What an error that ends the path is to say."""
        return (
            f'What was solved is in its checkpoint: resume="{os.fspath(self.file.file)}" goes on.'
        )

    def write(self, path: Path | None = None) -> None:
        """Writes now: this path, or else what is solved."""
        self.file.write(path)


def check_checkpoint(file: Any, data: Any) -> None:
    """Raises unless it is None, or the name of a file that can be written, and the data are concrete."""
    if file is None:
        return
    if not isinstance(file, str | os.PathLike):
        raise TypeError(
            f'checkpoint must be the name of a file, such as "run.npz", got {type(file).__name__}.'
        )
    if is_differentiable(data):
        raise ValueError(
            "checkpoint needs concrete data: no file is written inside jit, vmap or a derivative."
        )
    folder = File(file).parent
    if File(file).is_dir() or not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(
            f"checkpoint must be the name of a file in a folder that can be written, got {str(file)!r}."
        )

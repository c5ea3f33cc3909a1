"""Fits and paths in files: NumPy's `.npz`, which any program can read and which runs no code."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path as File
from typing import Any

import numpy as np

from . import losses
from ._tracing import is_traced
from .linear import Fit, Path
from .linear._results import Knots
from .losses import Loss

_FORMAT = 1


def save(result: Fit | Path, file: Any) -> None:
    """What `Fit.save` and `Path.save` do."""
    if is_traced(result):
        raise ValueError("save needs concrete values: it cannot run inside jit or vmap.")
    fits = result.fits if isinstance(result, Path) else result
    arrays, about = {}, {"format": _FORMAT, "kind": type(result).__name__}
    for field in dataclasses.fields(Fit):
        value = getattr(fits, field.name)
        if field.metadata.get("static"):
            about[field.name] = value
        elif field.name != "loss":
            arrays[field.name] = np.asarray(value)
    if isinstance(result, Path) and result.knots is not None:
        for field in dataclasses.fields(Knots):
            arrays[f"knots.{field.name}"] = np.asarray(getattr(result.knots, field.name))
    about["loss"] = type(fits.loss).__name__
    settings = {}
    for field in dataclasses.fields(fits.loss):
        value = getattr(fits.loss, field.name)
        if field.metadata.get("static"):
            settings[field.name] = value
        else:
            arrays[f"loss.{field.name}"] = np.asarray(value)
    about["loss_settings"] = settings
    bad = [name for name, value in arrays.items() if value.dtype.kind not in "fiub"]
    if bad:
        raise TypeError(f"save takes numbers, got dtype {arrays[bad[0]].dtype} in {bad[0]}.")
    contents: Any = {"about": np.asarray(json.dumps(about))} | arrays
    if isinstance(file, str | File):
        with open(file, "wb") as opened:
            np.savez_compressed(opened, **contents)
    else:
        np.savez_compressed(file, **contents)


def load(file: Any, loss: Loss | None = None) -> Any:
    """The `Fit` or `Path` that `save` wrote, bit for bit; its arrays are NumPy's.

    `file`: a name, or an open binary file. `loss`: the loss, where it is a class of your own.
    Predicts, plots, and can be taken up again: `l1jax.path(X, y, pen, resume=l1jax.load(file))`.
    No code in the file is run. Raises: ValueError for a file that `save` did not write.

    **Example:**

    ```python
    >>> import io, numpy as np, l1jax
    >>> X, y = np.array([[-1.0], [0.0], [1.0]]), np.array([-1.0, 0.0, 1.0])
    >>> file = io.BytesIO()  # or the name of a file: "path.npz"
    >>> l1jax.path(X, y, l1jax.L1(), n_lams=5).save(file)
    >>> _ = file.seek(0)
    >>> print(len(l1jax.load(file)))
    5

    ```
    """
    name = f" {file}" if isinstance(file, str | File) else ""
    try:
        with np.load(file, allow_pickle=False) as contents:
            arrays = {key: contents[key] for key in contents.files}
        about = json.loads(str(arrays.pop("about")))
    except (KeyError, ValueError, AttributeError, EOFError):
        message = f"the file{name} holds no fit or path of l1jax: save writes them."
        raise ValueError(message) from None
    if about.get("format") != _FORMAT:
        raise ValueError(
            f"the file{name} has format {about.get('format')}, this version of l1jax reads {_FORMAT}."
        )
    if loss is None:
        loss = _loss(about, arrays)
    names = about["feature_names"]
    fields = {field.name for field in dataclasses.fields(Fit)} & arrays.keys()
    fits = Fit(
        **{field: arrays[field] for field in fields},
        loss=loss,
        feature_names=None if names is None else tuple(names),
        several_responses=about["several_responses"],
    )
    if about["kind"] == "Fit":
        return fits
    if "knots.lams" not in arrays:
        return Path(fits)
    return Path(
        fits, Knots(*(arrays[f"knots.{field.name}"] for field in dataclasses.fields(Knots)))
    )


def _loss(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> Loss:
    kind = getattr(losses, about["loss"], None)
    if not (isinstance(kind, type) and issubclass(kind, Loss)):
        raise ValueError(
            f"the loss of this file is {about['loss']}, which is not one of l1jax: pass it, as in "
            f"l1jax.load(file, loss={about['loss']}(...))."
        )
    numbers = {key[len("loss.") :]: arrays[key] for key in arrays if key.startswith("loss.")}
    return kind(**numbers, **about["loss_settings"])

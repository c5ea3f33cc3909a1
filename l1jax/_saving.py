"""Results in files: NumPy's `.npz`, which any program can read and which runs no code."""

from __future__ import annotations

import dataclasses
import json
import zipfile
import zlib
from pathlib import Path as File
from typing import Any

import numpy as np

from . import losses, penalties
from ._groups import Groups
from ._tracing import is_traced
from .linear import CrossValidated, Fit, Path
from .linear._options import FitOptions
from .linear._results import Knots
from .losses import Loss
from .penalties import Penalty

_FORMAT = 3
_BROKEN = (EOFError, zipfile.BadZipFile, zlib.error)  # what is no archive, or not all of one
_KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (Fit, Path, Knots, CrossValidated, FitOptions)
}


def save(result: Fit | Path | CrossValidated, file: Any) -> None:
    """What the methods `save` of results do."""
    if is_traced(result):
        raise ValueError("save needs concrete values: it cannot run inside jit or vmap.")
    arrays: dict[str, np.ndarray] = {}
    about = {"format": _FORMAT, "result": _take_apart(result, (), arrays)}
    bad = [name for name, value in arrays.items() if value.dtype.kind not in "fiub"]
    if bad:
        raise TypeError(f"save takes numbers, got dtype {arrays[bad[0]].dtype} in {bad[0]}.")
    contents: Any = {"about": np.asarray(json.dumps(about))} | arrays
    if isinstance(file, str | File):
        with open(file, "wb") as opened:
            np.savez_compressed(opened, **contents)
    else:
        np.savez_compressed(file, **contents)


def _take_apart(value: Any, at: tuple[str, ...], arrays: dict[str, np.ndarray]) -> Any:
    """What JSON can say of a value; its arrays go to `arrays`, by the names of the fields they are in."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return [_take_apart(one, (*at, str(i)), arrays) for i, one in enumerate(value)]
    if isinstance(value, Groups):
        arrays[".".join(at)] = value.labels[value.ids]
        return "groups"
    if isinstance(value, Penalty) and not _is_ours(type(value)):
        return None  # a class of the user's own: nothing that is loaded asks it anything
    if not dataclasses.is_dataclass(value):
        arrays[".".join(at)] = np.asarray(value)
        return "array"
    parts, settings = {}, {}
    for field in dataclasses.fields(value):
        one = getattr(value, field.name)
        if field.metadata.get("static") and not isinstance(one, Groups):
            settings[field.name] = one
        else:
            parts[field.name] = _take_apart(one, (*at, field.name), arrays)
    return {"kind": _name_of(type(value)), "parts": parts, "settings": settings}


def _name_of(kind: type) -> str:
    """Its name; with its module, where that is not l1jax."""
    return kind.__name__ if _is_ours(kind) else f"{kind.__module__}.{kind.__qualname__}"


def _is_ours(kind: type) -> bool:
    homes = (getattr(home, kind.__name__, None) for home in (losses, penalties))
    return kind in _KINDS.values() or kind in homes


def load(file: Any, loss: Loss | None = None) -> Any:
    """The `Fit`, `Path` or `CrossValidated` that `save` wrote, bit for bit; its arrays are NumPy's.

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
    if isinstance(file, str | File):
        with open(file, "rb") as opened:
            return _load(opened, name, loss)
    return _load(file, name, loss)


def _load(file: Any, name: str, loss: Loss | None) -> Any:
    version, found = _FORMAT, None
    try:
        with np.load(file, allow_pickle=False) as contents:
            arrays = {key: contents[key] for key in contents.files}
        about = json.loads(str(arrays.pop("about")))
        version = about["format"]
        if version == _FORMAT:
            found = _put_together(about["result"], (), arrays, loss)
    except _UnknownLoss as error:
        raise ValueError(str(error)) from None
    except (*_BROKEN, KeyError, ValueError, AttributeError, TypeError):
        found = None
    if version != _FORMAT:
        message = f"the file{name} has format {version}, this version of l1jax reads {_FORMAT}."
        raise ValueError(message)
    if not isinstance(found, Fit | Path | CrossValidated):
        raise ValueError(f"the file{name} holds no result of l1jax: save writes them.")
    return found


class _UnknownLoss(Exception):
    """A loss that is a class of the user's own."""


def _put_together(
    about: Any, at: tuple[str, ...], arrays: dict[str, np.ndarray], loss: Loss | None
) -> Any:
    """What `_take_apart` took apart; with this loss, if one is given."""
    if about is None:
        return None
    if about == "array":
        return arrays[".".join(at)]
    if about == "groups":
        return Groups(arrays[".".join(at)])
    if isinstance(about, list):
        return tuple(_put_together(one, (*at, str(i)), arrays, loss) for i, one in enumerate(about))
    kind = _KINDS.get(about["kind"])
    if kind is None:
        kind = _penalty(about["kind"])
    if kind is None:
        if loss is not None:
            return loss
        kind = _loss(about["kind"])
    parts = {
        name: _put_together(part, (*at, name), arrays, loss)
        for name, part in about["parts"].items()
    }
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in about["settings"].items()
    }
    return _made(kind, parts | settings)


def _made(kind: type, fields: dict[str, Any]) -> Any:
    """The object with these fields: what an `__init__` would make of its arguments is in them."""
    if set(fields) != {field.name for field in dataclasses.fields(kind)}:
        raise TypeError(f"these are not the fields of {kind.__name__}")
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made


def _penalty(name: str) -> type[Penalty] | None:
    kind = getattr(penalties, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Penalty) else None


def _loss(name: str) -> type[Loss]:
    kind = getattr(losses, name, None)
    if not (isinstance(kind, type) and issubclass(kind, Loss)):
        raise _UnknownLoss(
            f"the loss of this file is {name}, which is not one of l1jax: pass it, as in "
            f"l1jax.load(file, loss={name.rpartition('.')[2]}(...))."
        )
    return kind

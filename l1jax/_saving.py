"""Results in files: NumPy's `.npz`, which any program can read and which runs no code."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path as File
from typing import Any

import numpy as np

from ._groups import Groups
from ._tracing import is_traced

_FORMAT = 4
_BROKEN = (EOFError, zipfile.BadZipFile, zlib.error)  # what is no archive, or not all of one
_KINDS: dict[str, type] = {}  # the classes that a file may hold, by name
_RESULTS: list[type] = []  # those of them that a file may hold alone
_LATE: dict[
    str, Callable[[], Any]
] = {}  # what enters a class whose sub-package loads when it is used
_BASES: dict[str, type] = {}  # "loss" and "penalty": classes that users derive from


def savable(*kinds: type) -> None:
    """Enters classes, all of whose fields are arrays, static settings or savable themselves."""
    for kind in kinds:
        assert _KINDS.setdefault(kind.__name__, kind) is kind, f"two classes {kind.__name__}"


def savable_result(kind: type) -> None:
    """Enters a class that `load` returns."""
    savable(kind)
    _RESULTS.append(kind)


def savable_later(name: str, enter: Callable[[], Any]) -> None:
    """Says what enters the class of this name, once a file holds one."""
    _LATE[name] = enter


def extensible(role: str, base: type) -> None:
    """Enters the base class of losses or penalties, of which users have classes of their own."""
    _BASES[role] = base


def save(result: Any, file: Any) -> None:
    """Writes a `Fit`, `Path` or `CrossValidated`: the methods `save` of results."""
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


def save_atomically(result: Any, file: str | os.PathLike) -> None:
    """Writes a result to a file that has all of what it had before, or all of this, whenever it is read."""
    part = f"{os.fspath(file)}.part"
    with open(part, "wb") as opened:
        save(result, opened)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(part, file)


def _take_apart(value: Any, at: tuple[str, ...], arrays: dict[str, np.ndarray]) -> Any:
    """What JSON can say of a value; its arrays go to `arrays`, by the names of the fields they are in."""
    if value is None:
        return None
    if isinstance(value, tuple):
        return [_take_apart(one, (*at, str(i)), arrays) for i, one in enumerate(value)]
    if isinstance(value, Groups):
        arrays[".".join(at)] = value.labels[value.ids]
        return "groups"
    if isinstance(value, _BASES["penalty"]) and not _is_ours(type(value)):
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
    return _KINDS.get(kind.__name__) is kind


def is_savable(value: Any) -> bool:
    """Whether its class is one that files hold, not a user's own."""
    return _is_ours(type(value))


def load(file: Any, loss: Any = None) -> Any:
    """The `Fit`, `Path` or `CrossValidated` that `save` wrote, bit for bit; its arrays are NumPy's.

    `file`: a name, or an open binary file. `loss`: the loss, where it is a class of your own.
    Predicts, plots, and can be taken up again: `l1jax.path(X, y, pen, resume=l1jax.load(file))`.
    No code in the file is run, nor kept: where the penalty is a class of your own, `options.pen` is None.
    Raises: ValueError for a file that `save` did not write.

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


def _load(file: Any, name: str, loss: Any) -> Any:
    version, found = _FORMAT, None
    try:
        with np.load(file, allow_pickle=False) as contents:
            arrays = {key: contents[key] for key in contents.files}
        about = json.loads(str(arrays.pop("about")))
        version = about["format"]
        if version == _FORMAT:
            if about["result"]["kind"] in _LATE:
                _LATE[about["result"]["kind"]]()
            found = _put_together(about["result"], (), arrays, loss)
    except _UnknownLoss as error:
        raise ValueError(str(error)) from None
    except (*_BROKEN, KeyError, ValueError, AttributeError, TypeError):
        found = None
    if version != _FORMAT:
        message = f"the file{name} has format {version}, this version of l1jax reads {_FORMAT}."
        raise ValueError(message)
    if not isinstance(found, tuple(_RESULTS)):
        raise ValueError(f"the file{name} holds no result of l1jax: save writes them.")
    return found


class _UnknownLoss(Exception):
    """A loss that is a class of the user's own."""


def _put_together(about: Any, at: tuple[str, ...], arrays: dict[str, np.ndarray], loss: Any) -> Any:
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
    if loss is not None and (kind is None or issubclass(kind, _BASES["loss"])):
        return loss
    if kind is None:
        raise _UnknownLoss(
            f"the loss of this file is {about['kind']}, which is not one of l1jax: pass it, as in "
            f"l1jax.load(file, loss={about['kind'].rpartition('.')[2]}(...))."
        )
    parts = {
        name: _put_together(part, (*at, name), arrays, loss)
        for name, part in about["parts"].items()
    }
    settings = {name: _as_tuples(value) for name, value in about["settings"].items()}
    return _made(kind, parts | settings)


def _as_tuples(value: Any) -> Any:
    """JSON's lists, within lists too, as the tuples that they were."""
    return tuple(map(_as_tuples, value)) if isinstance(value, list) else value


def _made(kind: type, fields: dict[str, Any]) -> Any:
    """The object with these fields: what an `__init__` would make of its arguments is in them."""
    known = dataclasses.fields(kind)
    defaults = {one.name: one.default for one in known if one.default is not dataclasses.MISSING}
    fields = defaults | fields  # a file of an earlier version has none of what came later
    if set(fields) != {field.name for field in known}:
        raise TypeError(f"these are not the fields of {kind.__name__}")
    made = object.__new__(kind)
    for name, value in fields.items():
        object.__setattr__(made, name, value)
    return made

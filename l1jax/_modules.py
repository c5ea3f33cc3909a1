"""`equinox.Module` for classes that are made and read many times in a call, at the cost of Python's own.

Equinox checks each field of a new module and each attribute that is read, and makes a module of each method
that is bound: 10 to 50 µs, where a fit of a small problem takes 4 ms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from types import MethodType
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax

_attribute = object.__getattribute__


class BoundMethod:
    """A method with the object that it belongs to, whose arrays are its leaves, as in equinox.

    Equal are those of equal objects; where these hold arrays, which have no hash, those of the same one.
    `jax.jit` asks for both.
    """

    __slots__ = ("__func__", "__self__", "__weakref__")
    __doc__ = property(lambda self: self.__func__.__doc__)  # pyright: ignore

    def __init__(self, function: Callable[..., Any], instance: Any):
        self.__func__, self.__self__ = function, instance

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__func__, name)

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        return MethodType(self.__func__, self.__self__)

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, BoundMethod) or self.__func__ is not other.__func__:
            return False
        mine, theirs = self.__self__, other.__self__
        return mine is theirs or (_has_hash(mine) and _has_hash(theirs) and mine == theirs)

    def __hash__(self) -> int:
        owner = self.__self__
        return hash((self.__func__, owner if _has_hash(owner) else id(owner)))

    def __repr__(self) -> str:
        return f"<bound method {self.__func__.__qualname__} of {self.__self__!r}>"


def _has_hash(owner: Any) -> bool:
    try:
        hash(owner)
    except TypeError:  # arrays have none
        return False
    return True


jax.tree_util.register_pytree_node(
    BoundMethod,
    lambda method: ((method.__self__,), method.__func__),
    lambda function, children: BoundMethod(function, children[0]),
)


class Module(eqx.Module):
    """An `equinox.Module` whose methods are bound without equinox's checks; users may derive from it too."""

    if not TYPE_CHECKING:

        def __getattribute__(self, name):
            found = _attribute(self, name)
            if type(found) is MethodType and found.__self__ is self and name[:2] != "__":
                return BoundMethod(found.__func__, self)
            return found


class _RecordMeta(type(eqx.Module)):
    """Makes a record without equinox's checks of its fields."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        record = object.__new__(cls)
        record.__init__(*args, **kwargs)
        return record


class Record(Module, metaclass=_RecordMeta):
    """A `Module` that only l1jax builds, without equinox's checks of its fields; each is set once."""

    if not TYPE_CHECKING:

        def __setattr__(self, name, value):
            fields = _attribute(self, "__dict__")
            if name in fields or name not in type(self).__dataclass_fields__:
                raise dataclasses.FrozenInstanceError(f"cannot assign to field '{name}'")
            fields[name] = value


def with_fields(module: Any, **fields: Any) -> Any:
    """Returns the module with other values in some fields; as by `jax.tree.unflatten`, nothing is checked."""
    new = object.__new__(type(module))
    new.__dict__.update(module.__dict__, **fields)
    return new

"""Methods of modules that are called often, and what binding them costs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class _Plain:
    """A function of a class, which equinox does not find."""

    def __init__(self, function: Callable[..., Any]):
        self.function, self.__doc__ = function, function.__doc__

    def __get__(self, instance: Any, owner: Any = None) -> Any:
        # Equinox replaces methods of the kind that Python binds.
        return self.function if instance is None else functools.partial(self.function, instance)


if TYPE_CHECKING:

    def plain(method: F) -> F: ...
else:

    def plain(method):
        """A method that is no pytree when it is bound: equinox makes a module of each, which takes 10 µs.

        For methods of l1jax's own that are only called, never passed on.
        """
        return _Plain(method)

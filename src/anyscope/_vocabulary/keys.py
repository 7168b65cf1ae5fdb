"""What a service is asked for by: a class, a `Key`, or a string.

A class may be a Protocol or an abstract one. Parametrised types (`list[int]`), `NewType` and `Annotated` are
refused: type checkers do not accept them where a class is wanted, and a `Key` says the same with a name.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from .options import check_name

T = TypeVar("T")


class Key(Generic[T]):
    """A typed key with a name, for a second service of one class or for a type that is no class.

    Two keys are different even with the same name: share the object. Write down its type once:
    `REPLICA = Key[Database]("replica")`.

    Args:
        name: What to call it in errors, hooks and the tree.

    Example:
        >>> import anyio
        >>> from anyscope import Key, scope
        >>> RETRIES = Key[int]("retries")
        >>> async def main():
        ...     async with scope().provide_value(RETRIES, 3) as s:
        ...         print(RETRIES, await s.use(RETRIES))
        >>> anyio.run(main)
        Key('retries') 3
    """

    __slots__ = ("__weakref__", "_name")

    def __init__(self, name: str) -> None:
        self._name = check_name("name", name)

    @property
    def name(self) -> str:
        """The name that it was given."""
        return self._name

    def __repr__(self) -> str:
        return f"Key({self._name!r})"


def check_key(key: object) -> None:
    """Refuse what is no key, with the `Key` to write instead."""
    if isinstance(key, str):
        check_name("a service key", key)
    elif not _is_class_or_key(key):
        raise TypeError(
            f"a service key must be a class, a Key or a str, got {_shown(key)}\n"
            'Right: THIS = Key[type_of_the_service]("name"), once, and then provide(THIS, ...) and use(THIS)'
        )


def _shown(key: object) -> str:
    # A type may be shown, a value must not: it may have been meant as the second argument, and hold a secret.
    is_type = hasattr(key, "__origin__") or hasattr(key, "__supertype__")
    return f"{key!r}" if is_type else f"a value of type {type(key).__name__}"


def _is_class_or_key(key: Any) -> bool:
    # On Python 3.10 list[int] passes for a class.
    return not hasattr(key, "__origin__") and isinstance(key, (type, Key))


def label_of(key: object) -> str:
    """How a key is shown, just as one would write it: `Database`, `Key('replica')`, `'db'`."""
    if isinstance(key, type):
        return key.__qualname__.rpartition("<locals>.")[2]
    return repr(key)

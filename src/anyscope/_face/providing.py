"""The services of a scope, as its user sees them: the part of `Scope` that is mostly overloads.

An overload for each kind of factory, since a union of them all makes mypy give up on `close=lambda db: db.close()`.
Type checkers join the type of a class given as key with that of the factory (`type[T]` is covariant), so pyright
accepts a factory of a wrong type there; a `Key` and the decorator are held to it exactly.

Over 400 lines for these overloads and what users read of them; the code itself is a few calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload

from .._features import services
from .._features.recipes import Recipe
from .._features.service import MISSING
from .._vocabulary.keys import Key, check_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from contextlib import (
        AbstractAsyncContextManager,
        AbstractContextManager,
        _AsyncGeneratorContextManager,
        _GeneratorContextManager,
    )

    from typing_extensions import Self

    from .._lifetime.owner import Owner

T = TypeVar("T")
D = TypeVar("D")
F = TypeVar("F", bound="Callable[[], Any]")


class Provides(Generic[T]):
    """What `s.provides(key)` gives: a decorator for the factory of a `T`."""

    __slots__ = ("_declare",)

    def __init__(self, declare: Callable[[Any], None]) -> None:
        self._declare = declare

    @overload
    def __call__(self, factory: Callable[[], AsyncIterator[T]], /) -> Callable[[], AsyncIterator[T]]: ...
    @overload
    def __call__(self, factory: Callable[[], Iterator[T]], /) -> Callable[[], Iterator[T]]: ...
    @overload
    def __call__(
        self, factory: Callable[[], _AsyncGeneratorContextManager[T]], /
    ) -> Callable[[], _AsyncGeneratorContextManager[T]]: ...
    @overload
    def __call__(
        self, factory: Callable[[], _GeneratorContextManager[T]], /
    ) -> Callable[[], _GeneratorContextManager[T]]: ...
    @overload
    def __call__(self, factory: Callable[[], Awaitable[T]], /) -> Callable[[], Awaitable[T]]: ...
    @overload
    def __call__(self, factory: Callable[[], T], /) -> Callable[[], T]: ...
    def __call__(self, factory: Any, /) -> Any:
        """Declare the service, and give the factory back."""
        self._declare(factory)
        return factory


class Providing:
    """What a `Scope` does about services."""

    __slots__ = ("_owner",)

    _owner: Owner  # written by the `Scope`

    @overload
    def provide(
        self,
        key: type[T] | Key[T],
        factory: Callable[[], AsyncIterator[T]] | Callable[[], Iterator[T]],
        *,
        eager: bool = ...,
        shared: bool = ...,
        replace: bool = ...,
    ) -> Self: ...
    @overload
    def provide(
        self,
        key: type[T] | Key[T],
        factory: Callable[[], _AsyncGeneratorContextManager[T]] | Callable[[], _GeneratorContextManager[T]],
        *,
        enter: bool = ...,
        eager: bool = ...,
        shared: bool = ...,
        replace: bool = ...,
    ) -> Self: ...
    @overload
    def provide(
        self,
        key: type[T] | Key[T],
        factory: Callable[[], AbstractAsyncContextManager[T]] | Callable[[], AbstractContextManager[T]],
        *,
        enter: Literal[True],
        eager: bool = ...,
        shared: bool = ...,
        replace: bool = ...,
    ) -> Self: ...
    @overload
    def provide(
        self,
        key: type[T] | Key[T],
        factory: Callable[[], Awaitable[AbstractAsyncContextManager[T]]]
        | Callable[[], Awaitable[AbstractContextManager[T]]],
        *,
        enter: Literal[True],
        eager: bool = ...,
        shared: bool = ...,
        replace: bool = ...,
    ) -> Self: ...
    @overload
    def provide(
        self,
        key: type[T] | Key[T],
        factory: Callable[[], Awaitable[T]],
        close: Callable[[T], object] | None = None,
        *,
        eager: bool = ...,
        shared: bool = ...,
        replace: bool = ...,
    ) -> Self: ...
    @overload
    def provide(
        self,
        key: type[T] | Key[T],
        factory: Callable[[], T],
        close: Callable[[T], object] | None = None,
        *,
        eager: bool = ...,
        shared: bool = ...,
        replace: bool = ...,
    ) -> Self: ...
    @overload
    def provide(
        self,
        key: str,
        factory: Callable[[], Any],
        close: Callable[[Any], object] | None = None,
        *,
        enter: bool = ...,
        eager: bool = ...,
        shared: bool = ...,
        replace: bool = ...,
    ) -> Self: ...
    def provide(
        self,
        key: type[Any] | Key[Any] | str,
        factory: Callable[[], Any],
        close: Callable[[Any], object] | None = None,
        *,
        enter: bool = False,
        eager: bool = False,
        shared: bool = True,
        replace: bool = False,
    ) -> Self:
        """Declare a service: something that is made on first use, once, and closed with the scope.

        It is made in this scope, whoever asks first: with this scope as the current one, in the context
        variables that it was entered with, and it lives as long as the scope. It is closed after all tasks
        and child scopes have ended, last created first, each for at most `close_timeout` seconds.

        Child scopes see it too. A child may provide the same key: that one is for itself and the scopes
        below it.

        Args:
            key: What to ask for it by: a class (a Protocol or an abstract one too), a `Key`, or a string.
            factory: Makes it; called without arguments. A plain function that gives the value, an async
                function, a generator or async generator function that yields it once, or a function made with
                `@contextmanager` or `@asynccontextmanager`. The last four are left in the task that they were
                entered in, so they may hold task groups, and see the error that ends the scope.
            close: Closes the value that a plain or an async function made; plain or async itself.
            enter: Whether any other context manager that the factory gives is to be entered; default false.
            eager: Whether to make it when the scope is entered, in the order of the calls; default false.
            shared: Whether the scopes below share this one. If false, each scope that asks gets, owns and
                closes its own; what its factory asks for is looked up from there. Default true.
            replace: Whether it may take the place of an earlier one that nobody has used; default false.

        Returns:
            This scope, so that calls can be chained.

        Raises:
            TypeError: The key is no key, or the factory or `close` no function. Nothing has changed.
            ValueError: `eager=True` together with `shared=False`.
            ServiceExists: This scope provides the key already.
            ScopeClosed: The scope has closed.
            ScopeMisuse: From another thread, or `eager=True` after entry.

        Example:
            >>> import anyio
            >>> from anyscope import scope, use
            >>> class Database:
            ...     async def close(self):
            ...         print("closed")
            >>> async def open_database():
            ...     print("opened")
            ...     return Database()
            >>> async def handler():
            ...     return await use(Database)
            >>> async def main():
            ...     async with scope(name="app").provide(Database, open_database, Database.close) as s:
            ...         first, second = s.task(handler), s.task(handler)
            ...         print(await first.unwrap() is await second.unwrap())
            >>> anyio.run(main)
            opened
            True
            closed
        """
        recipe = Recipe(factory, close, enter=enter, eager=eager, shared=shared)
        services.provide(self._owner, key, recipe, may_replace=replace)
        return self

    @overload
    def provides(self, key: type[T] | Key[T]) -> Provides[T]: ...
    @overload
    def provides(self, key: str) -> Callable[[F], F]: ...
    def provides(self, key: type[Any] | Key[Any] | str) -> Any:
        """As `provide()`, as a decorator of the factory; without `close`, so best for generators.

        Args:
            key: As for `provide()`.

        Returns:
            The decorator; it gives the function back as it is.

        Raises:
            TypeError: As for `provide()`.
            ServiceExists: As for `provide()`.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def main():
            ...     async with scope() as s:
            ...         @s.provides("greeting")
            ...         async def greeting():
            ...             yield "hello"
            ...             print("good-bye")
            ...         print(await s.use("greeting"))
            >>> anyio.run(main)
            hello
            good-bye
        """
        check_key(key)
        decorator: Provides[Any] = Provides(
            lambda factory: services.provide(self._owner, key, Recipe(factory), may_replace=False)
        )
        return decorator

    @overload
    def provide_value(self, key: type[T] | Key[T], value: T, close: Callable[[T], object] | None = None) -> Self: ...
    @overload
    def provide_value(self, key: str, value: Any, close: Callable[[Any], object] | None = None) -> Self: ...
    def provide_value(
        self, key: type[Any] | Key[Any] | str, value: Any, close: Callable[[Any], object] | None = None
    ) -> Self:
        """Make something that exists already a service.

        Args:
            key: As for `provide()`.
            value: The value, also a function or a class: it is never called.
            close: Closes it with the scope, once that has been entered; by default nobody does.

        Returns:
            This scope, so that calls can be chained.

        Raises:
            TypeError: The key is no key, or `close` no function.
            ServiceExists: This scope provides the key already.
            ScopeClosed: The scope has closed.
            ScopeMisuse: From another thread.
        """
        services.provide_value(self._owner, key, value, close)
        return self

    @overload
    def override(
        self,
        key: type[T] | Key[T],
        factory: Callable[[], AsyncIterator[T]] | Callable[[], Iterator[T]],
    ) -> Self: ...
    @overload
    def override(
        self,
        key: type[T] | Key[T],
        factory: Callable[[], _AsyncGeneratorContextManager[T]] | Callable[[], _GeneratorContextManager[T]],
        *,
        enter: bool = ...,
    ) -> Self: ...
    @overload
    def override(
        self,
        key: type[T] | Key[T],
        factory: Callable[[], AbstractAsyncContextManager[T]] | Callable[[], AbstractContextManager[T]],
        *,
        enter: Literal[True],
    ) -> Self: ...
    @overload
    def override(
        self,
        key: type[T] | Key[T],
        factory: Callable[[], Awaitable[AbstractAsyncContextManager[T]]]
        | Callable[[], Awaitable[AbstractContextManager[T]]],
        *,
        enter: Literal[True],
    ) -> Self: ...
    @overload
    def override(
        self,
        key: type[T] | Key[T],
        factory: Callable[[], Awaitable[T]],
        close: Callable[[T], object] | None = None,
    ) -> Self: ...
    @overload
    def override(
        self,
        key: type[T] | Key[T],
        factory: Callable[[], T],
        close: Callable[[T], object] | None = None,
    ) -> Self: ...
    @overload
    def override(
        self,
        key: str,
        factory: Callable[[], Any],
        close: Callable[[Any], object] | None = None,
        *,
        enter: bool = ...,
    ) -> Self: ...
    def override(
        self,
        key: type[Any] | Key[Any] | str,
        factory: Callable[[], Any],
        close: Callable[[Any], object] | None = None,
        *,
        enter: bool = False,
    ) -> Self:
        """Have a service of this scope made by another factory: for tests.

        Args:
            key: What this very scope provides; a wrong key is told.
            factory: As for `provide()`. Whether the service is eager or shared stays as it was.
            close: As for `provide()`.
            enter: As for `provide()`.

        Returns:
            This scope, so that calls can be chained.

        Raises:
            ServiceNotFound: This scope does not provide the key, though one above may.
            ServiceExists: It has been made already; the error names who holds it.
            TypeError: As for `provide()`.
            ScopeClosed: The scope has closed.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> def app():
            ...     return scope(name="app").provide("mailer", lambda: "sends real mail")
            >>> async def test():
            ...     async with app().override("mailer", lambda: "pretends") as s:
            ...         print(await s.use("mailer"))
            >>> anyio.run(test)
            pretends
        """
        services.override(self._owner, key, Recipe(factory, close, enter=enter))
        return self

    @overload
    async def use(self, key: type[T] | Key[T], /) -> T: ...
    @overload
    async def use(self, key: type[T] | Key[T], default: D, /) -> T | D: ...
    @overload
    async def use(self, key: str, default: object = ..., /) -> Any: ...
    async def use(self, key: type[Any] | Key[Any] | str, default: Any = MISSING, /) -> Any:
        """Give a service: that of the nearest scope, from this one upwards, that provides it.

        The first who asks has it made, all who ask meanwhile wait for that. What is ready is given without
        a checkpoint.

        When the caller is cancelled the others still get it; when the last who waits has left, the making of
        it is cancelled.

        Args:
            key: What it was provided as.
            default: What to give where no scope provides it; by default that is an error.

        Raises:
            ServiceNotFound: No scope provides it.
            ServiceCycle: Its factory needs, perhaps by way of others, the service itself.
            Exception: What its factory raised. All who wait get that; the next `use` tries again.
            ScopeCancelled: The providing scope was cancelled meanwhile, but the caller was not.
            ScopeClosed: A scope has closed, or the service has; or it has not been made and its scope takes
                nothing new.
            ScopeMisuse: Before entry; or from another thread, for a service that has not been made.
            TypeError: The key is no key.

        Example:
            >>> import anyio
            >>> from anyscope import scope
            >>> async def main():
            ...     async with scope(name="app").provide("config", lambda: {"retries": 3}):
            ...         async with scope(name="request") as s:
            ...             print(await s.use("config"))
            ...             print(await s.use("flags", None))
            >>> anyio.run(main)
            {'retries': 3}
            None
        """
        value = services.instant(self._owner, key)
        return await services.use(self._owner, key, default) if value is MISSING else value

    @overload
    def use_nowait(self, key: type[T] | Key[T], /) -> T: ...
    @overload
    def use_nowait(self, key: str, /) -> Any: ...
    def use_nowait(self, key: type[Any] | Key[Any] | str, /) -> Any:
        """Give a service that has been made already, without waiting.

        Args:
            key: What it was provided as.

        Raises:
            ServiceNotReady: It has not been made yet.
            ServiceNotFound: No scope provides it.
            ScopeClosed: A scope has closed, or the service has.
            ScopeMisuse: Before entry.
            TypeError: The key is no key.
        """
        value = services.instant(self._owner, key)
        return services.use_nowait(self._owner, key) if value is MISSING else value

    def has(self, key: type[Any] | Key[Any] | str, /) -> bool:
        """Whether this scope or one above it provides a service, made or not.

        Before entry that is what this scope provides; after the end it is nothing of its own.

        Args:
            key: What it may have been provided as.

        Raises:
            TypeError: The key is no key.
        """
        return services.has(self._owner, key)

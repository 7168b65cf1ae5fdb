"""`Ok`, `Err` and `Result`: what became of a piece of work, as a value.

Two final classes without a common base. A base class would let `match` fall through on results that
were built through it. A tuple subclass would give unpacking for free, but mypy then infers `Ok[Any]`
after `isinstance`; an `__iter__` gives the seed's `err, value = ...` without that cost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeAlias, TypeVar, Union, final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
E_co = TypeVar("E_co", bound=BaseException, covariant=True)
U = TypeVar("U")


@final
@dataclass(frozen=True, slots=True, init=False)
class Ok(Generic[T_co]):
    """The work succeeded with `value`. Always true, even `Ok(None)`.

    Example:
        >>> from anyscope import Ok
        >>> Ok(3).map(str)
        Ok(value='3')
        >>> err, value = Ok(3)
        >>> err, value
        (None, 3)
    """

    value: T_co

    def __init__(self, value: T_co, /) -> None:
        # The slot's own setter: an eighth of the cost of a frozen dataclass' generated __init__,
        # and there is one of these per job.
        _set_value(self, value)

    def __bool__(self) -> Literal[True]:
        return True

    def __iter__(self) -> Iterator[Any]:
        """Unpack as the pair `(error, value)`; type checkers see `Any`, so prefer `pair()`."""
        return iter((None, self.value))

    def pair(self) -> tuple[None, T_co]:
        """The pair `(None, value)`."""
        return None, self.value

    def unwrap(self) -> T_co:
        """The value."""
        return self.value

    def unwrap_or(self, default: object, /) -> T_co:
        """The value; `default` is not used."""
        return self.value

    def map(self, fn: Callable[[T_co], U], /) -> Ok[U]:
        """`Ok(fn(value))`. An exception that `fn` raises is not caught."""
        return Ok(fn(self.value))


@final
@dataclass(frozen=True, slots=True, init=False)
class Err(Generic[E_co]):
    """The work failed with `error`. Always false.

    Example:
        >>> from anyscope import Err
        >>> Err(ValueError("no")).unwrap_or(0)
        0
        >>> err, value = Err(ValueError("no"))
        >>> err, value
        (ValueError('no'), None)
    """

    error: E_co
    _traceback: TracebackType | None = field(repr=False, compare=False)

    def __init__(self, error: E_co, /) -> None:
        _set_error(self, error)
        _set_traceback(self, error.__traceback__)

    def __reduce__(self) -> tuple[Any, ...]:
        return Err, (self.error,)  # a traceback cannot be pickled

    def __bool__(self) -> Literal[False]:
        return False

    def __iter__(self) -> Iterator[Any]:
        """Unpack as the pair `(error, value)`; type checkers see `Any`, so prefer `pair()`."""
        return iter((self.error, None))

    def pair(self) -> tuple[E_co, None]:
        """The pair `(error, None)`."""
        return self.error, None

    def unwrap(self) -> NoReturn:
        """Raise the error, with the traceback that it had when it was caught.

        Raises:
            BaseException: The error itself, not wrapped. However often it is raised this way, its
                traceback does not grow.
        """
        try:
            raise self.error.with_traceback(self._traceback)
        finally:
            del self  # else error -> traceback -> this frame -> self -> error is a cycle

    def unwrap_or(self, default: U, /) -> U:
        """The `default`."""
        return default

    def map(self, fn: Callable[[Any], object], /) -> Err[E_co]:
        """This very object: there is no value to give to `fn`."""
        return self


# Read through the class dictionary: attribute access on the class would be typed as the field.
_set_value: Callable[[Ok[Any], object], None] = Ok.__dict__["value"].__set__
_set_error: Callable[[Err[Any], object], None] = Err.__dict__["error"].__set__
_set_traceback: Callable[[Err[Any], object], None] = Err.__dict__["_traceback"].__set__

# Union[...] and not `|`: a subscriptable alias with a TypeVar needs it on Python 3.10.
Result: TypeAlias = Union[Ok[T], Err[Exception]]  # noqa: UP007  see the line above
"""What became of a piece of work: `Ok(value)` or `Err(error)`."""

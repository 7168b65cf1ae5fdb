"""`Ok`, `Err` and `Result`: what became of a piece of work, as a value (T4). No event loop is needed."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import traceback
from typing import Any, get_args

import pytest

from anyscope import Err, Ok, Result, TaskCancelled, TaskTimeout


def boom() -> None:
    raise ValueError("boom")


def caught() -> ValueError:
    """A `ValueError` with a traceback of two entries: this function and `boom`."""
    try:
        boom()
    except ValueError as error:
        return error
    raise AssertionError("boom() did not raise")


def depth(error: BaseException) -> int:
    """How many entries the traceback of `error` has."""
    return len(traceback.extract_tb(error.__traceback__))


def described(result: Result[Any]) -> str:
    """What `match` makes of a result."""
    match result:
        case Ok(value):
            return f"ok {value!r}"
        case Err(error):
            return f"err {error!r}"


# ------------------------------------------------------------------ telling them apart


@pytest.mark.parametrize("value", [1, None, 0, "", False, [], ValueError("a value, not a failure")])
def test_ok_matches_with_its_value_whatever_that_is(value: object) -> None:
    """T4: `case Ok(v)` gets the value, also a false one, `None` and an exception object."""
    assert described(Ok(value)) == f"ok {value!r}"


def test_err_matches_with_its_error() -> None:
    """T4: `case Err(e)` gets the error object."""
    error = ValueError("no")
    match Err(error):
        case Ok(_):
            pytest.fail("an Err matched Ok")
        case Err(found):
            assert found is error


def test_a_nested_result_is_not_flattened() -> None:
    """T4: an `Ok` of an `Err` is a success whose value is an `Err`."""
    inner = Err(KeyError("k"))
    match Ok(inner):
        case Ok(Err(KeyError())) as outer:
            assert outer.value is inner
        case _:
            pytest.fail("the nested pattern did not match")


@pytest.mark.parametrize("value", [1, None, 0, "", False, [], Err(ValueError())])
def test_ok_is_true_whatever_its_value(value: object) -> None:
    """T4: truth tells success, so `Ok(None)` and `Ok(0)` are true."""
    assert bool(Ok(value)) is True


def test_err_is_false() -> None:
    """T4: an `Err` is false, also one whose error is itself true or sized."""
    assert bool(Err(ValueError("x"))) is False


def test_isinstance_tells_them_apart() -> None:
    """T4: the two classes share no base by which one could pass as the other."""
    assert isinstance(Ok(1), Ok)
    assert not isinstance(Ok(1), Err)
    assert isinstance(Err(ValueError()), Err)
    assert not isinstance(Err(ValueError()), Ok)
    assert not isinstance(Ok(1), tuple)


def test_the_alias_can_be_subscribed_at_run_time() -> None:
    """T4: `Result[int]` works in annotations that are evaluated, and in `get_args`."""
    assert get_args(Result[int]) == (Ok[int], Err[Exception])


# ------------------------------------------------------------------ getting at the content


def test_a_result_unpacks_as_error_and_value() -> None:
    """T4: the seed's form `err, value = result`."""
    error = ValueError("no")
    err, value = Ok(3)
    assert (err, value) == (None, 3)
    err, value = Err(error)
    assert err is error
    assert value is None


def test_unpacking_into_another_number_of_names_fails() -> None:
    """T4: a result is a pair of exactly two."""
    with pytest.raises(ValueError, match="unpack"):
        (_only,) = Ok((1, 2, 3))
    with pytest.raises(ValueError, match="unpack"):
        _a, _b, _c = Err(ValueError())


def test_a_result_can_be_unpacked_again_and_again() -> None:
    """T4: each unpacking is fresh, nothing is used up."""
    result = Ok("x")
    assert [tuple(result) for _ in range(3)] == [(None, "x")] * 3


def test_pair_is_the_typed_form_of_unpacking() -> None:
    """T4: `pair()` is a real tuple `(error, value)`."""
    error = ValueError()
    assert Ok(None).pair() == (None, None)
    assert Ok(7).pair() == (None, 7)
    assert Err(error).pair() == (error, None)
    assert type(Ok(7).pair()) is type(Err(error).pair()) is tuple


def test_unwrap_gives_the_value() -> None:
    """T4: `Ok.unwrap()` gives the very object."""
    value = object()
    assert Ok(value).unwrap() is value


def test_unwrap_raises_the_error_itself() -> None:
    """T4: `Err.unwrap()` raises that very object, with the cause and context that it had."""
    error = caught()
    error.__cause__ = cause = KeyError("cause")
    context = error.__context__
    with pytest.raises(ValueError, match="boom") as info:
        Err(error).unwrap()
    assert info.value is error
    assert error.__cause__ is cause
    assert error.__context__ is context


def test_unwrap_inside_an_except_block_keeps_the_error_usable() -> None:
    """T4: raised while another error is handled, the error is the same object, and nothing grows with each time."""
    result = Err(caught())
    contexts = set()
    depths = set()
    for _ in range(20):
        try:
            try:
                raise KeyError("handled")
            except KeyError:
                result.unwrap()
        except ValueError as error:
            contexts.add(type(error.__context__))
            depths.add(depth(error))
    assert contexts == {KeyError}
    assert len(depths) == 1


def test_the_traceback_does_not_grow_when_raised_twice() -> None:
    """T4: a hundred times `unwrap()`, and the traceback is as long as after the first."""
    result = Err(caught())
    depths = []
    for _ in range(100):
        with pytest.raises(ValueError, match="boom") as info:
            result.unwrap()
        depths.append(depth(info.value))
    assert set(depths) == {depths[0]}


def test_the_traceback_of_unwrap_still_shows_where_the_error_came_from() -> None:
    """T4: the error's own traceback is below that of the call."""
    result = Err(caught())
    with pytest.raises(ValueError, match="boom") as info:
        result.unwrap()
    names = [entry.name for entry in traceback.extract_tb(info.value.__traceback__)]
    assert names[-2:] == ["caught", "boom"]


def test_unwrap_works_for_an_error_that_was_never_raised() -> None:
    """T4: an `Err` built by hand has no traceback to restore, and still raises."""
    error = LookupError("made by hand")
    for _ in range(3):
        with pytest.raises(LookupError) as info:
            Err(error).unwrap()
        assert info.value is error


def test_unwrap_or() -> None:
    """T4: the value of an `Ok`, also a false one; the default of an `Err`."""
    assert Ok(None).unwrap_or(5) is None
    assert Ok(0).unwrap_or(5) == 0
    assert Err(ValueError()).unwrap_or(5) == 5
    assert Err(ValueError()).unwrap_or(None) is None


def test_map_changes_the_value_of_an_ok() -> None:
    """T4: `map` gives a new `Ok`."""
    first = Ok(3)
    assert first.map(str) == Ok("3")
    assert first == Ok(3)


def test_map_leaves_an_err_alone() -> None:
    """T4: the function is not called for an `Err`, which comes back itself."""
    result: Result[int] = Err(ValueError("no"))
    assert result.map(lambda _: pytest.fail("called")) is result


def test_an_error_in_map_is_not_caught() -> None:
    """T4: a bug in the mapping function is not turned into an `Err`."""
    with pytest.raises(ZeroDivisionError):
        Ok(0).map(lambda x: 1 // x)


# ------------------------------------------------------------------ as values


def test_equality() -> None:
    """T4: equal if of the same class with equal content; errors are equal only to themselves."""
    error = ValueError("x")
    assert Ok(1) == Ok(1)
    assert Ok(1) != Ok(2)
    assert Ok([1]) == Ok([1])
    assert Err(error) == Err(error)
    assert Err(error) != Err(ValueError("x"))
    assert Ok(error) != Err(error)
    assert Ok(1) != 1
    assert Ok(1) != (None, 1)


def test_equality_does_not_depend_on_the_traceback() -> None:
    """T4: two `Err` of one error are equal although it was raised between the two."""
    error = ValueError("x")
    before = Err(error)
    with pytest.raises(ValueError, match="x"):
        raise error
    assert before == Err(error)
    assert hash(before) == hash(Err(error))


def test_hash() -> None:
    """T4: results are usable in sets, if their content is."""
    error = ValueError()
    assert len({Ok(1), Ok(1), Err(error), Err(error), Ok(2)}) == 3
    with pytest.raises(TypeError, match="unhashable"):
        hash(Ok([]))


def test_repr_is_exact() -> None:
    """T4: the text shows class and content, and evaluates to an equal result where that is possible."""
    assert repr(Ok(3)) == "Ok(value=3)"
    assert repr(Ok(None)) == "Ok(value=None)"
    assert repr(Err(ValueError("no"))) == "Err(error=ValueError('no'))"
    assert repr(Ok(Err(KeyError("k")))) == "Ok(value=Err(error=KeyError('k')))"
    assert str(Ok("x")) == "Ok(value='x')"


@pytest.mark.parametrize(("result", "attribute"), [(Ok(1), "value"), (Err(ValueError()), "error")])
def test_results_are_frozen(result: Any, attribute: str) -> None:
    """T4: neither changed, nor deleted from, nor added to."""
    kept = getattr(result, attribute)
    with pytest.raises(AttributeError):
        setattr(result, attribute, 2)
    with pytest.raises(AttributeError):
        delattr(result, attribute)
    with pytest.raises((AttributeError, TypeError)):
        result.extra = 1
    assert getattr(result, attribute) is kept


@pytest.mark.parametrize("result", [Ok(1), Err(ValueError())])
def test_results_are_slotted(result: Any) -> None:
    """T4: no dictionary for each of a hundred thousand results."""
    assert not hasattr(result, "__dict__")
    assert dataclasses.is_dataclass(result)


def test_there_is_exactly_one_positional_argument() -> None:
    """T4: `Ok()` and `Ok(1, 2)` are mistakes, told at once."""
    for cls in (Ok, Err):
        with pytest.raises(TypeError):
            cls()  # type: ignore[call-arg]
        with pytest.raises(TypeError):
            cls(ValueError(), ValueError())  # type: ignore[call-arg]


def copies(result: Any) -> list[Any]:
    """A result after each pickle protocol, `copy` and `deepcopy`."""
    pickled = [pickle.loads(pickle.dumps(result, protocol)) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)]
    return [*pickled, copy.copy(result), copy.deepcopy(result)]


@pytest.mark.parametrize("value", [None, 3, {"a": [1, 2]}, Ok("inner")])
def test_ok_pickles_and_copies(value: object) -> None:
    """T4: an `Ok` goes to another process and back."""
    for again in copies(Ok(value)):
        assert type(again) is Ok
        assert again == Ok(value)


def test_err_pickles_and_copies_without_its_traceback() -> None:
    """T4, E: an `Err` with a caught error can be pickled although a traceback cannot."""
    for again in copies(Err(caught())):
        assert type(again) is Err
        assert type(again.error) is ValueError
        assert again.error.args == ("boom",)
        with pytest.raises(ValueError, match="boom"):
            again.unwrap()


@pytest.mark.parametrize(
    "error",
    [TaskCancelled(task="fetch (#0) of app", reason="user left"), TaskTimeout(task="fetch (#0) of app", limit=0.5)],
)
def test_an_err_with_an_error_of_ours_keeps_its_attributes(error: Any) -> None:
    """T4, E: the typed attributes and the text survive pickling and copying."""
    for again in copies(Err(error)):
        assert type(again.error) is type(error)
        assert vars(again.error) == vars(error)
        assert str(again.error) == str(error)


def test_a_shallow_copy_shares_the_error() -> None:
    """T4: `copy.copy` gives an equal result, about the same error object."""
    result = Err(caught())
    assert copy.copy(result) == result
    assert copy.copy(result).error is result.error

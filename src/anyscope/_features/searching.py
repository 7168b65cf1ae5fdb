"""`ServiceNotFound`: what was searched, and what may have been meant."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from .._vocabulary.errors import ServiceNotFound
from .._vocabulary.keys import Key, label_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .._lifetime.branch import Branch

MOST_BELOW = 1000
"""How many scopes below are looked through for one that provides the key."""


def not_found(branch: Branch, key: Any, *, needed_by: str = "") -> ServiceNotFound:
    """The error for a key that neither `branch` nor a scope above it provides."""
    scopes = list(chain(branch))
    known = [(each, other) for each in scopes for other in _keys(each)]
    hints = (*_namesakes(key, known), *_relatives(key, known), *_misspelt(key, known), *_below(key, branch))
    return _error(branch, key, scopes, needed_by, tuple(dict.fromkeys(hints)))


def not_own(branch: Branch, key: Any) -> ServiceNotFound:
    """The error for a key that `branch` itself would have to provide."""
    above = next((each for each in chain(branch.parent) if key in _keys(each)), None)
    if above is not None:
        hint = (
            f"{above.path} provides it: override it there, or shadow it here with s.provide({label_of(key)}, factory)"
        )
    else:
        hint = "override() is for a service that the scope itself provides"
    known = [(branch, other) for other in _keys(branch)]
    hints = (*_namesakes(key, known), *_relatives(key, known), *_misspelt(key, known), hint)
    return _error(branch, key, [branch], "", hints)


def _error(branch: Branch, key: Any, scopes: list[Branch], needed_by: str, hints: tuple[str, ...]) -> ServiceNotFound:
    searched = tuple((each.path, tuple(map(label_of, _keys(each)))) for each in scopes)
    return ServiceNotFound(key=label_of(key), path=branch.path, needed_by=needed_by, searched=searched, hints=hints)


def chain(branch: Branch | None) -> Iterator[Branch]:
    """The scope, and those above it."""
    while branch is not None:
        yield branch
        branch = branch.parent


def _keys(branch: Branch) -> tuple[Any, ...]:
    return () if branch.services is None else tuple(branch.services.cells)


def _namesakes(key: Any, known: list[tuple[Branch, Any]]) -> Iterator[str]:
    for branch, other in known:
        if _bare(other) != _bare(key):
            continue
        if type(key) is type(other) is Key:
            yield f"{branch.path} provides another {label_of(other)}: a Key is known by identity, so share the object"
        elif isinstance(key, type) and isinstance(other, type):
            yield f"{branch.path} provides {label_of(other)} of module {other.__module__}, not of {key.__module__}"
        else:
            yield f"{branch.path} provides {label_of(other)}, which is another kind of key"


def _relatives(key: Any, known: list[tuple[Branch, Any]]) -> Iterator[str]:
    shown = label_of(key)
    for branch, other in known:
        if not isinstance(key, type) or not isinstance(other, type) or other is object:
            continue
        if key in other.__mro__:
            yield f"{branch.path} provides {label_of(other)}, a subclass of {shown}: provide it as {shown}"
        elif other in key.__mro__:
            yield f"{branch.path} provides {label_of(other)}, a base class of {shown}: ask for that"


def _misspelt(key: Any, known: list[tuple[Branch, Any]]) -> Iterator[str]:
    names = {_bare(other): (branch, other) for branch, other in reversed(known)}
    for name in difflib.get_close_matches(_bare(key), [name for name in names if name != _bare(key)]):
        branch, other = names[name]
        yield f"Did you mean {label_of(other)}, which {branch.path} provides?"


def _below(key: Any, branch: Branch) -> Iterator[str]:
    waiting = list(branch.children)
    for _ in range(MOST_BELOW):
        if not waiting:
            return
        below = waiting.pop()
        if key in _keys(below):
            yield f"{below.path} provides it, but a scope sees only what it and the scopes above it provide"
            return
        waiting.extend(below.children)


def _bare(key: Any) -> str:
    """The name alone, whichever kind of key it is."""
    if isinstance(key, type):
        return label_of(key)
    return key if isinstance(key, str) else str(key.name)

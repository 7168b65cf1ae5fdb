"""What mutants survived (`nox -s mutants`), and a user would notice all the same."""

from __future__ import annotations

import logging
import threading

import pytest

from anyscope import CancelSource, ScopeMisuse
from anyscope._lifetime.signal import wrong_thread


@pytest.mark.parametrize(("call", "door"), [("s.cancel", "run_sync"), ("s.run", "run")])
def test_a_call_from_another_thread_shows_the_door(call: str, door: str) -> None:
    """S5, S12: what happened, and the right line, word for word."""
    assert str(wrong_thread("app > ingest", call)) == (
        f"scope app > ingest: {call}(...) was called from another thread\n"
        "Take token = anyio.lowlevel.current_token() in the event loop, and call\n"
        f"anyio.from_thread.{door}({call}, ..., token=token) in the thread."
    )


async def test_a_source_that_is_cancelled_from_another_thread_names_itself() -> None:
    """S10: by the name that it was given."""
    source = CancelSource(name="shutdown")
    source.signal.on_cancel(lambda reason: None)
    errors: list[ScopeMisuse] = []

    def cancel() -> None:
        try:
            source.cancel()
        except ScopeMisuse as error:
            errors.append(error)

    thread = threading.Thread(target=cancel)
    thread.start()
    thread.join()
    assert [error.path for error in errors] == ["shutdown"]
    assert not source.cancelled


async def test_a_callback_that_fails_is_logged_word_for_word(caplog: pytest.LogCaptureFixture) -> None:
    """S10: with its name; the cancellation goes on."""

    def broken(reason: object) -> None:
        raise ValueError(reason)

    source = CancelSource()
    source.signal.on_cancel(broken)
    with caplog.at_level(logging.ERROR, "anyscope"):
        source.cancel("stop")
    assert [record.getMessage() for record in caplog.records] == [
        "on_cancel callback broken failed; the cancellation goes on"
    ]

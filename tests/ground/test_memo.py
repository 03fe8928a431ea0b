"""What runs of one process share while they are asked to, each thread by itself."""

from __future__ import annotations

import threading

from stillhouse.memo import remember, share_memo


def test_a_value_is_made_once_inside_and_each_time_outside():
    made: list[str] = []

    def ask(key: str) -> int:
        return remember(lambda: ("n", key), lambda: made.append(key) or len(made), among=2)

    assert [ask("a"), ask("a")] == [1, 2]
    with share_memo():
        first = ask("a")
        with share_memo():  # the outer one's
            assert [ask("a"), ask("b"), ask("a")] == [first, first + 1, first]
        assert ask("b") == first + 1
        assert ask("c") == first + 2  # two are kept: "a" was used before "b"
        assert ask("a") == first + 3
    assert ask("a") == first + 4


def test_threads_begin_and_end_as_they_like():
    inside, may_end = threading.Event(), threading.Event()
    found: list[int] = []

    def share() -> None:
        with share_memo():
            inside.set()
            may_end.wait(10)
            found.append(remember(lambda: "key", lambda: 2))

    with share_memo():
        thread = threading.Thread(target=share)
        thread.start()
        inside.wait(10)
        assert remember(lambda: "key", lambda: 1) == 1
    may_end.set()
    thread.join()
    assert found == [2]
    assert remember(lambda: "key", lambda: 3) == 3

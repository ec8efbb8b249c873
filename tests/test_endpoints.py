"""What the clients of endpoints share; keys and errors are tested with the clients."""

import threading

import pytest

from flexrec import endpoints
from flexrec.endpoints import DigestCache, Pace
from flexrec.errors import InputError


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when somebody sleeps."""

    class Clock:
        now = 100.0
        slept: list[float]

        def sleep(self, seconds: float) -> None:
            self.slept.append(seconds)

    clock = Clock()
    clock.slept = []
    monkeypatch.setattr(endpoints, "monotonic", lambda: clock.now)
    monkeypatch.setattr(endpoints, "sleep", clock.sleep)
    return clock


def test_a_pace_by_hand(clock):
    pace = Pace(30)  # one every 2 s
    for _ in range(3):
        pace.wait()
    assert clock.slept == [0, 2, 4]
    # the fourth could start at 106; at 105 it waits 1 s, and what is not used is not saved up
    clock.now = 105.0
    pace.wait()
    clock.now = 500.0
    pace.wait()
    pace.wait()
    assert clock.slept[3:] == [1, 0, 2]


def test_a_pace_is_kept_by_all_threads_together(clock):
    pace = Pace(60)
    threads = [threading.Thread(target=lambda: [pace.wait() for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(clock.slept) == list(range(200))


def test_a_cache_keeps_bytes(tmp_path):
    cache = DigestCache(tmp_path / "deeper" / "c.sqlite", table="replies", column="reply", holds="answers")
    cache.put({"a": b"\x00\xff", "b": b""})
    cache.put({"a": b"new"})
    cache.close()
    again = DigestCache(cache.path, table="replies", column="reply", holds="answers")
    assert again.get(["a", "b", "c"]) == {"a": b"new", "b": b""}
    assert again.get([]) == {}
    again.close()


def test_another_file_is_no_cache(tmp_path):
    (tmp_path / "c.sqlite").write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match=r"c\.sqlite cannot be used as a cache of answers .*; move it away"):
        DigestCache(tmp_path / "c.sqlite", table="replies", column="reply", holds="answers")

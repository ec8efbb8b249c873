import io
import itertools
import logging
import sys

import pytest

from flexrec import progress
from flexrec.progress import readable_time, track


@pytest.fixture(autouse=True)
def _no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())


@pytest.fixture
def half_minutes(monkeypatch):
    """A clock that is half a minute further at each look."""
    ticks = itertools.count(0.0, 30.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(ticks))


@pytest.mark.usefixtures("half_minutes")
def test_without_a_terminal_a_line_a_minute_says_how_far_it_is(caplog):
    caplog.set_level(logging.INFO, "flexrec.progress")
    assert list(track(range(5), description="training")) == [0, 1, 2, 3, 4]
    # looks after 30, 60, ..., 150 s, of which two are a minute after the last line; the k-th comes with k - 1 done
    assert caplog.messages == [
        "training: 1 of 5 after 60 s, about 4 min to go",
        "training: 3 of 5 after 2 min, about 80 s to go",
    ]


@pytest.mark.usefixtures("half_minutes")
@pytest.mark.parametrize(
    ("total", "lines"), [(None, ["reading: 1 after 60 s"]), (3, ["reading: 1 of 3 after 60 s, about 2 min to go"])]
)
def test_what_does_not_know_its_length_is_counted_or_told(caplog, total, lines):
    caplog.set_level(logging.INFO, "flexrec.progress")
    assert list(track(iter("abc"), description="reading", total=total)) == ["a", "b", "c"]
    assert caplog.messages == lines


def test_short_work_says_nothing(caplog):
    caplog.set_level(logging.INFO, "flexrec.progress")
    assert list(track([], description="training")) == []
    assert list(track("ab", description="training")) == ["a", "b"]
    assert not caplog.messages


def test_times_for_people():
    # 100 minutes are told in hours
    assert [readable_time(seconds) for seconds in (3.2, 99, 150, 5940, 7500)] == [
        "3 s",
        "99 s",
        "2 min",
        "99 min",
        "2 h 05 min",
    ]

"""Downloads against a real server that behaves as badly as servers do."""

import hashlib
import http.server
import logging
import socket
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest

from flexrec.errors import InputError
from flexrec.sources import fetch
from flexrec.sources.download import DownloadPolicy
from flexrec.sources.fetch import fetch_url

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = bytes(300_000)
ZEROS = "0" * 64
QUICK = DownloadPolicy(attempts=3, backoff_seconds=0, connect_seconds=2, read_seconds=0.5)


@dataclass
class Behaviour:
    """What the server does with one path."""

    content: bytes = CONTENT
    ranges: bool = True
    cut_after: int | None = None
    """Bytes of the body after which each connection is closed; None sends all."""
    cuts: int = 10**6
    """How many connections are cut."""
    answers: list[int] = field(default_factory=list)
    """Status codes of the first answers, before it serves."""
    stall: bool = False
    """Go silent instead of closing the connection at `cut_after`."""
    length: bool = True
    shifted: bool = False
    """Answer a range with another one."""
    wait: str | None = None


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.behaviour = {}
        self.requests = []
        self.sent = 0

    def handle_error(self, *_):
        """A client that goes away is no news."""

    def url(self, name="data.zip", **how):
        self.behaviour[f"/{name}"] = Behaviour(**how)
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        how = self.server.behaviour.get(self.path)
        status = 404 if how is None else how.answers.pop(0) if how.answers else 200
        if status != 200:
            self.send_response(status)
            if how and how.wait:
                self.send_header("Retry-After", how.wait)
            self.end_headers()
            return
        start, body = 0, how.content
        if asked and how.ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.end_headers()
                return
            start -= 7 * how.shifted
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            body = body[start:]
        else:
            self.send_response(200)
        if how.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if how.cut_after is not None and how.cuts > 0:
            how.cuts -= 1
            body = body[: how.cut_after]
        # counted first: the client may have all of it, and the test go on, before `write` returns
        self.server.sent += len(body)
        self.wfile.write(body)
        if how.stall and len(body) < len(how.content):
            time.sleep(2)


@pytest.fixture
def server():
    with Server() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def fetched(url, folder, sha256=SHA256, **options):
    path = fetch_url(url, sha256, folder, policy=QUICK, **options)
    assert path.read_bytes() == CONTENT
    assert names(folder) == [path.name]  # nothing else is left
    return path


def refused(url, folder, sha256=SHA256):
    with pytest.raises(InputError) as caught:
        fetch_url(url, sha256, folder, policy=QUICK)
    assert not isinstance(caught.value, fetch._WrongContentError)
    text = str(caught.value)
    assert "\n" not in text
    for part in ([url] if isinstance(url, str) else url) + [str(folder), "data.zip", sha256]:
        assert part in text
    return text


def test_a_file_is_fetched_once(server, tmp_path):
    url = server.url()
    path = fetched(url, tmp_path / "raw")
    assert path == tmp_path / "raw" / "data.zip"
    assert fetched(url, tmp_path / "raw") == path
    assert len(server.requests) == 1


def test_a_file_put_in_place_by_hand_is_used(tmp_path):
    (tmp_path / "data.zip").write_bytes(CONTENT)
    assert fetched("http://127.0.0.1:9/data.zip", tmp_path) == tmp_path / "data.zip"


def test_a_wrong_file_put_in_place_by_hand_is_refused_and_kept(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"mine")
    with pytest.raises(InputError, match="Move the file away") as caught:
        fetch_url("http://127.0.0.1:9/data.zip", SHA256, tmp_path)
    assert SHA256 in str(caught.value)
    assert hashlib.sha256(b"mine").hexdigest() in str(caught.value)
    assert (tmp_path / "data.zip").read_bytes() == b"mine"


def test_the_file_may_have_another_name(server, tmp_path):
    assert fetched(server.url("download"), tmp_path, name="nice.zip").name == "nice.zip"


def test_a_cut_download_goes_on_where_it_stopped(server, tmp_path):
    # 300,000 bytes in pieces of 70,000: five connections
    fetched(server.url(cut_after=70_000), tmp_path)
    starts = [int(asked[6:-1]) if asked else 0 for _, asked in server.requests]
    assert len(starts) == 5
    # less than one piece of 16 KiB is lost at each cut, and nothing else is sent twice
    gained = np.diff(starts)
    assert (gained > 70_000 - (1 << 14)).all()
    assert (gained <= 70_000).all()
    assert server.sent < len(CONTENT) + 5 * (1 << 14)


def test_a_cut_that_looks_like_the_end_is_seen_by_the_digest(server, tmp_path):
    url = server.url(cut_after=70_000, cuts=1, length=False)
    assert hashlib.sha256(CONTENT[:70_000]).hexdigest() in refused(url, tmp_path)
    assert names(tmp_path) == []
    fetched(url, tmp_path)


def test_many_cuts_do_not_use_up_the_attempts(server, tmp_path):
    fetched(server.url(cut_after=20_000), tmp_path)
    assert len(server.requests) > 3 * QUICK.attempts


def test_a_server_without_ranges_sends_everything_again(server, tmp_path):
    fetched(server.url(ranges=False, cut_after=200_000, cuts=2), tmp_path)
    assert len(server.requests) == 3


def test_a_server_that_never_sends_all_is_given_up(server, tmp_path):
    text = refused(server.url(ranges=False, cut_after=200_000), tmp_path)
    assert "of 300000 bytes" in text or "ended early" in text
    assert "3 attempts in a row brought nothing new" in text
    assert len(server.requests) <= 1 + QUICK.attempts
    assert names(tmp_path) == ["data.zip.part"]  # what arrived is kept
    kept = (tmp_path / "data.zip.part").read_bytes()
    assert CONTENT.startswith(kept)
    assert f"first {len(kept)} bytes are kept" in text


def test_a_later_run_goes_on(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(CONTENT[:250_000])
    fetched(server.url(), tmp_path)
    assert server.requests == [("/data.zip", "bytes=250000-")]
    assert server.sent == 50_000


def test_a_whole_part_needs_no_more_bytes(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(CONTENT)
    fetched(server.url(), tmp_path)
    assert server.sent == 0


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(CONTENT + b"more")
    fetched(server.url(), tmp_path)
    assert server.sent == len(CONTENT)


def test_a_publisher_may_give_an_md5_alone(server, tmp_path):
    # printf '%s' hello | md5sum
    path = fetch_url(server.url(content=b"hello"), "md5:5d41402abc4b2a76b9719d911017c592", tmp_path, policy=QUICK)
    assert path.read_bytes() == b"hello"
    with pytest.raises(InputError, match=f"its MD5 is 5d41402abc4b2a76b9719d911017c592, expected {'0' * 32}"):
        fetch_url(server.url(content=b"hello"), f"md5:{'0' * 32}", tmp_path / "other", policy=QUICK)
    assert not names(tmp_path / "other")


def test_where_no_digest_is_known_any_content_is_taken(server, tmp_path):
    path = fetch_url(server.url(content=b"hello"), None, tmp_path, policy=QUICK)
    assert fetch_url(server.url(content=b"other"), None, tmp_path, policy=QUICK) == path
    assert path.read_bytes() == b"hello"


def test_a_part_of_another_file_costs_a_second_download(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(OTHER[:100_000])
    fetched(server.url(), tmp_path)
    assert [asked for _, asked in server.requests] == ["bytes=100000-", None]


def test_a_server_that_goes_on_elsewhere_is_not_believed(server, tmp_path):
    (tmp_path / "data.zip.part").write_bytes(CONTENT[:100_000])
    fetched(server.url(shifted=True), tmp_path)
    assert [asked for _, asked in server.requests] == ["bytes=100000-", None]


def test_an_interrupted_download_keeps_what_arrived(server, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    url = server.url(cut_after=200_000)
    monkeypatch.setattr(time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fetch_url(url, SHA256, tmp_path, policy=QUICK)
    assert names(tmp_path) == ["data.zip.part"]
    assert CONTENT.startswith((tmp_path / "data.zip.part").read_bytes())


def test_a_slow_server_is_asked_again(server, tmp_path):
    fetched(server.url(cut_after=100_000, cuts=1, stall=True), tmp_path)
    assert len(server.requests) == 2


def test_wrong_content_is_refused_with_both_digests(server, tmp_path):
    text = refused(server.url(content=OTHER), tmp_path / "raw")
    assert hashlib.sha256(OTHER).hexdigest() in text
    assert len(server.requests) == 1
    assert names(tmp_path / "raw") == []


def test_wrong_content_in_pieces_ends(server, tmp_path):
    text = refused(server.url(content=OTHER, cut_after=100_000), tmp_path)
    assert hashlib.sha256(OTHER).hexdigest() in text
    assert names(tmp_path) == []


@pytest.mark.parametrize("answer", [404, 403, 410])
def test_a_refusal_is_final(server, tmp_path, answer):
    text = refused(server.url(answers=[answer] * 9), tmp_path / "raw")
    assert f"the server answers {answer}" in text
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server, tmp_path):
    fetched(server.url(answers=[503, 429]), tmp_path)
    assert len(server.requests) == 3


def test_the_server_may_ask_for_patience(server, tmp_path, monkeypatch):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    fetched(server.url(answers=[503, 503], wait="7"), tmp_path)
    fetch_url(
        server.url("two.zip", answers=[503, 503]), SHA256, tmp_path, policy=DownloadPolicy(longest_pause_seconds=1.5)
    )
    # 7 s are asked for; without a wish the pause doubles, from 1 s to the bound
    assert pauses == [7, 7, 1, 1.5]


def test_mirrors_are_tried_in_order(server, tmp_path):
    gone, wrong, cut, good = (
        server.url("gone.zip", answers=[404]),
        server.url("wrong.zip", content=OTHER),
        server.url("cut.zip", ranges=False, cut_after=200_000),
        server.url("good.zip"),
    )
    fetched([gone, wrong, cut, good, server.url("never.zip")], tmp_path, name="data.zip")
    paths = [path for path, _ in server.requests]
    assert paths == sorted(paths, key=["/gone.zip", "/wrong.zip", "/cut.zip", "/good.zip"].index)
    assert server.requests[-1][1] is not None  # the last goes on with what the third has sent


def test_the_message_has_a_reason_for_every_mirror(server, tmp_path):
    urls = [server.url("data.zip", answers=[404]), server.url("two.zip", content=OTHER)]
    text = refused(urls, tmp_path)
    assert f"{urls[0]} (the server answers 404 Not Found)" in text
    assert f"{urls[1]} (its SHA-256 is {hashlib.sha256(OTHER).hexdigest()}, expected {SHA256})" in text


def test_no_network_says_what_to_do(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    text = refused(f"http://127.0.0.1:{port}/data.zip", tmp_path / "raw")
    assert "no connection to the server" in text
    assert "Download it elsewhere and put it into" in text
    assert names(tmp_path / "raw") == []


def test_an_unknown_host_is_named(tmp_path):
    assert "cannot be resolved" in refused("http://host.invalid/data.zip", tmp_path)


def test_an_address_that_is_none(tmp_path):
    assert "no address that can be fetched" in refused("data.zip", tmp_path)


def test_progress_is_told(server, tmp_path, caplog, monkeypatch, capsys):
    monkeypatch.setattr("flexrec.sources.download._REPORT_SECONDS", 0)
    with caplog.at_level(logging.INFO):
        fetched(server.url(), tmp_path / "plain")
    assert "data.zip: 0 of 0 MB" in caplog.text  # 0.3 MB
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    fetched(server.url(), tmp_path / "bar")
    assert "300.0/300.0 kB" in capsys.readouterr().err

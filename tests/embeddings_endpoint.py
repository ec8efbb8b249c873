"""A real embeddings endpoint in a thread, which misbehaves on request."""

import hashlib
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

KEY = "sk-made-up-0123456789abcdef"


def vector_of(text: str, dimensions: int) -> list[float]:
    """What the endpoint answers: three times a direction that the text decides."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return (3 * np.random.default_rng(seed).normal(size=dimensions).astype(np.float32)).tolist()


class Endpoint(http.server.ThreadingHTTPServer):
    """`/v1/embeddings` on loopback."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.failures = []
        """Status codes of the first answers."""
        self.requests = []
        self.change = lambda answer: answer

    @property
    def texts(self):
        return [text for request in self.requests for text in request["input"]]

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, status, body):
        page = isinstance(body, str)
        data = body.encode() if page else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if page else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Retry-After-Ms", "1")
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        sent = self.headers.get("Authorization", "")
        if self.path != "/v1/embeddings":
            self.answer(404, {"error": {"message": f"nothing at {self.path}"}})
        elif self.server.failures:
            self.answer(self.server.failures.pop(0), {"error": {"message": "not now"}})
        elif sent != f"Bearer {KEY}":
            # as careless as a server can be
            self.answer(401, {"error": {"message": f"the header {sent} is wrong"}})
        else:
            self.server.requests.append(request)
            data = [
                {"object": "embedding", "index": at, "embedding": vector_of(text, request.get("dimensions", 8))}
                for at, text in enumerate(request["input"])
            ]
            usage = {"prompt_tokens": 10 * len(data), "total_tokens": 10 * len(data)}
            answer = {"object": "list", "model": request["model"], "data": data[::-1], "usage": usage}
            self.answer(200, self.server.change(answer))


@contextmanager
def running_endpoint() -> Iterator[Endpoint]:
    with Endpoint() as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()

"""A real chat endpoint: a local model behind `/v1/chat/completions`, which misbehaves on request.

By hand, the model of any folder: `python tests/chat_endpoint.py data/06_models/base/smollm2-135m --port 8000`.
"""

import argparse
import http.server
import json
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KEY = "sk-made-up-chat-0123456789abcdef"


@dataclass(frozen=True)
class Written:
    text: str
    finish: str
    prompt_tokens: int
    completion_tokens: int


class LocalModel:
    """Greedy answers of a causal language model to chat messages."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer
        self._lock = threading.Lock()

    @classmethod
    def of(cls, folder: Path) -> "LocalModel":
        from flexrec.policy.models import load_base, load_tokenizer

        return cls(load_base(folder), load_tokenizer(folder))

    def write(self, messages: list[dict[str, str]], limit: int) -> Written:
        import torch

        tokenizer = self.tokenizer
        prompt = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        length = prompt["input_ids"].shape[1]
        with self._lock, torch.inference_mode():
            made = self.model.generate(
                **prompt,
                do_sample=False,
                max_new_tokens=limit,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )[0, length:].tolist()
        ended = tokenizer.eos_token_id in made
        text = tokenizer.decode(made, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return Written(text, "stop" if ended else "length", length, len(made))


class ChatEndpoint(http.server.ThreadingHTTPServer):
    """The server; it listens on loopback."""

    daemon_threads = True

    def __init__(self, write: Callable[[list[dict[str, str]], int], Written], *, key: str | None = KEY, port: int = 0):
        super().__init__(("127.0.0.1", port), Handler)
        self.write, self.key = write, key
        self.troubles: list[Any] = []
        """What happens to the next requests instead of an answer: a status, `cut`, `html`, `no json`,
        `filter`; None: nothing."""
        self.trouble_headers = {"Retry-After-Ms": "1"}
        self.change = lambda answer: answer
        self.requests: list[dict[str, Any]] = []
        """What was answered."""
        self.starts: list[float] = []
        """When each request came, answered or not."""
        self.most_at_once = 0
        self._at_once = 0
        self._lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @contextmanager
    def counted(self) -> Iterator[Any]:
        """One request, with the trouble that it gets."""
        with self._lock:
            self.starts.append(time.monotonic())
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            trouble = self.troubles.pop(0) if self.troubles else None
        try:
            yield trouble
        finally:
            with self._lock:
                self._at_once -= 1


class Handler(http.server.BaseHTTPRequestHandler):
    server: ChatEndpoint

    def log_message(self, *_):
        pass

    def answer(self, status, body, kind="application/json", **headers):
        data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        sent = self.headers.get("Authorization", "")
        with self.server.counted() as trouble:
            if self.path != "/v1/chat/completions":
                self.answer(404, {"error": {"message": f"nothing at {self.path}"}})
            elif trouble == "cut":
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", "1000")
                self.end_headers()
                self.wfile.write(b'{"choices": [')
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
            elif trouble == "html":
                self.answer(200, "<html>hello</html>", "text/html")
            elif trouble == "filter":
                self.answer(400, {"error": {"message": "filtered", "code": "content_filter"}})
            elif trouble == "no json":
                self.answer(200, "{hello")
            elif trouble is not None:
                self.answer(trouble, {"error": {"message": "not now"}}, **self.server.trouble_headers)
            elif self.server.key is not None and sent != f"Bearer {self.server.key}":
                # as careless as a server can be
                self.answer(401, {"error": {"message": f"the header {sent} is wrong"}})
            else:
                self.complete(request)

    def complete(self, request):
        limit = request.get("max_completion_tokens") or request["max_tokens"]
        written = self.server.write(request["messages"], limit)
        self.server.requests.append(request)
        message = {"role": "assistant", "content": written.text}
        usage = {"prompt_tokens": written.prompt_tokens, "completion_tokens": written.completion_tokens}
        answer = {
            "id": "made-up",
            "object": "chat.completion",
            "created": 0,
            "model": request["model"],
            "choices": [{"index": 0, "message": message, "finish_reason": written.finish}],
            "usage": usage | {"total_tokens": sum(usage.values())},
        }
        self.answer(200, self.server.change(answer))


@contextmanager
def running_chat_endpoint(
    write: Callable[[list[dict[str, str]], int], Written], *, key: str | None = KEY
) -> Iterator[ChatEndpoint]:
    with ChatEndpoint(write, key=key) as running:
        threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield running
        running.shutdown()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, default=8000)
    given = parser.parse_args()
    server = ChatEndpoint(LocalModel.of(given.folder).write, key=None, port=given.port)
    print(f"{given.folder} at {server.address}; Ctrl-C ends it", file=sys.stderr, flush=True)
    server.serve_forever()

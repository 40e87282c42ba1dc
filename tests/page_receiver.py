"""A server that pages are sent to: it answers as a test says, and keeps what it got."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

HANG_S = 30.0


class Got(NamedTuple):
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """Its body."""
        return json.loads(self.body)


class Answer(NamedTuple):
    """What the server does. `fault`: "" answers, "hang" says nothing, "close" cuts it off, "drip" never ends."""

    status: int = 202
    headers: tuple[tuple[str, str], ...] = ()
    fault: str = ""


class PageReceiver:
    """Answers with what `answers` says of a request: a sequence of which the last goes on, or a function.

    `before` is called with each request before it is answered, and may wait.
    """

    def __init__(
        self,
        *answers: Answer,
        choose: Callable[[Got], Answer] | None = None,
        before: Callable[[Got], None] | None = None,
    ) -> None:
        self._before = before
        self.got: list[Got] = []
        self._answers = list(answers) or [Answer()]
        self._choose = choose
        self._lock = threading.Lock()
        self.ended = threading.Event()
        self.url = ""

    def answer(self, got: Got) -> Answer:
        """Keep the request, choose its answer."""
        with self._lock:
            self.got.append(got)
        if self._before is not None:
            self._before(got)
        with self._lock:
            if self._choose is not None:
                return self._choose(got)
            return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


@contextlib.contextmanager
def page_receiver(
    *answers: Answer, choose: Callable[[Got], Answer] | None = None, before: Callable[[Got], None] | None = None
) -> Iterator[PageReceiver]:
    """The server, on a free port of this machine, while the block runs."""
    receiver = PageReceiver(*answers, choose=choose, before=before)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            answer = receiver.answer(Got(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            if answer.fault == "hang":
                receiver.ended.wait(HANG_S)
            if answer.fault == "drip":
                self._drip()
            if answer.fault:
                self.close_connection = True
                return
            self.send_response(answer.status)
            for name, value in (*answer.headers, ("Content-Length", "2")):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"{}")

        def _drip(self) -> None:
            with contextlib.suppress(OSError):
                self.wfile.write(b"HTTP/1.1 202 Accepted\r\n")
                while not receiver.ended.is_set():
                    self.wfile.write(b"X-A: b\r\n")
                    self.wfile.flush()
                    time.sleep(0.1)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # of the usual 5, a storm's connections would be cut off by the kernel

    server = Server(("127.0.0.1", 0), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        receiver.ended.set()
        server.shutdown()
        thread.join()
        server.server_close()

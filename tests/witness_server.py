"""A witness as c2sp.org/tlog-witness says it must behave, over HTTP on this machine: for tests, and to learn from."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from agentledger.schemas.checkpoints import Checkpoint, parse_decimal, parse_hash
from agentledger.schemas.errors import ProofError
from agentledger.schemas.merkle import verify_consistency
from agentledger.schemas.notes import COSIGNATURE, Note, Signature, SignerKey, VerifierKey

BODY_BYTES_MAX = 1 << 20


@dataclass
class Witness:
    """One witness: the logs that it knows by origin, and of each the last checkpoint that it signed."""

    seed: SignerKey
    logs: dict[str, list[VerifierKey]]
    time_s: int = 1_790_000_000
    seen: dict[str, Checkpoint] = field(default_factory=dict)
    asked: int = 0

    @property
    def key(self) -> VerifierKey:
        """Its public key, of the kind for cosignatures."""
        return VerifierKey(self.seed.name, self.seed.verifier.public, COSIGNATURE)

    def add_checkpoint(self, body: str) -> tuple[int, str]:
        """Status and text of the answer to one request."""
        self.asked += 1
        try:
            head, _, raw = body.partition("\n\n")
            first, *hashes = head.split("\n")
            old = parse_decimal(first.removeprefix("old "), "a size")
            proof = [parse_hash(line) for line in hashes]
            note = Note.parse(raw)
            found = Checkpoint.parse(note.text)
            keys = self.logs.get(found.origin)
            if keys is None:
                return 404, "unknown log\n"
            if not note.signers(keys):
                return 403, "no known key has signed this\n"
        except ProofError as error:
            return 400, f"{error}\n"
        return self._go_on(old, proof, found, note.text)

    def _go_on(self, old: int, proof: list[bytes], found: Checkpoint, text: str) -> tuple[int, str]:
        known = self.seen.get(found.origin)
        known_size = known.size if known is not None else 0
        if old > found.size:
            return 400, "the old size is above the new one\n"
        if old != known_size:
            return 409, f"{known_size}\n"
        if known is not None:
            try:
                verify_consistency(known.size, found.size, proof, known.root, found.root)
            except ProofError as error:
                return 422, f"{error}\n"
        self.seen[found.origin] = found
        return 200, self.cosign(text)

    def cosign(self, text: str) -> str:
        """The line that says that this checkpoint goes on from all that were seen before."""
        signed = self.seed.sign(f"cosignature/v1\ntime {self.time_s}\n{text}")
        signature = Signature(self.key.name, self.key.key_id, self.time_s.to_bytes(8, "big") + signed)
        return str(Note(text, (signature,))).removeprefix(f"{text}\n")


@contextmanager
def served(witness: Any) -> Iterator[str]:
    """The address of a witness, while the block runs. `add_checkpoint` alone is asked of it."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = min(int(self.headers["Content-Length"]), BODY_BYTES_MAX)
            body = self.rfile.read(size).decode()
            status, text = (404, "") if self.path != "/w/add-checkpoint" else witness.add_checkpoint(body)
            self.send_response(status)
            self.send_header("Content-Type", "text/x.tlog.size" if status == 409 and text else "text/plain")
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/w"
        finally:
            server.shutdown()
            thread.join()

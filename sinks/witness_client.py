"""A witness over HTTP (c2sp.org/tlog-witness): it remembers the last checkpoint of each log that it saw, and signs the
next one only where a proof shows that it goes on from there. Who trusts it need not trust whoever holds the ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

import urllib3

from agentledger.schemas.checkpoints import parse_decimal
from agentledger.schemas.errors import ConfigurationError, IntegrityError, ProofError, StoreError
from agentledger.schemas.notes import COSIGNATURE, Note, VerifierKey, encode_base64

TIMEOUT = urllib3.Timeout(connect=5, read=10)
ANSWER_BYTES_MAX = 16_384  # a few signature lines, or a size
SIZE_TYPE = "text/x.tlog.size"


class OtherSizeError(Exception):
    """The witness's last checkpoint is of another size than it was told."""

    def __init__(self, size: int) -> None:
        super().__init__(f"the witness knows the tree of size {size}")
        self.size = size


class HttpWitness:
    """One witness: its address (`add-checkpoint` is below it) and its key, of the kind for cosignatures."""

    def __init__(self, url: str, key: VerifierKey) -> None:
        parts = urlsplit(url)
        schemes = {"https", "http"} if parts.hostname in {"127.0.0.1", "::1", "localhost"} else {"https"}
        if key.kind != COSIGNATURE or not parts.hostname or parts.scheme not in schemes:
            raise ConfigurationError(
                f"{url} can't be a witness", where=key.name,
                next_step="give its key of the kind for cosignatures, and its address with https://",
            )  # fmt: skip
        self.key = key
        self._url = f"{url.rstrip('/')}/add-checkpoint"
        self._pool = urllib3.PoolManager(timeout=TIMEOUT, retries=False)

    def add_checkpoint(self, old_size: int, proof: Sequence[bytes], note: str) -> str:
        """Have a checkpoint cosigned that goes on from `old_size`; the witness's signature line.

        Raises OtherSizeError where the witness knows another size, IntegrityError where the proof doesn't hold for it,
        StoreError where it can't be reached or doesn't sign.
        """
        body = "".join(f"{line}\n" for line in (f"old {old_size}", *map(encode_base64, proof), "")) + note
        status, kind, text = self._post(body)
        if status == 200:
            return self._own_line(note, text)
        if status == 409 and kind.partition(";")[0].strip() == SIZE_TYPE:
            try:
                raise OtherSizeError(parse_decimal(text.strip(), "a size"))
            except ProofError as error:
                raise self._failed(str(error)) from None
        if status in {409, 422}:  # 409 without a size: another root for the size that it knows
            raise IntegrityError(
                f"witness {self.key.name} has signed another history than this one: {text.strip()[:200] or status}",
                where=self._url, next_step="compare its last checkpoint with yours: one of the two was forked",
            )  # fmt: skip
        reasons = {404: "it doesn't know this ledger", 403: "it doesn't know the key that signed this"}
        raise self._failed(f"{reasons.get(status, 'it refuses')} ({status}) {text.strip()[:200]}".rstrip())

    def _post(self, body: str) -> tuple[int, str, str]:
        try:
            answer = self._pool.request(
                "POST", self._url, body=body.encode(), headers={"Content-Type": "text/plain; charset=utf-8"},
                preload_content=False, redirect=False,
            )  # fmt: skip
            with answer:
                raw = answer.read(ANSWER_BYTES_MAX + 1)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise self._failed(f"{type(error).__name__}") from None
        if len(raw) > ANSWER_BYTES_MAX:
            raise self._failed("its answer is too long")
        return answer.status, answer.headers.get("Content-Type", ""), raw.decode(errors="replace")

    def _own_line(self, note: str, answer: str) -> str:
        """The line of this witness's key in its answer, checked against the checkpoint."""
        text = Note.parse(note).text
        try:
            signed = Note.parse(f"{text}\n{answer}")
            if self.key not in signed.signers([self.key]):
                raise ProofError("its answer has no signature of its key")
        except ProofError as error:
            raise self._failed(str(error)) from None
        own = next(one for one in signed.signatures if (one.name, one.key_id) == (self.key.name, self.key.key_id))
        return str(Note(text, (own,))).removeprefix(f"{text}\n")

    def _failed(self, what: str) -> StoreError:
        return StoreError(
            f"witness {self.key.name} doesn't sign: {what}", where=self._url,
            next_step="ask whoever runs it; the signer goes on and tries again",
        )  # fmt: skip

"""Signed notes, checkpoints and proofs as text, against the examples of their specifications."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentledger.schemas.checkpoints import Checkpoint, TlogProof
from agentledger.schemas.errors import ProofError
from agentledger.schemas.notes import Note, SignerKey, VerifierKey, open_note, sign_note

# c2sp.org/signed-note, "Format".
SPEC_NOTE = (
    "Ognuno sta solo sul cuor della terra\ntrafitto da un raggio di sole:\n\ned è subito sera.\n\n"
    "— quasimodo.example/salvatore "
    "NnugSzTjtVAewIS+Z/iJhUPeFDkO/5QQ2i5ddnGITLlC+EhfLW9oJKONrMouFSQU0xMcXxj99ihAQwaqP3ZekRwNtIc=\n"
)
# golang.org/x/mod/sumdb/note, the reference implementation: a note with both halves of its key.
PETER_PUBLIC = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
PETER_PRIVATE = "PRIVATE+KEY+PeterNeumann+c74f20a3+AYEKFALVFGyNhPJEMzD1QIDr+Y7hfZx09iUvxdXHKDFz"
PETER_TEXT = "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n"
PETER_NOTE = (
    f"{PETER_TEXT}\n— PeterNeumann "
    "x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
# c2sp.org/tlog-cosignature, "Format": a checkpoint with the log's signature and a witness's.
SPEC_CHECKPOINT = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n\n"
    "— example.com/behind-the-sofa "
    "Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 "
    "jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0xUe+mbIUBkBIfZ+qnA==\n"
)


def test_the_example_of_the_specification_is_read_and_written_again() -> None:
    note = Note.parse(SPEC_NOTE)
    assert note.text.endswith("ed è subito sera.\n")
    assert note.text.count("\n") == 4
    [signature] = note.signatures
    assert (signature.name, signature.key_id.hex()) == ("quasimodo.example/salvatore", "367ba04b")
    assert len(signature.signature) == 64
    assert str(note) == SPEC_NOTE
    with pytest.raises(ProofError, match="none of the trusted keys"):
        open_note(SPEC_NOTE, [VerifierKey.parse(PETER_PUBLIC)])


def test_the_note_of_the_reference_implementation_is_signed_and_verified_the_same() -> None:
    key = SignerKey.parse(PETER_PRIVATE)
    assert str(key.verifier) == PETER_PUBLIC
    assert key.secret_text() == PETER_PRIVATE
    assert "seed" not in repr(key)
    assert sign_note(PETER_TEXT, [key]) == PETER_NOTE
    assert open_note(PETER_NOTE.encode(), [VerifierKey.parse(PETER_PUBLIC)]) == PETER_TEXT


@given(st.integers(0, len(PETER_NOTE) - 1), st.characters(codec="utf-8"))
def test_no_changed_note_verifies(place: int, char: str) -> None:
    changed = PETER_NOTE[:place] + char + PETER_NOTE[place + 1 :]
    if changed != PETER_NOTE:
        with pytest.raises(ProofError):
            open_note(changed, [VerifierKey.parse(PETER_PUBLIC)])


@pytest.mark.parametrize(
    "raw",
    [
        "", "text\n", "text\n\n", "text\n\n— name\n", "text\n\n— name !!!!\n", "text\n\n- name AAAAAAA=\n",
        "text\n\n— a+b AAAAAAA=\n", "text\n\n— name AAAAAA==\n", "te\rxt\n\n— name AAAAAAA=\n", b"\xff\n\n\xe2\x80\x94",
        "text\n\n— name AAAAAAA=", "text\n\n" + "— name AAAAAAA=\n" * 101, "x" * 1_000_001,
    ],
)  # fmt: skip
def test_what_is_no_note_is_refused(raw: str | bytes) -> None:
    with pytest.raises(ProofError):
        Note.parse(raw)


def test_an_unknown_signature_is_passed_over_and_a_wrong_one_of_a_known_key_is_not() -> None:
    one, two = SignerKey.generate("one"), SignerKey.generate("two")
    note = sign_note("text\n", [one, two])
    assert open_note(note, [two.verifier]) == "text\n"
    other = sign_note("other\n", [one])
    mixed = note.replace(note.splitlines()[2], other.splitlines()[2])
    assert open_note(mixed, [two.verifier]) == "text\n"
    with pytest.raises(ProofError, match="does not fit the text"):
        open_note(mixed, [one.verifier, two.verifier])
    with pytest.raises(ProofError, match="line feed"):
        sign_note("text", [one])


@pytest.mark.parametrize(
    "text",
    [
        "", "PeterNeumann", PETER_PUBLIC[:-4], PETER_PUBLIC.replace("c74f20a3", "c74f20a4"), PETER_PUBLIC + "=",
        "Peter Neumann" + PETER_PUBLIC[12:], PETER_PUBLIC.replace("ARpc", "Axpc"),
    ],
)  # fmt: skip
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(ProofError):
        VerifierKey.parse(text)


@pytest.mark.parametrize(
    "text", ["", PETER_PUBLIC, PETER_PRIVATE[:-4], PETER_PRIVATE.replace("c74f20a3", "c74f20a4"),
             PETER_PRIVATE.replace("AYEK", "BYEK")],
)  # fmt: skip
def test_what_is_no_private_key_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ProofError) as caught:
        SignerKey.parse(text)
    assert "FALVFGyN" not in str(caught.value)


def test_the_checkpoint_of_the_specification() -> None:
    note = Note.parse(SPEC_CHECKPOINT)
    checkpoint = Checkpoint.parse(note.text)
    assert (checkpoint.origin, checkpoint.size) == ("example.com/behind-the-sofa", 20852163)
    assert checkpoint.text() == note.text
    assert [len(one.signature) for one in note.signatures] == [64, 72]
    assert int.from_bytes(note.signatures[1].signature[:8], "big") == 1679315147


def test_a_witness_signs_the_time_too() -> None:
    seed = SignerKey.generate("witness.example/w1")
    key = VerifierKey(seed.name, seed.verifier.public, kind=4)
    assert VerifierKey.parse(str(key)) == key
    assert key.key_id != seed.verifier.key_id
    text = Checkpoint("example.com/log", 3, bytes(32)).text()
    signed = seed.sign(f"cosignature/v1\ntime 1679315147\n{text}")
    assert key.verify(text, (1679315147).to_bytes(8, "big") + signed)
    assert not key.verify(text, (1679315148).to_bytes(8, "big") + signed)
    assert not key.verify(text, signed)


ZEROS = "A" * 43 + "="


@pytest.mark.parametrize(
    "text",
    [
        "", "o\n1\n", f"o\n01\n{ZEROS}\n", "o\n1\nAAAA\n",
        f"o\n-1\n{ZEROS}\n", f"\n1\n{ZEROS}\n",
        f"o\n1\n{ZEROS}", f"o\n99999999999999999999\n{ZEROS}\n",
        f"o\n1\n{ZEROS}\n\n", "o\n1\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAB=\n",
    ],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(ProofError):
        Checkpoint.parse(text)


@given(st.integers(0, 2**64 - 1), st.lists(st.binary(min_size=32, max_size=32), max_size=64), st.none() | st.binary())
def test_a_proof_is_read_as_it_was_written(index: int, hashes: list[bytes], extra: bytes | None) -> None:
    proof = TlogProof(index, tuple(hashes), SPEC_CHECKPOINT, extra)
    assert TlogProof.parse(proof.text()) == proof


@pytest.mark.parametrize(
    "text",
    [
        "", "c2sp.org/tlog-proof@v1\n\n",
        "c2sp.org/tlog-proof@v2\nindex 1\n\nnote", "c2sp.org/tlog-proof@v1\nindex 01\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex 1\nAAAA\n\nnote", "c2sp.org/tlog-proof@v1\nextra !\nindex 1\n\nnote",
        "c2sp.org/tlog-proof@v1\nindex 1\n" + f"{ZEROS}\n" * 65 + "\nnote",
    ],
)  # fmt: skip
def test_what_is_no_proof_is_refused(text: str) -> None:
    with pytest.raises(ProofError):
        TlogProof.parse(text)

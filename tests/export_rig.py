"""A signed ledger in a real ClickHouse, and exports of it, for tests."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from agentledger.sinks.chain import read_chain
from agentledger.sinks.checkpoint_places import FolderPlace
from agentledger.sinks.export import Export
from agentledger.sinks.export_event import ExportFacts
from agentledger.sinks.export_plan import ExportRequest
from agentledger.sinks.key_files import KeyFolder
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.signer import Signer
from agentledger.sinks.signer_state import SignerState
from agentledger.sinks.tables import BATCHES, LEDGER
from agentledger.sinks.verify_export import Key, verify_export
from tests.evidence_rig import NOW_US, REGISTRY, EvidenceRig

EVENTS, SPEND = "agentledger.events.v1", "agentledger.spend.v1"


class SignedLedger:
    """Three logs, a signer's folders, and what was told of exports."""

    def __init__(self, rig: EvidenceRig, folder: Path) -> None:
        self.rig = rig
        self.folder = folder
        self.keys = KeyFolder(folder / "keys")
        self.keys.new("example.com/ledger")
        self.place = FolderPlace(folder / "checkpoints")
        self.told: list[ExportFacts] = []
        self.unsigned = 0  # of the last export
        self._clock = itertools.count(NOW_US, 1_000_000)
        for table in (LEDGER, BATCHES):
            rig.command(f"TRUNCATE TABLE {table}")
        rig.places.clear()
        self.logs = [rig.place(EVENTS, 0), rig.place(EVENTS, 1), rig.place(SPEND, 0)]
        self._signer = Signer(
            ClickHouseLeafReader(rig.url), self.place, self.keys, state=SignerState(), save=lambda _: None,
            clock=lambda: next(self._clock),
        )  # fmt: skip

    def grow(self, values: Sequence[bytes | None] = ()) -> None:
        """One more flush in each log, and a checkpoint over it."""
        self.rig.write_all({log: [*self.rig.events(8), *values, b"junk", None] for log in self.logs})
        assert self._signer.step() is not None

    def export(
        self, name: str = "out", *, reader: ClickHouseLeafReader | None = None, previous: Path | None = None,
        announce: Callable[[ExportFacts], None] | None = None, **asked: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """Export to a folder; what was found in it."""
        chain, problems = read_chain(self.place.folder, self.keys.public())
        assert not problems
        asked.setdefault("file_format", "jsonl")
        writing = Export(
            reader or ClickHouseLeafReader(self.rig.url), REGISTRY, chain, ExportRequest(self.folder / name, **asked),
            key=self.keys.active(), clock=lambda: NOW_US, announce=announce or self.told.append, previous=previous,
        )  # fmt: skip
        found = writing.write(lambda _rows: None, lambda _rows: None)
        self.unsigned = writing.unsigned
        return found

    def verify(self, name: str = "out", previous: Path | None = None) -> dict[str, Any]:
        """What the single file finds."""
        return verify_export(self.folder / name, [Key(str(key)) for key in self.keys.public()], previous)

    def time_us(self, log: int, index: int) -> int:
        """The ledger time of a record, microseconds."""
        place = self.logs[log]
        [[found]] = self.rig.rows(
            f"SELECT toUnixTimestamp64Micro(ledger_time) FROM {LEDGER} WHERE topic_id = '{place.topic_id}' "
            f"AND partition = {place.partition} AND log_index = {index}"
        )
        return int(found)

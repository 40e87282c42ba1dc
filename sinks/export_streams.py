"""What goes into the files of an export, streamed from ClickHouse: data, evidence, and the leaves of what is hidden."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clickhouse_connect.driver.exceptions import ClickHouseError
from urllib3.exceptions import HTTPError

from agentledger.schemas.errors import StoreError
from agentledger.sinks.export_columns import data_columns, selection
from agentledger.sinks.export_plan import FORMATS, Chunk, ExportRequest, Source
from agentledger.sinks.export_rows import RecordReader, ocsf_lines
from agentledger.sinks.leaves import ClickHouseLeafReader
from agentledger.sinks.tables import LEDGER
from agentledger.sinks.verify_export import read_records

BLOCK_BYTES = 1 << 20
# Snappy is what pandas and Spark write, too: ClickHouse's own choice, zstd, takes a third more time for the same rows.
# Bloom filters are for finding single rows; they take a quarter of the time and a tenth of the file.
SETTINGS = (
    "SETTINGS output_format_parquet_compression_method = 'snappy', output_format_parquet_write_bloom_filter = 0, "
    "output_format_json_quote_64bit_integers = 0, output_format_avro_codec = 'deflate', "
    "output_format_avro_string_column_pattern = '.*', prefer_column_name_to_alias = 1"
)
_EVIDENCE = (
    "toUInt32({log}), log_index, offset, toUnixTimestamp64Micro(ledger_time), schema_sha256, key_sha256, "
    "headers_sha256, raw"
)


class ExportStreams:
    """The content of an export's files, block by block. Raises StoreError where ClickHouse breaks off."""

    def __init__(
        self, reader: ClickHouseLeafReader, request: ExportRequest, source: Source, manifest: dict[str, Any]
    ) -> None:
        self._reader = reader
        self._request = request
        self._source = source
        self._manifest = manifest

    def data(self, part: list[Chunk]) -> Iterator[bytes]:
        """The rows of a part, in the format that was asked for."""
        schemas = [json.loads(text) for text in self._manifest["schemas"].values()]
        columns = selection(data_columns(self._request.file_format, schemas))
        places = " OR ".join(f"({self._rows(chunk)})" for chunk in part)
        return self._stream(
            f"SELECT {columns} FROM {LEDGER} WHERE ({places}) AND event_type != '' AND {self._source.shown} "
            f"ORDER BY topic, topic_id, partition, log_index FORMAT {FORMATS[self._request.file_format]} {SETTINGS}"
        )

    def evidence(self, part: list[Chunk]) -> Iterator[bytes]:
        """What the leaf of each record that is shown commits to, and its bytes."""
        for chunk in part:
            if chunk.shown:
                yield from self._stream(
                    f"SELECT {_EVIDENCE.format(log=chunk.log)} FROM {LEDGER} WHERE {self._rows(chunk)} "
                    f"AND {self._source.shown} ORDER BY log_index FORMAT RowBinary"
                )

    def hidden(self, part: list[Chunk]) -> Iterator[bytes]:
        """The leaf of each record that is not shown."""
        for chunk in part:
            if chunk.hidden:
                shown = f"{self._rows(chunk)} AND {self._source.shown}"
                which = f"NOT ({self._source.shown})"
                if self._source.has_purges:  # what was purged has no columns to ask
                    which = f"log_index NOT IN (SELECT log_index FROM {LEDGER} WHERE {shown})"
                yield from self._stream(
                    f"SELECT toUInt32({chunk.log}), log_index, leaf_hash FROM {self._source.leaves} "
                    f"WHERE {self._rows(chunk)} AND {which} ORDER BY log_index FORMAT RowBinary"
                )

    def ocsf(self, evidence: Path) -> Iterator[bytes]:
        """The records of a file of evidence as events of OCSF."""
        words = [given["head"].split(" ") for given in self._manifest["logs"]]
        reader = RecordReader(self._manifest["schemas"])
        yield from ocsf_lines(reader, read_records(evidence), lambda log: (words[log][1], int(words[log][3])))

    def _rows(self, chunk: Chunk) -> str:
        """The condition for the rows of a chunk. What is in it was checked when the head was read."""
        _, _, topic_id, partition, *_ = self._manifest["logs"][chunk.log]["head"].split(" ")
        return (
            f"topic_id = toUUID('{topic_id}') AND partition = {int(partition)} "
            f"AND log_index >= {chunk.first} AND log_index < {chunk.behind}"
        )

    def _stream(self, query: str) -> Iterator[bytes]:
        try:
            with self._reader.stream(query, self._request.parameters()) as answer:
                while block := answer.read(BLOCK_BYTES):
                    yield block
        except (ClickHouseError, HTTPError, ConnectionError, TimeoutError) as error:
            raise StoreError(
                f"ClickHouse: {(str(error).splitlines() or [''])[0][:300]}",
                next_step="ask for the same export again: it goes on where it was",
            ) from None

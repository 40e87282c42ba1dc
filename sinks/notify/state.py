"""What notify must not forget, in one SQLite file: alerts, incidents and their pages, where it stands in the topic, and
events that Kafka doesn't have yet. Each `keep` is one transaction: all of it is there after a crash, or none.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from agentledger.schemas.errors import ConfigurationError
from agentledger.sinks.notify.alerts import Alert
from agentledger.sinks.notify.desk import Desk
from agentledger.sinks.notify.incidents import Delivery, Incident, Page

VERSION = 1
ANSWERED_MAX = 1_000  # events that one answer makes; whoever resolves more than that has a budget to look at
GIVEN_UP_MAX = 10_000  # listed by `notify status`; all of them are in the ledger, too
_TABLES = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS positions (
    log TEXT, partition INTEGER, offset INTEGER NOT NULL, PRIMARY KEY (log, partition)
) STRICT;
CREATE TABLE IF NOT EXISTS alerts (alert_id TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS incidents (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS closed (number INTEGER PRIMARY KEY, event_id TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE IF NOT EXISTS unsaid (seq INTEGER PRIMARY KEY, event BLOB NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS given_up (number INTEGER PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""


class Unsaid(NamedTuple):
    """An encoded event that Kafka doesn't have yet, under its producer_seq."""

    seq: int
    event: bytes


class NotifyState:
    """The file of one notify program, which alone may have it open. Raises ConfigurationError where another one has, or
    where it can't be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = os.open(path.with_name(path.name + ".lock"), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # a page that was begun is known after a power cut, too
            self._db.executescript(_TABLES)
        except BlockingIOError:
            raise ConfigurationError(
                "another agentledger notify uses this file", where=str(path), next_step="stop it, or use another folder"
            ) from None
        except (OSError, sqlite3.Error) as error:
            raise ConfigurationError(f"the state of notify can't be kept: {error}", where=str(path)) from None
        version = self._fact("version", str(VERSION))
        if version != str(VERSION):
            raise ConfigurationError(f"this file is of version {version}", where=str(path), next_step="use its release")
        self.producer_id = self._fact("producer_id", f"notify:{secrets.token_hex(8)}")
        self._next_seq = int(self._fact("next_seq", "0"))

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()
        os.close(self._lock)

    @property
    def next_seq(self) -> int:
        """The producer_seq of the next event."""
        return self._next_seq

    def load(self, desk: Desk) -> None:
        """Bring what was kept back to the desk."""
        for _, text in self._rows("SELECT alert_id, value FROM alerts ORDER BY rowid"):
            alert = Alert(**json.loads(text))
            desk.alerts[alert.alert_id] = alert
        for key, text in self._rows("SELECT key, value FROM incidents"):
            desk.incidents[key] = _incident(json.loads(text))
        desk.closed.update(
            {event_id: None for (event_id,) in self._rows("SELECT event_id FROM closed ORDER BY number")}
        )
        begun = json.loads(self._fact("begun_us", "{}"))
        desk.begun_us.update({name: times for name, times in begun.items() if name in desk.begun_us})

    def positions(self, log: str) -> dict[int, int]:
        """Partition to the next offset to read, of this topic."""
        return dict(self._rows("SELECT partition, offset FROM positions WHERE log = ?", log))

    def keep(
        self, desk: Desk, log: str = "", positions: Mapping[int, int] | None = None, said: Sequence[bytes] = (),
        given_up: Sequence[dict[str, Any]] = (),
    ) -> None:  # fmt: skip
        """Keep what the desk has changed, where the topic was read to, and events to say, as one."""
        changes = desk.changes
        db = self._db
        db.execute("BEGIN IMMEDIATE")
        try:
            self._put("alerts", "alert_id", {key: desk.alerts.get(key) for key in changes.alerts})
            self._put("incidents", "key", {key: desk.incidents.get(key) for key in changes.incidents})
            gone = [(event_id,) for event_id in changes.closed if event_id not in desk.closed]
            new = [(event_id,) for event_id in desk.closed if event_id in changes.closed] if changes.closed else []
            db.executemany("DELETE FROM closed WHERE event_id = ?", gone)
            db.executemany("INSERT OR IGNORE INTO closed (event_id) VALUES (?)", new)
            places = [(log, partition, offset) for partition, offset in (positions or {}).items()]
            db.executemany("INSERT OR REPLACE INTO positions VALUES (?, ?, ?)", places)
            numbered = list(enumerate(said, start=self._next_seq))
            db.executemany("INSERT INTO unsaid VALUES (?, ?)", numbered)
            db.executemany("INSERT INTO given_up (value) VALUES (?)", [(json.dumps(one),) for one in given_up])
            db.execute("DELETE FROM given_up WHERE number <= (SELECT max(number) FROM given_up) - ?", (GIVEN_UP_MAX,))
            facts = (("next_seq", str(self._next_seq + len(said))), ("begun_us", json.dumps(desk.begun_us)))
            db.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts)
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
        self._next_seq += len(said)
        desk.changes = type(changes)()

    def _put(self, table: str, key: str, values: Mapping[str, Alert | Incident | None]) -> None:
        kept = [(name, json.dumps(asdict(value))) for name, value in values.items() if value is not None]
        self._db.executemany(f"DELETE FROM {table} WHERE {key} = ?", [(n,) for n, value in values.items() if not value])
        self._db.executemany(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", kept)

    def _fact(self, name: str, first: str) -> str:
        self._db.execute("INSERT OR IGNORE INTO facts VALUES (?, ?)", (name, first))
        [(value,)] = self._rows("SELECT value FROM facts WHERE name = ?", name)
        return str(value)

    def _rows(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        return iter(self._db.execute(sql, values).fetchall())


class UnsaidEvents:
    """The events in the file of a NotifyState that Kafka doesn't have yet. For one thread, the one that opens it."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA synchronous = NORMAL")  # what is forgotten to be said is said again: it counts once

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    def first(self, count_max: int) -> list[Unsaid]:
        """The oldest ones."""
        sql = "SELECT seq, event FROM unsaid ORDER BY seq LIMIT ?"
        return [Unsaid(*row) for row in self._db.execute(sql, (count_max,))]

    def count(self) -> int:
        """How many there are."""
        [(count,)] = self._db.execute("SELECT count(*) FROM unsaid")
        return int(count)

    def remove(self, seq_max: int) -> None:
        """Kafka has all up to this number."""
        self._db.execute("DELETE FROM unsaid WHERE seq <= ?", (seq_max,))


def read_status(path: Path) -> tuple[list[Incident], list[dict[str, Any]], int]:
    """Incidents, what was given up (the latest first), and how many events wait for Kafka. Raises ConfigurationError.

    May be asked while the program runs.
    """
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            incidents = [_incident(json.loads(text)) for (text,) in db.execute("SELECT value FROM incidents")]
            lost = [json.loads(text) for (text,) in db.execute("SELECT value FROM given_up ORDER BY number DESC")]
            [(unsaid,)] = db.execute("SELECT count(*) FROM unsaid")
        finally:
            db.close()
    except sqlite3.Error as error:
        raise ConfigurationError(
            f"no state of notify is here: {error}", where=str(path), next_step="start agentledger notify run first"
        ) from None
    return incidents, lost, int(unsaid)


def is_in_use(path: Path) -> bool:
    """Whether a notify program has this state open now."""
    try:
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def read_positions(path: Path, log: str) -> dict[int, int]:
    """Partition to the next offset that notify reads, of this topic. Raises ConfigurationError."""
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return dict(db.execute("SELECT partition, offset FROM positions WHERE log = ?", (log,)))
        finally:
            db.close()
    except sqlite3.Error as error:
        raise ConfigurationError(f"the state of notify can't be read: {error}", where=str(path)) from None


def alerts_of_page(path: Path, dedup_key: str) -> list[Alert]:
    """The open alerts of the page with this key, at most ANSWERED_MAX. Raises ConfigurationError."""
    sql = (
        "SELECT value FROM alerts WHERE json_extract(value, '$.incident') = "
        "(SELECT key FROM incidents WHERE json_extract(value, '$.dedup_key') = ?) LIMIT ?"
    )
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            return [Alert(**json.loads(text)) for (text,) in db.execute(sql, (dedup_key, ANSWERED_MAX))]
        finally:
            db.close()
    except sqlite3.Error as error:
        raise ConfigurationError(f"the state of notify can't be read: {error}", where=str(path)) from None


def _incident(value: dict[str, Any]) -> Incident:
    pages = {
        name: Page(**{**page, "waiting": Delivery(**page["waiting"]) if page["waiting"] else None})
        for name, page in value.pop("pages").items()
    }
    shown = Alert(**value.pop("shown"))
    return Incident(**value, shown=shown, pages=pages)

"""What Faust's recovery does around a rebalance: nothing from before it comes after it, and half of it is none."""

from __future__ import annotations

import asyncio
from pathlib import Path

import faust
import pytest

from agentledger.processors.faust_app import ShellPlan, build_app
from agentledger.processors.run_table import RunTable
from agentledger.processors.worker import WorkerConfig


@pytest.fixture
def app(tmp_path: Path) -> faust.App:
    """An app that isn't started."""
    config = WorkerConfig({"bootstrap.servers": "127.0.0.1:1"}, tmp_path, 4)
    return build_app(ShellPlan("group", "runs", "runs-changelog"), config)


def test_what_found_no_room_before_a_rebalance_does_not_come_after_it(app: faust.App) -> None:
    async def rebalanced() -> list[int]:
        flow, queue = app.flow_control, app.tables.changelog_queue
        flow.resume()
        queue.put_nowait(1)
        late = asyncio.ensure_future(queue.put(2))  # has not begun when the rebalance does
        flow.suspend()
        flow.clear()
        await asyncio.sleep(0)
        flow.resume()
        await queue.put(1)  # what is read again
        await asyncio.wait([late])
        return [queue.get_nowait() for _ in range(queue.qsize())]

    assert asyncio.run(rebalanced()) == [1]


def test_a_recovery_that_a_rebalance_cut_short_is_none(app: faust.App) -> None:
    async def recover() -> list[str]:
        told: list[str] = []
        table: RunTable = app.Table("runs", partitions=4)

        async def recovered() -> None:
            told.append("recovered")

        table.on_recover(recovered)
        app.tables.recovery.signal_recovery_start.set()
        await table.on_recovery_completed(set(), set())
        told.append("cut short")
        app.tables.recovery.signal_recovery_start.clear()
        await table.on_recovery_completed(set(), set())
        return told

    assert asyncio.run(recover()) == ["cut short", "recovered"]

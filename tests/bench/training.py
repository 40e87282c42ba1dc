"""What compiled folds are optimised for: the sample and the recorded runs, drawn otherwise than what is measured.

A program for `agentledger.infra.compilation`. Where there are no recordings the sample has to do.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2]))  # it runs by its path, for whoever compiles

from agentledger.processors.rules.loading import default_rules
from agentledger.processors.run_fold import RunFold
from agentledger.schemas import Codec, open_registry
from agentledger.schemas.prices import GenaiPriceBook
from tests.bench.recorded import recorded_events
from tests.bench.sample import sample_events
from tests.bench.worker import EVENTS, PARTITIONS, Messages, batches, fold_batch, packed_messages

SEED = 2  # the measurements have 1
BATCHES_PER_RESTART = 25  # so that states are read as well as written


def train(messages: Messages) -> None:
    """Fold the messages as a worker does that now and then starts anew."""
    states: dict[bytes, bytes | None] = {}
    fold = RunFold(Codec(open_registry()), GenaiPriceBook(), states.get, partitions=PARTITIONS, rules=default_rules())
    for number, batch in enumerate(batches(messages), 1):
        fold_batch(fold, batch, states)
        if number % BATCHES_PER_RESTART == 0:
            fold.forget()


if __name__ == "__main__":
    train(*packed_messages(sample_events(EVENTS, SEED), 1))
    try:
        train(*packed_messages(recorded_events(EVENTS, SEED), 1))
    except pytest.skip.Exception as error:
        sys.stderr.write(f"trained without them: {error}\n")

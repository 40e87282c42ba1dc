"""Settings of every test: Hypothesis prints what reproduces a failure, and no example is judged by its time. What
`eval "$(agentledger env)"` has left in the shell doesn't reach the tests."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("agentledger", deadline=None, print_blob=True, max_examples=60)
settings.load_profile("agentledger")

for name in [name for name in os.environ if name.startswith("AGENTLEDGER_") and name != "AGENTLEDGER_TRACES"]:
    del os.environ[name]

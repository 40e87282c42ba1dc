"""Settings of every test: Hypothesis prints what reproduces a failure, and no example is judged by its time."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("agentledger", deadline=None, print_blob=True, max_examples=60)
settings.load_profile("agentledger")

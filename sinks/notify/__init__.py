"""Alerts that reach people: who is told of what, over which channel, once."""

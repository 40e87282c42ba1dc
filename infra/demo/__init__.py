"""The demo: a believable day of three agents, generated from a seed and recorded through the SDK."""

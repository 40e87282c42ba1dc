"""Integrations: a module per framework, each to be imported where that framework is installed."""

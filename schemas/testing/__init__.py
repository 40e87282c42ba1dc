"""Shipped fakes, one module per port: for our own tests and for those of people who build on agentledger."""

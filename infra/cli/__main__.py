"""`python -m agentledger.infra.cli`: what the local stack starts its programs with."""

from agentledger.infra.cli import main

if __name__ == "__main__":
    main()

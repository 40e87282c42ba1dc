"""The gateway: events over HTTP, for agents that have no SDK of ours. Answered when Kafka has them."""

from agentledger.producers.gateway.admission import Admission, Gateway
from agentledger.producers.gateway.app import create_app
from agentledger.producers.gateway.callers import Caller
from agentledger.producers.gateway.limits import GatewayLimits
from agentledger.producers.gateway.publishing import AcknowledgedPublisher
from agentledger.producers.gateway.refusals import RefusedRequestError
from agentledger.producers.gateway.server import GatewayConfig, check_exposure, run_gateway

__all__ = [
    "AcknowledgedPublisher",
    "Admission",
    "Caller",
    "Gateway",
    "GatewayConfig",
    "GatewayLimits",
    "RefusedRequestError",
    "check_exposure",
    "create_app",
    "run_gateway",
]

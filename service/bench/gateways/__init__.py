"""The gateways that are measured: how each is had, configured and started."""

from bench.gateways.athena import Athena, CompiledAthena
from bench.gateways.base import Gateway
from bench.gateways.forwarders import Haproxy, Naive, Nginx
from bench.gateways.llm import LiteLlm, Portkey, SglangRouter, VllmRouter

ALL: tuple[Gateway, ...] = (
    Athena(),
    CompiledAthena(),
    Nginx(),
    Haproxy(),
    VllmRouter(),
    SglangRouter(),
    Portkey(),
    Naive(),
    LiteLlm(),
)

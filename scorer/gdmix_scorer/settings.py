"""What an operator decides about one serving process; the command line fills it in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

StoreFailurePolicy = Literal["unavailable", "fixed-effect-only"]

MAX_CANDIDATES: Final = 10_000
"""In one request."""
MAX_MESSAGE_BYTES: Final = 8 << 20
"""Of one request or answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScorerSettings:
    """Settings of one serving process."""

    store: str
    """URL of the coefficient store."""
    models: tuple[str, ...] = ()
    """Models to serve; none: all of the store."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    instance: str = ""
    """Name of this process, in every answer."""
    on_store_failure: StoreFailurePolicy = "unavailable"
    """What to answer while the store cannot be read."""
    cache_bytes: int = 256 << 20
    """Memory for coefficients that were read from the store; 0: none is kept."""
    access_log: Path | None = None
    """File of this process's access log."""
    access_log_sample: float = 0.01
    """Part of the requests that is logged in full."""
    access_log_features: bool = False
    """Whether those are logged with their features."""
    token_file: Path | None = None
    """Who may score; without it everybody may."""
    tls_cert: Path | None = None
    """PEM file of the certificate chain; without it in the clear."""
    tls_key: Path | None = None
    """PEM file of the private key."""
    tls_client_ca: Path | None = None
    """Authority that clients' certificates need."""
    insecure: bool = False
    """Whether to listen beyond loopback without TLS and tokens."""
    drain_seconds: float = 10.0
    """Time to finish what is under way when told to end."""
    streams_per_connection: int = 4
    """Calls that one connection may have under way; its client holds further ones back."""
    waiting_requests: int = 32
    """Requests that may wait to be begun; from here on gRPC refuses some, from twice as many on all."""
    max_in_flight: int = 128
    """Requests that this process works on at once; further ones are refused."""
    poll_seconds: float = 0.25
    """How often the store is asked what is active."""
    store_seconds: float = 1.0
    """Longest time that a request waits for the store, whatever its deadline."""
    linger_seconds: float = 30.0
    """How long a version that nothing points to stays loaded after its last request."""

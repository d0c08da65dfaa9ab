"""Fixed effects that are plugged in: the protocol, the registry, and what is built in."""

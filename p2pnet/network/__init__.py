"""Connections, streams and the DHT: what may be asked of a network, and two that can do it."""

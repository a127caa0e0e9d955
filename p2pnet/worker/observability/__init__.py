"""Tells how the worker is: to the network, to Prometheus, to its owner."""

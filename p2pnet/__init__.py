"""The peer library, the worker and the command line of p2pnet. Start at `docs/architecture.md`."""

"""Defines what crosses the wire: frames, protocols, and what may follow what. No I/O."""

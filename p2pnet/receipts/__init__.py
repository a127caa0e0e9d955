"""What workers and gateways sign of an answer, and how a stranger's signature under it is checked. No I/O."""

"""Our own node of hivemind's DHT: reads every message itself, and bounds what any peer may cause."""

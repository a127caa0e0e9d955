"""The HTTP dialects of the gateway. A surface parses and renders; it imports neither dispatch nor another."""

"""FauxPilot's HTTP API, for editors."""

"""How well requests are spread over workers: a simulation of several ways to choose, and the time of one choice."""

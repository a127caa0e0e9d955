"""What the gateway remembers and tells: requests and their routes, workers, choices, metrics."""

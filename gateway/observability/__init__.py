"""What the gateway remembers and tells of itself: requests and their routes, workers, choices, metrics."""

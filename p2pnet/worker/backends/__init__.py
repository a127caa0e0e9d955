"""What runs models for a worker: transformers, an encoder, another server, or a script."""

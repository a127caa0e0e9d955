"""Opens a folder with a model: which files it has, its digest, and how it gets into memory."""

"""A folder with a model: which files it has, its digest, and from there into memory."""

"""What the names of models stand for: aliases, `auto`, and the model of editors that name none."""

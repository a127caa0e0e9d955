"""What margins of honest and of dishonest answers are, and from which evidence a worker may be called dishonest."""

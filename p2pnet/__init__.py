"""p2pnet: a volunteer network that serves language models with nobody in charge. Start at `docs/architecture.md`."""

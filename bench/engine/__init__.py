"""How fast the engine computes, beside what transformers itself offers."""

"""Runs the models of GGUF files with llama.cpp, under our own engine."""

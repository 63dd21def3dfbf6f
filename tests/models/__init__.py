"""The models: gradients, a transformer in loops, torch, causality, padding, KV cache, generation."""

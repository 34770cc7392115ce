"""The network: weights and their products, activations, the model, its invariants."""

"""Trial runs of a model: inputs for any model, and the comparison of two models."""

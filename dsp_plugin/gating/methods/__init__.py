"""The ways of choosing heads: differentiable subset pruning, concrete gates under an L0 penalty."""

"""The choice of units by their cost, for a Transformers model: scores, costs, models without some."""

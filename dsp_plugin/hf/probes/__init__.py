"""Running a model to look at it: inputs for any model, two models side by side."""

"""Delta-Tuning: few-shot data, templates, and small modules beside a frozen model. NumPy and torch alone."""

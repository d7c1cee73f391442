"""Parts for the stock Trainer that know nothing of gates."""

"""The programs of heads: Michel's sweep, and tuning after heads were removed."""

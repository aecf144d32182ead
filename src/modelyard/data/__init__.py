"""Sources, cleaning, features, and contracts inferred from data."""

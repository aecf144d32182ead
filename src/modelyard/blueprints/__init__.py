"""Ready services as values: source, contract, recipe, decision, samples."""

"""The ground floor: the words that both planes speak."""

"""The control plane: what is true. One Django app for each thing remembered."""

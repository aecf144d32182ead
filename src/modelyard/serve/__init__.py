"""The data plane: what answers. It never imports Django and never opens a database."""

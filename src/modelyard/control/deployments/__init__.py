"""Endpoints, and which versions answer behind them."""

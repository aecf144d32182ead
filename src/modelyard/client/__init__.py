"""Who calls: the Python client, synchronous and asynchronous.

`Client(url, key="my_…").endpoint("credit_scoring").predict(rows)`; with `AsyncClient`, awaited.
"""

from modelyard.client.aio import AsyncClient
from modelyard.client.client import Client
from modelyard.client.errors import Unreachable
from modelyard.contract.infer import Explanation, Prediction

__all__ = ["AsyncClient", "Client", "Explanation", "Prediction", "Unreachable"]

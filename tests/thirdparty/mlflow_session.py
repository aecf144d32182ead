"""Run by MLflow's own environment: its scoring client against a gateway, told as JSON on stdout.

Arguments: the gateway's host, its port, and a file of rows (a JSON list of objects).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from mlflow.pyfunc.scoring_server.client import ScoringServerClient


def refusal(call: Callable[[], Any]) -> str:
    """What a refused call raises."""
    try:
        call()
    except Exception as error:  # the client raises nothing more special
        return str(error)
    return ""


def main(host: str, port: str, path: str) -> None:
    """Ask in every way that the client has, and print what came."""
    with open(path, encoding="utf-8") as file:
        rows = json.load(file)
    client = ScoringServerClient(host, int(port))
    client.wait_server_ready(timeout=10)
    frame = pd.DataFrame(rows)
    listed = np.array([list(row.values()) for row in rows], dtype=object)
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    answers = {
        "frame": client.invoke(frame),
        "frame_with_params": client.invoke(frame, params={}),
        "list": client.invoke(rows),
        "array": client.invoke(listed),
        "records": client.invoke(json.dumps({"dataframe_records": rows})),
        "instances": client.invoke(json.dumps({"instances": rows})),
        "columns": client.invoke(json.dumps({"inputs": columns})),
    }
    said: dict[str, Any] = {name: answer.get_predictions()["probability"].tolist() for name, answer in answers.items()}
    said["as_frame"] = answers["frame"].get_predictions().columns.tolist()
    said["version"] = client.get_version()
    said["wrong"] = refusal(lambda: client.invoke(frame.assign(age=7)))
    said["params"] = refusal(lambda: client.invoke(frame, params={"temperature": 1}))
    json.dump(said, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])

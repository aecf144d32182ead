"""The credit service as it is usually written: FastAPI, a typed applicant, the scikit-learn pipeline from joblib."""

import os

import joblib
import pandas as pd
from fastapi import FastAPI
from pydantic import BaseModel, Field

pipeline = joblib.load(os.environ["BENCH_PIPELINE"])
app = FastAPI()


class Applicant(BaseModel):
    Seniority: int = Field(ge=0, le=60)
    Home: str | None
    Time: int = Field(ge=1, le=120)
    Age: int = Field(ge=18, le=100)
    Marital: str | None
    Records: str
    Job: str | None
    Expenses: int = Field(ge=0, le=2_000)
    Income: float | None = Field(ge=0, le=10_000)
    Assets: float | None = Field(ge=0, le=5_000_000)
    Debt: float | None = Field(ge=0, le=500_000)
    Amount: int = Field(ge=1, le=100_000)
    Price: int = Field(ge=1, le=200_000)


class Answer(BaseModel):
    decision: str
    probability: float


WORDS = {name: object for name in ("Home", "Marital", "Records", "Job")}
TYPES = WORDS | {name: float for name in Applicant.model_fields if name not in WORDS}


@app.post("/credit_scoring")
def predict(applicant: Applicant) -> Answer:
    row = pd.DataFrame([applicant.model_dump()]).astype(TYPES).fillna(float("nan"))
    probability = float(pipeline.predict_proba(row)[0, 1])
    return Answer(decision="decline" if probability >= 0.3 else "approve", probability=probability)

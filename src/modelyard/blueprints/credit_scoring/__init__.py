"""Credit scoring: will an applicant for a consumer loan pay it back? On 4,454 real applications of a Spanish lender."""

from __future__ import annotations

from modelyard.contract.decision import Texts
from modelyard.contract.features import Column
from modelyard.train.recipe import Blueprint, DecisionTemplate

# Amounts stand as the source gives them, which names no currency. Ranges are what a lender would accept, not what
# the table happens to hold; every row of the table lies inside them.
_COLUMNS = (
    Column(
        "Seniority",
        "integer",
        minimum=0,
        maximum=60,
        unit="years",
        label={"en": "Years in the present job", "zh": "现职工龄"},
    ),
    Column(
        "Home",
        "category",
        nullable=True,
        categories=("ignore", "other", "owner", "parents", "priv", "rent"),
        label={"en": "Housing", "zh": "住房情况"},
    ),
    Column(
        "Time", "integer", minimum=1, maximum=120, unit="months", label={"en": "Months of the loan", "zh": "贷款期限"}
    ),
    Column(
        "Age",
        "integer",
        minimum=18,
        maximum=100,
        unit="years",
        label={"en": "Age", "zh": "年龄"},
        sensitive=True,
        note="protected in some jurisdictions (age): see whether the use may rely on it",
    ),
    Column(
        "Marital",
        "category",
        nullable=True,
        categories=("divorced", "married", "separated", "single", "widow"),
        label={"en": "Marital status", "zh": "婚姻状况"},
        sensitive=True,
        note="protected in some jurisdictions (marital status): see whether the use may rely on it",
    ),
    Column(
        "Records", "category", categories=("no", "yes"), label={"en": "Earlier payment trouble", "zh": "不良信用记录"}
    ),
    Column(
        "Job",
        "category",
        nullable=True,
        categories=("fixed", "freelance", "others", "partime"),
        label={"en": "Kind of employment", "zh": "工作性质"},
    ),
    Column("Expenses", "integer", minimum=0, maximum=2_000, label={"en": "Expenses", "zh": "支出"}),
    Column("Income", "number", nullable=True, minimum=0, maximum=10_000, label={"en": "Income", "zh": "收入"}),
    Column("Assets", "number", nullable=True, minimum=0, maximum=5_000_000, label={"en": "Assets", "zh": "资产"}),
    Column("Debt", "number", nullable=True, minimum=0, maximum=500_000, label={"en": "Debt", "zh": "负债"}),
    Column("Amount", "integer", minimum=1, maximum=100_000, label={"en": "Amount of the loan", "zh": "贷款金额"}),
    Column("Price", "integer", minimum=1, maximum=200_000, label={"en": "Price of the goods", "zh": "商品价格"}),
)


def _texts(en: str, zh: str) -> Texts:
    return {"en": en, "zh": zh}


_REASONS: dict[str, dict[str, Texts]] = {
    "Seniority": {
        "low": _texts("Short time in the present job", "现职工龄较短"),
        "high": _texts("The time in the present job counts against the application", "现职工龄不利于本次申请"),
        "typical": _texts("The time in the present job counts against the application", "现职工龄不利于本次申请"),
    },
    "Home": {
        "value": _texts("The housing situation is linked with more payment trouble", "住房情况对应较高的违约风险"),
        "missing": _texts("The housing situation is not stated", "未提供住房情况"),
    },
    "Time": {
        "low": _texts("The loan runs for a short time", "贷款期限较短"),
        "high": _texts("The loan runs for a long time", "贷款期限较长"),
        "typical": _texts("The time the loan runs counts against the application", "贷款期限不利于本次申请"),
    },
    "Records": {
        "value": _texts("The record of earlier payments counts against the application", "过往信用记录不利于本次申请"),
    },
    "Job": {
        "value": _texts("The kind of employment is linked with more payment trouble", "工作性质对应较高的违约风险"),
        "missing": _texts("The kind of employment is not stated", "未提供工作性质"),
    },
    "Expenses": {
        "low": _texts("The stated expenses are low", "申报的支出偏低"),
        "high": _texts("Expenses are high", "支出偏高"),
        "typical": _texts("Expenses count against the application", "支出不利于本次申请"),
    },
    "Income": {
        "low": _texts("Income is low", "收入偏低"),
        "high": _texts("The level of income counts against the application", "收入水平不利于本次申请"),
        "typical": _texts("The level of income counts against the application", "收入水平不利于本次申请"),
        "missing": _texts("Income is not stated", "未提供收入"),
    },
    "Assets": {
        "low": _texts("Assets are low", "资产偏少"),
        "high": _texts("The level of assets counts against the application", "资产水平不利于本次申请"),
        "typical": _texts("The level of assets counts against the application", "资产水平不利于本次申请"),
        "missing": _texts("Assets are not stated", "未提供资产情况"),
    },
    "Debt": {
        "low": _texts("The level of debt counts against the application", "负债水平不利于本次申请"),
        "high": _texts("Debt is high", "负债偏高"),
        "typical": _texts("The level of debt counts against the application", "负债水平不利于本次申请"),
        "missing": _texts("Debt is not stated", "未提供负债情况"),
    },
    "Amount": {
        "low": _texts("The loan is small", "贷款金额偏小"),
        "high": _texts("The loan is large", "贷款金额偏大"),
        "typical": _texts("The amount of the loan counts against the application", "贷款金额不利于本次申请"),
    },
    "Price": {
        "low": _texts("The price of the goods is low for such a loan", "商品价格相对偏低"),
        "high": _texts("The price of the goods is high", "商品价格偏高"),
        "typical": _texts("The price of the goods counts against the application", "商品价格不利于本次申请"),
    },
}

BLUEPRINT = Blueprint(
    name="credit_scoring",
    title={"en": "Credit scoring", "zh": "信用评分"},
    package="modelyard.blueprints.credit_scoring",
    resource="data/credit_data.csv",
    target="Status",
    positive="bad",
    columns=_COLUMNS,
    decision=DecisionTemplate(
        positive="decline", negative="approve", meaning="probability of default", reasons=_REASONS
    ),
    about=(
        "Estimates how likely an applicant for a consumer loan is to end up in default (`Status` = bad), as advice to "
        "a lender's own decision. It is a demonstration on public teaching data of one Spanish lender: before it "
        "decides about people, it needs that lender's own data, a look at costs, and a review of what the law allows. "
        "`Age` and `Marital` are learned from, as in the published baselines of this table, and are declared "
        "sensitive in the contract, so no reason names them; give them the role `sensitive` there to leave them out."
    ),
    licence="public teaching data, distributed with R's modeldata (MIT); see data/SOURCES.md",
)

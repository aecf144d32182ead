"""What the API document says to people, in English and Chinese."""

from __future__ import annotations

LANGUAGES = ("en", "zh")

_TEXTS: dict[str, tuple[str, str]] = {
    "about": (
        "Models served by this gateway. Each endpoint's columns, ranges and categories come from its data contract: "
        "what this document allows is what the gateway checks.\n\n"
        "**Keys.** `Authorization: Bearer KEY` or `X-API-Key: KEY`, needed where the gateway asks for keys. A key sees "
        "here only what it may use.\n\n"
        "**Limits.** A body has at most {max_body_bytes:,} bytes, a call at most {max_rows:,} rows and {deadline_s:g} "
        "seconds from the whole request to its answer.\n\n"
        "**Errors.** Problems as of RFC 9457; under `/v1`, `/v2` and at `/invocations` in those protocols' own forms. "
        "Each has a `code` for programs and names the rule that was broken, never the value.",
        "此网关提供的模型。每个端点的列、取值范围和类别都来自其数据契约：本文档所允许的，正是网关所检查的。\n\n"
        "**密钥。** `Authorization: Bearer KEY` 或 `X-API-Key: KEY`，在网关要求密钥时必填。"
        "每个密钥在此只能看到它可以使用的部分。\n\n"
        "**限制。** 请求体最多 {max_body_bytes:,} 字节；一次调用最多 {max_rows:,} 行；"
        "从收到完整请求到作答最多 {deadline_s:g} 秒。\n\n"
        "**错误。** 按 RFC 9457 返回 problem；`/v1`、`/v2` 和 `/invocations` 下采用各协议自己的形式。"
        "每个错误都带有供程序使用的 `code`，说明违反了哪条规则，但从不重复所发送的值。",
    ),
    "about_endpoint": ("Model `{model}`, version {version}.", "模型 `{model}`，版本 {version}。"),
    "gateway_tag": ("The gateway itself", "网关自身"),
    # summaries
    "index": ("What is here", "此处有什么"),
    "live": ("Whether the worker runs", "工作进程是否在运行"),
    "ready": ("Whether a plan is served", "是否已在按计划提供服务"),
    "metrics": ("Metrics of all workers, as Prometheus reads them", "所有工作进程的指标（Prometheus 格式）"),
    "openapi": ("This document", "本文档"),
    "openapi_one": ("The document of one endpoint", "单个端点的文档"),
    "docs": ("A page that shows this document and tries calls", "浏览本文档并试调用的网页"),
    "predict": ("Predict", "预测"),
    "predict_pinned": ("Predict with one version", "用指定版本预测"),
    "predict_default": ("Predict with the default endpoint `{endpoint}`", "用默认端点 `{endpoint}` 预测"),
    "explain": ("What each column contributed", "各列的贡献"),
    "explain_pinned": ("What each column contributed, by one version", "各列的贡献（指定版本）"),
    "feedback": ("Tell the truth that came later", "回报后来得知的真实结果"),
    "describe": ("The endpoint's columns, measures and example", "端点的列、度量和示例"),
    "describe_pinned": ("The endpoint as one version describes it", "端点（按指定版本）"),
    "v2_infer": ("Infer: Open Inference Protocol V2", "推理：Open Inference Protocol V2"),
    "v2_infer_pinned": ("Infer with one version: V2", "用指定版本推理：V2"),
    "v2_server": ("Server metadata: V2", "服务器元数据：V2"),
    "v2_list": ("The endpoints, as V2 models", "端点列表（V2 模型）"),
    "v2_metadata": ("Versions, inputs and outputs: V2", "版本、输入与输出：V2"),
    "v2_ready": ("Whether the model answers: V2", "模型是否就绪：V2"),
    "v2_config": ("Model configuration: V2", "模型配置：V2"),
    "v2_stats": ("Counts and durations: V2", "统计：V2"),
    "v2_stats_all": ("Counts and durations of every model: V2", "所有模型的统计：V2"),
    "v2_index": ("Repository index: V2", "模型库索引：V2"),
    "v2_load": ("Warm a planned version: V2", "预热计划中的版本：V2"),
    "v2_unload": ("Evict a planned version: V2", "卸下计划中的版本：V2"),
    "v1_predict": ("Predict: KServe V1", "预测：KServe V1"),
    "v1_explain": ("Explain: KServe V1", "解释：KServe V1"),
    "v1_predict_pinned": ("Predict with one version: KServe V1", "用指定版本预测：KServe V1"),
    "v1_explain_pinned": ("Explain by one version: KServe V1", "解释（指定版本）：KServe V1"),
    "v1_list": ("The endpoints: KServe V1", "端点列表：KServe V1"),
    "v1_model": ("Whether the model answers: KServe V1", "模型是否就绪：KServe V1"),
    "invocations": ("Predict as MLflow's scoring server does", "按 MLflow scoring server 的方式预测"),
    "version": ("The version of Modelyard", "Modelyard 的版本"),
    # descriptions
    "rows": (
        "One row (an object of columns) or a list of rows: at most {max_rows:,} rows, {max_body_bytes:,} bytes. "
        "`null` is a missing value.",
        "一行（由列组成的对象）或多行的列表：最多 {max_rows:,} 行、{max_body_bytes:,} 字节。`null` 表示缺失值。",
    ),
    "lines": (
        "one row a line; each is answered by a line of its own, in order, as soon as it is ready; a line that is "
        "refused is answered by its problem.",
        "每行一条 JSON；每一行各有一行回答，按顺序，就绪即返回；被拒绝的行以其 problem 作答。",
    ),
    "binary": (
        "The JSON, then the tensors' bytes, little-endian and row-major; `Inference-Header-Content-Length` says how "
        "long the JSON is.",
        "先是 JSON，随后是张量的字节（小端、行优先）；`Inference-Header-Content-Length` 说明 JSON 的长度。",
    ),
    "binary_length": ("Length of the JSON part; with binary tensors only", "JSON 部分的长度；仅用于二进制张量"),
    "infer_request": (
        "At most {max_rows:,} rows, {max_body_bytes:,} bytes.",
        "最多 {max_rows:,} 行、{max_body_bytes:,} 字节。",
    ),
    "reasons": (
        "Reasons for rows at or above the cut-off, for every row, or for none",
        "对达到阈值的行、所有行或不给出理由",
    ),
    "lang": (
        "Language of the reasons; else Accept-Language, else English",
        "理由的语言；否则取 Accept-Language，再否则英语",
    ),
    "timeout": ("How many milliseconds the caller waits", "调用者等待的毫秒数"),
    "lang_document": ("Language of what is said to people", "面向人的文字的语言"),
    "only": (
        "`shared`: without the endpoints' own paths; `tags` names the endpoints",
        "`shared`：不含各端点自己的路径；`tags` 列出端点",
    ),
    "version_parameter": ("A version's number, or an alias", "版本号或别名"),
    "model_parameter": ("An endpoint", "端点"),
    "request_id": ("Ours; feedback and the log refer to it", "由网关生成；反馈和日志以它为准"),
    "truth": ("What turned out to be true", "真实结果"),
    "truth_row": ("Which row of that call, from 0", "该调用中的第几行，从 0 起"),
    "feedback_about": (
        "`request_id` is one that the same caller got from this endpoint. One object, or a list of up to {limit:,}.",
        "`request_id` 须是同一调用者从此端点得到的。一个对象，或最多 {limit:,} 个对象的列表。",
    ),
    "decision": ("`{positive}` where the probability is {cutoff:g} or more", "概率不低于 {cutoff:g} 时为 `{positive}`"),
    "probability": ("Probability of `{positive}`", "`{positive}` 的概率"),
    "score": (
        "Points; higher is better. {points:g} at odds {odds:g}:1, {double:g} more double the odds",
        "分数，越高越好。好坏比 {odds:g}:1 时为 {points:g} 分，每增加 {double:g} 分好坏比翻倍",
    ),
    "reasons_answer": (
        "Up to {limit} columns that moved the row towards `{positive}`",
        "最多 {limit} 个使该行趋向 `{positive}` 的列",
    ),
    "base": (
        "Log-odds before any column spoke; base and contributions sum to the row's log-odds",
        "基准对数几率；与各列贡献之和即为该行的对数几率",
    ),
    "contribution": ("In log-odds", "以对数几率计"),
    "unit": ("in {unit}", "单位：{unit}"),
    "dropped": ("accepted and not used: no model sees it", "可以发送但不使用：模型看不到它"),
    "other_missing": ("any other text counts as missing", "其他文本视为缺失"),
    "private": ("personal: never kept in a record", "个人信息：不会写入记录"),
    "row_example": ("One row", "一行"),
    "rows_example": ("A list of rows", "多行"),
    "one_example": ("One truth", "一个结果"),
    "infer_example": ("One row", "一行"),
    "lines_example": ("Two lines", "两行"),
    "ok": ("The answer", "回答"),
    "accepted": ("Taken", "已接收"),
    "not_ready_answer": ("Not ready yet", "尚未就绪"),
    "retry_after": ("Seconds to wait", "等待秒数"),
    "bearer": ("An API key: `modelyard keys create`", "API 密钥：`modelyard keys create`"),
    "other_errors": (
        "What concerns the connection or the path: 405 another method, 408 too slow, 411 and 417 unmet, 415 a form "
        "that is not read here, 431 headers too large, 505 another HTTP version",
        "与连接或路径有关：405 方法不符，408 过慢，411 与 417 不满足，415 不支持的格式，431 头部过大，"
        "505 HTTP 版本不符",
    ),
    "media": ("`invalid_input`: a body in a form that is not read here", "`invalid_input`：不支持的请求体格式"),
    "retryable": ("may be tried again", "可重试"),
}  # fmt: skip


class Texts:
    """The texts of one language."""

    def __init__(self, language: str) -> None:
        self.language = language
        self._at = LANGUAGES.index(language)

    def __call__(self, name: str, **values: object) -> str:
        """The text of this name, with its values filled in."""
        return _TEXTS[name][self._at].format(**values) if values else _TEXTS[name][self._at]


# What the codes of contract/errors.py mean; English is each class's own docstring.
ERRORS_ZH = {
    "invalid_input": "输入不符合契约，或无法解码",
    "unauthenticated": "需要密钥而未提供，或密钥未知、过期、已吊销",
    "forbidden": "调用者已知，但缺少所需的权限范围",
    "not_found": "没有这样的端点、模型、版本或请求",
    "conflict": "名称已被占用，或对象已被更改",
    "too_large": "请求体、头部或行数超过限制",
    "quota_exceeded": "调用者用完了密钥允许的配额",
    "overloaded": "队列已满，未排队即拒绝",
    "not_ready": "已知，但还没有副本应答",
    "deadline_exceeded": "已超过期限，无人再等待回答",
    "model_failed": "模型自身的代码出错；详情见日志",
    "internal": "网关自身的错误；详情见日志",
}

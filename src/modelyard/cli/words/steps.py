"""Steps of a training as it names them -> 简体中文."""

STEPS: dict[str, str] = {
    "read the table": "读取数据",
    "quality": "数据质量",
    "contract": "数据契约",
    "compare": "比较候选",
    "choose": "选定",
    "test": "测试",
    "package": "打包",
    "parity": "一致性验证",
    "registered": "已注册",
    "already trained": "已训练过",
}

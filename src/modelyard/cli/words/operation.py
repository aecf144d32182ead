"""The product itself: homes, processes, keys, state."""

OPERATION: dict[str, tuple[str, str]] = {
    "error": ("error", "错误"),
    "unexpected": (
        "something went wrong that should not; the details are in {path}",
        "出现了意外错误；详细信息见 {path}",
    ),
    "needs_extra": (
        "this needs the package {name!r}, which is not installed: pip install 'modelyard[all]'",
        "此命令需要尚未安装的软件包 {name!r}：pip install 'modelyard[all]'",
    ),
    "next_unreachable": (
        "start it with `modelyard up`; `modelyard status` shows what runs",
        "请用 `modelyard up` 启动；`modelyard status` 可查看运行状态",
    ),
    "next_unauthenticated": (
        "make a key with `modelyard keys create NAME --scopes infer` and set MODELYARD_KEY to it",
        "请用 `modelyard keys create NAME --scopes infer` 创建密钥，并设置环境变量 MODELYARD_KEY",
    ),
    "next_forbidden": (
        "`modelyard keys list` shows the scopes of each key",
        "`modelyard keys list` 可查看每个密钥的权限范围",
    ),
    # init, backup, restore, config
    "home_ready": ("home ready: {home}", "主目录已就绪：{home}"),
    "admin_made": (
        "administrator: user admin, password {password}   (shown this once; write it down)",
        "管理员：用户名 admin，密码 {password}   （只显示这一次，请记下）",
    ),
    "admin_exists": ("the administrator exists already", "管理员已存在"),
    "backup_made": (
        "backup written: {file} ({size} bytes); it holds secrets, keep it safe",
        "备份已写入：{file}（{size} 字节）；其中含有机密，请妥善保管",
    ),
    "backup_made_first": ("what was there is saved in {file}", "原有内容已备份到 {file}"),
    "upgrade_step": ("done: {step}", "已完成：{step}"),
    "upgraded": ("the database is of this release now", "数据库已升级到当前版本"),
    "up_to_date": (
        "the database is of this release already; nothing was to be done",
        "数据库已是当前版本，无需升级",
    ),
    "restored": ("restored: {home}", "已恢复：{home}"),
    "adopted": (
        "adopted from plan and shelf: {versions} versions, {endpoints} endpoints, {keys} keys",
        "已从计划和制品库恢复登记：{versions} 个版本，{endpoints} 个端点，{keys} 个密钥",
    ),
    "moved_aside": ("what was there lies in {folder}", "原有内容已移至 {folder}"),
    "setting": ("setting", "设置"),
    "value": ("value", "值"),
    "from": ("from", "来源"),
    # up, serve, demo
    "gateway_starts": ("gateway: {url}   (stop with Ctrl-C)", "网关：{url}   （按 Ctrl-C 停止）"),
    "already_up": (
        "the gateway of this home runs already at {url} (process {pid}); use it, or stop it first",
        "此主目录的网关已在 {url} 运行（进程 {pid}）；请直接使用，或先停止它",
    ),
    "starting": ("starting gateway, control and jobs ...", "正在启动网关、控制台和任务进程……"),
    "gateway_late": (
        "the gateway does not serve after {seconds:g} s; its log: {log}",
        "网关在 {seconds:g} 秒后仍未就绪；日志：{log}",
    ),
    "control_waits": (
        "the control plane cannot start yet, see above; what was planned before is served meanwhile",
        "控制面暂时无法启动（见上文）；此前发布的计划继续提供服务",
    ),
    "control_late": (
        "control does not answer yet; the gateway serves without it. The end of its log ({log}):",
        "控制台尚未应答；网关照常服务。其日志末尾（{log}）：",
    ),
    "child_died": (
        "{name} ended (status {status}) and is started again; its log: {log}",
        "{name} 已退出（状态 {status}），正在重新启动；日志：{log}",
    ),
    "stop_with_ctrl_c": ("stop with Ctrl-C", "按 Ctrl-C 停止"),
    "stopping": ("stopping ...", "正在停止……"),
    "stopped": ("stopped", "已停止"),
    "address_gateway": ("predictions   {url}", "预测接口   {url}"),
    "address_grpc": ("over gRPC     {url}", "gRPC 接口  {url}"),
    "address_docs": ("try calls     {url}/docs", "试调用     {url}/docs"),
    "address_control": (
        "management    {url}/admin/   API {url}/api/v1/",
        "管理页面   {url}/admin/   API {url}/api/v1/",
    ),
    "demo_begins": (
        "credit_scoring: from a table of real applicants to an answered call (home: {home})",
        "credit_scoring：从真实申请人数据表到一次应答（主目录：{home}）",
    ),
    "demo_version": (
        "{model} version {version} is registered, alias {aliases}; on rows it never saw:",
        "{model} 版本 {version} 已注册，别名 {aliases}；在未参与训练的数据上：",
    ),
    "demo_deployed": ("endpoint {endpoint} is deployed", "端点 {endpoint} 已部署"),
    "demo_request": ("POST {url}", "POST {url}"),
    "demo_answer": ("answers", "应答"),
    "demo_declined": (
        "another applicant: {decision}, probability {probability}, {score} points, because",
        "另一位申请人：{decision}，概率 {probability}，{score} 分，原因：",
    ),
    "demo_describe": ("columns       {url}", "字段说明   {url}"),
    "demo_copy": ("try it:", "试一试："),
    "demo_once": ("--once: the demo ends here", "--once：演示到此结束"),
    # keys
    "key_made": (
        "key {id} for {scopes}; its secret, shown this once:",
        "密钥 {id}，权限 {scopes}；密钥内容只显示这一次：",
    ),
    "key_revoked_now": ("key {id} is revoked", "密钥 {id} 已吊销"),
    "no_keys": (
        "no key yet; `modelyard keys create NAME` makes one",
        "还没有密钥；可用 `modelyard keys create NAME` 创建",
    ),
    "key_active": ("active", "有效"),
    "key_revoked": ("revoked", "已吊销"),
    "key_expired": ("expired", "已过期"),
    "id": ("id", "编号"),
    "principal": ("principal", "主体"),
    "scopes": ("scopes", "权限"),
    "rows_per_second": ("rows/s", "行/秒"),
    "expires": ("expires", "到期"),
    "state": ("state", "状态"),
    # status, logs, doctor
    "gateway_runs": (
        "gateway   runs at {url}, process {pid}, {workers} workers, up {age}",
        "网关   运行于 {url}，进程 {pid}，{workers} 个工作进程，已运行 {age}",
    ),
    "gateway_silent": (
        "gateway   does not run; start it with `modelyard up`",
        "网关   未运行；可用 `modelyard up` 启动",
    ),
    "worker_refuses": (
        "  worker {worker} cannot serve revision {revision}: {reason}",
        "  工作进程 {worker} 无法启用修订 {revision}：{reason}",
    ),
    "worker_behind": (
        "  worker {worker} serves revision {revision}, wanted is {wanted}",
        "  工作进程 {worker} 处于修订 {revision}，目标为 {wanted}",
    ),
    "worker_died": ("  died: {cause}", "  曾退出：{cause}"),
    "model_worker": (
        "  model worker {digest}-{index}: {state}, process {pid}, {megabytes} MB, {restarts} restarts",
        "  模型工作进程 {digest}-{index}：{state}，进程 {pid}，{megabytes} MB，重启 {restarts} 次",
    ),
    "model_worker_died": (
        "    died: {cause}; more in {file}",
        "    曾退出：{cause}；详见 {file}",
    ),
    "control_runs": ("control   runs at {url}", "控制台   运行于 {url}"),
    "control_silent": ("control   does not answer at {url}", "控制台   在 {url} 无应答"),
    "plan_line": ("plan      revision {revision}, published {age} ago", "计划   修订 {revision}，发布于 {age} 前"),
    "nothing_deployed": ("plan      nothing is deployed", "计划   尚未部署任何端点"),
    "endpoint": ("endpoint", "端点"),
    "percent": ("percent", "百分比"),
    "no_logs": ("no logs yet: `modelyard up` writes them", "还没有日志：`modelyard up` 运行后产生"),
    "level_ok": ("ok", "正常"),
    "level_warn": ("warn", "警告"),
    "level_fail": ("fail", "失败"),
}

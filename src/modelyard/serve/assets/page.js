// Browses the gateway's API document and tries calls. Nothing is stored, nobody else is asked; all text is set as text.
"use strict";

const home = location.pathname.replace(/docs\/?$/, ""); // where the gateway's paths begin, also behind a prefix
const state = { language: navigator.language.startsWith("zh") ? "zh" : "en", key: "", shared: null, search: "" };
const $ = (id) => document.getElementById(id);
const say = (name, values = {}) =>
  Object.entries(values).reduce((text, [key, value]) => text.replace(`{${key}}`, value), WORDS[state.language][name]);

// An element: h("p", {class: "fine", onclick: …}, children…). Styles go through the object model, which the policy allows.
function h(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Text with `code` and **bold**, paragraphs parted by empty lines.
function prose(text) {
  return (text || "").split("\n\n").map((part) =>
    h("p", null, part.split(/(`[^`]+`|\*\*[^*]+\*\*)/).map((bit) =>
      bit.startsWith("`") ? h("code", null, bit.slice(1, -1)) : bit.startsWith("**") ? h("b", null, bit.slice(2, -2)) : bit)));
}

const pretty = (value) => JSON.stringify(value, null, 2);
const rounded = (value) => (Number.isInteger(value) ? value : Number(value.toPrecision(5))).toLocaleString("en", { maximumSignificantDigits: 15, useGrouping: Math.abs(value) >= 1e4 });

// --- asking the gateway

async function ask(method, path, { body, headers = {} } = {}) {
  const all = { "Accept-Language": state.language, ...headers };
  if (state.key) all.Authorization = `Bearer ${state.key}`;
  const start = performance.now();
  const answer = await fetch(home + path.replace(/^\//, ""), {
    method, headers: all, body, cache: "no-store", credentials: "omit", redirect: "error",
  });
  const text = await answer.text();
  const said = { status: answer.status, type: answer.headers.get("content-type") || "", text, ms: performance.now() - start };
  if (said.type.includes("json") && !said.type.includes("ndjson")) {
    try { said.json = JSON.parse(text); } catch { /* shown as text */ }
  }
  return said;
}

const fault = (said) => (said.json && (said.json.detail || said.json.error)) || `${said.status}`;

function problem(said) {
  return h("div", { class: "problem", role: "alert" },
    h("b", null, said.json && said.json.code ? `${said.status} ${said.json.code}` : String(said.status)), h("p", null, fault(said)));
}

// --- the frame

function labels() {
  document.documentElement.lang = state.language;
  $("key").placeholder = say("keyHint");
  $("key-label").textContent = say("key");
  $("key-use").textContent = say(state.key ? "used" : "use");
  $("key-use").className = "quiet";
  $("search").placeholder = say("search");
  $("search-label").textContent = say("search");
  $("language").textContent = say("other");
}

async function start() {
  labels();
  $("main").replaceChildren(h("p", { class: "lead" }, say("loading")));
  let said;
  try {
    said = await ask("GET", `openapi.json?only=shared&lang=${state.language}`);
  } catch {
    return stuck(say("failed"));
  }
  if (said.status !== 200) {
    state.shared = null;
    list();
    if (said.status !== 401) return stuck(fault(said));
    $("key").focus();
    return $("main").replaceChildren(h("div", { class: "note", id: "needs-key" }, h("h2", null, say("needsKey")), h("p", null, say("needsKeyText")),
      state.key ? problem(said) : null));
  }
  state.shared = said.json;
  list();
  show();
}

function stuck(text) {
  $("main").replaceChildren(h("div", { class: "note", role: "alert" }, h("p", null, text),
    h("button", { type: "button", onclick: start }, say("retry"))));
}

const endpoints = () => (state.shared ? state.shared.tags.filter((tag) => tag["x-endpoint"]) : []);
const current = () => decodeURIComponent(location.hash.replace(/^#\/?/, ""));

function list() {
  const here = current();
  const wanted = endpoints().filter((tag) => `${tag.name} ${tag["x-endpoint"].model}`.toLowerCase().includes(state.search));
  const line = (name, small, link, last) =>
    h("li", { class: last ? "last" : null }, h("a", { href: `#/${link}`, "aria-current": here === link ? "page" : null }, name, small ? h("small", null, small) : null));
  const shown = wanted.slice(0, 300); // a thousand links help nobody: searching does
  $("endpoints").replaceChildren(
    ...shown.map((tag) => line(tag.name, tag["x-endpoint"].meaning || tag["x-endpoint"].task, encodeURIComponent(tag.name))),
    ...(wanted.length > shown.length ? [h("li", { class: "fine" }, `+ ${wanted.length - shown.length}`)] : []),
    line(say("gateway"), "", "gateway", true));
}

async function show() {
  if (!state.shared) return;
  let name = current();
  if (!name) name = endpoints().length ? endpoints()[0].name : "gateway";
  if (!current()) history.replaceState(null, "", `#/${encodeURIComponent(name)}`);
  list();
  const main = $("main");
  if (name === "gateway") return main.replaceChildren(...gatewayView());
  main.replaceChildren(h("p", { class: "lead" }, say("loading")));
  let said;
  try {
    said = await ask("GET", `${encodeURIComponent(name)}/openapi.json?lang=${state.language}`);
  } catch {
    return stuck(say("failed"));
  }
  if (current() !== name) return; // somebody was quicker
  document.title = `${name} · Modelyard`;
  const tag = said.json && said.json.tags && said.json.tags.find((one) => one["x-endpoint"]);
  if (said.status !== 200 || !tag) return main.replaceChildren(h("h1", null, name), h("section", null, problem(said)));
  main.replaceChildren(...endpointView(said.json, tag));
  scrollTo(0, 0);
}

function gatewayView() {
  document.title = "Modelyard API";
  const { info } = state.shared;
  return [h("h1", null, info.title), h("div", { class: "chips" }, h("span", { class: "chip" }, h("b", null, info.version))),
    h("div", { class: "lead" }, prose(info.description)),
    endpoints().length ? null : h("p", { class: "note" }, say("noEndpoints")), operations(state.shared)].filter(Boolean);
}

// --- one endpoint

function endpointView(doc, tag) {
  const about = tag["x-endpoint"];
  const chip = (label, value) => (value ? h("span", { class: "chip" }, `${label} `, h("b", null, value)) : null);
  const aliases = Object.entries(about.aliases).filter(([, version]) => version === about.version).map(([alias]) => alias);
  const promise = about.decision && about.cutoff !== null
    ? say("pays", { positive: about.decision[1], negative: about.decision[0], cutoff: rounded(about.cutoff) }) : "";
  return [
    h("h1", null, tag.name),
    h("div", { class: "chips" }, chip(say("model"), about.model), chip(say("version"), [about.version, ...aliases].join(" · ")),
      chip(say("target"), about.target), chip("", about.task), chip("", about.framework)),
    about.meaning || promise ? h("p", { class: "lead" }, [about.meaning, promise].filter(Boolean).join(": ")) : null,
    trial(doc, tag.name, about),
    columns(doc, about),
    operations(doc),
  ].filter(Boolean);
}

const rowOf = (doc, about) => resolve(doc, { $ref: about.row });

function columns(doc, about) {
  const row = rowOf(doc, about);
  return h("section", null, h("h2", null, say("columns")), h("div", { class: "card scroll" }, h("table", null,
    h("thead", null, h("tr", null, ["name", "kind", "allowed", "about"].map((word) => h("th", { scope: "col" }, say(word))))),
    h("tbody", null, Object.entries(row.properties).map(([name, schema]) => h("tr", null,
      h("td", null, h("code", null, name)), h("td", null, kind(schema)),
      h("td", null, allowed(schema) || "–", (row.required || []).includes(name) ? "" : h("span", { class: "fine" }, ` ${say("optional")}`)),
      h("td", null, [schema.title === name ? "" : schema.title, schema.description].filter(Boolean).join("; "))))))));
}

function kind(schema) {
  const types = [schema.type || (schema.enum ? "string" : [])].flat().filter((type) => type !== "null");
  return types.join(" | ") || say("anything");
}

function allowed(schema) {
  if (schema.enum) return schema.enum.map((value) => (value === null ? "null" : value)).join(", ");
  const nullable = [schema.type].flat().includes("null") ? ", null" : "";
  if (schema.minimum !== undefined || schema.maximum !== undefined)
    return `${schema.minimum === undefined ? "−∞" : rounded(schema.minimum)} … ${schema.maximum === undefined ? "∞" : rounded(schema.maximum)}${nullable}`;
  return schema.examples ? `${schema.examples.join(", ")} …${nullable}` : nullable.slice(2);
}

// A field for one column; read() gives its value, undefined for one that is left out.
function field(name, schema, isRequired, value) {
  const id = `field-${name}`;
  const types = [schema.type || "string"].flat();
  const nullable = types.includes("null") || (schema.enum || []).includes(null);
  const isNumber = types.some((type) => type === "number" || type === "integer");
  const empty = () => (nullable ? null : isRequired ? "" : undefined);
  let input, read;
  if (schema.enum || types.includes("boolean")) {
    const options = schema.enum ? schema.enum.filter((one) => one !== null) : [true, false];
    const blank = nullable || !isRequired;
    input = h("select", { id }, blank ? h("option", { value: "" }, say("missing")) : null,
      options.map((one, at) => h("option", { value: String(at) }, one === true ? say("yes") : one === false ? say("no") : String(one))));
    const at = options.indexOf(value);
    input.value = at < 0 ? (blank ? "" : "0") : String(at);
    read = () => (input.value === "" ? empty() : options[Number(input.value)]);
  } else if (types.includes("array") || types.includes("object")) {
    input = h("textarea", { id, rows: 4, spellcheck: "false" });
    input.value = JSON.stringify(value);
    read = () => JSON.parse(input.value);
  } else {
    input = h("input", { id, type: isNumber ? "number" : "text", step: types.includes("integer") ? "1" : "any", min: schema.minimum, max: schema.maximum, autocomplete: "off" });
    input.value = value === null || value === undefined ? "" : value;
    if (schema.examples && !isNumber) input.setAttribute("list", `${id}-known`);
    read = () => (input.value === "" ? empty() : isNumber ? Number(input.value) : input.value);
  }
  const hint = [schema.title && schema.title !== name ? name : "", schema.enum || types.includes("boolean") ? "" : allowed(schema), (schema.description || "").split(";")[0]];
  const wrong = h("span", { class: "fault" });
  const box = h("div", { class: input.tagName === "TEXTAREA" ? "field wide" : "field" }, h("label", { for: id }, schema.title || name), input,
    input.hasAttribute("list") ? h("datalist", { id: `${id}-known` }, schema.examples.map((one) => h("option", { value: one }))) : null, wrong,
    h("span", { class: "hint" }, hint.filter(Boolean).join(" · ")));
  return { name, box, read, blame: (text) => { wrong.textContent = text; box.classList.toggle("wrong", Boolean(text)); } };
}

function tabs(options, chosen, choose) {
  const bar = h("div", { class: "tabs", role: "group" });
  const draw = (now) => bar.replaceChildren(...options.map(([value, label]) =>
    h("button", { type: "button", "aria-pressed": String(value === now), onclick: () => { draw(value); choose(value); } }, label)));
  draw(chosen);
  return bar;
}

const picker = (label, options, onchange) => h("select", { "aria-label": label, title: label, onchange },
  options.map(([value, text]) => h("option", { value }, text)));

// The form of one row, the answer beside it, and the same call as code.
function trial(doc, name, about) {
  const canPredict = Boolean(doc.paths[`/${name}`]), canExplain = Boolean(doc.paths[`/${name}/explain`]);
  if (!canPredict && !canExplain) return null;
  const schema = rowOf(doc, about);
  const example = (schema.examples || [{}])[0];
  const shown = Object.entries(schema.properties).filter(([, column]) => column.type || column.enum);
  let fields, how = "form", verb = canPredict ? "predict" : "explain";
  const area = h("textarea", { spellcheck: "false", "aria-label": "JSON", rows: 14 });
  const grid = h("div", { class: "fields" });
  const result = h("div", { class: "card", id: "answer", "aria-live": "polite" }, h("h2", null, say("answer")), h("p", { class: "lead" }, say("answerHint")));
  const send = h("button", { type: "submit", id: "send" }, say("send"));
  const versions = picker(say("version"), [["", say("main")], ...about.versions.map((one) => [String(one), `${say("version")} ${one}`]),
    ...Object.keys(about.aliases).map((one) => [one, one])], () => snippet());
  const reasons = picker(say("reasons"), ["auto", "all", "none"].map((one) => [one, `${say("reasons")}: ${say(one)}`]), () => snippet());
  const code = h("pre", { id: "snippet", tabindex: "0" });
  let dialect = "curl";

  const fill = (row) => {
    fields = shown.map(([key, column]) => field(key, column, (schema.required || []).includes(key), row[key]));
    grid.replaceChildren(...fields.map((one) => one.box));
    area.value = pretty(row);
  };
  const fromFields = () => Object.fromEntries(fields.map((one) => [one.name, one.read()]).filter(([, value]) => value !== undefined));
  const path = () => `/${name}${versions.value ? `/versions/${versions.value}` : ""}${verb === "explain" ? "/explain" : ""}` +
    (verb === "predict" && about.decision && reasons.value !== "auto" ? `?reasons=${reasons.value}` : "");
  const snippet = () => {
    let row;
    try { row = how === "form" ? fromFields() : JSON.parse(area.value); } catch { return; }
    code.textContent = snippets[dialect](path(), row, name, verb, versions.value);
  };
  const mode = (now) => {
    if (now === how) return;
    if (now === "json") { try { area.value = pretty(fromFields()); } catch { /* keep what is there */ } }
    else { try { const row = JSON.parse(area.value); if (!Array.isArray(row)) fill(row); } catch { /* keep the form */ } }
    how = now;
    grid.hidden = now !== "form";
    area.hidden = now !== "json";
    snippet();
  };
  const submit = async (event) => {
    event.preventDefault();
    let row;
    try { row = how === "form" ? fromFields() : JSON.parse(area.value); } catch (error) {
      return result.replaceChildren(h("h2", null, say("notJson")), h("p", null, error.message));
    }
    fields.forEach((one) => one.blame(""));
    send.disabled = true;
    try {
      const said = await ask("POST", path(), { body: JSON.stringify(row), headers: { "Content-Type": "application/json" } });
      result.replaceChildren(...(said.status === 200 ? answered(said, name, about, doc) : refused(said, fields)));
    } catch {
      result.replaceChildren(h("h2", null, say("failed")));
    }
    send.disabled = false;
  };
  fill(example);
  area.hidden = true;
  const verbs = canPredict && canExplain
    ? tabs([["predict", say("predict")], ["explain", say("explain")]], verb, (now) => { verb = now; reasons.hidden = now === "explain" || !about.decision; send.textContent = say(now === "explain" ? "sendExplain" : "send"); snippet(); })
    : null;
  reasons.hidden = verb === "explain" || !about.decision;
  const form = h("form", { class: "card", id: "try", novalidate: true, onsubmit: submit, oninput: snippet },
    h("div", { class: "row" }, h("h2", null, say("tryIt")), verbs, h("span", { class: "push" }, tabs([["form", say("form")], ["json", say("json")]], how, mode))),
    grid, area,
    h("div", { class: "row" }, send, h("button", { type: "button", class: "quiet", onclick: () => { fill(example); snippet(); } }, say("reset")), versions, reasons));
  snippet();
  const copy = h("button", { type: "button", class: "quiet push", onclick: async () => {
    await navigator.clipboard.writeText(code.textContent);
    copy.textContent = say("copied");
  } }, say("copy"));
  const program = h("section", { class: "card" }, h("div", { class: "row" }, h("h2", null, say("code")),
    tabs([["curl", "curl"], ["python", "Python"], ["js", "JavaScript"]], dialect, (now) => { dialect = now; copy.textContent = say("copy"); snippet(); }), copy), code);
  return h("section", null, h("div", { class: "try" }, form, result), program);
}

const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const pythonic = (value) => JSON.stringify(value, null, 4).replace(/("(?:[^"\\]|\\.)*")|\b(null|true|false)\b/g,
  (whole, text, word) => text || { null: "None", true: "True", false: "False" }[word]);
const snippets = {
  curl: (path, row) => [`curl ${quoted(location.origin + home.slice(0, -1) + path)}`, ...(state.key ? ['-H "Authorization: Bearer $MODELYARD_KEY"'] : []),
    "-H 'Content-Type: application/json'", `-d ${quoted(JSON.stringify(row))}`].join(" \\\n  "),
  python: (path, row, name, verb, version) => {
    const extra = [path.includes("reasons=") ? `reasons="${path.split("reasons=")[1]}"` : "", version ? `version="${version}"` : ""].filter(Boolean);
    return `${state.key ? "import os\n\n" : ""}from modelyard.client import Client\n\nrow = ${pythonic(row)}\n` +
      `with Client("${location.origin + home.slice(0, -1)}"${state.key ? ', key=os.environ["MODELYARD_KEY"]' : ""}) as client:\n` +
      `    print(client.endpoint("${name}").${verb}(${["row", ...extra].join(", ")}))`;
  },
  js: (path, row) => `const answer = await fetch(${JSON.stringify(location.origin + home.slice(0, -1) + path)}, {\n  method: "POST",\n` +
    `  headers: { "Content-Type": "application/json"${state.key ? ", Authorization: `Bearer ${key}`" : ""} },\n  body: JSON.stringify(${pretty(row).replaceAll("\n", "\n  ")}),\n});\nconsole.log(await answer.json());`,
};

function refused(said, fields) {
  const broken = (said.json && said.json.violations) || [];
  broken.forEach((one) => fields.filter((field) => field.name === one.column).forEach((field) => field.blame(one.message)));
  return [h("h2", null, said.status === 422 ? say("invalid") : say("answer")), problem(said),
    broken.length ? h("ul", null, broken.map((one) => h("li", null, one.column ? h("code", null, one.column) : null, ` ${one.message}`))) : null,
    h("p", { class: "fine" }, say("took", { ms: said.ms.toFixed(1) }))].filter(Boolean);
}

function answered(said, name, about, doc) {
  const body = said.json || {};
  const parts = [h("h2", null, say("answer"))];
  if (body.contributions) parts.push(...contributions(body, rowOf(doc, about).properties));
  else if (body.decision !== undefined) parts.push(...decided(body, about));
  else parts.push(h("pre", null, pretty(body)));
  if (body.request_id && doc.paths[`/${name}/feedback`]) parts.push(truth(name, body.request_id, doc));
  parts.push(h("p", { class: "fine" }, `${say("took", { ms: said.ms.toFixed(1) })} · ${say("version")} ${body.version} · ${say("requestId")} `, h("code", null, body.request_id || "")));
  if (body.decision !== undefined || body.contributions) parts.push(h("details", null, h("summary", null, say("raw")), h("pre", null, pretty(body))));
  return parts;
}

function decided(body, about) {
  const isBad = body.decision === about.decision[1];
  const percent = (value) => `${(100 * value).toFixed(1)} %`;
  return [
    h("span", { class: `say ${isBad ? "bad" : "good"}`, id: "decision" }, body.decision),
    h("div", { class: "figures" }, h("div", null, percent(body.probability), h("small", null, about.meaning || say("probability"))),
      h("div", null, String(body.score), h("small", null, say("score")))),
    h("div", { class: `gauge ${isBad ? "bad" : ""}` }, h("i", { style: { width: percent(body.probability).replace(" ", "") } }),
      h("b", { style: { left: `${100 * about.cutoff}%` } }), h("span", { style: { left: `${Math.min(90, Math.max(10, 100 * about.cutoff))}%` } }, `${say("cutoff")} ${rounded(about.cutoff)}`)),
    ...(body.reasons && body.reasons.length
      ? [h("h3", null, say("why")), h("ol", { class: "reasons" }, body.reasons.map((one) => h("li", { title: `${one.column}: ${rounded(one.contribution)}` }, one.text)))] : []),
  ];
}

function contributions(body, columns) {
  const all = Object.entries(body.contributions).sort((one, other) => Math.abs(other[1]) - Math.abs(one[1]));
  const most = Math.max(...all.map(([, value]) => Math.abs(value)), 1e-9);
  const line = ([name, value]) => {
    const width = `${(50 * Math.abs(value)) / most}%`;
    return [h("span", null, (columns[name] && columns[name].title) || name), h("span", { class: "track" }, h("i", { class: value > 0 ? "up" : null, style: value > 0 ? { left: "50%", width } : { right: "50%", width } })),
      h("span", { class: "mono" }, (value > 0 ? "+" : "") + value.toFixed(3))];
  };
  return [h("p", { class: "lead" }, say("contributions")), h("div", { class: "bars", id: "contributions" }, all.map(line)),
    h("p", { class: "fine" }, `${say("base")} ${body.base.toFixed(3)} · ${say("probability")} ${body.probability.toFixed(4)}`)];
}

function truth(name, id, doc) {
  const classes = resolve(doc, { $ref: `#/components/schemas/${name}.Feedback` }).properties.truth.enum;
  if (!classes) return null;
  const box = h("div", { class: "row" }, h("span", { class: "fine" }, say("truth")), classes.map((one) =>
    h("button", { type: "button", class: "quiet", onclick: async () => {
      const said = await ask("POST", `/${name}/feedback`, { body: JSON.stringify({ request_id: id, truth: one }), headers: { "Content-Type": "application/json" } });
      box.replaceChildren(said.status === 202 ? h("span", { class: "fine", id: "thanks" }, say("thanks")) : problem(said));
    } }, one)));
  return box;
}

// --- every operation of a document

function resolve(doc, schema) {
  let found = schema;
  for (let hops = 0; found && found.$ref && hops < 10; hops++)
    found = found.$ref.slice(2).split("/").reduce((at, key) => at && at[decodeURIComponent(key).replaceAll("~1", "/").replaceAll("~0", "~")], doc);
  return found || {};
}

// In the order in which people want them: our own calls, the protocols', the gateway's.
const groups = [["ownCalls", (path, one) => one.tags[0] !== "gateway" && !/^\/(v1|v2|invocations)/.test(path)], ["protocolV2", (path) => path.startsWith("/v2")],
  ["protocolV1", (path) => path.startsWith("/v1")], ["otherCalls", () => true]];

function operations(doc) {
  const items = Object.entries(doc.paths).flatMap(([path, item]) =>
    ["post", "get"].filter((verb) => item[verb]).map((verb) => [path, verb, item[verb], item.parameters || []]));
  const heaps = groups.map(([title]) => [title, []]);
  for (const item of items) heaps[groups.findIndex(([, belongs]) => belongs(item[0], item[2]))][1].push(item);
  return h("section", { id: "operations" }, h("h2", null, say("operations")), heaps.filter(([, heap]) => heap.length).map(([title, heap]) =>
    [h("h3", { class: "group" }, say(title)), heap.map((item) => folded(doc, ...item))]));
}

function folded(doc, path, verb, one, common) {
  const inside = h("div", { class: "inside" });
  return h("details", { class: "op", "data-path": path, ontoggle: (event) => {
    if (event.target.open && !inside.childNodes.length) inside.append(...operation(doc, path, verb, one, common));
  } }, h("summary", null, h("span", { class: `verb ${verb}` }, verb.toUpperCase()), h("span", { class: "path mono" }, path), h("span", { class: "what" }, one.summary)), inside);
}

function operation(doc, path, verb, one, common) {
  const scope = one.security.flatMap((need) => Object.values(need).flat())[0];
  const parameters = [...common, ...(one.parameters || [])].map((parameter) => resolve(doc, parameter));
  const body = one.requestBody ? resolve(doc, one.requestBody) : null;
  const json = body && body.content["application/json"];
  const examples = body ? Object.entries(body.content).flatMap(([media, content]) =>
    Object.values(content.examples || {}).map((example) => ({ media, ...example }))) : [];
  let media = "application/json";
  const inputs = parameters.map((parameter) => {
    const known = resolve(doc, parameter.schema).enum;
    const input = known && known.length < 200
      ? h("select", null, parameter.required ? null : h("option", { value: "" }, ""), known.map((value) => h("option", { value }, value)))
      : h("input", { type: "text", autocomplete: "off" });
    return [parameter, input];
  });
  const area = json ? h("textarea", { spellcheck: "false", "aria-label": say("body"), rows: 10 }) : null;
  const put = (example) => {
    media = example.media;
    area.value = typeof example.value === "string" ? example.value : pretty(example.value);
  };
  if (area && examples.length) put(examples[0]);
  const out = h("div", { "aria-live": "polite" });
  const send = async () => {
    let target = path;
    const query = new URLSearchParams(), headers = json ? { "Content-Type": media } : {};
    for (const [parameter, input] of inputs) {
      if (parameter.in === "path") target = target.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
      else if (input.value !== "" && parameter.in === "query") query.set(parameter.name, input.value);
      else if (input.value !== "") headers[parameter.name] = input.value;
    }
    const search = query.toString();
    try {
      const said = await ask(verb.toUpperCase(), target + (search ? `?${search}` : ""), { body: area ? area.value : undefined, headers });
      const text = said.json ? pretty(said.json) : said.text;
      out.replaceChildren(h("p", null, h("span", { class: `status ${said.status < 400 ? "ok" : "no"}` }, String(said.status)),
        h("span", { class: "fine" }, ` ${said.type} · ${say("took", { ms: said.ms.toFixed(1) })}`)), text ? h("pre", { tabindex: "0" }, text.slice(0, 100000)) : "");
    } catch {
      out.replaceChildren(h("p", null, say("failed")));
    }
  };
  return [
    h("p", { class: "fine" }, one.security.length ? [say("scope"), " ", h("code", null, scope || "–")] : say("open")),
    one.description ? prose(one.description) : null,
    inputs.length ? [h("h3", null, say("parameters")), h("div", { class: "fields" }, inputs.map(([parameter, input]) => h("div", { class: "field" },
      h("label", null, parameter.name, " ", h("span", { class: "fine" }, parameter.in), input), h("span", { class: "hint" }, parameter.description))))] : null,
    body ? [h("h3", null, say("body")), prose(body.description), json ? h("details", null, h("summary", null, say("schema")), tree(doc, json.schema)) : null,
      examples.length > 1 ? h("div", { class: "row" }, examples.map((example) =>
        h("button", { type: "button", class: "quiet", title: example.media, onclick: () => put(example) }, example.summary,
          example.media === "application/json" ? null : h("span", { class: "fine" }, ` ${example.media}`)))) : null, area] : null,
    h("p", null, h("button", { type: "button", onclick: send }, say("call"))), out,
    h("h3", null, say("responses")),
    h("ul", { class: "tree" }, Object.entries(one.responses).map(([status, answer]) => {
      const said = resolve(doc, answer), content = Object.entries(said.content || {});
      const line = [h("span", { class: `status ${status < "3" ? "ok" : ""}` }, status === "default" ? say("other_errors") : status), " ", inline(said.description)];
      const schema = content.length && content[0][1].schema;
      return h("li", null, schema ? h("details", null, h("summary", null, line), h("span", { class: "fine" }, content.map(([media]) => media).join(", ")), tree(doc, schema)) : line);
    })),
  ].flat(Infinity).filter(Boolean);
}

const inline = (text) => prose(text)[0].childNodes.length ? [...prose(text)[0].childNodes] : "";

// A schema as a list that opens level by level.
function tree(doc, given, depth = 0) {
  const schema = resolve(doc, given);
  if (depth > 6) return null;
  const many = schema.anyOf || schema.allOf;
  if (many) return h("ul", { class: "tree" }, schema.anyOf ? h("li", { class: "kind" }, say("oneOf")) : null, many.map((part) => h("li", null, tree(doc, part, depth + 1))));
  if (schema.properties) return h("ul", { class: "tree" }, Object.entries(schema.properties).map(([name, part]) => {
    const inner = resolve(doc, part), must = (schema.required || []).includes(name);
    const line = [h("code", null, name), " ", h("span", { class: "kind" }, [kind(inner), allowed(inner), inner.const === undefined ? "" : String(inner.const), must ? say("required") : ""].filter(Boolean).join(" · ")),
      inner.description ? h("span", { class: "kind" }, " – ", inline(inner.description)) : ""];
    const deep = inner.properties || inner.anyOf || inner.allOf || (inner.items && Object.keys(inner.items).length);
    return h("li", null, deep ? h("details", null, h("summary", null, line), tree(doc, inner.items && !inner.properties ? inner.items : inner, depth + 1)) : line);
  }));
  if (schema.items) return h("div", null, h("span", { class: "kind" }, say("listOf")), tree(doc, schema.items, depth + 1));
  return h("span", { class: "kind" }, [schema.title, kind(schema), allowed(schema)].filter(Boolean).join(" · "));
}

// --- what a person does

$("key-form").addEventListener("submit", (event) => { event.preventDefault(); state.key = $("key").value.trim(); start(); });
$("key").addEventListener("input", () => {
  $("key-use").textContent = say("use");
  $("key-use").className = $("key").value ? "" : "quiet";
});
$("search").addEventListener("input", (event) => { state.search = event.target.value.trim().toLowerCase(); list(); });
$("language").addEventListener("click", () => { state.language = state.language === "en" ? "zh" : "en"; start(); });
$("download").addEventListener("click", async () => {
  const said = await ask("GET", `openapi.json?lang=${state.language}`).catch(() => null);
  if (!said || said.status !== 200) return;
  const url = URL.createObjectURL(new Blob([said.text], { type: "application/json" }));
  h("a", { href: url, download: "openapi.json" }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
});
addEventListener("hashchange", show);
start();

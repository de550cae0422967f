// Elements, numbers and lookups. Text from data reaches the page as text alone: no markup is ever made from it.
const DATA = JSON.parse(document.getElementById("report-data").textContent);
const state = { group: 0, tab: "verdict", point: null, rival: null, chosen: false, row: 0 };
const byId = (id) => document.getElementById(id);
const group = () => DATA.groups[state.group];

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, run] of Object.entries(value)) made.addEventListener(event, run);
    else if (name === "style") Object.assign(made.style, value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

function select(label, options, value, change) {
  const made = el("select", { on: { change: () => change(made.value) } });
  for (const [key, text] of options) made.append(el("option", { value: key, selected: String(key) === String(value) }, text));
  return el("label", {}, label, made);
}

// As the tables have them: significant digits, thousands grouped.
function number(value, digits = 4) {
  if (value === null || value === undefined) return "";
  if (Math.abs(value) >= 10 ** (digits - 1)) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}
const interval = (low, high) => (low === null || high === null ? "" : `[${number(low, 3)}, ${number(high, 3)}]`);
const bounded = (e) => (e ? `${number(e[0])} ${interval(e[1], e[2])}`.trim() : "");
const titled = (name) => {
  const e = group().estimates[name];
  return e ? e.title : name;
};
// Name and unit, where the name does not say the unit itself.
function labelled(name) {
  const title = titled(name), unit = unitOf(name);
  return !unit || title.includes(unit) || name.startsWith("latency_ratio") ? title : `${title}, ${unit}`;
}
const unitOf = (name) => group().estimates[name].unit;

// Dense under the same settings of the task, such as a mask area.
function denseOf(point) {
  const all = group().points.filter((p) => p.dense), own = JSON.stringify(point.task_settings);
  return all.find((p) => JSON.stringify(p.task_settings) === own) ?? all[0];
}

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

const valuesRead = {};
function valuesOf(name) {
  valuesRead[state.group] ??= JSON.parse(byId(`values-${state.group}`).textContent);
  return valuesRead[state.group][name];
}

function empty(text = "no picture", attributes = {}) {
  return el("div", { ...attributes, class: "empty " + (attributes.class ?? ""), role: "img", "aria-label": text }, text);
}

// A picture of one case, or a placeholder where the run has none. Few pixels are shown as they are, not smoothed.
function picture(from, row, alt, attributes = {}) {
  if (!from || row < 0 || from.gone.includes(row)) return empty("no picture", attributes);
  const { eager, ...rest } = attributes;
  const made = el("img", {
    ...rest, alt, src: `${from.dir}/${String(row).padStart(5, "0")}${from.kind}`, decoding: "async",
    loading: eager ? "eager" : "lazy", draggable: "false",
    on: {
      load: () => made.classList.toggle("pixels", made.naturalWidth <= 256),
      error: () => made.replaceWith(empty("picture cannot be read", rest)),
    },
  });
  return made;
}

function settingsOf(point) {
  return Object.entries({ ...point.task_settings, ...point.settings }).map(([name, value]) => [
    name, value === null || value === "" ? "none" : typeof value === "string" ? value : JSON.stringify(value),
  ]);
}

function list(pairs) {
  return el("dl", {}, pairs.map(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]));
}

function scrolled(label, table, kind = "scroll") {
  return el("div", { class: kind, tabindex: "0", role: "region", "aria-label": label }, table);
}

function table(label, head, rows, kind = "scroll") {
  return scrolled(
    label,
    el("table", {}, el("thead", {}, el("tr", {}, head.map((name) => (name ? el("th", { scope: "col" }, name) : el("td", {}))))), el("tbody", {}, rows)),
    kind,
  );
}

// Every record: to filter, sort, take along and make again.
const records = { text: "", sort: null, down: false, open: new Set() };

function columns() {
  const g = group(), estimates = [...new Set([...g.costs, ...g.metrics])];
  return [
    ["point", (p) => p.name], ["outcome", (p) => p.outcome], ["run", (p) => p.run],
    ...estimates.map((name) => [labelled(name), (p) => p.estimates[name]?.[0] ?? null, (p) => bounded(p.estimates[name])]),
    ["seconds", (p) => p.seconds, (p) => number(p.seconds, 3)],
  ];
}

function shownRecords() {
  const words = records.text.toLowerCase().split(/\s+/).filter(Boolean);
  const some = group().points.map((point, i) => [i, point]).filter(([, p]) => {
    const text = [p.name, p.method, p.outcome, p.reason, p.run, p.key, JSON.stringify(p.settings), JSON.stringify(p.task_settings)].join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  });
  const by = columns().find(([name]) => name === records.sort);
  if (by) {
    some.sort(([, a], [, b]) => {
      const [x, y] = [by[1](a), by[1](b)];
      if (x === null || y === null) return (x === null) - (y === null);
      return (records.down ? -1 : 1) * (typeof x === "number" ? x - y : String(x).localeCompare(String(y)));
    });
  }
  return some;
}

function drawRecords(place) {
  const search = el("input", { type: "search", id: "record-filter", value: records.text, placeholder: "method, setting, outcome", on: { input: () => { records.text = search.value; fill(); } } });
  const count = el("span", { class: "note", "aria-live": "polite" }), body = el("tbody", {}), head = el("tr", {});
  const fill = () => {
    const some = shownRecords();
    count.textContent = `${some.length} of ${group().points.length} points`;
    head.replaceChildren(...columns().map(([name]) => el("th", { scope: "col", "aria-sort": records.sort === name ? (records.down ? "descending" : "ascending") : "none" },
      el("button", { type: "button", on: { click: () => { records.down = records.sort === name && !records.down; records.sort = name; fill(); [...head.querySelectorAll("button")].find((b) => b.dataset.name === name).focus(); } }, "data-name": name },
        name + (records.sort === name ? (records.down ? " ↓" : " ↑") : "")))));
    head.firstChild.after(el("th", { scope: "col" }, "command"));
    body.replaceChildren(...some.flatMap(([i, point]) => rowOf(i, point, fill)));
  };
  fill();
  place.replaceChildren(
    el("div", { class: "controls" }, el("label", {}, "Filter", search),
      el("button", { type: "button", id: "csv", on: { click: () => save("records.csv", "text/csv", csv()) } }, "Download CSV"),
      el("button", { type: "button", id: "json", on: { click: () => save("records.json", "application/json", JSON.stringify(shownRecords().map(([, p]) => p), null, 1)) } }, "Download JSON"), count),
    scrolled("Records", el("table", { class: "records-table" }, el("thead", {}, head), body), "tall"));
}

function rowOf(i, point, fill) {
  const open = records.open.has(`${state.group}/${i}`), all = columns();
  const toggle = () => { const id = `${state.group}/${i}`; if (open) records.open.delete(id); else records.open.add(id); fill(); byId(`detail-${i}`)?.focus(); };
  const row = el("tr", {}, el("th", { scope: "row" }, point.name),
    el("td", {}, el("button", { type: "button", class: "quiet", id: `detail-${i}`, "aria-expanded": String(open), "aria-label": `command and settings of ${point.name}`, on: { click: toggle } }, open ? "hide" : "show")),
    all.slice(1).map(([, value, text]) => el("td", { class: text ? "num" : null }, (text ?? value)(point) ?? "")));
  if (!open) return [row];
  const facts = [["key", point.key], ["started", point.started], ...settingsOf(point), ...Object.entries(point.environment)];
  return [row, el("tr", { class: "detail" }, el("td", { colspan: all.length + 1 },
    point.reason ? el("p", { class: "warning" }, point.reason) : null,
    el("div", {}, "Makes this point again:"), copied(point.command), el("div", {}, "Puts it to use:"), copied(point.apply),
    el("details", {}, el("summary", {}, "Settings and provenance"), list(facts))))];
}

function copied(text) {
  const code = el("code", {}, text);
  const button = el("button", { type: "button", class: "quiet", on: { click: async () => {
    try {
      await navigator.clipboard.writeText(text);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
  } } }, "Copy");
  return el("div", { class: "command" }, code, button);
}

// Every digit of every number. Text that a spreadsheet would run as a formula has a quote before it.
function csv() {
  const g = group(), names = Object.keys(g.estimates);
  const cell = (value) => {
    if (value === null || value === undefined) return "";
    const text = typeof value === "string" && /^[=+\-@\t\r]/.test(value) ? "'" + value : String(value);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const head = ["point", "method", "settings", "task_settings", "ratio", "run", "outcome", "reason", "key", ...names.flatMap((name) => [name, `${name}_low`, `${name}_high`, `${name}_n`]), "command"];
  const rows = shownRecords().map(([, p]) => [p.name, p.method, JSON.stringify(p.settings), JSON.stringify(p.task_settings), p.ratio, p.run, p.outcome, p.reason, p.key,
    ...names.flatMap((name) => p.estimates[name] ?? [null, null, null, null]), p.command]);
  return [head, ...rows].map((row) => row.map(cell).join(",")).join("\n") + "\n";
}

function save(name, type, text) {
  const url = URL.createObjectURL(new Blob([text], { type })), link = el("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}

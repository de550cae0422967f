// Where time and products go.
const cost = { unit: null };

function drawCost(place) {
  const g = group(), units = ["seconds", "GMACs"].filter((unit) => g.points.some((point) => point.parts[unit]));
  place.replaceChildren();
  if (units.length) {
    if (!units.includes(cost.unit)) cost.unit = units[0];
    const points = g.points.filter((point) => point.parts[cost.unit]);
    const names = [...new Set(points.flatMap((point) => Object.keys(point.parts[cost.unit])))];
    const plot = el("div", { class: "plot short-plot", id: "cost-plot", role: "img", "aria-label": `${cost.unit} by part; the table below holds the same numbers` });
    if (units.length > 1) place.append(el("div", { class: "controls" }, select("Of", units.map((unit) => [unit, unit]), cost.unit, (value) => { cost.unit = value; drawCost(place); })));
    place.append(el("h2", {}, `${cost.unit === "seconds" ? "Seconds" : "GMACs"} by part`), el("p", { class: "note" }, note(points, names)), plot,
      table("By part", ["point", ...names, "sum"], points.map((point) => el("tr", {}, el("th", { scope: "row" }, point.name),
        names.map((name) => el("td", { class: "num" }, number(point.parts[cost.unit][name]))),
        el("td", { class: "num" }, number(Object.values(point.parts[cost.unit]).reduce((a, b) => a + b, 0)))))));
    const lines = Math.max(1, ...points.map((point) => wrapped(point.name, 40).split("<br>").length));
    const height = 110 + points.length * (12 + 16 * lines);
    const patterns = ["", "/", "x", ".", "\\", "+"];
    draw(plot, names.map((name, i) => ({
      type: "bar", orientation: "h", name: safe(name), x: points.map((point) => point.parts[cost.unit][name] ?? 0), y: points.map((point) => wrapped(point.name, 40)),
      hovertemplate: "%{y}<br>" + safe(name) + ": %{x:.4g}<extra></extra>",
      marker: { color: COLOURS[i % COLOURS.length], pattern: { shape: patterns[i % patterns.length], fillmode: "overlay", fgcolor: "#000", size: 6, solidity: 0.15 } },
    })), { barmode: "stack", bargap: 0.3, height, xaxis: axis(cost.unit), yaxis: { type: "category", autorange: "reversed", automargin: true, ticksuffix: "  " }, legend: { orientation: "h", y: 1 + 6 / (height - 104), yanchor: "bottom", traceorder: "normal" }, margin: { l: 60, r: 20, t: 40, b: 64 } });
  } else place.append(el("p", {}, "No point of this workload was measured by part."));
  const costs = Object.keys(g.estimates).filter((name) => g.estimates[name].role === "cost" || name.startsWith("throughput"));
  if (!costs.length) return;
  place.append(el("h2", {}, "All costs"), el("p", { class: "note" }, "With 95 % intervals where there are some. A latency ratio is of interleaved pairs with dense, and compares better than seconds do."),
    table("All costs", ["point", ...costs.map(labelled)],
      g.points.map((point) => el("tr", {}, el("th", { scope: "row" }, point.name), costs.map((name) => el("td", { class: "num" }, bounded(point.estimates[name])))))),
    el("details", {}, el("summary", {}, "How each was counted"), list(costs.map((name) => [titled(name), g.estimates[name].convention]))));
}

function note(points, names) {
  const prefix = cost.unit === "seconds" ? (name) => `latency_${name.replaceAll(" ", "_")}_s` : (name) => `gmacs_${name.replaceAll(" ", "_")}`;
  const said = new Set(names.map((name) => group().estimates[prefix(name)]?.convention).filter(Boolean));
  const n = Math.max(...points.map((point) => point.estimates[prefix(names[0])]?.[3] ?? 0));
  return `${sentence([...said].join("; "))}${n === 1 && cost.unit === "seconds" ? "; timed once, so read the shares and not the digits" : ""}.`;
}

// Quality against cost.
const front = { cost: null, metric: null, by: "method" };

function drawFront(place) {
  const g = group();
  front.cost = g.costs.includes(front.cost) ? front.cost : g.costs[0];
  front.metric = g.metrics.includes(front.metric) ? front.metric : g.metrics.includes(g.headline) ? g.headline : g.metrics[0];
  const again = (name) => (value) => { front[name] = value; drawFront(place); byId(`front-${name}`)?.focus(); };
  if (!front.cost || !front.metric) {
    place.replaceChildren(el("p", {}, "No point of this workload has both a cost and a quality metric, so there is no front. Costs are under Cost."));
    return;
  }
  const controls = el("div", { class: "controls" },
    select("Quality", g.metrics.map((name) => [name, `${titled(name)} (${g.estimates[name].better} is better)`]), front.metric, again("metric")),
    select("Cost", g.costs.map((name) => [name, labelled(name)]), front.cost, again("cost")),
    select("Colour", [["method", "by method"], ["tie", "by first place at equal strength"]], front.by, again("by")));
  controls.querySelectorAll("select").forEach((made, i) => { made.id = `front-${["metric", "cost", "by"][i]}`; });
  const chosen = g.fronts[`${front.cost}|${front.metric}`] ?? {};
  const points = g.points.map((point, i) => ({ point, i, x: point.estimates[front.cost], y: point.estimates[front.metric], on: chosen[i] }))
    .filter((p) => p.x && p.y && p.on && p.x[0] !== null && p.y[0] !== null).sort((a, b) => a.x[0] - b.x[0]);
  const plot = el("div", { class: "plot", id: "front-plot", role: "img", "aria-label": `${titled(front.metric)} against ${titled(front.cost)}; the table below holds the same numbers` });
  place.replaceChildren(...[
    controls, plot,
    el("p", { class: "note" }, `${sentence(g.estimates[front.metric].convention)}. Bars: 95 % intervals. Line: the front, points that no other beats on both axes. Hover for settings and a picture, click for the pictures; drag to zoom, double-click to zoom out.`),
    front.by === "tie" || points.some((p) => p.point.tie) ? el("p", { class: "note" }, `First place is by ${titled(g.headline)}, among points of one strength or budget: those that cannot be told apart from the best.`) : null,
    frontTable(points)].filter(Boolean));
  plotFront(plot, points);
}

function frontTable(points) {
  const rows = points.map(({ point, i, x, y, on }) => el("tr", {},
    el("th", { scope: "row" }, point.name), el("td", { class: "num" }, bounded(x)), el("td", { class: "num" }, bounded(y)),
    el("td", {}, on[0] ? "● on the front" : ""), el("td", { class: "num" }, on[1] === null ? "" : `${number(100 * on[1], 3)} %`),
    el("td", {}, { first: "first place", behind: "behind", "": "" }[point.tie]),
    el("td", {}, el("button", { type: "button", class: "quiet", on: { click: () => openPictures(i) } }, "pictures"))));
  return table("Points of this front", ["point", labelled(front.cost), titled(front.metric), "front", "in resamples", "at its strength", ""], rows);
}

function whiskers(some, of) {
  const each = some.map((p) => p[of]);
  if (!each.some((e) => e[1] !== null && e[2] !== null)) return undefined;
  return {
    type: "data", symmetric: false, thickness: 1.2, width: 3,
    array: each.map((e) => Math.max(0, (e[2] ?? e[0]) - e[0])), arrayminus: each.map((e) => Math.max(0, e[0] - (e[1] ?? e[0]))),
  };
}

async function plotFront(plot, points) {
  const g = group(), ties = { first: ["shares first place", "#0072B2", "circle"], behind: ["behind", "#D55E00", "x"], "": ["not ranked", "#7d8694", "diamond-open"] };
  const kinds = [...new Set(points.map((p) => (front.by === "tie" ? p.point.tie : p.point.variant)))];
  const order = [...new Set(g.points.map((p) => p.variant))];
  kinds.sort((a, b) => order.indexOf(a) - order.indexOf(b));
  const traces = kinds.map((kind) => {
    const some = points.filter((p) => (front.by === "tie" ? p.point.tie : p.point.variant) === kind);
    const at = order.indexOf(kind), dense = front.by !== "tie" && some.every((p) => p.point.dense);
    const [name, ink, symbol] = front.by === "tie" ? ties[kind]
      : [kind, dense ? colour("--ink") : COLOURS[(at + 5) % COLOURS.length], dense ? STARS[kinds.indexOf(kind) % STARS.length] : SYMBOLS[at % SYMBOLS.length]];
    return {
      type: "scatter", mode: "markers", name: wrapped(name, 34), x: some.map((p) => p.x[0]), y: some.map((p) => p.y[0]),
      error_x: whiskers(some, "x"), error_y: whiskers(some, "y"), customdata: some.map((p) => p.i), hoverinfo: "none",
      marker: { color: ink, symbol, size: dense ? 14 : 11, line: { width: symbol === "x" ? 0 : 1, color: colour("--paper") } },
    };
  });
  const best = points.filter((p) => p.on[0]);
  traces.unshift({
    type: "scatter", mode: "lines", name: "front", x: best.map((p) => p.x[0]), y: best.map((p) => p.y[0]), hoverinfo: "skip",
    line: { shape: "hv", color: colour("--strong-line"), width: 2, dash: "dot" },
  });
  const better = g.estimates[front.metric].better, narrow = plot.clientWidth < 560;
  const Plotly = await draw(plot, traces, {
    xaxis: axis(wrapped(`${labelled(front.cost)} (lower is better)`, 60)),
    yaxis: axis(wrapped(`${labelled(front.metric)} (${better} is better)`, narrow ? 40 : 56)),
    legend: narrow ? { orientation: "h", y: -0.25 } : { y: 1 }, height: narrow ? 520 : 480,
  });
  if (!Plotly) return;
  plot.on("plotly_hover", (event) => showCard(event.points[0].customdata, event.event));
  plot.on("plotly_unhover", hideCard);
  plot.on("plotly_click", (event) => { hideCard(); openPictures(event.points[0].customdata); });
}

function showCard(index, event) {
  const g = group(), point = g.points[index], card = byId("card"), row = Math.min(state.row, g.rows - 1);
  if (!point) return;
  const dense = denseOf(point);
  const pairs = [front.metric, front.cost].map((name) => [titled(name), bounded(point.estimates[name])]);
  card.replaceChildren(
    el("h4", {}, point.name),
    g.rows ? el("div", { class: "pair" },
      el("figure", {}, picture(point.pictures, row, "", { eager: true }), "this point"),
      dense && dense !== point ? el("figure", {}, picture(dense.pictures, row, "", { eager: true }), "dense") : null) : "",
    list([...pairs, ...settingsOf(point)].slice(0, 14)));
  card.hidden = false;
  const box = card.getBoundingClientRect();
  card.style.left = `${Math.max(8, Math.min(event.clientX + 16, innerWidth - box.width - 8))}px`;
  card.style.top = `${Math.max(8, Math.min(event.clientY + 16, innerHeight - box.height - 8))}px`;
}
function hideCard() { byId("card").hidden = true; }

// Quality against cost.
const front = { cost: null, metric: null, by: "method", published: false };

// What a published figure is compared with: relative to dense alone, since its model, images and machine are others.
const PUBLISHED_COSTS = { gmacs: "gmacs", gmacs_paper: "gmacs", latency_ratio: "latency", latency_s: "latency", peak_memory_mb: "memory" };
const publishedMetric = (name) => (name.startsWith("fid") ? "fid" : name.startsWith("clip") ? "clip" : null);

// Published points on these axes: [] where the axes allow none.
function publishedPoints() {
  const cost = PUBLISHED_COSTS[front.cost], metric = publishedMetric(front.metric);
  return group().published.map((row) => ({ row, x: row[cost], y: row[metric] })).filter((p) => typeof p.x === "number" && typeof p.y === "number");
}

// Of what an axis is divided by to be relative to dense: a latency ratio is so already. null: dense has no such figure.
function denseFigure(point, name) {
  if (name.startsWith("latency_ratio")) return 1;
  const value = denseOf(point)?.estimates[name]?.[0];
  return value > 0 ? value : null;
}
function relative(points) {
  return points.map((p) => {
    const [dx, dy] = [front.cost, front.metric].map((name) => denseFigure(p.point, name));
    const over = (e, d) => e.map((value, i) => (i < 3 && value !== null ? value / d : value));
    return dx && dy ? { ...p, x: over(p.x, dx), y: over(p.y, dy), scale: { x: dx, y: dy } } : null;
  }).filter(Boolean);
}

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
  const others = publishedPoints(), shownOthers = front.published && others.length > 0;
  const drawn = shownOthers ? relative(points) : points;
  const cut = [front.cost, front.metric].some((name) => g.windows[name]);
  const plot = el("div", { class: "plot", id: "front-plot", role: "img", "aria-label": `${titled(front.metric)} against ${titled(front.cost)}; the table below holds the same numbers` });
  place.replaceChildren(...[
    controls, others.length ? publishedToggle(again) : null, plot,
    el("p", { class: "note" }, `${sentence(g.estimates[front.metric].convention)}. Bars: 95 % intervals${cut ? "; an arrow: it goes on beyond the axis, which the values set" : ""}. ${points.some((p) => p.on[0]) ? "Line: the front, points that no other beats on both axes." : "No front: a distance between sets of fewer than 1,000 images ranks nothing."} Hover for settings and a picture, click for the pictures; drag to zoom, double-click to zoom out.`),
    front.by === "tie" || points.some((p) => p.point.tie) ? el("p", { class: "note" }, `First place is by ${titled(g.headline)}, among points of one strength or budget: those that cannot be told apart from the best.`) : null,
    shownOthers ? publishedNote(others) : null,
    frontTable(points), shownOthers ? publishedTable(others) : null].filter(Boolean));
  plotFront(plot, drawn, shownOthers ? others : []);
}

function publishedToggle(again) {
  const box = el("input", { type: "checkbox", id: "front-published", checked: front.published, on: { change: () => again("published")(box.checked) } });
  return el("div", { class: "controls" }, el("label", { class: "check" }, box, "Published points, everything relative to its own dense"));
}

function publishedNote(others) {
  const [about] = others.map((p) => p.row.about);
  return el("p", { class: "note", id: "published-note" }, `Published: ${about}. Every point is relative to its own dense: the paper's to the row that it was measured against, ours to our dense; other model, images, features and machine, so no value of one is one of the other, and no interval is known. Bars of ours are over dense's figure as if that were exact.`);
}

function publishedTable(others) {
  return table("Published points", ["published", "its dense", `${titled(front.cost)}, of its dense`, `${titled(front.metric)}, of its dense`], others.map((p) => el("tr", {},
    el("th", { scope: "row" }, p.row.name), el("td", { class: "name" }, p.row.dense + (p.row.inferred ? " (inferred)" : "")),
    el("td", { class: "num" }, number(p.x)), el("td", { class: "num" }, number(p.y)))));
}

function frontTable(points) {
  const rows = points.map(({ point, i, x, y, on }) => el("tr", {},
    el("th", { scope: "row" }, point.name), el("td", { class: "num" }, bounded(x)), el("td", { class: "num" }, bounded(y)),
    el("td", { class: "num" }, on[0] ? "● on the front" : ""), el("td", { class: "num" }, on[1] === null ? "" : `${number(100 * on[1], 3)} %`),
    el("td", { class: "num" }, { first: "first place", behind: "behind", "": "" }[point.tie]),
    el("td", {}, el("button", { type: "button", class: "quiet", on: { click: () => openPictures(i) } }, "pictures"))));
  return table("Points of this front", ["point", labelled(front.cost), titled(front.metric), "front", "in resamples", "at its strength", ""], rows);
}

function whiskers(some, of) {
  const each = some.map((p) => p[of]);
  if (!each.some((e) => e[1] !== null && e[2] !== null)) return undefined;
  return {
    type: "data", symmetric: false, thickness: 1.2, width: 3,
    array: some.map((p) => Math.max(0, shown(p, of)[1] - p[of][0])), arrayminus: some.map((p) => Math.max(0, p[of][0] - shown(p, of)[0])),
  };
}

// The bounds of an interval as far as the axis goes.
function shown(p, of) {
  const e = p[of], scale = p.scale?.[of] ?? 1;
  const [least, most] = (group().windows[of === "x" ? front.cost : front.metric] ?? [-Infinity, Infinity]).map((end) => end / scale);
  return [Math.max(e[1] ?? e[0], least), Math.min(e[2] ?? e[0], most)];
}

// An arrow at each end of an interval that goes on beyond the axis.
function arrows(some, ink) {
  const found = [];
  for (const p of some) for (const of of ["x", "y"]) for (const end of [0, 1]) {
    const at = shown(p, of)[end];
    if ((p[of][end + 1] ?? at) === at) continue;
    found.push({ x: of === "x" ? at : p.x[0], y: of === "y" ? at : p.y[0], symbol: { x: ["triangle-left", "triangle-right"], y: ["triangle-down", "triangle-up"] }[of][end] });
  }
  return {
    type: "scatter", mode: "markers", showlegend: false, hoverinfo: "skip", x: found.map((a) => a.x), y: found.map((a) => a.y),
    marker: { color: ink, size: 9, symbol: found.map((a) => a.symbol) },
  };
}

// For each label, a side of its point where it covers no point, no label before it and no end of the plot.
const SIDES = { "middle right": [1, 0], "middle left": [-1, 0], "top center": [0, -1], "bottom center": [0, 1] };
function labelSides(plot, points, labels) {
  const { xaxis, yaxis } = plot._fullLayout, at = (x, y) => [xaxis.d2p(x), yaxis.d2p(y)];
  const taken = [...points.map((p) => at(p.x[0], p.y[0])), ...labels.map((p) => at(p.x, p.y))].map(([x, y]) => [x - 8, y - 8, x + 8, y + 8]);
  return labels.map((p) => {
    const [x, y] = at(p.x, p.y), half = 3.3 * (p.row.name.length + 2);
    const box = (side) => {
      const [right, down] = SIDES[side], middle = x + right * (half + 9), level = y + down * 14;
      return [middle - half, level - 6, middle + half, level + 6];
    };
    const free = ([left, top, right, bottom]) => left >= 0 && top >= 0 && right <= xaxis._length && bottom <= yaxis._length
      && !taken.some((other) => left < other[2] && other[0] < right && top < other[3] && other[1] < bottom);
    const side = Object.keys(SIDES).find((each) => free(box(each))) ?? "middle left";
    taken.push(box(side));
    return side;
  });
}

async function plotFront(plot, points, others) {
  const g = group(), ties = { first: ["shares first place", "#0072B2", "circle"], behind: ["behind", "#D55E00", "x"], "": ["not ranked", "#7d8694", "diamond-open"] };
  const kinds = [...new Set(points.map((p) => (front.by === "tie" ? p.point.tie : p.point.variant)))];
  const order = [...new Set(g.points.map((p) => p.variant))];
  kinds.sort((a, b) => order.indexOf(a) - order.indexOf(b));
  const traces = kinds.map((kind) => {
    const some = points.filter((p) => (front.by === "tie" ? p.point.tie : p.point.variant) === kind);
    const at = order.indexOf(kind), dense = front.by !== "tie" && some.every((p) => p.point.dense);
    const [name, ink, symbol] = front.by === "tie" ? ties[kind]
      : [kind, dense ? colour("--ink") : COLOURS[(at + 5) % COLOURS.length], dense ? STARS[kinds.indexOf(kind) % STARS.length] : SYMBOLS[at % SYMBOLS.length]];
    return [arrows(some, ink), {
      type: "scatter", mode: "markers", name: wrapped(name, 34), x: some.map((p) => p.x[0]), y: some.map((p) => p.y[0]),
      error_x: whiskers(some, "x"), error_y: whiskers(some, "y"), customdata: some.map((p) => p.i), hoverinfo: "none",
      marker: { color: ink, symbol, size: dense ? 14 : 11, line: { width: symbol === "x" ? 0 : 1, color: colour("--paper") } },
    }];
  }).flat();
  const best = points.filter((p) => p.on[0]);
  traces.unshift({
    type: "scatter", mode: "lines", name: "front", x: best.map((p) => p.x[0]), y: best.map((p) => p.y[0]), hoverinfo: "skip",
    line: { shape: "hv", color: colour("--strong-line"), width: 2, dash: "dot" },
  });
  const published = [...new Set(others.map((p) => p.row.dense))].map((name) => [name, others.filter((p) => p.row.dense === name)]);
  for (const [at, [name, own]] of published.entries()) {
    traces.push({
      type: "scatter", mode: "markers", name: wrapped(`published, of ${name}`, 34), x: own.map((p) => p.x), y: own.map((p) => p.y),
      text: own.map((p) => `\u00a0${safe(p.row.name)}\u00a0`), textfont: { size: 11 }, hoverinfo: "skip",
      marker: { color: colour("--strong-line"), symbol: ["circle-open", "square-open", "diamond-open"][at % 3], size: 10, line: { width: 2 } },
    });
  }
  const levels = [...points.map((p) => p.y[0]), ...others.map((p) => p.y)], least = Math.min(...levels), most = Math.max(...levels);
  const wide = others.length > 0 && least > 0 && most > 8 * least;
  const spare = wide ? (most / least) ** 0.13 : 0.13 * (most - least);  // for labels above and below points
  const range = others.length ? { autorangeoptions: { include: wide ? [least / spare, most * spare] : [least - spare, most + spare] } } : {};
  const over = others.length ? " / dense" : "", of = (name) => (others.length && !name.startsWith("latency_ratio") ? titled(name) : labelled(name));
  const better = g.estimates[front.metric].better, narrow = plot.clientWidth < 560;
  const Plotly = await draw(plot, traces, {
    xaxis: axis(wrapped(`${of(front.cost)}${front.cost.startsWith("latency_ratio") ? "" : over} (lower is better)`, 60)),
    yaxis: axis(wrapped(`${of(front.metric)}${over} (${better} is better)`, narrow ? 40 : 56), { ...range, ...(wide ? decades(levels) : {}) }),
    legend: narrow ? { orientation: "h", y: -0.25 } : { y: 1 }, height: narrow ? 520 : 480,
  });
  if (!Plotly) return;
  if (others.length) {
    const sides = labelSides(plot, points, published.flatMap(([, own]) => own));
    await Plotly.restyle(plot, { mode: "markers+text", textposition: published.map(([, own]) => sides.splice(0, own.length)) }, published.map((_, i) => traces.length - published.length + i));
  }
  plot.on("plotly_hover", (event) => showCard(event.points[0].customdata, event.event));
  plot.on("plotly_unhover", hideCard);
  plot.on("plotly_click", (event) => { hideCard(); if (event.points[0].customdata !== undefined) openPictures(event.points[0].customdata); });
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

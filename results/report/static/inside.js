// What a method does inside: ratios by layer and region, kept tokens by step, what its axes are worth.
const inside = { point: null, metric: null };

function drawInside(place) {
  const g = group(), mapped = g.points.map((point, i) => [i, point]).filter(([, point]) => point.maps);
  place.replaceChildren();
  if (!mapped.length && !g.attribution.length) {
    place.append(el("p", {}, "No point of this workload left token maps, and the run has no attribution."));
    return;
  }
  if (mapped.length) {
    if (!mapped.some(([i]) => i === inside.point)) inside.point = (mapped.find(([, p]) => p.maps.ratios) ?? mapped.find(([, p]) => p.maps.kept) ?? mapped[0])[0];
    place.append(el("div", { class: "controls" },
      select("Point", mapped.map(([i, point]) => [i, point.name]), inside.point, (value) => { inside.point = Number(value); drawInside(place); place.querySelector("select").focus(); })));
    place.append(...mapsOf(g.points[inside.point]));
  }
  if (g.attribution.length) place.append(...attribution(place));
}

function mapsOf(point) {
  const maps = point.maps, layer = (i) => `layer ${i}`, steps = maps.steps.map((step) => `step ${step}`), made = [];
  const percent = (value) => `${number(100 * value, 3)} %`;
  if (maps.ratios) {
    const regions = maps.ratios[0].map((_, i) => (maps.ratios[0].length > 1 ? `region ${i + 1}` : "all steps"));
    const highest = Math.max(0.5, ...maps.ratios.flat());
    made.push(el("h2", {}, "Compression ratio by layer and timestep region"), el("p", { class: "note" }, "Region 1 is the noisiest. Brighter: more is left out."),
      heatTable("Compression ratios", maps.ratios, layer, regions, percent, highest));
  }
  const scale = (low, high) => el("p", { class: "scale" }, low, el("i", {}), high);
  if (maps.kept) {
    made.push(el("h2", {}, "Kept tokens by layer and step"), el("p", { class: "note" }, "Of the first case, on the token grid; the top row is the image as it forms. Both CFG halves keep a bright token, none a dark one."),
      scale("left out", "kept"), sprites(maps, maps.kept, "Kept tokens"));
    made.push(el("h2", {}, "Share of tokens kept"), heatTable("Share of tokens kept", maps.share, layer, steps, percent));
  } else {
    made.push(el("h2", {}, "Kept tokens by layer and step"), el("p", {}, "Every token keeps its place in every layer of this point, as with methods that merge or cache."));
  }
  if (maps.scores) made.push(el("h2", {}, "Router scores"), scale("0", "1"), sprites(maps, maps.scores, "Router scores"));
  return made;
}

function sprites(maps, file, label) {
  const columns = maps.steps.length, size = 64;
  const cell = (url, rows, row, column) => el("div", { class: "cell", style: {
    width: `${size}px`, height: `${size}px`, backgroundImage: `url("${url}")`, backgroundSize: `${100 * columns}% ${100 * rows}%`,
    backgroundPosition: `${columns > 1 ? (100 * column) / (columns - 1) : 0}% ${rows > 1 ? (100 * row) / (rows - 1) : 0}%`,
  } });
  const across = [...Array(columns).keys()], cells = [el("span", {}), ...across.map((c) => el("span", {}, `step ${maps.steps[c]}`))];
  cells.push(el("span", {}, "image"), ...across.map((c) => cell(maps.images, 1, 0, c)));
  for (let layer = 0; layer < maps.layers; layer++) cells.push(el("span", {}, `layer ${layer}`), ...across.map((c) => cell(file, maps.layers, layer, c)));
  return scrolled(label, el("div", { class: "token-maps", style: { gridTemplateColumns: `64px repeat(${columns}, ${size}px)` } }, cells));
}

function attribution(place) {
  const g = group(), metrics = [...new Set(g.attribution.map((row) => row.metric))];
  const first = metrics.find((name) => name === g.headline) ?? metrics.find((name) => name.startsWith("truth[")) ?? metrics[0];
  if (!metrics.includes(inside.metric)) inside.metric = first;
  let some = g.attribution.filter((row) => row.metric === inside.metric);
  if (some.some((row) => row.seed === "all")) some = some.filter((row) => row.seed === "all");
  const name = (row) => `${row.axis}: ${row.control}, ${row.form} (${row.method}${row.ratio === null ? "" : ` ${number(100 * row.ratio, 3)} %`}${row.seed === "all" ? "" : `, seed ${row.seed}`})`;
  const plot = el("div", { class: "plot short-plot", role: "img", "aria-label": "What each axis is worth; the table below holds the same numbers" });
  const rows = some.map((row) => el("tr", {}, el("th", { scope: "row" }, name(row)), el("td", { class: "num" }, `${row.difference > 0 ? "+" : ""}${number(row.difference)} ${interval(row.low, row.high)}`), el("td", { class: "num" }, number(row.p, 2)), el("td", { class: "num" }, String(row.n))));
  draw(plot, ["swapped", "refitted"].map((form) => some.filter((row) => row.form === form)).filter((part) => part.length).map((part, i) => ({
    type: "bar", orientation: "h", name: part[0].form, y: part.map((row) => wrapped(name(row), 44)), x: part.map((row) => row.difference), hoverinfo: "x",
    marker: { color: part[0].form === "swapped" ? "#56B4E9" : "#0072B2" },
    error_x: { type: "data", symmetric: false, color: colour("--ink"), thickness: 1.4, array: part.map((row) => (row.high ?? row.difference) - row.difference), arrayminus: part.map((row) => row.difference - (row.low ?? row.difference)) },
  })), {
    height: 110 + 46 * some.length, xaxis: axis(wrapped(`${inside.metric}: method less control (${some[0].better} is better)`, 70)), yaxis: { type: "category", autorange: "reversed", automargin: true, ticksuffix: "  " },
    showlegend: true, legend: { orientation: "h", y: 1.12, yanchor: "bottom" },
  });
  return [el("h2", {}, "What each axis is worth"), el("p", { class: "note" }, "Method less a control of equal cost that destroys one axis, paired by image, with 95 % intervals. swapped: the same weights under the control; refitted: weights fitted under it."),
    el("div", { class: "controls" }, select("Metric", metrics.map((each) => [each, each]), inside.metric, (value) => { inside.metric = value; drawInside(place); })),
    plot, table("What each axis is worth", ["control", "difference [95 %]", "p", "n"], rows)];
}

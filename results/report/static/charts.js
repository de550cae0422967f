// Plots. The library is large, so it is loaded when the first plot is drawn.
// Okabe and Ito's colours, which colour-blind people tell apart; black and yellow are left out for dark and light paper.
const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"];
const SYMBOLS = ["circle", "square", "diamond", "triangle-up", "cross", "x", "triangle-down", "star", "hexagon", "pentagon"];
const STARS = ["star", "star-open", "star-square", "star-diamond", "hexagram", "hexagram-open"];
let library = null;

function plotly() {
  library ??= new Promise((done, failed) => {
    const script = el("script", { src: "plotly.min.js", on: { load: () => done(window.Plotly), error: failed } });
    document.head.append(script);
  });
  return library;
}

// The library reads some markup in labels; none of it comes from data.
const safe = (text) => String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function wrapped(text, width) {
  const lines = [""];
  for (const word of text.split(" ")) {
    if (lines.at(-1).length + word.length > width && lines.at(-1)) lines.push("");
    lines[lines.length - 1] += (lines.at(-1) ? " " : "") + word;
  }
  return lines.map(safe).join("<br>");
}

function axis(title, more = {}) {
  return {
    title: { text: title, font: { size: 13 }, standoff: 12 }, gridcolor: colour("--line"), zerolinecolor: colour("--strong-line"),
    linecolor: colour("--strong-line"), automargin: true, ...more,
  };
}

// A logarithmic axis with ticks at 1, 2 and 5 of each decade: the library's own are digits alone, "9" for 0.9.
function decades(values) {
  const ends = [Math.min(...values), Math.max(...values)].map((value) => Math.floor(Math.log10(value)));
  const ticks = [];
  for (let decade = ends[0] - 1; decade <= ends[1] + 1; decade++) for (const digit of [1, 2, 5]) ticks.push(Number(`${digit}e${decade}`));
  return { type: "log", tickvals: ticks, ticktext: ticks.map((tick) => number(tick)) };
}

// The height is the element's: one in the layout is lost when the window changes.
async function draw(place, traces, { height, ...layout }) {
  place.style.height = `${height}px`;
  place.replaceChildren(el("p", { class: "note" }, "drawing …"));
  let Plotly;
  try {
    Plotly = await plotly();
  } catch {
    place.replaceChildren(el("p", { class: "warning" }, "plotly.min.js is not beside this page: no plots. The tables hold the same numbers."));
    return null;
  }
  if (!place.isConnected) return null;
  place.replaceChildren();
  const common = {
    paper_bgcolor: colour("--paper"), plot_bgcolor: colour("--paper"), margin: { l: 60, r: 20, t: 16, b: 64 },
    font: { color: colour("--ink"), size: 13, family: getComputedStyle(document.body).fontFamily }, hovermode: "closest",
  };
  await Plotly.newPlot(place, traces, { ...common, ...layout }, { displayModeBar: false, responsive: true });
  return Plotly;
}

// cividis, in five stops, as the sprites of token maps have it.
const CIVIDIS = [[0, 34, 78], [67, 78, 108], [125, 124, 120], [188, 174, 108], [254, 232, 56]];
function heat(share) {
  const place = Math.min(1, Math.max(0, share)) * 4, low = Math.min(3, Math.floor(place));
  const mixed = CIVIDIS[low].map((a, i) => Math.round(a + (CIVIDIS[low + 1][i] - a) * (place - low)));
  const light = mixed.map((c) => (c / 255) ** 2.2);
  const dark = 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] > 0.18;
  return { backgroundColor: `rgb(${mixed.join(",")})`, color: dark ? "#000" : "#fff" };
}

function heatTable(label, values, rowName, columnNames, text, highest = 1) {
  const head = el("tr", {}, el("td", {}), columnNames.map((name) => el("th", { scope: "col" }, name)));
  const rows = values.map((row, i) =>
    el("tr", {}, el("th", { scope: "row" }, rowName(i)),
      row.map((value) => el("td", { style: value === null ? {} : heat(value / highest) }, value === null ? "" : text(value)))));
  return scrolled(label, el("table", { class: "heat" }, el("thead", {}, head), el("tbody", {}, rows)));
}

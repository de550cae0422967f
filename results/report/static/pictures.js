// The same prompt and seed across methods: two pictures of one case laid over each other, and all methods below.
const looks = { mode: "slider", metric: "", text: "", gain: 4, cut: 50 };
const MODES = [["slider", "Slider"], ["pair", "Side by side"], ["flicker", "Flicker"], ["difference", "Difference"]];
let flickering = null;

function openPictures(index) {
  state.point = index;
  openTab("pictures");
  byId("tab-pictures").focus();
}

// What the second picture may be: "p3", a point; "s0", something that the task shows, such as the true picture.
function rivals() {
  const g = group();
  return [...g.points.map((p, i) => [`p${i}`, p.name]), ...g.shown.map((s, i) => [`s${i}`, s.label])];
}
function rivalPictures() {
  const at = Number(state.rival.slice(1));
  return state.rival[0] === "p" ? group().points[at].pictures : group().shown[at].pictures;
}
const rivalName = () => rivals().find(([key]) => key === state.rival)[1];

// How much a case loses in a metric: against the second picture where that is a point that has the metric, else as it is.
function loss(row) {
  const own = valuesOf(looks.metric)[state.point];
  if (!own || own[row] === null) return null;
  const other = state.rival[0] === "p" && Number(state.rival.slice(1)) !== state.point ? valuesOf(looks.metric)[Number(state.rival.slice(1))] : null;
  const sign = group().estimates[looks.metric].better === "lower" ? 1 : -1;
  return sign * (own[row] - (other ? other[row] ?? 0 : 0));
}
const comparesBoth = () => state.rival[0] === "p" && valuesOf(looks.metric)[Number(state.rival.slice(1))] && Number(state.rival.slice(1)) !== state.point;

function chosenRows() {
  const g = group(), words = looks.text.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...Array(g.rows).keys()].filter((row) => {
    const text = g.cases[row] ? `${g.cases[row][0]} ${g.cases[row][1]}`.toLowerCase() : "";
    return words.every((word) => text.includes(word));
  });
  if (!looks.metric || !valuesOf(looks.metric)?.[state.point]) return rows;
  const losses = new Map(rows.map((row) => [row, loss(row)]));
  return rows.sort((a, b) => (losses.get(b) ?? -Infinity) - (losses.get(a) ?? -Infinity) || a - b);
}

function drawPictures(place) {
  const g = group();
  stopFlicker();
  if (!g.rows) {
    place.replaceChildren(el("p", {}, "This workload has no pictures."));
    return;
  }
  if (state.point === null || !g.points[state.point]) state.point = Math.max(0, g.points.findIndex((p) => !p.dense && p.outcome !== "failed"));
  // Dense stands beside a point until somebody chooses another picture.
  if (!state.chosen || !rivals().some(([key]) => key === state.rival)) state.rival = `p${Math.max(0, g.points.indexOf(denseOf(g.points[state.point])))}`;
  if (looks.metric && !g.by_image.includes(looks.metric)) looks.metric = "";
  const again = () => drawPictures(place);
  const search = el("input", { type: "search", id: "prompt-filter", value: looks.text, placeholder: "words of the prompt", on: { input: () => { looks.text = search.value; drawCases(cases, count); } } });
  const metrics = [["", "as they were run"], ...g.by_image.filter((name) => valuesOf(name)[state.point]).map((name) => [name, `largest loss in ${titled(name)}`])];
  const cases = el("ol", { class: "cases", "aria-label": "Cases", tabindex: "-1" }), count = el("p", { class: "note", "aria-live": "polite" });
  const controls = el("div", { class: "controls" },
    select("Point", g.points.map((p, i) => [i, p.name]), state.point, (value) => { state.point = Number(value); again(); }),
    select("Beside it", rivals(), state.rival, (value) => { Object.assign(state, { rival: value, chosen: true }); again(); }),
    select("Order", metrics, looks.metric, (value) => { looks.metric = value; again(); }),
    el("label", {}, "Prompt", search));
  const missing = g.missing ? el("p", { class: "warning", id: "missing" }, `${g.missing} of ${g.rows * g.points.filter((p) => p.outcome !== "failed").length} pictures of this workload are not there; placeholders stand for them.`) : null;
  const viewer = el("div", { class: "viewer", id: "viewer" });
  place.replaceChildren(...[missing, controls, el("div", { class: "gallery" }, el("div", {}, count, cases), viewer)].filter(Boolean));
  if (looks.metric) state.row = chosenRows()[0] ?? state.row;
  state.row = Math.min(state.row, g.rows - 1);
  drawCases(cases, count);
  drawViewer();
}

function drawCases(cases, count) {
  const g = group(), rows = chosenRows(), point = g.points[state.point];
  count.textContent = `${rows.length} of ${g.rows} cases`;
  cases.replaceChildren(...rows.map((row) => {
    const said = looks.metric ? loss(row) : null;
    const text = g.cases[row] ? g.cases[row][0] || "(empty prompt)" : `case ${row + 1}`;
    return el("li", {}, el("button", {
      type: "button", "data-row": row, "aria-current": row === state.row ? "true" : null, on: { click: () => { state.row = row; marked(cases); drawViewer(); } },
    },
    picture(rivalPictures(), row, ""), picture(point.pictures, row, ""),
    el("span", {}, el("span", { class: "prompt" }, text),
      el("span", { class: "loss" }, [g.cases[row] ? `seed ${g.cases[row][1]}` : "", said === null ? "" : ` · ${comparesBoth() ? "loss" : "value"} ${number(comparesBoth() ? said : valuesOf(looks.metric)[state.point][row], 3)}`].join("")))));
  }));
}

function marked(cases) {
  for (const button of cases.querySelectorAll("button")) {
    if (Number(button.dataset.row) === state.row) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

function move(by) {
  const rows = chosenRows(), at = rows.indexOf(state.row), next = rows[Math.min(rows.length - 1, Math.max(0, at + by))];
  if (next === undefined) return;
  state.row = next;
  const cases = document.querySelector(".cases");
  marked(cases);
  const button = cases.querySelector("[aria-current]");
  if (button) cases.scrollTop = Math.max(0, button.parentElement.offsetTop - cases.offsetTop - cases.clientHeight / 3);
  drawViewer(by < 0 ? "previous" : "next");
}

function drawViewer(focus = null) {
  const g = group(), row = state.row, point = g.points[state.point], viewer = byId("viewer");
  stopFlicker();
  const stage = el("div", { class: `stage ${looks.mode}`, id: "stage" }), under = el("div", { class: "under" });
  const below = picture(rivalPictures(), row, `${rivalName()}: case ${row + 1}`, { class: "base", eager: true });
  const over = picture(point.pictures, row, `${point.name}: case ${row + 1}`, { class: "over", eager: true });
  stage.append(below, over);
  if (looks.mode !== "difference") stage.append(...(looks.mode === "flicker" ? [el("span", { class: "tag left", id: "flicker-name" }, rivalName())] : [el("span", { class: "tag left" }, rivalName()), el("span", { class: "tag right" }, point.name)]));
  ({ slider: sliderMode, pair: () => {}, flicker: flickerMode, difference: differenceMode })[looks.mode](stage, under);
  const modes = el("div", { class: "group-of-buttons", role: "group", "aria-label": "How to compare" }, MODES.map(([mode, name]) =>
    el("button", { type: "button", class: "quiet", id: `mode-${mode}`, "aria-pressed": String(mode === looks.mode), on: { click: () => { looks.mode = mode; drawViewer(`mode-${mode}`); } } }, name)));
  const step = (id, text, by) => el("button", { type: "button", class: "quiet", id, on: { click: () => move(by) } }, text);
  const [prompt, seed, facts] = g.cases[row] ?? ["", null, {}];
  viewer.replaceChildren(
    el("h2", { id: "prompt" }, prompt || `case ${row + 1}`),
    el("p", { class: "note" }, [`case ${row + 1} of ${g.rows}`, seed === null ? null : `seed ${seed}`, ...Object.entries(facts).map(([name, value]) => `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`)].filter(Boolean).join(" · ")),
    el("div", { class: "under" }, modes, step("previous", "← Previous", -1), step("next", "Next →", 1)),
    stage, under, valuesTable(row), strip(row));
  if (focus) byId(focus)?.focus();
}

function sliderMode(stage, under) {
  const over = stage.querySelector(".over"), rule = el("div", { class: "rule" });
  const range = el("input", { type: "range", min: 0, max: 100, value: looks.cut, id: "slider", "aria-label": "How much of the point's picture is shown" });
  const cut = (share) => {
    looks.cut = share;
    range.value = share;
    over.style.clipPath = `inset(0 0 0 ${share}%)`;
    rule.style.left = `${share}%`;
  };
  const drag = (event) => {
    if (event.type === "pointermove" && !event.buttons) return;
    const box = stage.getBoundingClientRect();
    cut(Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width))));
  };
  range.addEventListener("input", () => cut(Number(range.value)));
  stage.addEventListener("pointerdown", (event) => { stage.setPointerCapture(event.pointerId); drag(event); });
  stage.addEventListener("pointermove", drag);
  stage.append(rule);
  under.append(range);
  cut(looks.cut);
}

function flickerMode(stage, under) {
  const over = stage.querySelector(".over"), names = [rivalName(), group().points[state.point].name];
  let second = true;
  const turn = () => {
    second = !second;
    over.style.visibility = second ? "visible" : "hidden";
    const said = byId("flicker-name");
    if (said) said.textContent = names[second ? 1 : 0];
  };
  const run = () => { flickering ??= setInterval(turn, 600); toggle.textContent = "Pause"; toggle.setAttribute("aria-pressed", "true"); };
  const toggle = el("button", { type: "button", class: "quiet", id: "flicker-run", on: { click: () => {
    if (flickering === null) return run();
    stopFlicker(); toggle.textContent = "Run"; toggle.setAttribute("aria-pressed", "false");
  } } }, "Run");
  under.append(toggle, el("button", { type: "button", class: "quiet", on: { click: turn } }, "Other picture"));
  setTimeout(turn, 0);
  // Who asked for less motion turns the pictures by hand.
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) run();
}
function stopFlicker() { clearInterval(flickering); flickering = null; }

// The browser subtracts the pictures itself: pages from disk may not read pixels.
function differenceMode(stage, under) {
  const range = el("input", { type: "range", min: 1, max: 16, value: looks.gain, id: "gain" }), said = el("span", {});
  const set = () => { looks.gain = Number(range.value); stage.style.filter = `brightness(${looks.gain})`; said.textContent = `${looks.gain} times`; };
  range.addEventListener("input", set);
  under.append(el("label", {}, "brightened", range, said), el("span", { class: "note" }, "black: the same in both"));
  set();
}

// A share over questions: an image that was asked more counts more, so that its own value may pass 1.
function weighted(name) {
  return unitOf(name) === "share" && valuesOf(name).some((each) => each && each.some((value) => value > 1));
}

function valuesTable(row) {
  const g = group(), at = state.rival[0] === "p" ? Number(state.rival.slice(1)) : -1;
  const rows = g.by_image.filter((name) => valuesOf(name)[state.point]).map((name) => {
    const other = at >= 0 && at !== state.point ? valuesOf(name)[at] : null;
    return el("tr", {}, el("th", { scope: "row" }, titled(name)), el("td", { class: "num" }, number(valuesOf(name)[state.point][row])),
      el("td", { class: "num" }, other ? number(other[row]) : ""), el("td", { class: "note" }, `${unitOf(name)}${weighted(name) ? ", times its weight in the mean" : ""}, ${g.estimates[name].better} is better`));
  });
  if (!rows.length) return el("p", { class: "note" }, "No values by image.");
  const made = table("Values of this picture", ["this picture", g.points[state.point].name, at >= 0 && at !== state.point ? rivalName() : "", ""], rows);
  made.firstChild.classList.add("facts-of-case");
  return made;
}

function strip(row) {
  const g = group(), metric = looks.metric || (g.by_image.includes(g.headline) ? g.headline : "");
  const shown = g.shown.map((each, i) => el("li", {}, el("button", {
    type: "button", "aria-pressed": String(state.rival === `s${i}`), on: { click: () => { Object.assign(state, { rival: `s${i}`, chosen: true }); drawPictures(byId("pictures")); } },
  }, picture(each.pictures, row, ""), each.label)));
  const points = g.points.map((point, i) => el("li", {}, el("button", {
    type: "button", "aria-pressed": String(i === state.point), on: { click: () => { state.point = i; drawPictures(byId("pictures")); } },
  }, picture(point.pictures, row, ""), point.name, metric && valuesOf(metric)[i] ? el("span", { class: "note" }, number(valuesOf(metric)[i][row], 3)) : "")));
  return el("div", {}, el("h2", {}, "All methods, same prompt and seed"),
    metric ? el("p", { class: "note" }, `below each: ${titled(metric)} of this picture (${g.estimates[metric].better} is better)`) : "",
    el("ul", { class: "methods", tabindex: "-1" }, shown, points));
}

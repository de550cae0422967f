// Tabs, the workload, light and dark.
const TABS = { verdict: () => {}, front: drawFront, pictures: drawPictures, inside: drawInside, cost: drawCost, records: drawRecords };
const names = Object.keys(TABS);

// The part that the address names: "#/front". No element has such a name, so the browser does not scroll to one.
function named() {
  return location.hash.slice(2);
}

function openTab(name, focus = false) {
  state.tab = name;
  stopFlicker();
  hideCard();
  for (const each of names) {
    const tab = byId(`tab-${each}`), own = each === name;
    tab.setAttribute("aria-selected", String(own));
    tab.tabIndex = own ? 0 : -1;
    byId(each).hidden = !own;
    if (own && focus) tab.focus();
    if (own) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  if (named() !== name) history.replaceState(null, "", `#/${name}`);
  TABS[name](byId(name));
}

for (const [at, name] of names.entries()) {
  byId(`tab-${name}`).addEventListener("click", () => openTab(name));
  byId(`tab-${name}`).addEventListener("keydown", (event) => {
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: names.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    openTab(names[(to + names.length) % names.length], true);
  });
}

byId("group")?.addEventListener("change", (event) => {
  Object.assign(state, { group: Number(event.target.value), point: null, rival: null, chosen: false, row: 0 });
  for (const part of document.querySelectorAll("[data-group]")) part.hidden = Number(part.dataset.group) !== state.group;
  openTab(state.tab);
});

const theme = byId("theme"), system = matchMedia("(prefers-color-scheme: dark)");
const dark = () => (document.documentElement.dataset.theme ?? (system.matches ? "dark" : "light")) === "dark";
function themed() {
  theme.textContent = dark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", dark() ? "Light colours" : "Dark colours");
  if (["front", "inside", "cost"].includes(state.tab)) openTab(state.tab);
}
theme.addEventListener("click", () => {
  document.documentElement.dataset.theme = dark() ? "light" : "dark";
  try { localStorage.setItem("report-theme", document.documentElement.dataset.theme); } catch { /* pages from disk may have none */ }
  themed();
});
try {
  const kept = localStorage.getItem("report-theme");
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
} catch { /* the same */ }
system.addEventListener("change", themed);
addEventListener("hashchange", () => { if (names.includes(named()) && named() !== state.tab) openTab(named()); });

openTab(names.includes(named()) ? named() : "verdict");
themed();

// What is shown follows from the address: #epoch-12, #tree, #2/items. Back, forward and reload work.

const TABS = { epochs: "Epochs", tree: "Tree", frontier: "Frontier", items: "Items", values: "Values", cost: "Cost", memory: "Memory", setup: "Setup" };
const SIMPLE = { tree: (e) => new Tree(e).element, frontier: (e) => new Frontier(e).element, items: (e) => new HeatMap(e).element, values: valuesView, cost: costView, memory: memoryView, setup: setupView, compare: compareView };
if (report.comparison) TABS.compare = "Compare";
if (!experiments.some((e) => e.tuned)) delete TABS.values;
if (!experiments.some(hasFrontier)) delete TABS.frontier;

const main = document.getElementById("main");
const chart = new Chart(document.getElementById("chart"));
const SYSTEM_DARK = matchMedia("(prefers-color-scheme: dark)");
const filter = { verdict: "all", text: "" };
let list = null;

/** Shows what an address names, as a new step of the history or in place of the latest. */
function go(hash, { replace = false } = {}) {
  tip.hide();
  if (hash === location.hash) route();
  else if (replace) location.replace(hash);
  else location.hash = hash;
}

function route() {
  const found = /^#(?:(\d+)\/)?(?:epoch-(\d+)|([a-z]+))$/.exec(location.hash) || [];
  const experiment = experiments[(found[1] || 1) - 1] || experiments[0];
  const view = found[3] in TABS ? found[3] : "epochs";
  const best = experiment.epoch(experiment.best_epoch) || experiment.last;
  const other = experiment !== chosen.experiment;
  const before = { ...chosen };
  chosen.experiment = experiment;
  chosen.view = view;
  if (found[2] !== undefined && experiment.epoch(Number(found[2]))) chosen.epoch = Number(found[2]);
  else if (chosen.epoch === null || other) chosen.epoch = best ? best.number : null;
  if (other || view !== before.view || !main.firstChild) show();
  else if (view === "epochs") update();
  chart.draw();
  document.title = `${experiment.slug}${view === "epochs" && chosen.epoch !== null ? `, epoch ${chosen.epoch}` : `, ${TABS[view]}`}`;
}

function show() {
  tabs();
  chart.section.hidden = !["epochs", "compare"].includes(chosen.view);
  list = null;
  fill(main);
  if (!chosen.experiment.epochs.length && chosen.view !== "setup" && chosen.view !== "compare") {
    fill(main, h("div", { class: "card empty" }, "No epoch is judged yet."));
  } else if (chosen.view === "values" && !chosen.experiment.tuned) {
    fill(main, h("div", { class: "card empty" }, "Its parameters have no numbers or choices."));
  } else if (chosen.view === "frontier" && !hasFrontier(chosen.experiment)) {
    fill(main, h("div", { class: "card empty" }, "Its frontier is not known: it was no search, or has no results."));
  } else if (chosen.view === "epochs") epochsView();
  else fill(main, SIMPLE[chosen.view](chosen.experiment));
}

function hasFrontier(experiment) {
  return experiment.search && experiment.search.frontier;
}

function tabs() {
  const { experiment } = chosen;
  const buttons = Object.entries(TABS).map(([name, text]) => {
    const selected = name === chosen.view;
    const target = name === "epochs" && chosen.epoch !== null ? `epoch-${chosen.epoch}` : name;
    return h("button", {
      role: "tab", id: `tab-${name}`, "aria-selected": String(selected), "aria-controls": "main", tabindex: selected ? 0 : -1,
      click: () => go(experiment.link(target)),
    }, text);
  });
  const which = experiments.length > 1 && h("select", { "aria-label": "Experiment", change: (event) => {
    const next = experiments[event.target.value];
    go(next.link(chosen.view));
  } }, experiments.map((e, i) => h("option", { value: i, selected: e === experiment }, e.slug)));
  const nav = document.getElementById("tabs");
  const held = nav.contains(document.activeElement) && document.activeElement.getAttribute("role") === "tab";
  fill(nav, which, buttons);
  if (held) nav.querySelector("[aria-selected=true]").focus();
  main.setAttribute("aria-labelledby", `tab-${chosen.view}`);
}

function matching() {
  const text = filter.text.trim().toLowerCase();
  return chosen.experiment.epochs.filter((epoch) => {
    if (filter.verdict === "violations" ? !epoch.violations : filter.verdict !== "all" && epoch.verdict !== filter.verdict) return false;
    const words = () => [`epoch ${epoch.number}`, epoch.strategy, epoch.summary, epoch.outcome, ...epoch.reasons].join("\n").toLowerCase();
    return !text || words().includes(text);
  });
}

function epochsView() {
  const { experiment } = chosen;
  list = new Rows({
    label: `Epochs of ${experiment.slug}`,
    columns: ["epoch", "value", "change", "strategy", ""],
    id: (epoch) => `row-${epoch.number}`,
    cells: (epoch) => [
      [h("i", { class: `mark ${epoch.verdict}`, role: "img", "aria-label": epoch.verdict }), String(epoch.number)],
      number(epoch.value), h("span", { class: better(epoch.delta, experiment.mode) }, change(epoch.delta)),
      h("span", { title: epoch.strategy || epoch.summary }, epoch.strategy || epoch.summary || (epoch.number ? "" : "the start")),
      [epoch.violations ? h("span", { class: "pill rejected", title: "edits outside of the parameters were undone" }, "violation") : "",
        epoch.number === chosen.experiment.best_epoch ? h("span", { class: "pill kept" }, "best") : odd(epoch) ? h("span", { class: "pill" }, epoch.outcome) : ""],
    ],
    pick: (epoch, opened) => {
      go(experiment.link(`epoch-${epoch.number}`), { replace: !opened });
      if (opened) focusDetail();
    },
  });
  const count = h("span", { class: "faint", role: "status" });
  const refilter = () => {
    const items = matching();
    list.show(items, items.findIndex((epoch) => epoch.number === chosen.epoch));
    const all = chosen.experiment.epochs.length;
    count.textContent = items.length === all ? "" : `${grouped(items.length)} of ${grouped(all)}`;
  };
  list.refilter = refilter;
  const verdicts = ["all", "kept", "rejected", ...(experiment.epochs.some((e) => e.violations) ? ["violations"] : [])];
  const detail = h("article", { class: "card detail", "aria-labelledby": "detail-title" });
  list.detail = detail;
  fill(main, h("div", { class: "split" },
    h("div", { class: "list" }, h("div", { class: "bar" },
      h("select", { id: "verdict", "aria-label": "Verdict", change: (event) => {
        filter.verdict = event.target.value;
        refilter();
      } }, verdicts.map((name) => h("option", { value: name, selected: filter.verdict === name }, name === "all" ? "all epochs" : name))),
      h("input", { type: "search", id: "search", placeholder: "search: strategy, summary, reason", "aria-label": "Search the epochs", value: filter.text, input: (event) => {
        filter.text = event.target.value;
        refilter();
      } }), count), list.element), detail));
  refilter();
  update();
}

function update() {
  const { experiment, epoch } = chosen;
  list.select(list.items.findIndex((item) => item.number === epoch));
  tabs();
  const failed = (error) => fill(list.detail, h("p", { class: "notice" }, error.message));
  if (epoch !== null) showDetail(list.detail, experiment, experiment.epoch(epoch)).catch(failed);
}

/** Shows a newer report. What is chosen, typed and scrolled stays; without a choice the best is shown. */
function refresh() {
  const { experiment } = chosen;
  const before = chosen.epoch;
  if (!location.hash && experiment.epoch(experiment.best_epoch)) chosen.epoch = experiment.best_epoch;
  head();
  chart.renew();
  if (chosen.view !== "epochs" || !list) show();
  else {
    list.refilter();
    // The detail knows the epochs beside its own.
    if (before !== chosen.epoch || experiment.last.number - 1 === before) update();
  }
  chart.draw();
}

async function focusDetail() {
  await chosen.experiment.told(chosen.epoch);
  await new Promise((done) => setTimeout(done));
  const heading = document.getElementById("detail-title");
  if (!heading) return;
  heading.focus({ preventScroll: true });
  // On a narrow screen it is below the list.
  if (matchMedia("(max-width: 940px)").matches || heading.getBoundingClientRect().top < 0) heading.closest(".detail").scrollIntoView();
}

function head() {
  const [experiment] = experiments;
  const tested = (e) => e.test_gain && e.best_epoch && e.test_gain[0] !== null ? [number(e.test_gain[0]), " → ", number(e.test_gain[1])] : number(e.test[e.monitor]);
  const interval = (e) => e.test_gain && e.test_gain[2] !== null ? `; 95% interval of the gain ${number(e.test_gain[2])} .. ${number(e.test_gain[3])}` : "";
  const fact = (value, text, extra) => h("div", { class: "fact" }, h("b", {}, value), h("span", {}, text), extra);
  const facts = (e) => {
    const gain = typeof e.best === "number" && typeof e.baseline === "number" ? e.best - e.baseline : null;
    const test = e.test[e.monitor];
    return [
      fact([number(e.baseline), e.best_epoch ? " → " : "", e.best_epoch ? number(e.best) : ""], [`val ${e.monitor} `, h("span", { class: better(gain, e.mode) }, change(gain))]),
      test !== undefined && fact(tested(e), [`test ${e.monitor}, of epoch ${e.best_epoch}`, interval(e)]),
      fact(`${grouped(e.kept)} of ${grouped(Math.max(0, e.epochs.length - 1))}`, "epochs kept"),
      e.spent[2] > 0 && fact(dollars(e.spent[2]), `${grouped(e.spent[1])} tokens`),
      fact(seconds(e.spent[3]), counted(e.spent[0], "evaluation")),
      e.violations > 0 && fact(h("span", { class: "down" }, grouped(e.violations)), "violations, undone"),
    ];
  };
  const toggle = h("button", { id: "theme", click: () => {
    const now = document.documentElement.dataset.theme || (SYSTEM_DARK.matches ? "dark" : "light");
    theme(now === "dark" ? "light" : "dark");
  } }, "Light / dark");
  const told = (e) => [`${e.state}${e.detail ? ` (${e.detail})` : ""}`, `base ${e.base.slice(0, 7)} (${e.base_branch})`, e.idea].filter(Boolean).join(" · ");
  fill(document.getElementById("head"),
    h("div", { class: "top" }, h("div", {}, h("h1", {}, experiments.map((e) => e.slug).join(" and ")),
      experiments.map((e) => h("div", { class: "soft" }, experiments.length > 1 ? `${e.slug}: ` : "", told(e)))), toggle),
    experiments.length > 1 ? "" : h("div", { class: "facts" }, facts(experiment)),
    report.left_out.length > 0 && h("details", { class: "soft" }, h("summary", {}, "What this report leaves out"), h("ul", {}, report.left_out.map((text) => h("li", {}, text)))));
  fill(document.getElementById("foot"), `${report.program}, ${when(report.made)}. `,
    "Keys: j and k or the arrows go from epoch to epoch, Enter opens one, Esc goes back to the list, / searches.");
}

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  try {
    if (name) localStorage.setItem("autopilot-theme", name);
  } catch { /* A file may not be allowed to remember. */ }
  colors.clear();
  chart.draw();
  main.querySelectorAll(".scroller").forEach((box) => box.dispatchEvent(new Event("scroll")));
  if (["cost", "values"].includes(chosen.view)) show();
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  // In an epoch's text the arrows scroll, as everywhere.
  const reading = event.target.closest(".detail");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    tip.hide();
    if (list) list.element.focus();
    else go(chosen.experiment.link(`epoch-${chosen.epoch}`));
  } else if (typing) return;
  else if (event.target.getAttribute("role") === "tab" && ["ArrowLeft", "ArrowRight"].includes(event.key)) {
    const tab = event.key === "ArrowRight" ? event.target.nextSibling : event.target.previousSibling;
    if (tab && tab.getAttribute("role") === "tab") tab.click();
  } else if (list && (event.key === "j" || (event.key === "ArrowDown" && !reading))) list.move(1);
  else if (list && (event.key === "k" || (event.key === "ArrowUp" && !reading))) list.move(-1);
  else if (list && event.key === "Enter" && event.target === document.body) focusDetail();
  else if (list && event.key === "/") document.getElementById("search").focus();
  else return;
  event.preventDefault();
});

try {
  const kept = localStorage.getItem("autopilot-theme");
  if (kept) document.documentElement.dataset.theme = kept;
} catch { /* See theme. */ }
SYSTEM_DARK.addEventListener("change", () => theme(""));
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
window.addEventListener("hashchange", route);
head();
if (report.comparison && !location.hash) location.replace("#compare");
route();
follow();

// The part of a page that its server keeps up to date: the run as `autopilot watch` shows it.

const live = document.getElementById("live");

/** Follows the run: what goes on at once, new epochs as fast as the report of them is made. */
function follow() {
  if (!report.live) return;
  let judged = experiments[0].epochs.length;
  let { state } = experiments[0];
  let latest = null;
  let isAsking = false;
  const renewed = async () => {
    // At the end there are test results, and no new epoch.
    if (isAsking || !latest || (latest.points === judged && latest.state === state)) return;
    isAsking = true;
    const asked = latest.state;
    const began = performance.now();
    try {
      renew(await (await fetch("report.json", { cache: "no-store" })).json());
      judged = experiments[0].epochs.length;
      state = asked;
      refresh();
    } catch { /* The next event asks again. */ }
    // Of a long run the report takes a moment to make: that is a tenth of the time at most.
    setTimeout(() => {
      isAsking = false;
      renewed();
    }, Math.max(200, 10 * (performance.now() - began)));
  };
  const events = new EventSource("events");
  events.onmessage = (event) => {
    latest = JSON.parse(event.data);
    liveView(latest);
    renewed();
  };
  events.onerror = () => {
    live.classList.add("lost");
    if (events.readyState !== EventSource.CLOSED) return; // It asks again by itself.
    const gone = "The experiment cannot be read any more. This is how it was; loaded again, the page says why.";
    live.hidden = false;
    fill(live, h("div", { class: "card panel", role: "status" }, gone));
  };
}

function liveView(run) {
  const { going } = run;
  live.hidden = false;
  live.classList.remove("lost");
  fill(live, h("div", { class: "card panel" },
    h("div", { class: "titled" },
      h("span", { class: `pill ${run.state === "running" ? "kept" : "baseline"}`, role: "status" }, run.state),
      h("span", { class: "soft" }, run.goes_on_by ? `go on: ${run.goes_on_by}` : run.state === "running" ? "" : run.detail),
      h("span", { class: "soft right" }, costs(Object.values(run.spent)))),
    h("div", { class: "columns" }, going && goingView(going), strategiesView(run.strategies))));
}

function goingView(going) {
  const done = Object.values(going.done).reduce((sum, count) => sum + count, 0);
  const parts = Object.entries(going.done).map(([split, count]) => `${grouped(count)} ${split}`).join(", ");
  const outcomes = Object.entries(going.outcomes).map(([name, count]) => `${grouped(count)} ${name}`).join(", ");
  return h("div", {},
    h("h3", {}, `Epoch ${going.epoch}: ${going.doing}`),
    going.most > 0 && h("progress", { max: Math.max(going.most, done), value: done, "aria-label": "items of the epoch" }),
    h("p", { class: "soft" }, [parts, outcomes].filter(Boolean).join(" · ")),
    going.items.length > 0 && table(["item", "outcome", "why"], going.items),
    going.lines.length > 0 && [h("p", { class: "faint" }, "last lines"), block(going.lines.join("\n"))]);
}

function strategiesView(strategies) {
  if (!strategies.length) return "";
  const rows = strategies.map((s) => [s.strategy || "unnamed", grouped(s.used), grouped(s.kept), s.last]);
  return h("div", {}, h("h3", {}, "Strategies"), table(["strategy", "used", "kept", "last in epoch"], rows, [1, 2, 3]));
}

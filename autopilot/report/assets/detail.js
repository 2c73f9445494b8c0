// All about one epoch.

async function showDetail(element, experiment, epoch) {
  const detail = await experiment.told(epoch.number);
  // Another epoch may have been chosen meanwhile.
  if (chosen.epoch !== epoch.number || chosen.experiment !== experiment) return;
  fill(element,
    title(experiment, epoch),
    epoch.summary && h("p", { class: "summary" }, epoch.summary),
    epoch.reasons.length > 0 && h("ul", { class: "reasons", "aria-label": "reasons" }, epoch.reasons.map((text) => h("li", {}, text))),
    h("div", { class: "columns" }, facts(experiment, epoch), scores(experiment, epoch)),
    detail.steps.map((step, i) => stepBlock(step, i, detail.steps.length)),
    h("h3", {}, "Changes"),
    files(detail.changes),
    candidates(experiment, epoch),
    failures(epoch, detail),
    memory(detail));
}

function title(experiment, epoch) {
  const place = experiment.places.get(epoch.number);
  const beside = (by, text, name) => h("button", {
    "aria-label": name, disabled: !experiment.epochs[place + by],
    click: () => go(experiment.link(`epoch-${experiment.epochs[place + by].number}`)),
  }, text);
  const delta = change(epoch.delta);
  return h("div", { class: "titled" },
    h("h2", { id: "detail-title", tabindex: -1 }, `Epoch ${epoch.number}`),
    h("span", { class: `pill ${epoch.verdict}` }, epoch.verdict + odd(epoch)),
    h("span", {}, `val ${experiment.monitor} ${number(epoch.value)} `,
      delta && h("span", { class: better(epoch.delta, experiment.mode) }, delta),
      experiment.mode === "min" && h("span", { class: "faint" }, " lower is better")),
    h("span", { class: "right" }, beside(-1, "←", "previous epoch"), beside(1, "→", "next epoch")));
}

function facts(experiment, epoch) {
  const link = (number) => h("a", { href: experiment.link(`epoch-${number}`) }, `epoch ${number}`);
  const back = epoch.rollback && h("span", {}, link(epoch.best_epoch), " by ", h("code", {}, epoch.rollback.slice(0, 10)));
  const leader = experiment.leader(epoch.number);
  const [, from] = /^epoch-0*(\d+)/.exec(experiment.origin(epoch)) || [];
  const origin = from && h("a", { href: experiment.link(`epoch-${from}`) }, stateWords(experiment.origin(epoch)));
  return pairs([
    ["candidate", leader ? `${leader.number}, the best one` : ""],
    ["strategy", epoch.strategy],
    ["started from", origin || ""],
    ["rolled back to", back || ""],
    ["measured in", epoch.reused === null ? "" : h("span", {}, link(epoch.reused), ": the state is the same")],
    [epoch.number ? "commit" : "start commit", epoch.steps || !epoch.number ? h("code", {}, epoch.commit.slice(0, 10)) : "none: nothing was changed"],
    ["cost", costs(epoch.cost)],
    ["when", when(epoch.time)],
    ["in a terminal", h("code", {}, `autopilot show ${epoch.number} -e ${experiment.slug}`)],
  ]);
}

function scores(experiment, epoch) {
  const place = experiment.places.get(epoch.number);
  const best = epoch.from === null ? null : experiment.places.get(epoch.from);
  const rows = experiment.series.flatMap(({ split, metric, values }) => {
    const value = values[place];
    if (value === null) return [];
    const against = (other) => {
      const known = split === "val" && other !== null && other !== place ? values[other] : null;
      if (typeof known !== "number" || typeof value !== "number") return "";
      const cls = metric === experiment.monitor ? better(value - known, experiment.mode) : "soft";
      return h("span", { class: cls }, change(value - known));
    };
    return [[`${split} ${metric}`, number(value), against(0), against(best)]];
  });
  if (!rows.length) return "";
  return h("div", { class: "scores" }, table(["", "value", "vs baseline", best === null ? "" : `vs epoch ${epoch.from}`], rows, [1, 2, 3]),
    rows.some(([name]) => name.startsWith("train ")) && h("p", { class: "faint" }, "train was measured before the step, val after it"));
}

function stepBlock(step, index, count) {
  const gradients = Object.entries(step.gradients);
  return [
    h("h3", {}, count > 1 ? `Step ${index + 1}` : "What led to it",
      count > 1 && step.commit ? [" ", h("code", {}, step.commit.slice(0, 10))] : ""),
    count > 1 && step.summary && h("p", {}, step.summary),
    step.error && h("div", { class: "notice" }, h("b", {}, "The optimizer failed: "), step.error),
    step.violations.length > 0 && h("div", { class: "notice" }, h("b", {}, "Outside of the parameters, undone:"),
      step.violations.map((text) => h("p", {}, text))),
    step.rationale && [h("p", { class: "faint" }, "why"), block(step.rationale)],
    gradients.map(([name, text]) => h("div", {}, h("p", { class: "faint" }, `gradient of ${name}`), block(text))),
    !gradients.length && !step.rationale && !step.error && h("p", { class: "soft" }, "Nothing was recorded."),
  ];
}

/** The candidates of an epoch that has several. */
function candidates(experiment, epoch) {
  const own = experiment.candidates.get(epoch.number);
  if (!own) return "";
  const rows = own.map((each) => [
    String(each.number), number(each.value), each.verdict === "beside" ? "kept beside the best" : each.verdict,
    parents(each), each.strategy || each.summary, each.reason,
  ]);
  return [h("h3", {}, "Candidates"),
    table(["", `val ${experiment.monitor}`, "verdict", "started from", "what it did", "why"], rows, [0, 1], { class: "whole-words" })];
}

function failures(epoch, detail) {
  const { passed, failed, error } = detail.counts;
  const others = Object.keys(STATES).filter((state) => detail.counts[state]);
  if (!others.length) return "";
  const total = others.reduce((sum, state) => sum + detail.counts[state], 0);
  const told = passed + failed === total ? `${grouped(failed)} of ${counted(total, "val item")} failed`
    : `${counted(total, "val item")}: ${others.map((state) => `${grouped(detail.counts[state])} ${state === "unscored" ? STATES[state][0] : state}`).join(", ")}`;
  const ids = (list, more, name) => list.length > 0 && h("div", {}, h("p", { class: "faint" }, name),
    h("div", { class: "ids" }, list.map((id) => h("span", { class: "pill" }, id)), more > 0 && h("span", { class: "faint" }, `and ${grouped(more)} more`)));
  const rest = total - passed - detail.failures.length;
  return [
    h("h3", {}, "Items"),
    h("p", {}, told,
      epoch.from !== null && detail.measured !== epoch.from ? `; against epoch ${epoch.from}: ${detail.fixed_count} fixed, ${detail.broken_count} broken` : ""),
    ids(detail.fixed, detail.fixed_count - detail.fixed.length, "fixed"),
    ids(detail.broken, detail.broken_count - detail.broken.length, "broken"),
    detail.failures.length > 0 && h("details", {}, h("summary", {}, failed + error ? `Why ${failed + error === 1 ? "it" : "they"} failed` : "Feedback"),
      h("ul", { class: "failures" }, detail.failures.map(([id, text, outcome]) =>
        h("li", {}, h("b", {}, id), outcome !== "failed" && outcome !== "unscored" ? h("span", { class: `pill ${outcome === "error" ? "rejected" : ""}` }, outcome) : "", " ", text))),
      rest > 0 && h("p", { class: "faint" }, `${counted(rest, "more item")} did not pass; the command above with --json has all.`)),
  ];
}

function memory(detail) {
  const blocked = Object.entries(detail.blocked);
  if (!detail.lessons.length && !blocked.length) return "";
  return [
    h("h3", {}, "Memory"),
    detail.lessons.map((lesson) => h("p", {},
      h("span", { class: `pill ${lesson.outcome}` }, lesson.outcome), " ", lesson.strategy || "unnamed",
      typeof lesson.delta === "number" ? ` ${change(lesson.delta)}` : "", lesson.by_hand ? " (by hand)" : "",
      lesson.category && h("span", { class: "soft" }, ` about ${lesson.category}`),
      lesson.node && h("span", { class: "soft" }, ` in ${lesson.node}`),
      lesson.reason && h("span", { class: "soft" }, `: ${lesson.reason}`))),
    blocked.length > 0 && h("p", { class: "soft" }, "Blocked afterwards: ",
      blocked.map(([name, why], i) => [i ? ", " : "", h("b", {}, name), ` (${why})`])),
  ];
}

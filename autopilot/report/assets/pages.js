// The views beside the epochs: cost, memory, setup, and the comparison of two experiments.

const ROLES = ["accent", "kept", "test", "second", "bad", "faint"];
// What no recorded call accounts for is the grey that shows above the others.
const roleColor = (roles, i) => (roles[i].role === "other" ? "strong" : ROLES[i % ROLES.length]);
const UNITS = [["evaluations", 0, grouped], ["tokens", 1, grouped], ["dollars", 2, dollars], ["seconds", 3, seconds]];

function costView(experiment) {
  const { roles, spent, epochs } = experiment;
  const swatch = (i) => {
    const key = h("i", { class: "key square" });
    key.style.background = `var(--${roleColor(roles, i)})`;
    return key;
  };
  const share = (part, whole, i) => {
    const bar = h("span", { class: "share", role: "presentation" });
    bar.style.background = `var(--${roleColor(roles, i)})`;
    bar.style.width = `${whole ? Math.round((part / whole) * 160) : 0}px`;
    return bar;
  };
  const sums = [0, 1].map((i) => roles.reduce((sum, role) => sum + role.cost[i + 1], 0));
  const by = sums[1] ? 1 : 0;
  const rows = roles.map((role, i) => [
    h("span", { class: "legend" }, h("span", {}, swatch(i), role.role || "unnamed")), role.models.join(", "), role.calls ? grouped(role.calls) : "",
    grouped(role.cost[1]), role.unpriced ? `${dollars(role.cost[2])} (${counted(role.unpriced, "call")} without a price)` : dollars(role.cost[2]),
    share(role.cost[by + 1], sums[by], i),
  ]);
  const units = UNITS.filter(([, i]) => epochs.some((e) => e.cost[i]));
  let unit = units.find(([name]) => name === "dollars") || units[0];
  const canvas = h("canvas", { role: "img", "aria-label": "Cost of each epoch; each epoch's page has it in words" });
  const plot = h("div", { class: "costplot" }, canvas);
  const draw = () => unit && costBars(canvas, plot, experiment, unit);
  new ResizeObserver(draw).observe(plot);
  return h("div", { class: "card panel" },
    h("h2", {}, "Cost"), h("p", { class: "soft" }, `${costs(spent)}.`),
    h("h3", {}, "Model calls, by role"),
    roles.length ? table(["role", "model", "calls", "tokens", "dollars", sums[by] ? `share of ${by ? "dollars" : "tokens"}` : ""], rows, [2, 3, 4])
      : h("p", { class: "soft" }, "No model was called."),
    roles.some((r) => r.role === "other") && h("p", { class: "faint" }, "other: what was spent without a recorded call, as by an agent that is a program of its own"),
    h("h3", {}, "Epoch by epoch"),
    h("div", { class: "bar" }, h("label", {}, "unit", h("select", { change: (event) => {
      unit = units.find(([name]) => name === event.target.value);
      draw();
    } }, units.map(([name]) => h("option", { value: name, selected: name === unit[0] }, name))))),
    plot);
}

/** A bar an epoch; of tokens and dollars, the parts of the roles one upon the other. */
function costBars(canvas, plot, { epochs, roles }, [, index, words]) {
  const { width, height } = plot.getBoundingClientRect();
  if (!width) return;
  const context = painter(canvas, width, height);
  const most = Math.max(...epochs.map((e) => e.cost[index])) || 1;
  const [left, base] = [90, height - 22];
  const each = (width - left - 10) / epochs.length;
  context.fillStyle = color("faint");
  context.textAlign = "right";
  context.fillText(words(most), left - 8, 16);
  context.fillText("0", left - 8, base);
  context.textAlign = "left";
  context.fillText("epoch 0", left, height - 5);
  context.textAlign = "right";
  context.fillText(String(epochs[epochs.length - 1].number), width - 10, height - 5);
  const parts = roles.map((role) => new Map(role.by_epoch.map(([epoch, ...cost]) => [epoch, cost[index]])));
  const wide = Math.max(0.7, Math.min(22, each - (each > 3 ? 1 : 0)));
  epochs.forEach((epoch, i) => {
    const bar = (from, value, name) => {
      context.fillStyle = color(name);
      context.fillRect(left + i * each, base - ((from + value) / most) * (base - 12), wide, (value / most) * (base - 12));
    };
    bar(0, epoch.cost[index], "strong");
    let sum = 0;
    for (const [r, part] of index === 1 || index === 2 ? parts.entries() : []) {
      const value = part.get(epoch.number) || 0;
      bar(sum, value, roleColor(roles, r));
      sum += value;
    }
  });
}

function memoryView(experiment) {
  const { tallies, blocked, lessons, earlier } = experiment.memory;
  const rows = tallies.map(([name, used, kept, failed, gain]) => [
    name || "unnamed", grouped(used), grouped(kept), grouped(failed), change(gain),
    blocked[name] ? h("span", {}, h("span", { class: "pill blocked" }, "blocked"), ` ${blocked[name]}`) : "",
  ]);
  for (const name of Object.keys(blocked).filter((n) => !tallies.some((t) => t[0] === n))) {
    rows.push([name, "0", "0", "0", "", h("span", {}, h("span", { class: "pill blocked" }, "blocked"), ` ${blocked[name]}`)]);
  }
  const shown = [...lessons].reverse();
  const list = shown.map((l) => [
    h("a", { href: experiment.link(`epoch-${l.epoch}`) }, String(l.epoch)), l.strategy,
    h("span", { class: `pill ${l.outcome}` }, l.outcome), change(l.delta), l.category, l.node,
    [l.reason || l.summary, l.by_hand ? h("span", { class: "pill" }, "by hand") : ""],
  ]);
  const about = [4, 5].filter((i) => list.some((row) => row[i]));
  const columns = [0, 1, 2, 3, ...about, 6];
  const heads = ["epoch", "strategy", "outcome", "gain", "about", "in", "reason"];
  return h("div", { class: "card panel" },
    h("h2", {}, "Memory"),
    experiment.memory.trend && h("p", { class: "soft" }, experiment.memory.trend),
    h("h3", {}, "Strategies"),
    rows.length ? table(["strategy", "used", "kept", "failed", "gained", ""], rows, [1, 2, 3, 4]) : h("p", { class: "soft" }, "No strategy was named."),
    h("h3", {}, "Lessons, the newest first"),
    list.length ? table(columns.map((i) => heads[i]), list.map((row) => columns.map((i) => row[i])), [0, 3]) : h("p", { class: "soft" }, "Nothing was learnt yet."),
    earlier > 0 && h("p", { class: "faint" }, `${counted(earlier, "earlier lesson")} are on their epochs' pages.`));
}

function setupView(experiment) {
  const events = experiment.events.map(([time, name, detail]) => [when(time), name, detail]);
  return h("div", { class: "columns" },
    h("div", { class: "card panel" }, h("h2", {}, "Setup"),
      pairs([...experiment.settings, ["branch", experiment.branch], ["tip", experiment.tip.slice(0, 10)]]),
      h("h3", {}, "What happened"), table(["when", "event", "detail"], events)),
    h("div", { class: "card panel" }, h("h2", {}, "Net change"),
      h("p", { class: "soft" }, `From the base to epoch ${experiment.best_epoch}, the best.`), files(experiment.net),
      h("h3", {}, "In a terminal"), h("pre", { class: "box" }, experiment.commands.join("\n"))));
}

function compareView() {
  const { settings, results, inputs, net, title } = report.comparison;
  const [a, b] = experiments;
  const rows = (list) => list.map(([name, one, other]) => {
    const row = [name, one, other];
    row.kind = one === other ? "same" : "differs";
    return row;
  });
  const same = settings.filter(([, one, other]) => one === other).length;
  const holder = table(["", a.slug, b.slug], rows(settings));
  const more = h("button", { "aria-expanded": "false", click: () => {
    const open = holder.classList.toggle("show-same");
    more.setAttribute("aria-expanded", String(open));
    more.textContent = open ? "Hide what is the same" : `Show ${counted(same, "setting")} that ${same === 1 ? "is" : "are"} the same`;
  } }, `Show ${counted(same, "setting")} that ${same === 1 ? "is" : "are"} the same`);
  return h("div", { class: "columns" },
    h("div", { class: "card panel" }, h("h2", {}, "Results"),
      inputs.length > 0 && h("div", { class: "notice" },
        h("p", {}, "Measured with other evaluator or data files: the scores cannot be compared."),
        table(["file", a.slug, b.slug], inputs)),
      table(["", a.slug, b.slug, "change"], results, [1, 2, 3]),
      h("h3", {}, "Settings that differ"),
      same === settings.length ? h("p", { class: "soft" }, "None.") : "", holder, same > 0 && more),
    h("div", { class: "card panel" }, h("h2", {}, "Best states"), h("p", { class: "soft" }, title), files(net)));
}

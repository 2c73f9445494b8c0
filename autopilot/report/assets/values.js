// The parameters' numbers and choices: the best state's, how much each matters, and a plot of each.

const SLICE = { left: 52, right: 12, top: 10, bottom: 24 };

function valuesView(experiment) {
  const { names, unknown } = experiment.tuned;
  const share = (part) => {
    if (part === null) return "";
    const bar = h("span", { class: "share", role: "presentation" });
    bar.style.background = "var(--accent)";
    bar.style.width = `${Math.round(part * 120)}px`;
    return h("span", { class: "legend" }, bar, `${Math.round(part * 100)}%`);
  };
  const rows = names.map((each) => [each.name, each.space, each.first, each.best, share(each.share)]);
  return h("div", { class: "card panel" },
    h("h2", {}, "Numbers and choices"),
    table(["parameter", "space", "baseline", `best, epoch ${experiment.best_epoch}`, "importance"], rows, [2, 3]),
    h("p", { class: "faint" }, unknown ? `Importance is not known: ${unknown}.`
      : "Importance: the share of each in what the better states have in common (PED-ANOVA)."),
    h("div", { class: "legend" }, ["kept", "rejected"].map((kind) => h("span", {}, h("i", { class: `key ${kind}` }), kind)),
      h("span", {}, "× no value")),
    h("div", { class: "slices" }, names.map((each, i) => slicePlot(experiment, each, i))));
}

/** One number against the metric; its choices, or the ends of its axis, below. */
function slicePlot(experiment, each, index) {
  const points = experiment.epochs.map((epoch, i) => ({ epoch, at: experiment.tuned.points[i][index] }))
    .filter(({ at }) => at !== null);
  const canvas = h("canvas", { role: "img", "aria-label": `${each.name} against val ${experiment.monitor}, ${counted(points.length, "epoch")}; best ${each.best}` });
  const place = { x: () => 0, y: () => 0 };
  const nearest = (event) => {
    const box = plot.getBoundingClientRect();
    const far = ({ epoch, at }) => Math.hypot(place.x(at) - (event.clientX - box.left), place.y(epoch.value) - (event.clientY - box.top));
    return points.reduce((best, point) => (!best || far(point) < far(best) ? point : best), null);
  };
  const hover = (event) => {
    const hit = nearest(event);
    const told = (at) => (each.options.length ? each.options[at] : String(at));
    if (hit) tip.show(event, `${each.name} ${told(hit.at)}`, ...label(hit.epoch));
  };
  const plot = plotOf(canvas, "slice", hover, nearest, (hit) => experiment.link(`epoch-${hit.epoch.number}`));
  new ResizeObserver(() => drawSlice(canvas, plot, each, points, place)).observe(plot);
  return h("figure", {}, h("figcaption", {}, each.name, each.log && h("span", { class: "faint" }, " (log scale)")), plot);
}

function drawSlice(canvas, plot, each, points, place) {
  const { width, height } = plot.getBoundingClientRect();
  if (!width) return;
  const context = painter(canvas, width, height);
  const values = points.map(({ epoch }) => epoch.value).filter((value) => typeof value === "number");
  const [low, high] = ends(values);
  const scaled = (at) => (each.log ? Math.log(at) : at);
  const [first, last] = each.options.length ? [-0.5, each.options.length - 0.5] : ends(points.map(({ at }) => scaled(at)));
  const bottom = height - SLICE.bottom;
  place.x = (at) => SLICE.left + ((scaled(at) - first) / (last - first)) * (width - SLICE.left - SLICE.right);
  place.y = (value) => (typeof value === "number" ? SLICE.top + (1 - (value - low) / (high - low)) * (bottom - SLICE.top) : bottom);
  context.strokeStyle = color("line");
  context.lineWidth = 1;
  context.strokeRect(SLICE.left - 6.5, SLICE.top - 5.5, width - SLICE.left - SLICE.right + 13, bottom - SLICE.top + 11);
  context.fillStyle = color("faint");
  context.textAlign = "right";
  if (values.length) {
    context.fillText(number(high), SLICE.left - 10, SLICE.top + 6);
    context.fillText(number(low), SLICE.left - 10, bottom + 2);
  }
  const marks = each.options.length ? each.options.map((text, i) => [i, text]) : [first, last].map((at) => {
    const value = each.log ? Math.exp(at) : at;
    return [value, String(Number(value.toPrecision(3)))];
  });
  marks.forEach(([at, text], i) => {
    context.textAlign = each.options.length ? "center" : i ? "right" : "left";
    context.fillText(text.slice(0, 14), place.x(at), height - 6);
  });
  for (const rejected of [true, false]) {
    for (const { epoch, at } of points) {
      if ((epoch.verdict === "rejected") !== rejected) continue;
      if (typeof epoch.value === "number") dot(context, place.x(at), place.y(epoch.value), 3.5, epoch.verdict);
      else {
        context.strokeStyle = color("bad");
        line(context, place.x(at) - 3, bottom - 3, place.x(at) + 3, bottom + 3);
        line(context, place.x(at) - 3, bottom + 3, place.x(at) + 3, bottom - 3);
      }
    }
  }
}

/** The smallest and the largest, with room around a single one. */
function ends(values) {
  const [low, high] = values.length ? [Math.min(...values), Math.max(...values)] : [0, 1];
  return high > low ? [low, high] : [low - (Math.abs(low) || 1) * 0.05, high + (Math.abs(high) || 1) * 0.05];
}

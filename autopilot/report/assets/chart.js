// The metric over the epochs: kept and rejected, the best so far, baseline and test.

const MARGIN = { right: 18, top: 14, bottom: 26 };

class Chart {
  constructor(section) {
    this.section = section;
    this.splits = new Set(["val"]);
    this.metric = experiments[0].monitor;
    this.canvas = h("canvas", { role: "img" });
    this.plot = plotOf(this.canvas, "plot", (event) => this.hover(event), (event) => this.nearest(event),
      (hit) => hit.experiment.link(`epoch-${hit.epoch.number}`));
    this.renew();
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  /** The metrics and splits that there are now. */
  renew() {
    const known = experiments.flatMap((e) => e.series.map((s) => s.metric));
    if (!known.includes(this.metric)) this.metric = experiments[0].monitor;
    fill(this.section, h("div", { class: "card" }, this.controls(), this.plot));
  }

  controls() {
    const metrics = [...new Set(experiments.flatMap((e) => e.series.map((s) => s.metric)))];
    // Test is marked in any case: it is measured once.
    const splits = [...new Set(experiments.flatMap((e) => e.series.map((s) => s.split)))].filter((split) => split !== "test");
    const select = h("select", { change: (event) => {
      this.metric = event.target.value;
      this.draw();
    } }, metrics.map((name) => h("option", { value: name, selected: name === this.metric }, name)));
    const boxes = splits.map((split) => h("label", { class: "check" }, h("input", {
      type: "checkbox", checked: this.splits.has(split), change: (event) => {
        if (event.target.checked) this.splits.add(split);
        else this.splits.delete(split);
        this.draw();
      },
    }), split));
    this.legend = h("div", { class: "legend right" });
    return h("div", { class: "bar" }, h("label", {}, "metric", select),
      h("div", { class: "bar", role: "group", "aria-label": "Splits" }, boxes), this.legend);
  }

  explain() {
    const key = (kind, text) => h("span", {}, h("i", { class: `key ${kind}` }), text);
    const one = experiments.length === 1;
    const keys = [key("kept", "kept"), key("rejected", "rejected")];
    if (this.decides() && this.splits.has("val")) {
      if (one) keys.push(key("best", "best so far"));
      keys.push(key("base", "baseline"));
    }
    if (this.splits.has("train")) keys.push(h("span", {}, "train is measured before the step"));
    if (experiments.some((e) => e.values("test", this.metric))) keys.push(key("test", "test"));
    if (!one) {
      keys.unshift(...experiments.map((e, i) => {
        const swatch = h("i", { class: "key best" });
        swatch.style.background = color(LINES[i]);
        return h("span", {}, swatch, e.slug);
      }));
    }
    fill(this.legend, keys);
  }

  decides() {
    return experiments.some((e) => e.monitor === this.metric);
  }

  scale() {
    const values = [];
    let last = 1;
    for (const experiment of experiments) {
      for (const split of ["val", "train", "test"]) {
        if (split !== "test" && !this.splits.has(split)) continue;
        for (const value of experiment.values(split, this.metric) || []) {
          if (typeof value === "number") values.push(value);
        }
      }
      last = Math.max(last, experiment.last ? experiment.last.number : 1);
    }
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
    if (!values.length) [low, high] = [0, 1];
    if (high - low < 1e-12) [low, high] = [low - (Math.abs(low) || 1) * 0.05, high + (Math.abs(high) || 1) * 0.05];
    const room = (high - low) * 0.06;
    return { low: low - room, high: high + room, last };
  }

  draw() {
    const { width, height } = this.plot.getBoundingClientRect();
    if (!width) return;
    const context = painter(this.canvas, width, height);
    const { low, high, last } = this.scale();
    const step = niceStep((high - low) / 5);
    const ticks = [];
    for (let k = Math.ceil(low / step); k * step <= high; k += 1) ticks.push([k * step, tick(k * step, step)]);
    this.left = 24 + Math.max(28, ...ticks.map(([, text]) => context.measureText(text).width));
    const wide = width - this.left - MARGIN.right;
    const tall = height - MARGIN.top - MARGIN.bottom;
    this.x = (epoch) => this.left + (epoch / last) * wide;
    this.y = (value) => MARGIN.top + (1 - (value - low) / (high - low)) * tall;
    this.radius = Math.max(1.4, Math.min(4.5, (wide / (last + 1)) * 0.36));
    this.axes(context, width, height, ticks, last);
    experiments.forEach((experiment, i) => this.curves(context, experiment, i, width));
    this.cursor(context, height);
    this.explain();
    this.canvas.setAttribute("aria-label", this.words());
  }

  words() {
    return experiments.map((e) => `${e.slug}: val ${e.monitor} went from ${number(e.baseline)} to ` +
      `${number(e.best)} in ${counted(e.epochs.length - 1, "epoch")}; the list of epochs has every value.`).join(" ");
  }

  axes(context, width, height, ticks, last) {
    context.strokeStyle = color("line");
    context.fillStyle = color("faint");
    context.lineWidth = 1;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const [value, text] of ticks) {
      const y = Math.round(this.y(value)) + 0.5;
      line(context, this.left, y, width - MARGIN.right, y);
      context.fillText(text, this.left - 9, y);
    }
    context.textBaseline = "alphabetic";
    const each = Math.max(1, niceStep(last / Math.max(2, Math.min(10, width / 80))));
    for (let epoch = 0; epoch <= last; epoch += each) {
      context.textAlign = epoch ? "center" : "left";
      context.fillText(epoch ? grouped(epoch) : "epoch 0", this.x(epoch) - (epoch ? 0 : 3), height - 7);
    }
  }

  curves(context, experiment, index, width) {
    const { epochs } = experiment;
    const decides = experiment.monitor === this.metric;
    const own = experiments.length > 1 ? color(LINES[index]) : color("accent");
    const val = experiment.values("val", this.metric);
    if (this.splits.has("train")) {
      this.path(context, epochs, experiment.values("train", this.metric), color("second"), 1.2);
    }
    if (this.splits.has("val") && val) {
      if (decides && typeof experiment.baseline === "number") {
        context.setLineDash([4, 4]);
        context.strokeStyle = color("faint");
        context.lineWidth = 1;
        line(context, this.left, this.y(experiment.baseline), width - MARGIN.right, this.y(experiment.baseline));
        context.setLineDash([]);
      }
      if (decides) this.path(context, epochs, epochs.map((e) => e.best), own, 2, true);
      else this.path(context, epochs, val, own, 1.2);
      for (const rejected of [true, false]) {
        epochs.forEach((epoch, i) => {
          if ((epoch.verdict === "rejected") !== rejected || typeof val[i] !== "number") return;
          dot(context, this.x(epoch.number), this.y(val[i]), this.radius, epoch.verdict);
        });
      }
    }
    const test = experiment.values("test", this.metric) || [];
    test.forEach((value, i) => {
      if (typeof value !== "number") return;
      const [x, y] = [this.x(epochs[i].number), this.y(value)];
      context.fillStyle = color("test");
      diamond(context, x, y, 5);
      context.textAlign = "center";
      const at = Math.max(this.left + 34, Math.min(x, width - 40)); // not over the axis' numbers
      context.fillText(`test ${number(value)}`, at, y + 18);
    });
  }

  path(context, epochs, values, stroke, thick, steps = false) {
    context.strokeStyle = stroke;
    context.lineWidth = thick;
    context.lineJoin = "round";
    context.beginPath();
    let before = null;
    (values || []).forEach((value, i) => {
      if (typeof value !== "number") return;
      const [x, y] = [this.x(epochs[i].number), this.y(value)];
      if (before === null) context.moveTo(x, y);
      else {
        if (steps) context.lineTo(x, before);
        context.lineTo(x, y);
      }
      before = y;
    });
    context.stroke();
  }

  cursor(context, height) {
    const epoch = chosen.epoch !== null && chosen.experiment.epoch(chosen.epoch);
    if (!epoch) return;
    const x = this.x(epoch.number);
    context.strokeStyle = color("strong");
    context.lineWidth = 1;
    line(context, x, MARGIN.top, x, height - MARGIN.bottom);
    const values = chosen.experiment.values("val", this.metric);
    const value = values && values[chosen.experiment.places.get(epoch.number)];
    if (typeof value !== "number" || !this.splits.has("val")) return;
    context.beginPath();
    context.arc(x, this.y(value), this.radius + 4, 0, 2 * Math.PI);
    context.strokeStyle = color("ink");
    context.lineWidth = 1.5;
    context.stroke();
  }

  nearest(event) {
    const box = this.plot.getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    let best = null;
    for (const experiment of experiments) {
      const values = experiment.values("val", this.metric) || [];
      experiment.epochs.forEach((epoch, i) => {
        // Across counts more than up and down: one points at an epoch.
        const up = typeof values[i] === "number" ? Math.abs(this.y(values[i]) - y) / 12 : 40;
        const far = Math.abs(this.x(epoch.number) - x) + up;
        if (!best || far < best.far) best = { experiment, epoch, far };
      });
    }
    return best;
  }

  hover(event) {
    const hit = this.nearest(event);
    if (!hit) return;
    const place = hit.experiment.places.get(hit.epoch.number);
    const others = ["train", "test"].map((split) => {
      const value = (hit.experiment.values(split, this.metric) || [])[place];
      return typeof value === "number" ? `${split} ${this.metric} ${number(value)}` : "";
    });
    tip.show(event, experiments.length > 1 ? hit.experiment.slug : "", ...label(hit.epoch), ...others);
  }
}

const LINES = ["accent", "second"];

function line(context, x1, y1, x2, y2) {
  context.beginPath();
  context.moveTo(x1, y1);
  context.lineTo(x2, y2);
  context.stroke();
}

function diamond(context, x, y, size) {
  context.beginPath();
  context.moveTo(x, y - size);
  context.lineTo(x + size, y);
  context.lineTo(x, y + size);
  context.lineTo(x - size, y);
  context.fill();
}

function niceStep(rough) {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
}

function tick(value, step) {
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  if (decimals > 6) return value.toExponential(1);
  return decimals ? value.toFixed(decimals) : grouped(Math.round(value));
}

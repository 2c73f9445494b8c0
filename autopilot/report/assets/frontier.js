// The frontier of a search: the states that no other one is as good as on all items and objectives.

const ROOM = { left: 62, right: 18, top: 14, bottom: 40 };
const STATES_SHOWN = 200;

class Frontier {
  constructor(experiment) {
    this.experiment = experiment;
    const { columns, states, monitor, objectives, items, rule } = experiment.search.frontier;
    this.states = states.map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i]])));
    const names = Object.keys(objectives);
    const plain = (name, mode) => `val ${name}${mode === "min" ? " (lower is better)" : ""}`;
    this.axes = [...new Set([monitor, ...names])].map((name) => ({
      name: plain(name, objectives[name] || experiment.mode),
      value: (state) => (name === monitor ? state.value : state.objectives[names.indexOf(name)]),
      shown: number,
    }));
    const count = { name: `items that no state is better at (of ${grouped(items)})`, value: (state) => state.items, shown: grouped };
    if (items) this.axes.push(count);
    const at = (name) => this.axes.findIndex((axis) => axis.name === plain(name, objectives[name]));
    [this.across, this.up] = names.length > 1 ? [at(names[1]), at(names[0])] : [this.axes.length > 1 ? 1 : 0, 0];
    this.canvas = h("canvas", { role: "img" });
    this.plot = plotOf(this.canvas, "plot", (event) => this.hover(event), (event) => this.nearest(event),
      (state) => experiment.link(`epoch-${state.epoch}`));
    const choice = (text, which) => h("label", {}, text, h("select", { change: (event) => {
      this[which] = Number(event.target.value);
      this.draw();
    } }, this.axes.map(({ name }, i) => h("option", { value: i, selected: i === this[which] }, name))));
    const key = (kind, text) => h("span", {}, h("i", { class: `key ${kind}` }), text);
    this.element = h("div", { class: "card panel" },
      h("p", {}, `${rule}.`),
      h("div", { class: "bar" }, choice("up", "up"), choice("across", "across"),
        h("div", { class: "legend right" }, key("beside", "on the frontier"), key("dominated", "dominated"), key("ring", "best state"))),
      this.plot, this.table());
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  isBest(state) {
    return state.name === stateName(this.experiment.best_epoch);
  }

  point(state) {
    const [x, y] = [this.across, this.up].map((axis) => this.axes[axis].value(state));
    return typeof x === "number" && typeof y === "number" ? [x, y] : null;
  }

  draw() {
    const { width, height } = this.plot.getBoundingClientRect();
    if (!width) return;
    const context = painter(this.canvas, width, height);
    const known = this.states.filter((state) => this.point(state));
    const [low, high] = ends(known.map((state) => this.point(state)[1]));
    const [first, last] = ends(known.map((state) => this.point(state)[0]));
    const [wide, bottom] = [width - ROOM.left - ROOM.right, height - ROOM.bottom];
    this.x = (value) => ROOM.left + ((value - first) / (last - first)) * wide;
    this.y = (value) => ROOM.top + (1 - (value - low) / (high - low)) * (bottom - ROOM.top);
    context.strokeStyle = color("line");
    context.lineWidth = 1;
    context.strokeRect(ROOM.left - 8.5, ROOM.top - 8.5, wide + 17, bottom - ROOM.top + 17);
    context.fillStyle = color("faint");
    context.textAlign = "right";
    const [across, up] = [this.axes[this.across], this.axes[this.up]];
    context.fillText(up.shown(high), ROOM.left - 13, ROOM.top + 4);
    context.fillText(up.shown(low), ROOM.left - 13, bottom + 4);
    context.textAlign = "left";
    context.fillText(across.shown(first), ROOM.left - 8, bottom + 24);
    context.textAlign = "right";
    context.fillText(across.shown(last), ROOM.left + wide + 8, bottom + 24);
    context.textAlign = "center";
    context.fillText(this.axes[this.across].name, ROOM.left + wide / 2, bottom + 36);
    for (const undominated of [false, true]) {
      for (const state of known) {
        if (state.undominated !== undominated) continue;
        const [x, y] = [this.x(this.point(state)[0]), this.y(this.point(state)[1])];
        context.fillStyle = color(undominated ? "second" : "strong");
        if (undominated) diamond(context, x, y, 6);
        else {
          context.beginPath();
          context.arc(x, y, 3, 0, 2 * Math.PI);
          context.fill();
        }
        if (!this.isBest(state)) continue;
        context.beginPath();
        context.arc(x, y, 9, 0, 2 * Math.PI);
        context.strokeStyle = color("ink");
        context.lineWidth = 1.5;
        context.stroke();
      }
    }
    const count = known.filter((state) => state.undominated).length;
    this.canvas.setAttribute("aria-label", `${this.axes[this.up].name} against ${this.axes[this.across].name}: ` +
      `${counted(known.length, "state")}, ${grouped(count)} on the frontier; the table below has them`);
  }

  nearest(event) {
    const box = this.plot.getBoundingClientRect();
    let best = null;
    for (const state of this.states) {
      const point = this.point(state);
      if (!point) continue;
      const far = Math.hypot(this.x(point[0]) - (event.clientX - box.left), this.y(point[1]) - (event.clientY - box.top));
      // Of several at one place, one of the frontier.
      if (far < 24 && (!best || far - state.undominated / 2 < best.far)) best = { state, far: far - state.undominated / 2 };
    }
    return best && best.state;
  }

  hover(event) {
    const state = this.nearest(event);
    if (!state) tip.hide();
    else tip.show(event, stateWords(state.name), ...this.axes.map(({ name, value, shown }) => `${name}: ${shown(value(state))}`));
  }

  table() {
    const shown = this.states.filter((state) => state.undominated);
    const rows = shown.slice(0, STATES_SHOWN).map((state) => [
      h("a", { href: this.experiment.link(`epoch-${state.epoch}`) }, stateWords(state.name)),
      ...this.axes.map(({ value, shown }) => shown(value(state))), this.isBest(state) ? "best" : "",
    ]);
    const heads = ["state", ...this.axes.map(({ name }) => name), ""];
    return [table(heads, rows, heads.slice(1, -1).map((_, i) => i + 1), { class: "whole-words" }),
      shown.length > rows.length && h("p", { class: "faint" }, `and ${grouped(shown.length - rows.length)} more: autopilot log ${this.experiment.slug} --frontier --all`)];
  }
}

// The heat map: items x epochs. Not evaluated is not the same as failed, and looks different.

const STATES = {
  passed: ["passed", "pass"], failed: ["failed", "fail"], error: ["failed with an error", "broke"],
  unmeasured: ["could not be measured", "lost"], unscored: ["neither passed nor failed", "bare"], none: ["not evaluated", "none"],
};
const LEFT = 132;
const TOP = 22;

class HeatMap {
  constructor(experiment) {
    this.experiment = experiment;
    this.result = experiment.results.find((r) => r.split === "val") || experiment.results[0];
    this.hardest = true;
    this.body = h("div");
    this.element = h("div", { class: "card panel" }, this.result ? [this.controls(), this.body]
      : h("p", { class: "empty" }, "No results of single items were recorded."));
    if (this.result) this.load();
  }

  controls() {
    const splits = this.experiment.results.map((r) => h("option", { value: r.split, selected: r === this.result }, r.split));
    const swatch = ([text, name]) => {
      const key = h("i", { class: `key square ${name}` });
      key.style.background = `var(--${name})`;
      return h("span", {}, key, text);
    };
    return h("div", { class: "bar" },
      h("label", {}, "split", h("select", { change: (event) => {
        this.result = this.experiment.results.find((r) => r.split === event.target.value);
        this.load();
      } }, splits)),
      h("label", {}, "order", h("select", { change: (event) => {
        this.hardest = event.target.value === "hardest";
        this.order();
      } }, h("option", { value: "hardest" }, "hardest first"), h("option", { value: "given" }, "as evaluated"))),
      h("div", { class: "legend right" }, Object.values(STATES).map(swatch)));
  }

  async load() {
    const { result, experiment } = this;
    const measured = new Map(result.epochs.map((number, i) => [number, i]));
    const rows = await result.packed.all();
    [this.ids] = await new Packed(result.ids).all();
    if (result !== this.result) return;
    // An epoch whose state was measured before has that epoch's results.
    this.columns = experiment.epochs.map((epoch) => {
      const own = measured.get(epoch.number);
      const place = own === undefined && epoch.reused !== null ? measured.get(epoch.reused) : own;
      return { epoch, reused: own === undefined && place !== undefined, row: place === undefined ? "" : rows[place] };
    });
    this.tally = this.ids.map((id, item) => {
      const count = { id, item, ...Object.fromEntries(Object.keys(STATES).map((state) => [state, 0])) };
      for (const { row } of this.columns) count[this.state(row, item)] += 1;
      return count;
    });
    this.scroller = new Scroller("heatbox", `Results of ${counted(this.ids.length, "item")} in ${counted(this.columns.length, "epoch")}; the table below has the counts`, {
      paint: (context, x, y, width, height) => this.paint(context, x, y, width, height),
      at: (x, y) => this.told(x, y),
      pick: (x) => {
        const column = this.columns[Math.floor((x - LEFT) / this.wide)];
        if (column && x > LEFT) go(experiment.link(`epoch-${column.epoch.number}`));
      },
    });
    fill(this.body, this.scroller.element, this.table());
    this.order();
    this.scroller.reveal(LEFT + this.wide * experiment.places.get(chosen.epoch));
  }

  /** What an item came to in an epoch. */
  state(row, item) {
    return this.result.codes[row[item]] || "none";
  }

  order() {
    const scored = (c) => c.passed + c.failed + c.error;
    const share = (c) => (scored(c) ? (c.failed + c.error) / scored(c) : -1);
    this.shown = this.hardest ? [...this.tally].sort((a, b) => share(b) - share(a)) : this.tally;
    const room = (this.body.clientWidth || main.clientWidth - 90) - LEFT - 6;
    this.wide = Math.max(3, Math.min(30, Math.floor(room / this.columns.length)));
    this.tall = this.shown.length > 120 ? 8 : 15;
    this.scroller.resize(LEFT + this.wide * this.columns.length, TOP + this.tall * this.shown.length);
  }

  paint(context, left, top, width, height) {
    const { wide, tall } = this;
    const [gapX, gapY] = [wide > 5 ? 1 : 0, tall > 5 ? 1 : 0];
    const first = Math.max(0, Math.floor((left) / wide));
    const last = Math.min(this.columns.length, Math.ceil((left + width - LEFT) / wide) + 1);
    const from = Math.max(0, Math.floor(top / tall));
    const to = Math.min(this.shown.length, Math.ceil((top + height) / tall));
    const fills = Object.fromEntries(Object.entries(STATES).map(([state, [, name]]) => [state, color(name)]));
    for (let c = first; c < last; c += 1) {
      const { row, epoch } = this.columns[c];
      const x = LEFT + c * wide;
      for (let r = from; r < to; r += 1) {
        const state = this.state(row, this.shown[r].item);
        context.fillStyle = fills[state];
        const y = TOP + r * tall;
        if (state === "none") context.fillRect(x + wide / 2 - 1, y + tall / 2 - 1, Math.min(2, wide), 2);
        else context.fillRect(x, y, wide - gapX, tall - gapY);
      }
      if (chosen.epoch === epoch.number && chosen.experiment === this.experiment) {
        context.strokeStyle = color("ink");
        context.lineWidth = 1;
        context.strokeRect(x - 0.5, TOP - 0.5, wide, this.shown.length * tall);
      }
    }
    // Names and numbers stay where they are; the cells go under them.
    context.fillStyle = color("card");
    context.fillRect(left, top, LEFT - 4, height);
    context.fillRect(left, top, width, TOP);
    context.fillStyle = color("faint");
    context.textBaseline = "middle";
    context.textAlign = "left";
    const every = Math.ceil(11 / tall);
    for (let r = from; r < to; r += 1) {
      if (r % every || TOP + r * tall < top + TOP - 2) continue;
      context.fillText(fitted(this.shown[r].id, 20), left, TOP + r * tall + tall / 2);
    }
    const each = Math.max(1, niceStep(34 / wide));
    context.textAlign = "center";
    for (let c = Math.ceil(first / each) * each; c < last; c += each) {
      if (LEFT + c * wide >= left + LEFT - 2) context.fillText(String(this.columns[c].epoch.number), LEFT + (c + 0.5) * wide, top + 9);
    }
  }

  told(x, y) {
    const column = this.columns[Math.floor((x - LEFT) / this.wide)];
    const item = this.shown[Math.floor((y - TOP) / this.tall)];
    const [seenX, seenY] = [x - this.scroller.element.scrollLeft, y - this.scroller.element.scrollTop];
    if (!column || !item || seenX < LEFT || seenY < TOP) return null;
    const [state] = STATES[this.state(column.row, item.item)];
    const where = column.reused ? ` (measured in epoch ${column.epoch.reused})` : "";
    return [`${item.id} in epoch ${column.epoch.number}: ${state}${where}`, ...label(column.epoch)];
  }

  table() {
    const details = h("details", { toggle: () => {
      if (!details.open || details.children.length > 1) return;
      const shown = this.shown.slice(0, 1000);
      const heads = ["passed", "failed", "with an error", "unmeasured", "neither", "not evaluated"];
      // A column that would be empty leaves its room to the others.
      const states = Object.keys(STATES).map((state, i) => [state, heads[i]]).filter(([state]) => shown.some((c) => c[state]));
      details.append(table(["item", ...states.map(([, head]) => head)],
        shown.map((c) => [c.id, ...states.map(([state]) => grouped(c[state]))]), states.map((_, i) => i + 1)));
      const more = this.shown.length - shown.length;
      if (more) details.append(h("p", { class: "faint" }, `${counted(more, "more item")} are only in the heat map.`));
    } }, h("summary", {}, "The items as a table"));
    return details;
  }
}

function fitted(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

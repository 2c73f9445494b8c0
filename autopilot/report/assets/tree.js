// The experiment's tree: kept epochs are the trunk, from left to right; below each of them hang
// the attempts that started from it and were rolled back.

const COLUMN = 46;
const STEP = 22;
const TRUNK = 64;
const STACK = 8;

class Tree {
  constructor(experiment) {
    this.experiment = experiment;
    this.lay();
    this.scroller = new Scroller("treebox", this.words(), {
      paint: (context, x, y, width) => this.paint(context, x, width),
      at: (x, y) => this.told(this.hit(x, y)),
      pick: (x, y) => {
        const node = this.hit(x, y);
        if (node) go(experiment.link(`epoch-${node.epoch.number}`));
      },
    });
    this.scroller.resize(this.width, this.height);
    requestAnimationFrame(() => this.nodes.has(chosen.epoch) && this.scroller.reveal(this.nodes.get(chosen.epoch).x));
    const origin = [
      experiment.forked_from && `It started from ${experiment.forked_from.replace("@", ", epoch ")}.`,
      experiment.merged_with && `Merged into that: ${experiment.merged_with.replace("@", ", epoch ")}.`,
      ...experiment.forks.map(([slug, epoch]) => `${slug} took over from epoch ${epoch}.`),
    ].filter(Boolean);
    const key = (kind, text) => h("span", {}, h("i", { class: `key ${kind}` }), text);
    this.element = h("div", { class: "card panel" },
      h("div", { class: "bar" }, h("div", { class: "soft" },
        "Each epoch starts from the one it is joined to. A rejected one was rolled back to it."),
      h("div", { class: "legend right" }, key("kept", "kept"), key("rejected", "rejected, rolled back"))),
      origin.map((text) => h("p", { class: "soft" }, text)),
      this.scroller.element, this.table());
  }

  lay() {
    const { epochs } = this.experiment;
    const attempts = new Map();
    const trunk = [];
    for (const epoch of epochs) {
      if (epoch.verdict !== "rejected") trunk.push(epoch);
      else if (attempts.has(epoch.from)) attempts.get(epoch.from).push(epoch);
      else attempts.set(epoch.from, [epoch]);
    }
    this.nodes = new Map();
    this.rows = 1;
    let x = 30;
    for (const epoch of trunk) {
      this.nodes.set(epoch.number, { epoch, x, y: TRUNK });
      const below = attempts.get(epoch.number) || [];
      below.forEach((attempt, i) => {
        const stack = Math.floor(i / STACK);
        this.nodes.set(attempt.number, { epoch: attempt, x: x + 18 + stack * 40, y: TRUNK + 30 + (i % STACK) * STEP, stack });
      });
      this.rows = Math.max(this.rows, Math.min(below.length, STACK));
      x += COLUMN + Math.max(0, Math.ceil(below.length / STACK) - 1) * 40;
    }
    this.width = Math.max(200, x + 20);
    this.height = TRUNK + 30 + this.rows * STEP + 8;
    this.ordered = [...this.nodes.values()].sort((a, b) => a.x - b.x);
    this.taken = new Map();
    for (const [slug, epoch] of this.experiment.forks) {
      this.taken.set(epoch, [...(this.taken.get(epoch) || []), slug]);
    }
  }

  words() {
    const kept = this.experiment.epochs.filter((e) => e.verdict === "kept").length;
    return `The tree of ${this.experiment.slug}: ${counted(kept, "kept epoch")}; the table below has the same`;
  }

  paint(context, left, width) {
    context.lineWidth = 1.6;
    context.textBaseline = "middle";
    const seen = this.ordered.filter((n) => n.x > left - 300 && n.x < left + width + 300);
    for (const node of seen) this.edge(context, node);
    for (const node of seen) {
      const { epoch, x, y } = node;
      const trunk = epoch.verdict !== "rejected";
      if (chosen.epoch === epoch.number) {
        context.beginPath();
        context.arc(x, y, trunk ? 10 : 8, 0, 2 * Math.PI);
        context.fillStyle = color("accent-soft");
        context.fill();
      }
      dot(context, x, y, trunk ? 6 : 4, epoch.verdict);
      context.fillStyle = color(trunk ? "ink" : "faint");
      context.textAlign = trunk ? "center" : "left";
      context.fillText(String(epoch.number), trunk ? x : x + 9, trunk ? y - 18 : y);
      const forks = this.taken.get(epoch.number);
      if (forks) {
        context.fillStyle = color("second");
        context.textAlign = "left";
        context.fillText(`↗ ${forks.join(", ")}`, x - 5, y - 36);
      }
    }
  }

  edge(context, node) {
    const start = this.nodes.get(node.epoch.from);
    if (!start) return;
    context.beginPath();
    context.moveTo(start.x, start.y);
    if (node.epoch.verdict !== "rejected") {
      context.strokeStyle = color("kept");
      // Past other kept epochs it goes over them.
      const over = [...this.nodes.values()].some((n) => n.y === TRUNK && n.x > start.x && n.x < node.x);
      if (over) context.bezierCurveTo(start.x + 20, TRUNK - 40, node.x - 20, TRUNK - 40, node.x, node.y);
      else context.lineTo(node.x, node.y);
    } else {
      context.strokeStyle = color("strong");
      const rail = node.x - 18 + (node.stack ? 8 : 0);
      if (node.stack) {
        context.lineTo(start.x, TRUNK + 14);
        context.lineTo(rail, TRUNK + 14);
      }
      context.lineTo(rail, node.y - 8);
      context.quadraticCurveTo(rail, node.y, node.x - 4, node.y);
    }
    context.stroke();
  }

  hit(x, y) {
    let best = null;
    for (const node of this.ordered) {
      const far = Math.hypot(node.x - x, node.y - y);
      if (far < 16 && (!best || far < best.far)) best = { ...node, far };
    }
    return best;
  }

  told(node) {
    if (!node) return null;
    const { epoch } = node;
    const from = epoch.from === null ? "" : `started from epoch ${epoch.from}`;
    return [...label(epoch), from, ...(this.taken.get(epoch.number) || []).map((slug) => `taken over by ${slug}`)];
  }

  /** Made when it is opened: two thousand rows are not free. */
  table() {
    const details = h("details", { toggle: () => {
      if (!details.open || details.children.length > 1) return;
      const rows = this.experiment.epochs.map((e) => [
        h("a", { href: this.experiment.link(`epoch-${e.number}`) }, String(e.number)), e.verdict + odd(e),
        e.from === null ? "" : String(e.from), e.verdict === "rejected" ? `rolled back to ${e.from}` : "",
      ]);
      details.append(table(["epoch", "verdict", "started from", "afterwards"], rows));
    } }, h("summary", {}, "The tree as a table"));
    return details;
  }
}

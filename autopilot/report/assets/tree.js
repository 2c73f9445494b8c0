// The experiment's tree: kept epochs are the trunk, from left to right; below each state hang the
// attempts that started from it and were rejected. States that stay beside the best one have a lane.

const COLUMN = 46;
const STEP = 22;
const TRUNK = 64;
const LANE = 36;
const LANES = 3;
const STACK = 8;

class Tree {
  constructor(experiment) {
    this.experiment = experiment;
    this.isSearch = experiment.candidates.size > 0;
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
    const node = () => this.nodes.get(stateName(chosen.epoch));
    requestAnimationFrame(() => node() && this.scroller.reveal(node().x));
    const origin = [
      experiment.forked_from && `It started from ${experiment.forked_from.replace("@", ", epoch ")}.`,
      experiment.merged_with && `Merged into that: ${experiment.merged_with.replace("@", ", epoch ")}.`,
      ...experiment.forks.map(([slug, ...state]) => `${slug} took over from ${stateWords(stateName(...state))}.`),
    ].filter(Boolean);
    const key = (kind, text) => h("span", {}, h("i", { class: `key ${kind}` }), text);
    this.element = h("div", { class: "card panel" },
      h("div", { class: "bar" }, h("div", { class: "soft" }, this.isSearch
        ? "Each candidate starts from the state it is joined to; the best one of an epoch has the epoch's number alone."
        : "Each epoch starts from the one it is joined to. A rejected one was rolled back to it."),
      h("div", { class: "legend right" }, key("kept", "kept"), this.isSearch && key("beside", "kept beside the best"),
        key("rejected", this.isSearch ? "rejected" : "rejected, rolled back"))),
      origin.map((text) => h("p", { class: "soft" }, text)),
      this.scroller.element, this.table());
  }

  /** All states and attempts in the order of time: of an epoch, the best candidate stands for it. */
  attempts() {
    return this.experiment.epochs.flatMap((epoch) => {
      const leader = this.experiment.leader(epoch.number);
      const others = (this.experiment.candidates.get(epoch.number) || []).filter((each) => !each.leads);
      const verdict = leader ? leader.verdict : epoch.verdict;
      // One that stays beside the best has a name of its own, by which others start from it.
      const name = stateName(epoch.number, verdict === "beside" ? leader.number : 0);
      return [{ name, epoch, verdict, from: this.experiment.origin(epoch), candidate: leader, text: String(epoch.number) },
        ...others.map((each) => ({
          name: stateName(epoch.number, each.number), epoch, verdict: each.verdict, from: each.from, candidate: each,
          text: `${epoch.number}·${each.number}`, isOther: true,
        }))];
    });
  }

  lay() {
    const below = new Map();
    const all = this.attempts();
    for (const node of all) {
      if (node.verdict !== "rejected") continue;
      if (below.has(node.from)) below.get(node.from).push(node);
      else below.set(node.from, [node]);
    }
    const beside = all.filter((node) => node.verdict === "beside");
    // In turn on one of some lanes, so that what joins them does not run through them.
    beside.forEach((node, i) => (node.lane = 1 + (i % LANES)));
    const first = TRUNK + Math.min(beside.length, LANES) * LANE + 30;
    const wide = this.isSearch ? 58 : 40;
    this.nodes = new Map();
    this.rows = 1;
    let [x, place] = [30, 0];
    for (const node of all) {
      if (node.verdict === "rejected") continue;
      Object.assign(node, { x, y: TRUNK + (node.lane || 0) * LANE, place: node.lane ? null : (place += 1) });
      const under = below.get(node.name) || [];
      under.forEach((attempt, i) => {
        const stack = Math.floor(i / STACK);
        Object.assign(attempt, { x: x + 18 + stack * wide, y: first + (i % STACK) * STEP, stack });
      });
      this.rows = Math.max(this.rows, Math.min(under.length, STACK));
      x += (this.isSearch ? wide + 6 : COLUMN) + Math.max(0, Math.ceil(under.length / STACK) - 1) * wide;
    }
    for (const node of all) if (node.x !== undefined) this.nodes.set(node.name, node);
    // An epoch is found by its number, whatever its best candidate is called.
    for (const node of all) if (!node.isOther && node.x !== undefined) this.nodes.set(stateName(node.epoch.number), node);
    this.width = Math.max(200, x + 20);
    this.height = first + this.rows * STEP + 8;
    this.ordered = [...new Set(this.nodes.values())].sort((a, b) => a.x - b.x);
    this.taken = new Map();
    for (const [slug, ...state] of this.experiment.forks) {
      const name = this.nodes.get(stateName(...state))?.name;
      this.taken.set(name, [...(this.taken.get(name) || []), slug]);
    }
  }

  words() {
    const kept = this.experiment.epochs.filter((e) => e.verdict === "kept").length;
    const others = this.ordered.filter((node) => node.verdict === "beside").length;
    const beside = others ? `, and ${counted(others, "state")} beside the best` : "";
    return `The tree of ${this.experiment.slug}: ${counted(kept, "kept epoch")}${beside}; the table below has the same`;
  }

  paint(context, left, width) {
    context.lineWidth = 1.6;
    context.textBaseline = "middle";
    const seen = this.ordered.filter((n) => n.x > left - 300 && n.x < left + width + 300);
    for (const node of seen) this.edge(context, node);
    for (const node of seen) {
      const { epoch, x, y, verdict } = node;
      const stays = verdict !== "rejected";
      if (chosen.epoch === epoch.number && !node.isOther) {
        context.beginPath();
        context.arc(x, y, stays ? 10 : 8, 0, 2 * Math.PI);
        context.fillStyle = color("accent-soft");
        context.fill();
      }
      if (verdict === "beside") {
        context.fillStyle = color("second");
        diamond(context, x, y, 6);
      } else dot(context, x, y, stays ? 6 : 4, verdict);
      context.fillStyle = color(stays ? "ink" : "faint");
      context.textAlign = stays ? "center" : "left";
      context.fillText(node.text, stays ? x : x + 9, stays ? y - (node.lane ? 13 : 18) : y);
      const forks = this.taken.get(node.name);
      if (forks) {
        context.fillStyle = color("second");
        context.textAlign = "left";
        context.fillText(`↗ ${forks.join(", ")}`, x - 5, y - 36);
      }
    }
  }

  edge(context, node) {
    const start = this.nodes.get(node.from);
    if (!start) return;
    context.beginPath();
    context.moveTo(start.x, start.y);
    if (node.verdict !== "rejected") {
      context.strokeStyle = color(node.lane ? "strong" : "kept");
      // Past other kept epochs it goes over them.
      const over = start.place && node.place && node.place > start.place + 1;
      if (over) context.bezierCurveTo(start.x + 20, TRUNK - 40, node.x - 20, TRUNK - 40, node.x, node.y);
      else if (start.lane || node.lane) context.bezierCurveTo(start.x + 30, start.y + 8, node.x - 30, node.y + 8, node.x, node.y);
      else context.lineTo(node.x, node.y);
    } else {
      context.strokeStyle = color("strong");
      const rail = node.x - 18 + (node.stack ? 8 : 0);
      if (node.stack) {
        context.lineTo(start.x, start.y + 14);
        context.lineTo(rail, start.y + 14);
      }
      context.lineTo(rail, node.y - 8);
      context.quadraticCurveTo(rail, node.y, node.x - 4, node.y);
    }
    context.stroke();
    const second = node.candidate && this.nodes.get(node.candidate.second);
    if (!second) return;
    context.setLineDash([3, 3]);
    context.strokeStyle = color("second");
    line(context, second.x, second.y, node.x, node.y);
    context.setLineDash([]);
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
    const forks = this.taken.get(node.name) || [];
    const own = node.candidate ? candidateLabel(node.candidate)
      : [...label(epoch), node.from && `started from ${stateWords(node.from)}`];
    return [...own, ...forks.map((slug) => `taken over by ${slug}`)];
  }

  /** Made when it is opened: two thousand rows are not free. */
  table() {
    const details = h("details", { toggle: () => {
      if (!details.open || details.children.length > 1) return;
      const link = (number) => h("a", { href: this.experiment.link(`epoch-${number}`) }, String(number));
      if (this.isSearch) {
        const rows = this.attempts().map(({ epoch, candidate, verdict, from }) => [
          link(epoch.number), candidate ? String(candidate.number) : "", verdict + (candidate ? "" : odd(epoch)),
          number((candidate || epoch).value), candidate ? parents(candidate) : from && stateWords(from), (candidate || epoch).summary || (candidate || epoch).strategy,
        ]);
        details.append(table(["epoch", "candidate", "verdict", `val ${this.experiment.monitor}`, "started from", "what it did"], rows, [3], { class: "whole-words" }));
        return;
      }
      const rows = this.experiment.epochs.map((e) => [
        link(e.number), e.verdict + odd(e),
        e.from === null ? "" : String(e.from), e.verdict === "rejected" ? `rolled back to ${e.from}` : "",
      ]);
      details.append(table(["epoch", "verdict", "started from", "afterwards"], rows));
    } }, h("summary", {}, "The tree as a table"));
    return details;
  }
}

// What the report holds. The epochs' list is plain JSON; diffs, details and results are packed:
// deflated parts of some hundred kB, inflated when one of them is looked at.

const report = JSON.parse(document.getElementById("data").textContent);

/** Rows that are packed in parts. */
class Packed {
  constructor({ starts, parts }) {
    this.starts = starts;
    this.parts = parts;
    this.open = new Map();
  }

  async at(index) {
    let part = this.starts.length - 1;
    while (part > 0 && this.starts[part] > index) part -= 1;
    return (await this.part(part))[index - this.starts[part]];
  }

  async all() {
    const parts = await Promise.all(this.parts.map((_, part) => this.part(part)));
    return parts.flat();
  }

  part(number) {
    if (!this.open.has(number)) {
      this.open.set(number, inflate(this.parts[number]));
      if (this.open.size > 24) this.open.delete(this.open.keys().next().value);
    }
    return this.open.get(number);
  }
}

async function inflate(text) {
  if (typeof DecompressionStream === "undefined") {
    throw new Error("this browser is too old to open the packed parts of the report");
  }
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return JSON.parse(await new Response(stream).text());
}

const VERDICTS = ["baseline", "kept", "rejected"];
let diffs = new Packed(report.diffs);

/** One experiment: its epochs as objects, made once from the rows. */
class Experiment {
  constructor(raw, index) {
    Object.assign(this, raw);
    this.index = index;
    this.epochs = raw.rows.map((row) => {
      const epoch = {};
      raw.columns.forEach((name, i) => (epoch[name] = row[i]));
      epoch.verdict = VERDICTS[epoch.verdict];
      epoch.strategy = raw.texts[epoch.strategy];
      return epoch;
    });
    this.places = new Map(this.epochs.map((epoch, place) => [epoch.number, place]));
    this.candidates = new Map();
    for (const row of raw.search ? raw.search.candidates : []) {
      const candidate = Object.fromEntries(raw.search.columns.map((name, i) => [name, row[i]]));
      const { value, strategy, summary, reasons } = this.epoch(candidate.epoch);
      if (candidate.leads) Object.assign(candidate, { value, strategy, summary, reason: reasons[0] || "" });
      this.candidates.set(candidate.epoch, [...(this.candidates.get(candidate.epoch) || []), candidate]);
    }
    this.packed = new Packed(raw.details);
    this.results = raw.results.map((result) => ({ ...result, packed: new Packed(result.rows) }));
  }

  epoch(number) {
    return this.epochs[this.places.get(number)];
  }

  /** The candidate that an epoch's values are of; nothing where it had one alone. */
  leader(number) {
    return (this.candidates.get(number) || []).find((candidate) => candidate.leads);
  }

  /** The name of the state that an epoch started from; "" of the baseline. */
  origin(epoch) {
    const leader = this.leader(epoch.number);
    return leader ? leader.from : epoch.from === null ? "" : stateName(epoch.from);
  }

  get last() {
    return this.epochs[this.epochs.length - 1];
  }

  told(number) {
    return this.packed.at(this.places.get(number));
  }

  /** The link to an epoch; the second of two experiments has its number in front. */
  link(target) {
    return `#${this.index ? `${this.index + 1}/` : ""}${target}`;
  }

  values(split, metric) {
    const found = this.series.find((s) => s.split === split && s.metric === metric);
    return found ? found.values : null;
  }
}

/** A state's name, as its tag has it: epoch-0007, or epoch-0007-c2 of a candidate beside the best. */
function stateName(epoch, candidate = 0) {
  return `epoch-${String(epoch).padStart(4, "0")}${candidate ? `-c${candidate}` : ""}`;
}

/** The same in words: epoch 7, candidate 2. */
function stateWords(name) {
  const [, epoch, candidate] = /^epoch-0*(\d+)(?:-c(\d+))?$/.exec(name) || ["", name];
  return `epoch ${epoch}${candidate ? `, candidate ${candidate}` : ""}`;
}

const experiments = report.experiments.map((raw, index) => new Experiment(raw, index));

/** What is chosen; `go` and `choose` in main.js change it. */
const chosen = { experiment: experiments[0], epoch: null, view: "epochs" };

/** Takes the data of a newer report of the same experiments. */
function renew(data) {
  Object.assign(report, data);
  diffs = new Packed(report.diffs);
  report.experiments.forEach((raw, index) => (experiments[index] = new Experiment(raw, index)));
  chosen.experiment = experiments[chosen.experiment.index];
}

/** The states that a candidate was made from: of a merge, two. */
function parents(candidate) {
  return [candidate.from, candidate.second].filter(Boolean).map(stateWords).join(" and ");
}

function candidateLabel(candidate) {
  const what = candidate.strategy || candidate.summary;
  const kept = candidate.verdict === "beside" ? "kept beside the best" : candidate.verdict;
  return [
    `epoch ${candidate.epoch}, candidate ${candidate.number}${what ? `: ${what}` : ""}`,
    `${kept} · ${number(candidate.value)}`,
    candidate.summary === what ? "" : candidate.summary,
    candidate.reason,
    `started from ${parents(candidate)}`,
  ];
}

function label(epoch) {
  const what = epoch.strategy || epoch.summary;
  const delta = change(epoch.delta);
  return [
    `epoch ${epoch.number}${what ? `: ${what}` : ""}`,
    `${epoch.verdict}${odd(epoch)} · ${number(epoch.value)}${delta ? ` (${delta})` : ""}`,
  ];
}

/** Why an epoch was rejected, if not for its score. */
function odd(epoch) {
  return ["unchanged", "repeated", "failed", "screened", "raced"].includes(epoch.outcome) ? ` (${epoch.outcome})` : "";
}

function better(delta, mode) {
  if (typeof delta !== "number" || Math.abs(delta) < 1e-12) return "soft";
  return delta > 0 === (mode === "max") ? "up" : "down";
}

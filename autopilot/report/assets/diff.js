// Diffs, side by side. A run of removed lines stands beside the run of added lines after it.

const FIRST_LINES = 500;

/** The files of a change; their lines are fetched when a file is opened. */
function files(changes) {
  const { files: list, left_out: more } = changes;
  if (!list.length) return h("p", { class: "soft" }, "No file was changed.");
  const total = list.length + more;
  const elements = list.map((file, i) => fileElement(file, i < 4 && file.added + file.removed < 1500));
  if (more) elements.push(h("p", { class: "notice" }, `${counted(more, "more file")} of ${total} are not listed.`));
  return elements;
}

function fileElement(file, open) {
  const body = h("div");
  const counts = file.patch === null ? "" : [h("span", { class: "up" }, `+${grouped(file.added)}`), " ", h("span", { class: "down" }, `−${grouped(file.removed)}`)];
  const kind = file.status === "changed" ? "" : file.status === "mode" ? "mode changed" : file.status;
  const details = h("details", { class: "file", toggle: () => details.open && load() },
    h("summary", {}, h("span", {}, file.path), kind && h("span", { class: "faint" }, kind),
      file.mode && h("span", { class: "faint" }, file.mode), h("span", { class: "right" }, counts)), body);
  let loaded = false;
  async function load() {
    if (loaded) return;
    loaded = true;
    if (file.patch === null) {
      const why = file.status === "mode" ? "Only its mode differs." : "Its lines are not in this report: its limit was reached.";
      fill(body, h("div", { class: "more" }, why));
      return;
    }
    showPatch(body, await diffs.at(file.patch));
  }
  if (open) details.open = true; // Opening fires toggle, which loads.
  return details;
}

function showPatch(body, [binary, leftOut, hunks], limit = FIRST_LINES) {
  if (binary) {
    fill(body, h("div", { class: "more" }, "A binary file: its content changed."));
    return;
  }
  const grid = h("div", { class: "diff" });
  let room = limit;
  let hidden = 0;
  for (const [oldStart, newStart, lines] of hunks) {
    const shown = lines.slice(0, room);
    hidden += lines.length - shown.length;
    room -= shown.length;
    if (shown.length) hunk(grid, oldStart, newStart, shown);
  }
  fill(body, grid);
  if (hidden) {
    body.append(h("div", { class: "more" }, h("button", { click: () => showPatch(body, [binary, leftOut, hunks], Infinity) },
      `Show ${counted(hidden, "more line")}`)));
  }
  if (leftOut) {
    body.append(h("div", { class: "more" }, `${counted(leftOut, "more line")} of this file's diff are not in this report: its limit was reached.`));
  }
}

function hunk(grid, oldStart, newStart, lines) {
  grid.append(h("div", { class: "hunk" }, `line ${oldStart || newStart}`));
  let [before, after] = [oldStart, newStart];
  let [gone, come] = [[], []];
  const flush = () => {
    for (let i = 0; i < Math.max(gone.length, come.length); i += 1) {
      const [was, is] = words(gone[i], come[i]);
      grid.append(gone[i] === undefined ? side("gap") : side("del", before++, was));
      grid.append(come[i] === undefined ? side("gap") : side("add", after++, is));
    }
    [gone, come] = [[], []];
  };
  for (const text of lines) {
    const rest = text.slice(1);
    if (text[0] === "-") {
      if (come.length) flush();
      gone.push(rest);
    } else if (text[0] === "+") come.push(rest);
    else if (text[0] === " ") {
      flush();
      grid.append(side("", before++, [rest]), side("copy", after++, [rest]));
    } else {
      flush();
      grid.append(h("div", { class: "hunk" }, rest.trim()));
    }
  }
  flush();
}

function side(kind, number = "", text = []) {
  const sign = { del: "removed: ", add: "added: " }[kind];
  return h("div", { class: kind }, h("i", {}, String(number)),
    h("span", {}, sign && h("b", { class: "hidden-text" }, sign), text));
}

/** Two lines with what differs in them marked: what is between their common ends. */
function words(was, is) {
  if (was === undefined || is === undefined) return [[was], [is]];
  const least = Math.min(was.length, is.length);
  let start = 0;
  while (start < least && was[start] === is[start]) start += 1;
  let end = 0;
  while (end < least - start && was[was.length - 1 - end] === is[is.length - 1 - end]) end += 1;
  // Lines that have little in common are better read as a whole.
  if (start + end < least * 0.3) return [[was], [is]];
  const parts = (text) => [text.slice(0, start), h("mark", {}, text.slice(start, text.length - end)), text.slice(text.length - end)];
  return [parts(was), parts(is)];
}

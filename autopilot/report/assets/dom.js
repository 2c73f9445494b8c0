// Small means: elements, numbers in words, colors, a tooltip. Text always becomes a text node.

/** An element. Attributes that are functions are event listeners; nulls are left out. */
function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name, value);
    else if (name === "class") element.className = value;
    else if (name === "value" || name === "checked" || name === "selected") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(3)) {
    if (child !== null && child !== undefined && child !== false && child !== "") element.append(child);
  }
}

function fill(element, ...children) {
  element.textContent = "";
  append(element, children);
  return element;
}

/** A metric's value with three decimals; three digits of what is below 0.1. */
function number(value, signed = false) {
  if (value === null || value === undefined) return "–";
  if (typeof value === "string") return value; // NaN and infinity
  const size = Math.abs(value);
  let text;
  if (size && size < 0.001) text = String(Number(size.toPrecision(3)));
  else if (size && size < 0.1) {
    text = size.toFixed(2 - Math.floor(Math.log10(size))).replace(/(\.\d{3}\d*?)0+$/, "$1");
  } else text = size >= 10000 ? grouped(Math.round(size)) : size.toFixed(3);
  const sign = value < 0 && !/^[0.]*$/.test(text) ? "−" : signed ? "+" : "";
  return sign + text;
}

function change(value) {
  if (typeof value !== "number") return "";
  return number(Math.abs(value) < 1e-12 ? 0 : value, true);
}

function grouped(value) {
  return String(value).replace(/\B(?=(\d{3})+$)/g, ",");
}

function counted(count, noun) {
  return `${grouped(count)} ${noun}${count === 1 ? "" : "s"}`;
}

function dollars(value) {
  return value >= 0.01 || !value ? `$${value.toFixed(2)}` : `$${value.toPrecision(2)}`;
}

function seconds(value) {
  if (value >= 7200) return `${(value / 3600).toFixed(1)} h`;
  if (value >= 120) return `${(value / 60).toFixed(1)} min`;
  return value >= 0.05 ? `${value.toFixed(1)} s` : "under 0.1 s";
}

function costs(cost) {
  const [evaluations, tokens, usd, time, saved] = cost;
  const parts = [counted(evaluations, "evaluation")];
  if (saved) parts.push(`${grouped(saved)} not measured`);
  if (tokens) parts.push(`${grouped(tokens)} tokens`);
  if (usd) parts.push(dollars(usd));
  parts.push(seconds(time));
  return parts.join(", ");
}

function when(text) {
  const date = new Date(typeof text === "number" ? text * 1000 : text);
  return isNaN(date) ? "" : date.toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

function pairs(rows) {
  return h("dl", { class: "pairs" }, rows.filter(([, v]) => v !== "" && v !== null)
    .map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}

/** A table; a cell that is a number-like column is set to the right. */
function table(heads, rows, right = [], attributes = {}) {
  const cls = (i) => (right.includes(i) ? "num" : null);
  return h("div", { class: "wide-table" }, h("table", attributes,
    h("thead", {}, h("tr", {}, heads.map((text, i) => h("th", { scope: "col", class: cls(i) }, text)))),
    h("tbody", {}, rows.map((row) => h("tr", { class: row.kind }, row.map((cell, i) => h("td", { class: cls(i) }, cell)))))));
}

const colors = new Map();
function color(name) {
  if (!colors.has(name)) {
    colors.set(name, getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim());
  }
  return colors.get(name);
}

/** A canvas' context at the screen's resolution, cleared. */
function painter(canvas, width, height) {
  const scale = window.devicePixelRatio || 1;
  const [w, hgt] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== hgt) {
    canvas.width = w;
    canvas.height = hgt;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  context.font = "11.5px system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
  return context;
}

function dot(context, x, y, radius, verdict) {
  context.beginPath();
  context.arc(x, y, radius, 0, 2 * Math.PI);
  if (verdict === "rejected") {
    context.fillStyle = color("card");
    context.strokeStyle = color("bad");
    context.lineWidth = Math.min(1.5, radius * 0.7);
    context.fill();
    context.stroke();
  } else {
    context.fillStyle = color(verdict === "baseline" ? "accent" : "kept");
    context.fill();
  }
}

const tip = {
  element: document.getElementById("tip"),
  show(event, ...lines) {
    fill(this.element, lines.filter(Boolean).map((line) => h("div", {}, line)));
    this.element.hidden = false;
    const { width, height } = this.element.getBoundingClientRect();
    const x = Math.min(event.clientX + 14, window.innerWidth - width - 8);
    const y = event.clientY + 18 + height > window.innerHeight ? event.clientY - height - 10 : event.clientY + 18;
    this.element.style.left = `${Math.max(8, x)}px`;
    this.element.style.top = `${y}px`;
  },
  hide() {
    this.element.hidden = true;
  },
};

/** A text that was written by a program or a model, as it is; long ones can be scrolled. */
function block(text) {
  return h("pre", { class: "box", tabindex: text.length > 2000 ? 0 : null }, text);
}

/** A canvas whose marks say what they are under the pointer; a click opens the page of one. */
function plotOf(canvas, kind, hover, nearest, link) {
  return h("div", {
    class: kind,
    mousemove: hover,
    mouseleave: () => tip.hide(),
    click: (event) => {
      const hit = nearest(event);
      if (hit) go(link(hit));
    },
  }, canvas);
}

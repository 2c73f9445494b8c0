// What scrolls and is drawn only where it is seen.

/** A list of any length with a selected row; a screen reader is told it as a grid. */
class Rows {
  /**
   * @param options.label  what it is
   * @param options.columns  heads of the columns
   * @param options.cells  an item's cells, elements or text
   * @param options.id  an item's name in the page
   * @param options.pick  called with an item and whether it was opened, by click or Enter
   */
  constructor(options) {
    this.options = options;
    this.items = [];
    this.selected = -1;
    this.height = 34;
    this.head = h("div", { class: "row headline", role: "row" },
      options.columns.map((name, i) => h("span", { role: "columnheader", class: i === 1 || i === 2 ? "num" : null }, name)));
    this.space = h("div", { role: "presentation" });
    this.element = h("div", {
      class: "rows card", role: "grid", tabindex: 0, "aria-label": options.label,
      scroll: () => this.draw(),
      keydown: (event) => this.key(event),
    }, this.head, this.space);
    new ResizeObserver(() => this.draw()).observe(this.element);
    for (const kind of ["scroll", "resize"]) window.addEventListener(kind, () => this.fit(), { passive: true });
  }

  /** As high as the window has room for it, wherever the page is scrolled to. */
  fit() {
    const wide = window.matchMedia("(min-width: 941px)").matches;
    const top = this.element.getBoundingClientRect().top;
    this.element.style.height = wide ? `${Math.max(300, window.innerHeight - top - 20)}px` : "";
  }

  show(items, selected) {
    this.items = items;
    this.selected = selected;
    this.element.setAttribute("aria-rowcount", items.length + 1);
    this.space.style.height = `${items.length * this.height}px`;
    this.drawn = null;
    this.draw();
  }

  select(index) {
    this.selected = index;
    this.fit();
    if (index >= 0) this.reveal(index);
    this.drawn = null;
    this.draw();
  }

  reveal(index) {
    const box = this.element;
    const [top, room] = [index * this.height, box.clientHeight - this.head.offsetHeight];
    const [above, below] = [top - box.scrollTop, top + this.height - box.scrollTop - room];
    // One from far away comes to the upper part: the list's end may be below the window's.
    if (Math.max(-above, below) > room / 2) box.scrollTop = top - room / 4;
    else if (above < 0) box.scrollTop = top;
    else if (below > 0) box.scrollTop += below;
  }

  draw() {
    const box = this.element;
    const first = Math.max(0, Math.floor(box.scrollTop / this.height) - 6);
    const last = Math.min(this.items.length, first + Math.ceil((box.clientHeight || 600) / this.height) + 14);
    const key = `${first} ${last}`;
    if (key === this.drawn) return;
    this.drawn = key;
    box.querySelectorAll(".row:not(.headline), .empty").forEach((row) => row.remove());
    const rows = document.createDocumentFragment();
    for (let i = first; i < last; i += 1) rows.append(this.row(i));
    if (!this.items.length) rows.append(h("div", { class: "empty" }, "no epoch matches"));
    box.append(rows);
    const item = this.items[this.selected];
    if (item && this.selected >= first && this.selected < last) {
      box.setAttribute("aria-activedescendant", this.options.id(item));
    } else box.removeAttribute("aria-activedescendant");
  }

  row(index) {
    const item = this.items[index];
    const row = h("div", {
      class: "row", role: "row", id: this.options.id(item), "aria-rowindex": index + 2,
      "aria-selected": index === this.selected ? "true" : "false",
      click: () => this.options.pick(item, true),
    }, this.options.cells(item).map((cell, i) => h("span", { role: "gridcell", class: i === 1 || i === 2 ? "num" : null }, cell)));
    row.style.top = `${this.head.offsetHeight + index * this.height}px`;
    return row;
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.height) - 2);
    const moves = { PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key === "Enter" && this.items[this.selected]) this.options.pick(this.items[this.selected], true);
    else if (event.key in moves) this.move(moves[event.key]);
    else return;
    event.preventDefault();
  }

  move(by) {
    if (!this.items.length) return;
    const from = this.selected < 0 ? (by > 0 ? -1 : this.items.length) : this.selected;
    const to = Math.max(0, Math.min(this.items.length - 1, from + by));
    // At once: the next key may come before the address has changed.
    this.select(to);
    this.options.pick(this.items[to], false);
  }
}

/** A canvas of any size of which only the visible part is painted. */
class Scroller {
  /**
   * @param name  its class
   * @param paint  called with (context, x, y, width, height): the part that is seen
   * @param at  called with (event, x, y) when the mouse is over a place; what it returns is shown
   * @param pick  called with (x, y) on a click
   */
  constructor(name, label, { paint, at, pick }) {
    this.paint = paint;
    this.canvas = h("canvas", { role: "img", "aria-label": label });
    // The canvas sticks to the corner of what is seen, inside of a box as large as the whole.
    this.space = h("div", { class: "space" }, this.canvas);
    const place = (event) => {
      const box = this.element.getBoundingClientRect();
      return [event.clientX - box.left + this.element.scrollLeft, event.clientY - box.top + this.element.scrollTop];
    };
    this.element = h("div", {
      class: `scroller ${name}`, tabindex: 0, role: "region", "aria-label": label,
      scroll: () => this.draw(),
      mousemove: (event) => {
        const lines = at(...place(event));
        if (lines) tip.show(event, ...lines);
        else tip.hide();
      },
      mouseleave: () => tip.hide(),
      click: (event) => pick(...place(event)),
    }, this.space);
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  resize(width, height) {
    [this.width, this.height] = [width, height];
    this.space.style.width = `${width}px`;
    this.space.style.height = `${height}px`;
    this.draw();
  }

  /** Scrolls so that a place across is seen. */
  reveal(x) {
    const box = this.element;
    if (x < box.scrollLeft || x > box.scrollLeft + box.clientWidth) box.scrollLeft = x - box.clientWidth / 2;
  }

  draw() {
    const box = this.element;
    const [wide, tall] = [Math.min(box.clientWidth, this.width), Math.min(box.clientHeight, this.height)];
    if (!wide || !tall) return;
    const context = painter(this.canvas, wide, tall);
    context.translate(-box.scrollLeft, -box.scrollTop);
    this.paint(context, box.scrollLeft, box.scrollTop, wide, tall);
  }
}

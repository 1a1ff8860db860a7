// A histogram whose cut is dragged, or moved by the keyboard: a slider to whoever can't see it.

const CHART = { height: 190, left: 48, right: 14, top: 22, bottom: 26 };
const LETTER = 7.2; // about the width of a digit

class Histogram {
  /** `moved(edge)` is called when the cut is moved. */
  constructor(moved) {
    this.moved = moved;
    this.root = make("div", { class: "histogram" });
    this.root.addEventListener("pointerdown", (event) => this.grab(event));
    new ResizeObserver(() => this.column && this.redraw()).observe(this.root);
  }

  /** Show a column: its edges, bars and the rows between the edges. */
  show(column, rows, cut) {
    Object.assign(this, { column, rows, cut });
    this.redraw();
  }

  redraw() {
    const { bars } = this.column;
    const focused = this.root.contains(document.activeElement);
    this.width = Math.max(240, this.root.clientWidth);
    this.slot = (this.width - CHART.left - CHART.right) / bars.length;
    const heights = bars.map((from, bar) => this.rows(from, this.end(bar)));
    const most = Math.max(1, ...heights);
    const scale = CHART.height / most;
    this.clip = draw("rect", { y: 0, height: CHART.height + CHART.top });
    const total = CHART.height + CHART.top + CHART.bottom;
    const svg = draw("svg", { viewBox: `0 0 ${this.width} ${total}`, height: total });
    const clipId = `kept-${Math.random().toString(36).slice(2)}`;
    svg.append(draw("defs", {}, draw("clipPath", { id: clipId }, this.clip)));
    for (const value of niceSteps(most)) {
      const y = CHART.top + CHART.height - value * scale;
      svg.append(draw("line", { class: "grid", x1: CHART.left, x2: this.width - CHART.right, y1: y, y2: y }));
      svg.append(text(COMPACT.format(value), CHART.left - 6, y + 4, "end"));
    }
    const shapes = ["dropped", "kept"].map((kind) => {
      const group = draw("g", { class: kind });
      heights.forEach((height, bar) => {
        if (height) group.append(this.bar(bar, height * scale, height));
      });
      return group;
    });
    shapes[1].setAttribute("clip-path", `url(#${clipId})`);
    svg.append(...shapes, ...this.ticks(), this.handle());
    this.root.replaceChildren(svg);
    this.place();
    if (focused) this.knob.focus();
  }

  bar(bar, height, rows) {
    const { edges, bars } = this.column;
    const x = CHART.left + bar * this.slot;
    const gap = Math.min(1, this.slot / 5);
    const rect = draw("rect", { x: x + gap / 2, width: this.slot - gap, y: CHART.top + CHART.height - height, height });
    const last = bar + 1 < bars.length ? ` to ${shortly(edges[bars[bar + 1]])}` : " and above";
    const says = this.isDiscrete() ? "" : last;
    rect.append(draw("title", {}, `${shortly(edges[bars[bar]])}${says}: ${whole(rows)} samples`));
    return rect;
  }

  /** Whether each bar is a value of its own. */
  isDiscrete() {
    return this.column.bars.length === this.column.edges.length;
  }

  /** Labels below the bars, as far apart as they need: of each value, or of round numbers. */
  ticks() {
    const y = CHART.top + CHART.height + 17;
    const round = this.isDiscrete() ? [] : this.fitting(this.roundMarks());
    const marks = round.length > 1 ? round : this.fitting(this.barMarks());
    return marks.map(([label, x]) => text(label, x, y, "middle"));
  }

  /** Of labels and their places those for which there is room. */
  fitting(marks) {
    let free = 0;
    return marks.filter(([label, x]) => {
      const half = ((label.length + 1) * LETTER) / 2;
      const fits = x - half >= free && x + half - LETTER / 2 <= this.width;
      if (fits) free = x + half;
      return fits;
    });
  }

  /** The bars' own values: of each bar, or where it begins. */
  barMarks() {
    const { edges, bars } = this.column;
    const shift = this.isDiscrete() ? 0.5 : 0;
    return bars.map((edge, bar) => [shortly(edges[edge]), CHART.left + (bar + shift) * this.slot]);
  }

  /** Round values, with as many digits as tell them apart. */
  roundMarks() {
    const { edges } = this.column;
    const low = edges[0];
    const high = edges[edges.length - 1];
    const step = niceStep(high - low, Math.max(2, Math.floor(this.width / 70)));
    const digits = Math.min(12, Math.max(0, 1 - Math.floor(Math.log10(step))));
    const marks = [];
    for (let number = Math.ceil(low / step); number * step <= high; number++) {
      const value = Number((number * step).toFixed(digits));
      marks.push([value.toLocaleString("en-US", { maximumFractionDigits: digits }), this.xOfValue(value)]);
    }
    return marks;
  }

  handle() {
    this.line = draw("line", { class: "cut", y1: CHART.top - 4, y2: CHART.top + CHART.height });
    this.label = text("", 0, CHART.top - 8, "middle");
    this.label.setAttribute("class", "cut");
    this.knob = draw("g", {
      class: "knob", role: "slider", tabindex: 0, "aria-label": "Cut", "aria-valuemin": 0,
      "aria-valuemax": this.column.edges.length - 1,
      onkeydown: (event) => this.key(event),
    }, draw("rect", { class: "grip", x: -14, width: 28, y: CHART.top - 6, height: CHART.height + 12 }), draw("circle", { r: 7, cy: CHART.top + CHART.height / 2 }));
    return draw("g", {}, this.line, this.label, this.knob);
  }

  /** Edge after the last one of a bar. */
  end(bar) {
    const { edges, bars } = this.column;
    return bar + 1 < bars.length ? bars[bar + 1] : edges.length;
  }

  /** Where an edge lies. */
  xOf(edge) {
    return this.xOfValue(this.column.edges[edge]);
  }

  /** Where a value lies: bars are as wide as each other, values lie within them by size. */
  xOfValue(value) {
    const { edges, bars } = this.column;
    let bar = bars.length - 1;
    while (bar > 0 && edges[bars[bar]] > value) bar -= 1;
    const from = edges[bars[bar]];
    const last = edges[edges.length - 1];
    const to = bar + 1 < bars.length ? edges[bars[bar + 1]] : last;
    const within = to > from && !this.isDiscrete() ? (value - from) / (to - from) : 0;
    return CHART.left + (bar + Math.min(within, 1)) * this.slot;
  }

  /** The edge nearest to a place. */
  edgeAt(x) {
    const { bars } = this.column;
    const at = (x - CHART.left) / this.slot;
    const bar = Math.min(bars.length - 1, Math.max(0, Math.floor(at)));
    let best = bars[bar];
    const last = bar + 1 < bars.length ? bars[bar + 1] : this.column.edges.length - 1;
    for (let edge = bars[bar]; edge <= last; edge++) {
      if (Math.abs(this.xOf(edge) - x) < Math.abs(this.xOf(best) - x)) best = edge;
    }
    return best;
  }

  grab(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    const { left } = this.root.getBoundingClientRect();
    const move = (moved) => this.moved(this.edgeAt(moved.clientX - left));
    const drop = () => this.root.removeEventListener("pointermove", move);
    this.root.setPointerCapture(event.pointerId);
    this.root.addEventListener("pointermove", move);
    this.root.addEventListener("pointerup", drop, { once: true });
    this.root.addEventListener("pointercancel", drop, { once: true });
    move(event);
    this.knob.focus();
  }

  key(event) {
    const last = this.column.edges.length - 1;
    const page = Math.max(1, Math.round(last / 20));
    const steps = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -page, PageUp: page, Home: -last, End: last };
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.moved(Math.min(last, Math.max(0, this.cut + steps[event.key])));
  }

  /** Put the cut where it is. */
  setCut(cut, says) {
    this.cut = cut;
    this.says = says;
    this.place();
  }

  place() {
    const x = this.xOf(this.cut);
    const value = shortly(this.column.edges[this.cut]);
    this.clip.setAttribute("x", x);
    this.clip.setAttribute("width", Math.max(0, this.width - x));
    for (const end of ["x1", "x2"]) this.line.setAttribute(end, x);
    const half = ((value.length + 4) * LETTER) / 2;
    this.label.setAttribute("x", Math.min(this.width - half, Math.max(half, x)));
    this.label.textContent = `cut ${value}`;
    this.knob.setAttribute("transform", `translate(${x} 0)`);
    this.knob.setAttribute("aria-valuenow", this.cut);
    this.knob.setAttribute("aria-valuetext", this.says ?? value);
  }
}

function text(content, x, y, anchor) {
  return draw("text", { x, y, "text-anchor": anchor }, content);
}

/** Up to four round numbers from 0 to a height. */
function niceSteps(most) {
  const whole = Math.max(1, niceStep(most, 4));
  return Array.from({ length: Math.floor(most / whole) + 1 }, (_, number) => number * whole);
}

/** The least round number of which at most so many lie within a length. */
function niceStep(length, most) {
  const power = 10 ** Math.floor(Math.log10(length / most || 1));
  return [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((size) => length / size <= most) ?? 10 * power;
}

// Two columns against each other: the samples as points; a rectangle drawn on them is a range.

const PLOT = { height: 320, left: 52, right: 12, top: 10, bottom: 34 };

class Scatter {
  /** `brushed(ranges)`: column -> [low, high) edges, or null where the rectangle is taken away. */
  constructor(counts, brushed) {
    this.counts = counts;
    this.brushed = brushed;
    this.canvas = make("canvas", { class: "scatter", role: "img" });
    this.canvas.addEventListener("pointerdown", (event) => this.grab(event));
    new ResizeObserver(() => this.columns && this.redraw()).observe(this.canvas);
  }

  show(columns, isKept, limits) {
    Object.assign(this, { columns, isKept, limits });
    this.redraw();
  }

  ends(axis) {
    const column = this.counts.data.columns[this.columns[axis]];
    const { edges, bars } = column;
    const last = edges.length - 1;
    if (this.isWhole(column)) return [edges[0] - 0.4, edges[last] + 0.4];
    if (bars.length < 3 || bars.length === edges.length) return [edges[0], edges[last]];
    const width = edges[bars[2]] - edges[bars[1]];
    const low = edges[bars[1]] - edges[0] > 2 * width ? bars[1] : 0; // a few values lie far off
    const high = edges[last] - edges[bars.at(-1)] > 2 * width ? bars.at(-1) : last;
    return [edges[low], edges[high]];
  }

  /** Values to pixels, along one axis: beyond the ends they lie at the ends. */
  scale(axis, value) {
    const [low, high] = this.ends(axis);
    const share = Math.min(1.03, Math.max(-0.03, (value - low) / (high - low || 1)));
    const { width } = this;
    if (axis === 0) return PLOT.left + share * (width - PLOT.left - PLOT.right);
    return PLOT.height - PLOT.bottom - share * (PLOT.height - PLOT.top - PLOT.bottom);
  }

  redraw() {
    const { samples, columns } = this.counts.data;
    this.width = this.canvas.clientWidth || 320;
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = this.width * ratio;
    this.canvas.height = PLOT.height * ratio;
    const pen = this.canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name);
    this.axes(pen, colour);
    const [x, y] = this.columns;
    let shown = 0;
    for (const kept of [false, true]) {
      pen.fillStyle = colour(kept ? "--kept" : "--dropped-point");
      samples.key.forEach((_, sample) => {
        const pair = [samples.values[x][sample], samples.values[y][sample]];
        if (pair.includes(null) || this.isKept[sample] !== kept) return;
        shown += 1;
        const [jitterX, jitterY] = [x, y].map((column, axis) => this.jitter(columns[column], sample, axis));
        pen.globalAlpha = 0.75;
        pen.beginPath();
        pen.arc(this.scale(0, pair[0] + jitterX), this.scale(1, pair[1] + jitterY), 2.6, 0, 7);
        pen.fill();
      });
    }
    pen.globalAlpha = 1;
    this.brush(pen, colour);
    const names = [columns[x].name, columns[y].name];
    this.canvas.setAttribute("aria-label", `${whole(shown)} samples by ${names.join(" and ")}; the ranges can be typed below`);
  }

  /** Whether a column has a few whole numbers only. */
  isWhole({ edges }) {
    return edges.every(Number.isInteger) && edges.at(-1) - edges[0] < 12;
  }

  /** Samples of the same whole numbers lie beside each other, not on each other. */
  jitter(column, sample, axis) {
    return this.isWhole(column) ? ((sample * (axis ? 0.618 : 0.382)) % 1) * 0.6 - 0.3 : 0;
  }

  axes(pen, colour) {
    pen.strokeStyle = colour("--line");
    pen.fillStyle = colour("--soft");
    pen.font = "12px system-ui, sans-serif";
    pen.strokeRect(PLOT.left, PLOT.top, this.width - PLOT.left - PLOT.right, PLOT.height - PLOT.top - PLOT.bottom);
    this.columns.forEach((column, axis) => {
      const [low, high] = this.ends(axis);
      pen.textAlign = axis ? "right" : "center";
      const { edges } = this.counts.data.columns[column];
      const even = Array.from({ length: 5 }, (_, step) => low + ((high - low) * step) / 4);
      for (const value of this.isWhole({ edges }) ? edges : even) {
        const at = this.scale(axis, value);
        if (axis) pen.fillText(shortly(Number(value.toPrecision(3))), PLOT.left - 6, at + 4);
        else pen.fillText(shortly(Number(value.toPrecision(3))), Math.min(at, this.width - 18), PLOT.height - 16);
      }
    });
    const [x, y] = this.columns.map((column) => this.counts.data.columns[column].name);
    pen.textAlign = "center";
    pen.fillText(`${x}  (up: ${y})`, this.width / 2, PLOT.height - 2);
  }

  brush(pen, colour) {
    const [x, y] = this.columns.map((column, axis) => {
      const range = this.limits.get(column);
      const { edges } = this.counts.data.columns[column];
      if (!range) return null;
      return [range[0], range[1]].map((edge) => this.scale(axis, edges[Math.min(edge, edges.length - 1)]));
    });
    if (!x && !y) return;
    const [left, right] = x ?? [PLOT.left, this.width - PLOT.right];
    const [bottom, top] = y ?? [PLOT.height - PLOT.bottom, PLOT.top];
    pen.strokeStyle = colour("--cut");
    pen.setLineDash([4, 3]);
    pen.strokeRect(left, top, right - left, bottom - top);
    pen.setLineDash([]);
  }

  grab(event) {
    if (event.button !== 0) return;
    const box = this.canvas.getBoundingClientRect();
    const at = (moved) => [moved.clientX - box.left, moved.clientY - box.top];
    const start = at(event);
    this.canvas.setPointerCapture(event.pointerId);
    const move = (moved) => {
      const end = at(moved);
      if (Math.hypot(end[0] - start[0], end[1] - start[1]) > 4) this.brushed(this.ranges(start, end));
    };
    const drop = (moved) => {
      this.canvas.removeEventListener("pointermove", move);
      const end = at(moved);
      if (Math.hypot(end[0] - start[0], end[1] - start[1]) <= 4) this.brushed(null);
    };
    this.canvas.addEventListener("pointermove", move);
    this.canvas.addEventListener("pointerup", drop, { once: true });
  }

  /** The edges that a rectangle reaches from and to, of both columns. */
  ranges(start, end) {
    return new Map(this.columns.map((column, axis) => {
      const { edges } = this.counts.data.columns[column];
      const [low, high] = this.ends(axis);
      const values = [start[axis], end[axis]].map((pixel) => {
        const [from, to] = [this.scale(axis, low), this.scale(axis, high)];
        return low + ((pixel - from) / (to - from)) * (high - low);
      });
      values.sort((one, other) => one - other);
      return [column, values.map((value) => nearestEdge(edges, value))];
    }));
  }
}

/** The number of the first edge that is at least a value; that after the last one where none is. */
function nearestEdge(edges, value) {
  let low = 0;
  let high = edges.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (edges[middle] < value) low = middle + 1;
    else high = middle;
  }
  return low;
}

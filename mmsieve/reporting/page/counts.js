// Counts of an explorer: exact where one column is cut, else estimated from the stratified sample.

const CONFIDENCE = 1.96; // standard deviations of a 95% interval

class Counts {
  constructor(data) {
    this.data = data;
    this.sums = data.columns.map(() => null);
    this.okRows = data.cellRows.reduce((sum, rows) => sum + rows, 0);
    const failed = Object.values(data.failed).flat();
    this.failedRows = failed.reduce((sum, rows) => sum + rows, 0);
  }

  /** Rows of each cell at or above each edge of a column, one cell after the other. */
  above(column) {
    if (this.sums[column] === null) {
      const { edges, counts } = this.data.columns[column];
      const width = edges.length + 1;
      const sums = new Float64Array(counts.length * width);
      counts.forEach((pairs, cell) => {
        let at = cell * width;
        for (let i = 0; i < pairs.length; i += 2) {
          at += pairs[i];
          sums[at] = pairs[i + 1];
        }
        for (let i = (cell + 1) * width - 2; i >= cell * width; i--) sums[i] += sums[i + 1];
      });
      this.sums[column] = sums;
    }
    return this.sums[column];
  }

  /** Rows of a cell whose value of a column lies from one edge to below another. */
  between(column, cell, low, high) {
    const width = this.data.columns[column].edges.length + 1;
    const sums = this.above(column);
    return sums[cell * width + low] - sums[cell * width + high];
  }

  /** Whether a cell has one of the labels that are chosen of each facet. */
  isChosen(cell, chosen) {
    const labels = this.data.cells[cell];
    return chosen.every((some, facet) => some.size === 0 || some.has(labels[facet]));
  }

  /** Column -> [low, high) edges that a request asks for, but for those that all rows fulfil. */
  limits(request) {
    const limits = new Map(request.ranges);
    const [low, high] = limits.get(request.column) ?? [0, this.top(request.column)];
    limits.set(request.column, [Math.max(low, request.cut), high]);
    for (const [column, [from, to]] of limits) {
      const all = from === 0 && to === this.top(column) && this.hasAll(column);
      if (all) limits.delete(column);
    }
    return limits;
  }

  top(column) {
    return this.data.columns[column].edges.length;
  }

  hasAll(column) {
    const cells = this.data.cells.keys();
    let rows = 0;
    for (const cell of cells) rows += this.between(column, cell, 0, this.top(column));
    return rows === this.okRows;
  }

  /** What a request keeps: rows in all and of each label of each facet, exact or estimated. */
  kept(request) {
    const limits = this.limits(request);
    if (limits.size > 1) return this.estimated(request, limits);
    const [entry] = limits;
    const byFacet = this.data.facets.map((facet) => new Float64Array(facet.values.length));
    let total = 0;
    this.data.cells.forEach((labels, cell) => {
      if (!this.isChosen(cell, request.chosen)) return;
      const rows = entry ? this.between(entry[0], cell, ...entry[1]) : this.data.cellRows[cell];
      total += rows;
      labels.forEach((label, facet) => (byFacet[facet][label] += rows));
    });
    return { total, byFacet, exact: true, low: total, high: total };
  }

  /** Rows of each label of each facet that are ok. */
  pool() {
    const byFacet = this.data.facets.map((facet) => new Float64Array(facet.values.length));
    this.data.cells.forEach((labels, cell) => {
      labels.forEach((label, facet) => (byFacet[facet][label] += this.data.cellRows[cell]));
    });
    return byFacet;
  }

  /** Whether a sample lies within limits and has the labels that are chosen. */
  isKept(sample, limits, chosen) {
    const { cell, places } = this.data.samples;
    if (cell[sample] < 0 || !this.isChosen(cell[sample], chosen)) return false;
    for (const [column, [low, high]] of limits) {
      const place = places[column][sample];
      if (place < low || place >= high) return false;
    }
    return true;
  }

  estimated(request, limits) {
    const { cell, stratum } = this.data.samples;
    const kept = stratum.map((_, sample) => this.isKept(sample, limits, request.chosen));
    const byFacet = this.data.facets.map((facet) => new Float64Array(facet.values.length));
    kept.forEach((is, sample) => {
      if (!is) return;
      const [rows, taken] = this.data.strata[stratum[sample]];
      const labels = this.data.cells[cell[sample]];
      labels.forEach((label, facet) => (byFacet[facet][label] += rows / taken));
    });
    const within = this.estimate((sample) => kept[sample]);
    const most = Math.min(...[...limits].map(([column, [low, high]]) => {
      let rows = 0;
      this.data.cells.forEach((_, at) => {
        if (this.isChosen(at, request.chosen)) rows += this.between(column, at, low, high);
      });
      return rows;
    }));
    const high = Math.min(within.high, most);
    return { ...within, total: Math.min(within.total, high), high, byFacet, exact: false };
  }

  /** How many rows are as the samples that pass a test, with a 95% interval. */
  estimate(test) {
    const { stratum } = this.data.samples;
    const found = this.data.strata.map(() => 0);
    stratum.forEach((at, sample) => {
      if (at >= 0 && test(sample)) found[at] += 1;
    });
    let total = 0;
    let variance = 0;
    let seen = 0;
    this.data.strata.forEach(([rows, taken], at) => {
      if (taken === 0) return;
      const share = (found[at] + 1) / (taken + 2); // never 0 or 1: so few rows don't say so
      total += (rows * found[at]) / taken;
      variance += (rows * rows * (1 - taken / rows) * share * (1 - share)) / taken;
      seen += found[at];
    });
    const spread = CONFIDENCE * Math.sqrt(variance);
    return {
      total: Math.round(total),
      low: Math.max(seen, Math.floor(total - spread)),
      high: Math.min(this.okRows, Math.ceil(total + spread)),
    };
  }
}

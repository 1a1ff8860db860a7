// An explorer: the cut, the choice of labels and ranges, what they keep, and the command for it.

class Explorer {
  constructor(root, data) {
    this.data = data;
    this.counts = new Counts(data);
    this.request = { column: 0, cut: 0, ranges: new Map(), chosen: data.facets.map(() => new Set()) };
    this.pool = this.counts.pool();
    this.histogram = new Histogram((cut) => this.setCut(cut));
    this.scatter = data.columns.length > 1 ? new Scatter(this.counts, (ranges) => this.setRanges(ranges)) : null;
    this.samples = new Samples(data, () => this.tell());
    this.build(root);
    this.setColumn(0);
  }

  build(root) {
    this.lead = make("p", { class: "lead", "aria-live": "polite" });
    this.picker = this.select("Column to cut by", (column) => this.setColumn(column));
    this.number = make("input", { type: "number", step: "any", "aria-label": "Cut at", onchange: () => this.typed() });
    this.madeBar = make("p", { class: "bar soft", hidden: true });
    this.facets = make("div", { class: "facets" });
    this.command = make("code", { class: "command" });
    const copy = make("button", { type: "button" }, "copy");
    copy.addEventListener("click", () => copyText(this.command.textContent, copy));
    const clear = make("button", { type: "button", onclick: () => this.clear() }, "clear all");
    root.append(
      make("div", { class: "bar" }, make("label", {}, "Cut by ", this.picker), make("label", {}, "at ", this.number), clear),
      this.madeBar,
      this.lead,
      make("div", { class: "columns" }, make("div", { class: "main" }, this.histogram.root, make("p", { class: "soft" }, `Drag the cut, or move it with the arrow keys. ${this.about()}`)), this.facets),
      make("div", { class: "commandline" }, this.command, copy),
      ...this.details(),
      make("p", { class: "soft" }, "What is wrongly dropped or kept is mostly near the cut: look at the samples below. To know how much it is, judge some of them blindly: ", make("code", {}, this.auditLine())),
      this.samples.root,
    );
  }

  about() {
    const { rows, samples } = this.data;
    return `Counts are of all ${whole(rows)} rows; the samples below are ${whole(samples.key.length)} of them, drawn evenly over scores and sources.`;
  }

  details() {
    if (!this.scatter) return [];
    this.axes = [0, 1].map((axis) => {
      const select = this.select(axis ? "Column upwards" : "Column to the right", () => this.tell());
      select.value = String(axis);
      return select;
    });
    this.ranges = make("div", { class: "ranges" });
    const fold = make("details", { class: "fold" }, make("summary", {}, "Two columns at once"));
    fold.append(make("div", { class: "bar" }, make("label", {}, "Right ", this.axes[0]), make("label", {}, "Up ", this.axes[1])), this.scatter.canvas, make("p", { class: "soft" }, "Draw a rectangle to keep what lies in it; a click takes it away."), this.ranges);
    fold.addEventListener("toggle", () => this.tell());
    this.fold = fold;
    return [fold];
  }

  select(label, chosen) {
    const select = make("select", { "aria-label": label, onchange: (event) => chosen(Number(event.target.value)) });
    this.data.columns.forEach((column, number) => select.append(make("option", { value: number }, column.name)));
    return select;
  }

  get column() {
    return this.data.columns[this.request.column];
  }

  setColumn(column) {
    const { edges } = this.data.columns[column];
    this.request.column = column;
    this.picker.value = String(column);
    const made = this.data.cuts[column] ?? [];
    this.request.cut = made.length ? made[0][1] : Math.floor(edges.length / 2);
    this.showMade(made);
    this.drawHistogram();
    this.tell();
  }

  /** A button for each cut that decisions made of the column. */
  showMade(made) {
    this.made = made.map(([name, edge]) => [edge, make("button", { type: "button", onclick: () => this.setCut(edge) }, make("bdi", {}, name))]);
    this.madeBar.hidden = !made.length;
    this.madeBar.replaceChildren("Cuts made: ", ...this.made.map(([, button]) => button));
  }

  drawHistogram() {
    const { column, chosen } = this.request;
    const cells = [...this.data.cells.keys()].filter((cell) => this.counts.isChosen(cell, chosen));
    const rows = (from, to) => cells.reduce((sum, cell) => sum + this.counts.between(column, cell, from, to), 0);
    this.histogram.show(this.column, rows, this.request.cut);
  }

  setCut(cut) {
    this.request.cut = cut;
    this.later ??= requestAnimationFrame(() => {
      this.later = null;
      this.tell();
    });
  }

  typed() {
    const edge = nearestEdge(this.column.edges, Number(this.number.value));
    this.setCut(Math.min(edge, this.column.edges.length - 1));
  }

  setRanges(ranges) {
    if (ranges === null) this.request.ranges.clear();
    else for (const [column, range] of ranges) this.request.ranges.set(column, range);
    this.tell();
  }

  clear() {
    this.request.ranges.clear();
    this.request.chosen.forEach((some) => some.clear());
    this.samples.query = this.samples.searchBox.value = "";
    this.drawHistogram();
    this.tell();
  }

  choose(facet, value, is) {
    const some = this.request.chosen[facet];
    if (is) some.add(value);
    else some.delete(value);
    this.drawHistogram();
    this.tell();
  }

  /** Say what the request keeps, everywhere. */
  tell() {
    const kept = this.counts.kept(this.request);
    const limits = this.counts.limits(this.request);
    const { key } = this.data.samples;
    const isKept = key.map((_, sample) => this.counts.isKept(sample, limits, this.request.chosen));
    const isWithin = key.map((_, sample) => this.counts.isKept(sample, new Map(), this.request.chosen));
    const share = percent(kept.total / this.data.rows);
    this.histogram.setCut(this.request.cut, `${shortly(this.column.edges[this.request.cut])}: keeps ${whole(kept.total)} samples, ${share}`);
    this.number.value = this.column.edges[this.request.cut];
    for (const [edge, button] of this.made) button.setAttribute("aria-pressed", edge === this.request.cut);
    this.tellTotal(kept, share, isKept);
    this.tellFacets(kept);
    this.command.textContent = this.commandLine(limits);
    this.samples.show(this.request, isKept, isWithin);
    if (this.fold?.open) {
      this.scatter.show(this.axes.map((select) => Number(select.value)), isKept, this.request.ranges);
      this.tellRanges();
    }
  }

  tellTotal(kept, share, isKept) {
    const { rows } = this.data;
    const about = kept.exact ? "" : "about ";
    const interval = kept.exact ? "" : ` Estimated from the samples: 95% interval ${whole(kept.low)} to ${whole(kept.high)}.`;
    const failed = this.counts.failedRows ? ` ${whole(this.counts.failedRows)} are not ok and are never kept.` : "";
    const found = this.samples.query ? this.found(isKept) : "";
    this.lead.replaceChildren(`Keeps ${about}`, make("b", {}, whole(kept.total)), ` of ${whole(rows)} samples (`, make("b", {}, share), `).${interval}${failed}${found}`);
  }

  /** About how many of the kept rows hold what is searched for. */
  found(isKept) {
    const { total, low, high } = this.counts.estimate((sample) => isKept[sample] && this.samples.matches(sample));
    return ` Of them about ${whole(total)} (95%: ${whole(low)} to ${whole(high)}) hold the searched text, which is no part of the command.`;
  }

  tellFacets(kept) {
    const open = new Map([...this.facets.querySelectorAll("details")].map((one) => [one.dataset.facet, one.open]));
    const focused = document.activeElement?.dataset?.choice;
    const tables = this.data.facets.map((facet, number) => this.facetTable(facet, number, kept));
    const folded = this.data.facets.map((facet, number) => {
      const is = open.get(String(number)) ?? number < 2;
      return make("details", { open: is, "data-facet": number }, make("summary", {}, facet.name), tables[number], facet.note ? make("p", { class: "soft" }, facet.note) : null);
    });
    this.facets.replaceChildren(...folded, ...this.failures());
    if (focused) this.facets.querySelector(`[data-choice="${focused}"]`)?.focus();
  }

  facetTable(facet, number, kept) {
    const titles = ["", facet.name, "kept", "of", "", "before", "after"];
    const head = titles.map((title, at) => make("th", { scope: "col", class: at < 2 ? "name" : at === 4 ? "wide" : "" }, title));
    const table = make("table", {}, make("tr", {}, ...head));
    const total = this.counts.okRows;
    facet.values.forEach((value, label) => {
      const rows = this.pool[number][label];
      const some = kept.byFacet[number][label];
      const chosen = this.request.chosen[number].has(label);
      const box = make("input", { type: "checkbox", "aria-label": `only ${facet.name} ${value}`, "data-choice": `${number}-${label}`, onchange: (event) => this.choose(number, label, event.target.checked) });
      box.checked = chosen;
      const meter = make("meter", { min: 0, max: 1, value: rows ? some / rows : 0, "aria-label": `kept of ${value}` });
      const cells = [whole(some), whole(rows), meter, percent(rows / total), percent(some / kept.total)];
      const shown = cells.map((cell) => make("td", { class: cell === meter ? "wide" : "" }, cell));
      table.append(make("tr", {}, make("td", {}, box), make("th", { scope: "row" }, make("bdi", {}, value)), ...shown));
    });
    return table;
  }

  failures() {
    const failed = Object.entries(this.data.failed);
    if (!failed.length) return [];
    const table = make("table", {});
    for (const [status, counts] of failed) {
      const rows = counts.reduce((sum, one) => sum + one, 0);
      const look = make("button", { type: "button", class: "link", onclick: () => this.look(status) }, status);
      table.append(make("tr", {}, make("th", { scope: "row" }, look), make("td", {}, whole(rows))));
    }
    return [make("details", { open: true, "data-facet": "failed" }, make("summary", {}, "not ok"), table)];
  }

  look(status) {
    this.samples.searchBox.value = status;
    this.samples.set({ view: "failed", page: 0, query: status });
  }

  /** Numbers to type the ranges that a rectangle draws. */
  tellRanges() {
    const chosen = [...new Set(this.axes.map((select) => Number(select.value)))];
    this.ranges.replaceChildren(...chosen.map((column) => {
      const { name, edges } = this.data.columns[column];
      const range = this.request.ranges.get(column) ?? [0, edges.length];
      const box = (end) => {
        const value = range[end] < edges.length ? edges[range[end]] : "";
        return make("input", { type: "number", step: "any", value, "aria-label": `${name} ${end ? "below" : "from"}`, onchange: (event) => {
          const wanted = event.target.value === "" ? edges.length * end : nearestEdge(edges, Number(event.target.value));
          this.setRanges(new Map([[column, end ? [range[0], wanted] : [wanted, range[1]]]]));
        } });
      };
      return make("p", {}, `${name} from `, box(0), " to below ", box(1));
    }));
  }

  /** The command that makes a form to judge samples. */
  auditLine() {
    const { name, by } = this.data.columns[0];
    const column = name === "quality_score" ? "" : ` --by ${quoted(by)}`;
    return `mmsieve audit ${quoted(this.data.tables[0].path)} SHARDS${column} --out form.html`;
  }

  /** The command that keeps what is on the screen. */
  commandLine(limits) {
    const { name, by, edges } = this.column;
    const parts = [];
    const tables = new Set(this.data.tables.filter((table) => !table.decided || this.data.renamed));
    this.request.chosen.forEach((some, number) => {
      if (!some.size) return;
      const facet = this.data.facets[number];
      if (facet.table !== null) tables.add(this.data.tables[facet.table]);
      const conditions = [...some].map((label) => facet.where[label]);
      parts.push(conditions.length > 1 ? `(${conditions.join(" OR ")})` : conditions[0]);
    });
    for (const [column, [low, high]] of limits) {
      const one = this.data.columns[column];
      if (column !== this.request.column && low > 0) parts.push(`${one.name} >= ${literal(one, low)}`);
      else if (column !== this.request.column && !parts.includes(`${one.name} IS NOT NULL`)) parts.push(`${one.name} IS NOT NULL`);
      if (high < one.edges.length) parts.push(`${one.name} < ${literal(one, high)}`);
    }
    const ordered = this.data.tables.filter((table) => tables.has(table)).map((table) => quoted(table.path));
    const where = parts.length ? ` --where ${quoted(parts.join(" AND "))}` : "";
    const column = name === "quality_score" ? "" : ` --by ${quoted(by)}`;
    const low = limits.get(this.request.column)?.[0] ?? 0;
    return `mmsieve filter ${ordered.join(" ")}${column} --min-score=${edges[low]}${where} --out kept`;
  }
}

/** An edge as SQL compares it: all digits of what a column of single precision holds. */
function literal(column, edge) {
  const value = column.edges[edge];
  return String(column.single ? Math.fround(value) : value);
}

/** A word of a command line as a shell takes it. */
function quoted(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

// The samples around a cut: pages of cards, sorted, searched and enlarged.

const PER_PAGE = 8;

class Samples {
  /** `contents`: of each sample its parts, once they are read. */
  constructor(data, searched) {
    this.data = data;
    this.contents = null;
    this.view = "around";
    this.page = 0;
    this.sort = "near";
    this.query = "";
    this.searched = searched;
    this.root = make("div", { class: "samples" });
    this.cards = make("div", { class: "cards", tabindex: -1, onkeydown: (event) => this.key(event) });
    this.status = make("p", { class: "soft", role: "status" });
    this.build();
  }

  build() {
    const views = { around: "Around the cut", kept: "Kept", dropped: "Dropped", failed: "Not ok" };
    this.tabs = Object.entries(views).map(([view, title]) =>
      make("button", { type: "button", "data-view": view, onclick: () => this.set({ view, page: 0 }) }, title),
    );
    const orders = { near: "nearest to the cut", high: "highest first", low: "lowest first", key: "by key" };
    const sort = make("select", { "aria-label": "Sort by", onchange: (event) => this.set({ sort: event.target.value, page: 0 }) });
    for (const [order, title] of Object.entries(orders)) sort.append(make("option", { value: order }, title));
    this.sortBox = sort;
    const search = make("input", {
      type: "search", placeholder: "Search texts and keys", "aria-label": "Search texts and keys of the samples",
      oninput: (event) => this.set({ query: event.target.value.toLowerCase(), page: 0 }),
    });
    this.searchBox = search;
    const turn = (label, step) => make("button", { type: "button", "aria-label": label, onclick: () => this.turn(step) }, step < 0 ? "\u2039" : "\u203a");
    this.turns = [turn("Page before", -1), turn("Next page", 1)];
    this.root.append(
      make("div", { class: "bar" }, make("div", { class: "tabs", role: "group", "aria-label": "Which samples" }, ...this.tabs), sort, search, ...this.turns),
      this.status,
      this.cards,
    );
  }

  set(changes) {
    Object.assign(this, changes);
    if ("query" in changes) this.searched();
    this.redraw();
  }

  turn(step) {
    this.set({ page: Math.min(Math.max(0, this.page + step), Math.max(0, this.pages - 1)) });
    this.cards.querySelector("article")?.focus();
  }

  key(event) {
    if (event.target.closest("input, select, textarea")) return;
    const cards = [...this.cards.querySelectorAll("article")];
    const at = cards.indexOf(document.activeElement.closest("article"));
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step && cards[at + step]) cards[at + step].focus();
    else if (step || event.key === "PageDown" || event.key === "PageUp") this.turn(step ?? (event.key === "PageDown" ? 1 : -1));
    else if (event.key === "Enter" && event.target.matches("article")) this.open(Number(event.target.dataset.sample));
    else return;
    event.preventDefault();
  }

  /** Show what a request keeps of the samples. */
  show(request, isKept, isWithin) {
    Object.assign(this, { request, isKept, isWithin });
    this.redraw();
  }

  matches(sample) {
    if (!this.query) return true;
    const { key, status } = this.data.samples;
    const texts = (this.contents?.[sample] ?? []).filter(([kind]) => kind !== "picture");
    return [key[sample], status[sample], ...texts.map(([, text]) => text)].some((text) => text.toLowerCase().includes(this.query));
  }

  value(sample) {
    return this.data.samples.values[this.request.column][sample];
  }

  /** The samples of a side of the cut in the order asked for. */
  side(view) {
    const { cell, places, key } = this.data.samples;
    const place = places[this.request.column];
    const wanted = key.map((_, sample) => sample).filter((sample) => {
      const failed = cell[sample] < 0;
      const is = { failed, kept: this.isKept[sample], dropped: !failed && !this.isKept[sample] && this.isWithin[sample] };
      return is[view] && this.matches(sample);
    });
    const { cut } = this.request;
    const number = (sample) => this.value(sample) ?? -Infinity;
    const orders = {
      near: (one, other) => Math.abs(place[one] - cut + 0.5) - Math.abs(place[other] - cut + 0.5) || number(other) - number(one),
      high: (one, other) => number(other) - number(one),
      low: (one, other) => number(one) - number(other),
      key: (one, other) => (key[one] < key[other] ? -1 : 1),
    };
    return wanted.sort(orders[this.sort] ?? orders.near);
  }

  redraw() {
    for (const tab of this.tabs) tab.setAttribute("aria-pressed", tab.dataset.view === this.view);
    const rows = this.view === "around" ? ["dropped", "kept"] : [this.view];
    const each = PER_PAGE / rows.length;
    const sides = rows.map((view) => [view, this.side(view)]);
    const longest = Math.max(...sides.map(([, samples]) => samples.length));
    this.pages = Math.ceil(longest / each);
    this.page = Math.min(this.page, Math.max(0, this.pages - 1));
    const titles = { kept: "Kept", dropped: "Dropped", failed: "Not ok" };
    const found = sides.map(([view, samples]) => `${whole(samples.length)} ${titles[view].toLowerCase()}`);
    this.status.textContent = `${found.join(", ")} of ${whole(this.data.samples.key.length)} samples shown for ${whole(this.data.rows)}; page ${this.page + (this.pages ? 1 : 0)} of ${this.pages}`;
    this.turns[0].disabled = this.page === 0;
    this.turns[1].disabled = this.page + 1 >= this.pages;
    this.cards.replaceChildren(...sides.map(([view, samples]) => {
      const some = samples.slice(this.page * each, (this.page + 1) * each);
      const cards = some.map((sample) => this.card(sample));
      const none = make("p", { class: "soft" }, "none");
      return make("div", {}, make("h4", {}, titles[view]), make("div", { class: "gallery" }, ...(cards.length ? cards : [none])));
    }));
  }

  card(sample) {
    const { key, shard, status } = this.data.samples;
    const kept = this.isKept[sample];
    const ok = status[sample] === "ok";
    const name = shard.names[shard.of[sample]];
    const copy = make("button", { type: "button", class: "key", title: `copy the key; shard ${name}` }, make("bdi", {}, key[sample]));
    copy.addEventListener("click", () => copyText(key[sample], copy));
    const side = kept ? "kept" : "dropped";
    return make(
      "article",
      { class: `card ${ok ? side : ""}`, tabindex: 0, "data-sample": sample, "aria-label": `${ok ? side : status[sample]}, ${key[sample]}` },
      make("header", {}, make("b", {}, ok ? shortly(this.value(sample)) : status[sample]), this.label(sample), copy),
      make("div", { class: "body" }, ...this.parts(sample, () => this.open(sample))),
    );
  }

  /** The labels of a sample, of the facets that aren't told by its shard or decision. */
  label(sample) {
    const cell = this.data.samples.cell[sample];
    if (cell < 0) return null;
    const named = this.data.facets.map((facet, number) => [facet, facet.values[this.data.cells[cell][number]]]);
    const said = named.filter(([facet]) => facet.table === null && facet.name !== "shard").map(([facet, value]) => (facet.name === "quality_level" ? `level ${value}` : value));
    return make("span", { class: "tag" }, said.join(", "));
  }

  parts(sample, opened) {
    const { error } = this.data.samples;
    const contents = this.contents?.[sample];
    if (!contents) return [make("p", { class: "soft" }, this.contents ? "" : "reading ...")];
    const shown = contents.map(([kind, content], number) => {
      if (kind === "text") return make("p", { dir: "auto" }, make("bdi", {}, content));
      if (kind === "picture") {
        const picture = make("img", { src: content, alt: `picture ${number + 1} of ${this.data.samples.key[sample]}` });
        return make("button", { type: "button", class: "picture", "aria-label": "Enlarge", onclick: opened }, picture);
      }
      return make("p", { class: kind === "problem" ? "problem" : "soft" }, content);
    });
    if (error[sample] && !contents.some(([kind]) => kind === "problem")) shown.push(make("p", { class: "problem" }, make("bdi", {}, error[sample])));
    return shown;
  }

  /** A sample by itself: large, with all its numbers. */
  open(sample) {
    const { key, shard, place, values, status } = this.data.samples;
    const facts = [["key", key[sample]], ["shard", shard.names[shard.of[sample]]], ["place", place[sample]], ["status", status[sample]]];
    this.data.columns.forEach((column, number) => facts.push([column.name, values[number][sample]]));
    const list = make("dl", {});
    for (const [name, value] of facts) {
      list.append(make("dt", {}, name), make("dd", {}, make("bdi", {}, value === null ? "none" : String(value))));
    }
    const dialog = make("dialog", { class: "large", "aria-label": key[sample] });
    const close = make("button", { type: "button", onclick: () => dialog.close() }, "Close");
    dialog.append(make("div", { class: "body" }, ...this.parts(sample, () => dialog.close())), list, close);
    dialog.addEventListener("close", () => {
      dialog.remove();
      this.cards.querySelector(`[data-sample="${sample}"]`)?.focus();
    });
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
    document.body.append(dialog);
    dialog.showModal();
  }
}

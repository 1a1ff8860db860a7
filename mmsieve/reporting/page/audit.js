// The form of an audit: one sample at a time, one key a judgement; the browser keeps the state.

const JUDGEMENTS = [
  { label: 1, title: "Good", keys: ["1", "g", "j"] },
  { label: 0, title: "Bad", keys: ["0", "b", "f"] },
  { label: null, title: "Can't say", keys: ["?", "u"] },
];

class Audit {
  constructor(root, form) {
    this.form = form;
    this.place = `mmsieve-audit-${form.name}`;
    const kept = this.load();
    this.labels = new Map(kept.labels);
    this.at = Math.min(kept.at, form.samples.length - 1);
    this.rater = make("input", { type: "text", value: kept.rater, "aria-label": "Your name", placeholder: "your name", oninput: () => this.save() });
    this.progress = make("progress", { max: form.samples.length, "aria-label": "Judged" });
    this.said = make("p", { class: "lead", role: "status" });
    this.sample = make("div", { class: "judged" });
    this.buttons = JUDGEMENTS.map(({ label, title, keys }) =>
      make("button", { type: "button", "data-label": String(label), onclick: () => this.judge(label) }, `${title} `, make("kbd", {}, keys[0])),
    );
    const step = (title, by, key) => make("button", { type: "button", onclick: () => this.go(this.at + by) }, `${title} `, make("kbd", {}, key));
    this.export = make("button", { type: "button", onclick: () => this.download() }, "Export labels");
    root.replaceChildren(
      make("div", { class: "bar" }, this.rater, this.progress, this.export),
      this.said,
      make("div", { class: "bar judgements" }, ...this.buttons, step("Back", -1, "\u2190"), step("Next", 1, "\u2192")),
      this.sample,
    );
    addEventListener("keydown", (event) => this.key(event));
    this.show();
  }

  load() {
    try {
      return { labels: [], at: 0, rater: "", ...JSON.parse(localStorage.getItem(this.place) ?? "{}") };
    } catch {
      return { labels: [], at: 0, rater: "" }; // a browser that keeps nothing of files
    }
  }

  save() {
    const state = { labels: [...this.labels], at: this.at, rater: this.rater.value };
    try {
      localStorage.setItem(this.place, JSON.stringify(state));
    } catch {
      this.said.textContent = "This browser keeps no state: export before you close the page.";
    }
  }

  key(event) {
    if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
    const judgement = JUDGEMENTS.find(({ keys }) => keys.includes(event.key.toLowerCase()));
    const step = { ArrowLeft: -1, Backspace: -1, ArrowRight: 1 }[event.key];
    if (judgement) this.judge(judgement.label);
    else if (step) this.go(this.at + step);
    else return;
    event.preventDefault();
  }

  judge(label) {
    this.labels.set(this.at, label);
    this.go(this.at + 1);
  }

  go(at) {
    this.at = Math.min(Math.max(0, at), this.form.samples.length - 1);
    this.save();
    this.show();
  }

  show() {
    const { samples } = this.form;
    const done = this.labels.size;
    this.progress.value = done;
    this.said.textContent = `Sample ${this.at + 1} of ${samples.length}; ${done} judged${done === samples.length ? ": export the labels" : ""}.`;
    this.export.disabled = done === 0;
    const given = this.labels.has(this.at) ? String(this.labels.get(this.at)) : "none";
    for (const button of this.buttons) button.setAttribute("aria-pressed", button.dataset.label === given);
    this.sample.replaceChildren(...samples[this.at].parts.map(([kind, content], number) => {
      if (kind === "picture") return make("img", { src: content, alt: `picture ${number + 1}` });
      return make("p", { class: kind === "text" ? "" : "problem", dir: "auto" }, make("bdi", {}, content));
    }));
  }

  download() {
    const rater = this.rater.value.trim();
    const lines = [...this.labels].sort(([one], [other]) => one - other).map(([at, label]) => {
      const { key, shard, place } = this.form.samples[at];
      return JSON.stringify({ key, shard, place, label, rater, form: this.form.name });
    });
    const url = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "application/jsonl" }));
    const link = make("a", { href: url, download: `labels${rater ? `-${rater.replace(/\W+/g, "-")}` : ""}.jsonl` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10_000);
  }
}

new Audit(document.getElementById("audit"), JSON.parse(document.getElementById("form").textContent));

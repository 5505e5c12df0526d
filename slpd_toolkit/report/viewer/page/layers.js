// The layers of the slide that is shown: which are on, how opaque they are, and the colors of each region.

import { getJson, getTissue, ofSlide } from "./api.js";
import { drawRamp, onRamp, ranks } from "./colours.js";
import { byId, fillSelect, make, percent } from "./dom.js";

const LAYERS = [
  ["tissue", "Tissue", 0.5],
  ["regions", "Regions", 0.8],
  ["prototypes", "Prototypes", 0.45],
  ["attention", "Attention", 0.5],
  ["scores", "Class scores", 0.5],
];

export class Layers {
  constructor(cohort, changed) {
    this.cohort = cohort;
    this.changed = changed;
    this.slide = null;
    this.state = { regions: 0.8 };
    this.chosen = { run: "", attention: "", scorer: cohort.scorers[0] ?? "", class: "" };
    this.scores = null;
    this.tissue = null;
    this.rows = new Map(LAYERS.map(([key, title, opacity], index) => [key, this.#row(key, title, opacity, index + 1)]));
    byId("layers").replaceChildren(...[...this.rows.values()].map((row) => row.box));
    this.#refresh();
  }

  restore({ layers, run, attention, scorer, class: named }) {
    if (layers) this.state = Object.fromEntries(Object.entries(layers).filter(([name]) => this.rows.has(name)));
    Object.assign(this.chosen, { run: run ?? this.chosen.run, attention: attention ?? this.chosen.attention });
    if (this.cohort.scorers.includes(scorer)) this.chosen.scorer = scorer;
    if (named) this.chosen.class = named;
    this.#refresh();
  }

  describe() {
    return { layers: this.state, ...this.chosen };
  }

  toggle(number) {
    const key = LAYERS[number - 1]?.[0];
    const row = this.rows.get(key);
    if (row && !row.check.disabled) row.check.click();
  }

  setSlide(slide, signal) {
    this.slide = slide;
    this.signal = signal;
    this.tissue = null;
    this.scores = null;
    this.#refresh();
    this.#load();
  }

  // What the overlay draws.
  shown(selected) {
    const fills = [];
    for (const key of ["prototypes", "attention", "scores"]) {
      const colours = key in this.state ? this.#colours(key) : null;
      if (colours) fills.push({ colours, opacity: this.state[key] });
    }
    const tissue = "tissue" in this.state && this.tissue ? { ...this.tissue, opacity: this.state.tissue } : null;
    return { fills, tissue, regions: "regions" in this.state ? { opacity: this.state.regions } : null, selected };
  }

  prototypes() {
    return this.slide?.prototypes?.[this.chosen.run] ?? null;
  }

  attention() {
    return this.slide?.attention?.find(({ name }) => name === this.chosen.attention) ?? null;
  }

  #colours(key) {
    if (this.cache?.[key]) return this.cache[key];
    const made = this.#makeColours(key);
    if (made) (this.cache ??= {})[key] = made;
    return made;
  }

  #makeColours(key) {
    const { slide } = this;
    if (key === "prototypes") {
      return this.prototypes()?.cluster.map((k) => (k === null || k < 0 ? null : slide.colours[k % slide.colours.length])) ?? null;
    }
    if (key === "attention") {
      const found = this.attention();
      return found ? ranks(found.values).map((rank) => (rank === null ? null : onRamp(rank))) : null;
    }
    const values = this.classValues();
    return values ? this.#relative(values).map(onRamp) : null;
  }

  #relative(values) {
    return values.every((value) => value >= 0 && value <= 1) ? values : ranks(values);
  }

  classValues() {
    const column = this.scores?.classes?.indexOf(this.chosen.class) ?? -1;
    return column < 0 ? null : this.scores.values.map((row) => row[column]);
  }

  async #load() {
    const { slide, signal } = this;
    if (!slide?.regions) return;
    if ("tissue" in this.state && !this.tissue && slide.tissue) {
      this.tissue = await getTissue(slide.id, signal).catch(() => null);
      if (slide === this.slide) this.changed(false);
    }
    if ("scores" in this.state && !this.scores && this.chosen.scorer) await this.#loadScores(slide, signal);
  }

  async #loadScores(slide, signal) {
    const { chosen } = this;
    const number = this.cohort.scorers.indexOf(chosen.scorer);
    this.scores = { message: "Computing the scores of the regions …" };
    this.#refresh();
    let found;
    try {
      found = await getJson(ofSlide(slide.id, `/scores/${number}`), signal);
    } catch (error) {
      if (error.name === "AbortError") return;
      found = { message: error.message };
    }
    if (slide !== this.slide || chosen.scorer !== this.cohort.scorers[number]) return;
    this.scores = found;
    if (found.classes && !found.classes.includes(chosen.class)) chosen.class = found.classes.at(-1);
    this.#refresh();
    this.changed(true);
  }

  #row(key, title, opacity, number) {
    const check = make("input", { type: "checkbox" });
    const slider = make("input", { type: "range", min: 0, max: 100, value: 100 * opacity, "aria-label": `Opacity of ${title}` });
    const output = make("output", { textContent: `${Math.round(100 * opacity)} %` });
    const select = make("select", { hidden: true, "aria-label": `${title}: source` });
    const second = make("select", { hidden: true, "aria-label": "Class" });
    const legend = make("div", { className: "key" });
    const label = make("label", { title: `Key ${number}` }, check, title);
    const box = make("div", { className: "layer" }, make("div", { className: "top" }, label, slider, output), select, second, legend);
    check.addEventListener("change", () => {
      if (check.checked) this.state[key] = slider.valueAsNumber / 100;
      else delete this.state[key];
      this.#load();
      this.changed(true);
    });
    slider.addEventListener("input", () => {
      output.textContent = `${slider.value} %`;
      if (key in this.state) this.state[key] = slider.valueAsNumber / 100;
      this.changed(false);
    });
    slider.addEventListener("change", () => this.changed(true));
    select.addEventListener("change", () => this.#choose(key, select.value));
    second.addEventListener("change", () => this.#choose("class", second.value));
    return { box, check, slider, output, select, second, legend };
  }

  #choose(key, value) {
    this.chosen[{ prototypes: "run", scores: "scorer" }[key] ?? key] = value;
    if (key === "scores") this.scores = null;
    this.#refresh();
    this.#load();
    this.changed(true);
  }

  #refresh() {
    this.cache = null;
    const { slide, chosen, rows } = this;
    const runs = Object.keys(slide?.prototypes ?? {});
    const tables = (slide?.attention ?? []).map(({ name }) => name);
    if (slide && !runs.includes(chosen.run)) chosen.run = runs.at(-1) ?? "";
    if (slide && !tables.includes(chosen.attention)) chosen.attention = tables[0] ?? "";
    const choices = { prototypes: [runs, chosen.run], attention: [tables, chosen.attention], scores: [this.cohort.scorers, chosen.scorer] };
    const usable = {
      tissue: Boolean(slide?.tissue), regions: Boolean(slide?.regions), prototypes: runs.length > 0, attention: tables.length > 0,
      scores: this.cohort.scorers.length > 0 && Boolean(slide?.tissue),
    };
    for (const [key, row] of rows) {
      row.check.checked = key in this.state;
      row.check.disabled = row.slider.disabled = slide !== null && !usable[key];
      if (key in this.state) {
        row.slider.value = Math.round(100 * this.state[key]);
        row.output.textContent = `${row.slider.value} %`;
      }
      const [names, value] = choices[key] ?? [[], ""];
      fillSelect(row.select, names.map((name) => [name, name]), value);
      row.select.hidden = names.length < 2;
      row.select.title = value;
      this.#legend(key, row, usable[key]);
    }
    const classes = this.scores?.classes ?? [];
    fillSelect(rows.get("scores").second, classes.map((name) => [name, name]), chosen.class);
    rows.get("scores").second.hidden = classes.length < 2;
  }

  #legend(key, row, usable) {
    row.legend.replaceChildren();
    if (!this.slide) return;
    if (!usable) {
      row.legend.append({
        tissue: "No token cache has this slide.", regions: "No regions.", prototypes: "No run has prototypes of this slide.",
        attention: "No evaluation has attention for this slide.", scores: "No heads and tokens of this slide (--cache).",
      }[key]);
      return;
    }
    if (key === "prototypes") {
      const found = this.prototypes();
      for (let k = 0; found && k < found.count; k += 1) {
        if (!found.sizes[k]) continue;
        const swatch = make("span", { className: "swatch" });
        swatch.style.background = this.slide.colours[k % this.slide.colours.length];
        row.legend.append(make("span", { title: `Prototype ${k + 1}: ${found.sizes[k].toLocaleString("en")} regions` }, swatch, `${k + 1} (${found.sizes[k].toLocaleString("en")})`));
      }
    }
    if (key === "attention") this.#ramp(row.legend, "least", "most, by rank");
    if (key === "scores") {
      const values = this.classValues();
      if (values && values.every((value) => value >= 0 && value <= 1)) this.#ramp(row.legend, percent(0), percent(1));
      else if (values) this.#ramp(row.legend, "lowest", "highest, by rank");
      if (this.scores?.about) row.legend.append(make("span", { textContent: `By ${this.scores.about}.` }));
      if (this.scores?.message) row.legend.append(make("span", { textContent: this.scores.message }));
    }
  }

  #ramp(legend, low, high) {
    const ramp = make("canvas", { className: "ramp", width: 90, height: 10 });
    drawRamp(ramp);
    legend.append(low, ramp, high);
  }
}

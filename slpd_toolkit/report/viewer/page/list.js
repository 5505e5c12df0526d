// The list of slides, with search, filters and order.

import { byId, fillSelect, make, percent } from "./dom.js";

const NO_LABEL = "(none)";

export class SlideList {
  constructor(cohort, opened) {
    this.cohort = cohort;
    this.opened = opened;
    this.shown = [];
    this.current = null;
    this.result = 0;
    this.rows = new Map();
    this.controls = { q: byId("search"), label: byId("label-filter"), predicted: byId("prediction-filter"), show: byId("state-filter"), sort: byId("order") };
    fillSelect(byId("result"), cohort.results.map(({ name }, index) => [String(index), name]), "0");
    byId("result-field").hidden = cohort.results.length === 0;
    byId("result").addEventListener("change", (event) => this.#setResult(Number(event.target.value)));
    this.#fillFilters();
    for (const control of Object.values(this.controls)) control.addEventListener("input", () => this.#changed());
  }

  restore({ result, q, label, predicted, show, sort }) {
    const index = this.cohort.results.findIndex(({ name }) => name === result);
    this.result = Math.max(index, 0);
    byId("result").value = String(this.result);
    this.#fillFilters();
    const given = { q, label, predicted, show, sort };
    for (const [name, control] of Object.entries(this.controls)) {
      const value = given[name] ?? "";
      if (name === "q" || [...control.options].some((option) => option.value === value)) control.value = value;
    }
    this.#render();
  }

  describe() {
    const values = Object.fromEntries(Object.entries(this.controls).map(([name, { value }]) => [name, value]));
    return { ...values, result: this.result ? this.cohort.results[this.result].name : "" };
  }

  select(id) {
    this.rows.get(this.current)?.removeAttribute("aria-current");
    this.current = id;
    const row = this.rows.get(id);
    row?.setAttribute("aria-current", "true");
    row?.scrollIntoView({ block: "nearest" });
  }

  step(by) {
    const place = this.shown.findIndex(({ id }) => id === this.current);
    const next = this.shown[place < 0 ? 0 : Math.min(Math.max(place + by, 0), this.shown.length - 1)];
    if (next && next.id !== this.current) this.opened(next.id);
  }

  facts(id) {
    const slide = this.cohort.slides.find((each) => each.id === id);
    return slide ? { slide, label: this.#label(slide), predicted: this.#predicted(slide), wrong: this.#wrong(slide) } : null;
  }

  #setResult(index) {
    this.result = index;
    this.#fillFilters();
    this.#changed();
  }

  #changed() {
    this.#render();
    this.opened(null);
  }

  #label(slide) {
    const target = slide.targets?.[this.result];
    const column = this.cohort.columns[0];
    return target || (column && column !== "patient_id" ? slide.cells?.[column] : "") || "";
  }

  #output(slide) {
    const values = slide.outputs?.[this.result] ?? [];
    return values.length ? values : null;
  }

  #predicted(slide) {
    const values = this.#output(slide);
    if (!values) return null;
    const { classes, unit } = this.cohort.results[this.result];
    const decision = slide.decisions[this.result];
    if (!classes.length) return { text: `${unit} ${Number(values[0].toPrecision(3))}`, decision: "", value: values[0] };
    const value = values[classes.indexOf(decision)] ?? Math.max(...values);
    return { text: `${decision} ${percent(value)}`, decision, value };
  }

  #wrong(slide) {
    const predicted = this.#predicted(slide);
    const label = slide.targets?.[this.result] || this.#label(slide);
    const { classes } = this.cohort.results[this.result] ?? { classes: [] };
    return predicted?.decision && classes.includes(label) ? predicted.decision !== label : null;
  }

  #fillFilters() {
    const { slides, results } = this.cohort;
    const labels = [...new Set(slides.map((slide) => this.#label(slide)))].sort();
    const named = labels.filter((label) => label !== "").slice(0, 200);
    const options = [["", "all"], ...named.map((label) => [label, label]), ...(labels.includes("") ? [[NO_LABEL, NO_LABEL]] : [])];
    fillSelect(this.controls.label, options, this.controls.label.value);
    const classes = results[this.result]?.classes ?? [];
    fillSelect(this.controls.predicted, [["", "all"], ...classes.map((name) => [name, name])], this.controls.predicted.value);
    fillSelect(this.controls.show, [["", "all"], ["wrong", "wrong predictions"], ["right", "right predictions"], ["far", "far from training"],
      ["damaged", "damaged"], ["sound", "not damaged"]], this.controls.show.value);
    const order = [["", "name"], ["label", "label"], ["regions", "regions, most first"], ["sure", "certainty, least first"]];
    classes.forEach((name) => order.push([`class ${name}`, `probability of ${name}`]));
    if (results.length && !classes.length) order.push(["value", "predicted value"]);
    fillSelect(this.controls.sort, order, this.controls.sort.value);
  }

  #matches(slide, words, { label, predicted, show }) {
    const text = [slide.id, ...Object.values(slide.cells ?? {}), this.#label(slide)].join(" ").toLowerCase();
    if (!words.every((word) => text.includes(word))) return false;
    if (label && (this.#label(slide) || NO_LABEL) !== label) return false;
    if (predicted && slide.decisions?.[this.result] !== predicted) return false;
    if (show === "damaged" || show === "sound") return Boolean(slide.fault) === (show === "damaged");
    if (show === "far") return Boolean(slide.far?.[this.result]);
    return !show || this.#wrong(slide) === (show === "wrong");
  }

  #sorted(slides, order) {
    const byName = (a, b) => a.id.localeCompare(b.id, undefined, { numeric: true });
    const { classes } = this.cohort.results[this.result] ?? { classes: [] };
    const key = {
      label: (slide) => this.#label(slide),
      regions: (slide) => -(slide.regions ?? -1),
      sure: (slide) => (this.#output(slide) ? Math.max(...this.#output(slide)) : Infinity),
      value: (slide) => -(this.#output(slide)?.[0] ?? -Infinity),
    }[order] ?? (order.startsWith("class ") ? (slide) => -(this.#output(slide)?.[classes.indexOf(order.slice(6))] ?? -1) : null);
    if (!key) return slides.sort(byName);
    const keys = new Map(slides.map((slide) => [slide, key(slide)]));
    return slides.sort((a, b) => (keys.get(a) < keys.get(b) ? -1 : keys.get(a) > keys.get(b) ? 1 : byName(a, b)));
  }

  #render() {
    const { q, label, predicted, show, sort } = Object.fromEntries(Object.entries(this.controls).map(([name, { value }]) => [name, value]));
    const words = q.toLowerCase().split(/\s+/).filter(Boolean);
    this.shown = this.#sorted(this.cohort.slides.filter((slide) => this.#matches(slide, words, { label, predicted, show })), sort);
    const total = this.cohort.slides.length;
    byId("count").textContent = `${this.shown.length.toLocaleString("en")} of ${total.toLocaleString("en")} slides`;
    this.rows.clear();
    byId("list").replaceChildren(...this.shown.map((slide) => make("li", {}, this.#row(slide))));
    this.select(this.current);
  }

  #row(slide) {
    const label = this.#label(slide), predicted = this.#predicted(slide), wrong = this.#wrong(slide);
    const about = make("span", { className: "about" });
    if (label) about.append(make("span", { textContent: label }));
    if (predicted) {
      const mark = wrong === null ? "" : wrong ? "✗ " : "✓ ";
      const name = wrong === null ? "" : wrong ? "wrong" : "right";
      about.append(make("span", { className: name, textContent: `${mark}${predicted.text}`, title: name ? `${name} prediction` : "" }));
    }
    if (slide.fault) about.append(make("span", { className: "fault", textContent: "⚠ damaged", title: slide.fault }));
    else if (slide.regions !== null) about.append(make("span", { textContent: `${slide.regions.toLocaleString("en")} regions` }));
    if (slide.far?.[this.result]) about.append(make("span", { textContent: "far from training" }));
    const row = make("a", { href: `#slide=${encodeURIComponent(slide.id)}` }, make("span", { className: "id", textContent: slide.id }), about);
    row.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey) return;
      event.preventDefault();
      this.opened(slide.id);
    });
    this.rows.set(slide.id, row);
    return row;
  }
}

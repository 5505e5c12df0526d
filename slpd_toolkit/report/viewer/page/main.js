// Ties the parts together: the list, the stage, the layers and the panel, and the address that restores them.

import { getJson, ofSlide } from "./api.js";
import { byId, fillSelect, make } from "./dom.js";
import { setUpKeys } from "./keys.js";
import { Layers } from "./layers.js";
import * as link from "./link.js";
import { SlideList } from "./list.js";
import { RegionPanel } from "./region.js";
import { Stage } from "./stage.js";

const SAVE_MS = 250;
const HINT = "Click on a region, or press ], to see its prototype, its values and the regions most like it.";

class App {
  constructor(cohort) {
    this.cohort = cohort;
    this.slide = null;
    this.region = null;
    this.saving = 0;
    this.layers = new Layers(cohort, (settled) => this.#layersChanged(settled));
    this.list = new SlideList(cohort, (id) => (id === null ? this.#save() : this.open(id)));
    this.panel = new RegionPanel(cohort, this.layers, (slide, region) => this.#linkTo(slide, region));
    this.stage = new Stage({
      moved: () => this.#save(), clicked: (x, y) => this.#select(this.#regionAt(x, y)), failed: (event) => this.#tileFailed(event),
    });
    this.#setUp();
  }

  async restore() {
    const state = link.read();
    this.layers.restore(state);
    this.list.restore(state);
    const known = this.cohort.slides.some(({ id }) => id === state.slide);
    if (state.slide && !known) this.#say(`The link names the slide ${state.slide}, which is not in this folder.`);
    const first = this.list.shown.find(({ fault }) => !fault) ?? this.list.shown[0] ?? this.cohort.slides[0];
    await this.open(known ? state.slide : first.id, state, false, !state.slide || known);
  }

  async open(id, state = {}, push = true, clear = true) {
    this.aborter?.abort();
    const { signal } = (this.aborter = new AbortController());
    if (clear) this.#say("");
    this.list.select(id);
    byId("name").textContent = id;
    byId("facts").textContent = "";
    document.title = `${id} · slpd view`;
    const pixels = getJson(ofSlide(id, "/pixels"), signal).catch((error) => ({ state: "damaged", message: error.message }));
    let slide;
    try {
      slide = await getJson(ofSlide(id), signal);
    } catch (error) {
      if (error.name !== "AbortError") this.#say(error.message);
      return;
    }
    if (signal.aborted) return;
    this.region = null;
    this.#describe(id, slide);
    const fault = this.list.facts(id)?.slide.fault;
    if (!slide.regions) slide = await this.#withoutRegions(slide, await pixels, fault);
    if (signal.aborted) return;
    this.slide = slide;
    this.pixels = null;
    this.layers.setSlide(slide, signal);
    this.#layersChanged(false);
    this.panel.clear(slide.regions?.length ? HINT : "This slide has no regions.");
    if (!slide.width) return;
    const early = await Promise.race([pixels, new Promise((done) => setTimeout(done, 400))]);
    await this.stage.open(slide, early, state);
    document.documentElement.dataset.slide = id;
    if (Number.isInteger(state.region)) this.#select(state.region, false, !(state.w > 0));
    this.#save(push);
    const found = early ?? await pixels;
    if (signal.aborted || this.slide !== slide) return;
    this.pixels = found;
    if (!early && found.state === "ok") await this.stage.open(slide, found, this.stage.describe());
    if (this.region !== null) this.#select(this.region, false, false);
    const problem = fault || slide.fault || (found.state === "damaged" ? found.message : "");
    if (problem) this.#say(`⚠ This slide is damaged or cannot be shown completely. ${problem}`);
    else if (found.state === "none" && found.message) this.#say(`Shown without pixels. ${found.message}`);
  }

  async #withoutRegions(slide, pixels, fault) {
    if (pixels.state === "ok") return { ...slide, width: pixels.width, height: pixels.height, region_l0: 1, regions: [], colours: [] };
    this.stage.close();
    this.#say(`⚠ ${[fault, pixels.message].filter(Boolean).join(" ") || "Nothing is known about this slide: neither regions nor pixels."}`);
    return slide;
  }

  #describe(id, slide) {
    const facts = this.list.facts(id);
    const parts = [];
    if (facts?.label) parts.push(facts.label);
    if (facts?.predicted) parts.push(`predicted ${facts.predicted.text}${facts.wrong ? " ✗" : facts.wrong === false ? " ✓" : ""}`);
    for (const [name, value] of Object.entries(facts?.slide.cells ?? {})) if (value !== facts.label) parts.push(`${name}: ${value}`);
    if (slide.regions) parts.push(`${slide.regions.length.toLocaleString("en")} regions`);
    if (slide.width) parts.push(`${slide.width.toLocaleString("en")} × ${slide.height.toLocaleString("en")} px`);
    if (slide.mpp) parts.push(`${Number(slide.mpp.toPrecision(4))} µm/px`);
    byId("facts").textContent = parts.join(" · ");
    byId("facts").title = byId("facts").textContent;
  }

  #regionAt(x, y) {
    const side = this.slide.region_l0;
    const found = this.slide.regions.findIndex(([left, top]) => left <= x && x < left + side && top <= y && y < top + side);
    return found < 0 ? null : found;
  }

  #select(region, push = true, move = false) {
    const chosen = region !== null && this.slide?.regions?.[region] ? region : null;
    this.region = chosen;
    if (chosen === null) this.panel.clear(HINT);
    else {
      this.panel.show(this.slide, chosen, this.stage.hasPixels);
      if (move) this.stage.showRegion(chosen, true);
    }
    this.#layersChanged(false);
    this.#save(push);
  }

  #stepRegion(by) {
    const count = this.slide?.regions?.length;
    if (!count) return;
    this.#select(this.region === null ? (by > 0 ? 0 : count - 1) : (this.region + by + count) % count);
    this.stage.showRegion(this.region, false);
  }

  #layersChanged(settled) {
    this.stage.shown = this.layers.shown(this.region);
    this.stage.redraw();
    if (settled) {
      if (this.region !== null) this.panel.show(this.slide, this.region, this.stage.hasPixels);
      this.#save();
    }
  }

  #state() {
    return { slide: this.slide?.id, ...this.stage.describe(), region: this.region ?? undefined, ...this.layers.describe(), ...this.list.describe() };
  }

  #linkTo(slide, region) {
    return link.write({ ...this.layers.describe(), ...this.list.describe(), slide, region });
  }

  // Writes the address, at once as a step of the history if `push`, otherwise when the view has come to rest.
  #save(push = false) {
    clearTimeout(this.saving);
    const save = (method) => {
      const hash = link.write(this.#state());
      if (this.slide && hash !== location.hash) history[method](null, "", hash);
    };
    if (push) save("pushState");
    else this.saving = setTimeout(() => save("replaceState"), SAVE_MS);
  }

  #say(text) {
    byId("message").textContent = text;
    byId("message").hidden = !text;
  }

  async #tileFailed(event) {
    const url = event.tile?.getUrl?.();
    if (!url || url.startsWith("data:") || !byId("message").hidden) return;
    const message = await getJson(url).then(() => "", (error) => error.message);
    if (message) this.#say(`⚠ A part of this slide cannot be read. ${message}`);
  }

  async #copyLink() {
    const address = location.origin + location.pathname + link.write(this.#state());
    history.replaceState(null, "", address);
    await navigator.clipboard?.writeText(address).then(() => this.#flash("Copied"), () => this.#flash("Copy the address bar"));
  }

  #flash(text) {
    byId("copy-link").textContent = text;
    setTimeout(() => { byId("copy-link").textContent = "Copy link"; }, 1500);
  }

  #setUp() {
    byId("title").textContent = `${this.cohort.title} · slpd view`;
    byId("title").title = this.cohort.title;
    if (this.cohort.reports.length) this.#setUpReports();
    byId("next").addEventListener("click", () => this.list.step(1));
    byId("previous").addEventListener("click", () => this.list.step(-1));
    byId("zoom-in").addEventListener("click", () => this.stage.zoom(1));
    byId("zoom-out").addEventListener("click", () => this.stage.zoom(-1));
    byId("home").addEventListener("click", () => this.stage.home());
    byId("copy-link").addEventListener("click", () => this.#copyLink());
    byId("show-help").addEventListener("click", () => byId("help").showModal());
    window.addEventListener("popstate", () => this.restore());
    setUpKeys({
      step: (by) => this.list.step(by), stepRegion: (by) => this.#stepRegion(by), pan: (x, y) => this.stage.pan(x, y),
      zoom: (by) => this.stage.zoom(by), home: () => this.stage.home(), toggle: (number) => this.layers.toggle(number),
      copyLink: () => this.#copyLink(), zoomToRegion: () => this.region !== null && this.stage.showRegion(this.region, true),
      escape: () => (document.activeElement?.matches("input, select") ? document.activeElement.blur() : this.#select(null)),
    });
  }

  #setUpReports() {
    const select = make("select", { "aria-label": "Open a report" });
    fillSelect(select, [["", "Reports"], ...this.cohort.reports.map((path) => [path, path])], "");
    select.addEventListener("change", () => {
      if (select.value) window.open(`/reports/${select.value.split("/").map(encodeURIComponent).join("/")}`, "_blank", "noopener");
      select.value = "";
    });
    byId("reports").append(select);
  }
}

try {
  const app = new App(await getJson("/api/cohort"));
  await app.restore();
  document.documentElement.dataset.ready = "true";
} catch (error) {
  byId("message").textContent = `⚠ ${error.message}`;
  byId("message").hidden = false;
}

// The panel of one region: its image, its values, its prototype and the most similar regions of other slides.

import { getJson, ofSlide } from "./api.js";
import { ranks } from "./colours.js";
import { byId, make, percent, short } from "./dom.js";

const AGAIN_MS = 700;

export class RegionPanel {
  constructor(cohort, layers, linkTo) {
    this.readable = new Set(cohort.slides.filter(({ pixels }) => pixels).map(({ id }) => id));
    this.layers = layers;
    this.linkTo = linkTo;
    this.asked = 0;
  }

  clear(text) {
    this.asked += 1;
    byId("region-title").textContent = "Region";
    byId("region").replaceChildren(make("p", { className: "note", textContent: text }));
  }

  show(slide, region, hasPixels) {
    this.asked += 1;
    byId("region-title").textContent = `Region ${(region + 1).toLocaleString("en")} of ${slide.regions.length.toLocaleString("en")}`;
    const parts = [];
    if (hasPixels) {
      parts.push(make("img", { className: "large", alt: `Region ${region + 1}`, src: ofSlide(slide.id, `/regions/${region}.jpg?px=384`) }));
    }
    parts.push(this.#values(slide, region), ...this.#prototype(slide, region));
    this.near = make("div", {});
    byId("region").replaceChildren(...parts, this.near);
    this.#nearest(slide, region, this.asked);
  }

  #values(slide, region) {
    const rows = [["Position", `x ${slide.regions[region][0].toLocaleString("en")}, y ${slide.regions[region][1].toLocaleString("en")} px`]];
    if (slide.mpp) rows.push(["Side", `${Math.round(slide.region_l0 * slide.mpp).toLocaleString("en")} µm`]);
    if (slide.tissue) rows.push(["Tissue", percent(slide.tissue[region])]);
    for (const { name, values } of slide.attention ?? []) {
      if (values[region] === null) continue;
      const rank = ranks(values)[region];
      rows.push([`Attention, ${name}`, `${short(values[region])} (above ${percent(rank)} of the regions)`]);
    }
    const { scores } = this.layers;
    scores?.classes?.forEach((name, column) => rows.push([`Score of ${name}`, short(scores.values[region][column])]));
    const body = rows.map(([name, value]) => make("tr", {}, make("th", { scope: "row", textContent: name }), make("td", { textContent: value })));
    return make("table", {}, make("tbody", {}, ...body));
  }

  #prototype(slide, region) {
    const found = this.layers.prototypes();
    const k = found?.cluster[region];
    if (k === null || k === undefined || k < 0) return [];
    const swatch = make("span", { className: "swatch" });
    swatch.style.background = slide.colours[k % slide.colours.length];
    const text = `Prototype ${k + 1} of ${found.count}: ${found.sizes[k].toLocaleString("en")} of ${slide.regions.length.toLocaleString("en")} regions, cosine ${short(found.cosine[region])}`;
    const parts = [make("h3", { textContent: `Prototype (${this.layers.chosen.run})` }), make("p", {}, swatch, text)];
    const others = found.neighbours.map(({ slide: other, cosine, counterpart }) => make("li", {},
      make("a", { href: this.linkTo(other), textContent: other }), `, prototype ${counterpart[k] + 1} (slide similarity ${short(cosine)})`));
    if (others.length) parts.push(make("p", { className: "note", textContent: "Corresponds to, in the most similar slides:" }), make("ul", { className: "plain" }, ...others));
    return parts;
  }

  async #nearest(slide, region, asked) {
    const heading = make("h3", { textContent: "Nearest regions of other slides" });
    let found;
    try {
      found = await getJson(ofSlide(slide.id, `/regions/${region}/nearest`));
    } catch (error) {
      if (asked === this.asked) this.near.replaceChildren(heading, make("p", { className: "note", textContent: error.message }));
      return;
    }
    if (asked !== this.asked) return;
    const items = found.regions.map((each) => {
      const name = `${each.slide}, region ${each.region + 1}`;
      const source = ofSlide(each.slide, `/regions/${each.region}.jpg?px=160`);
      const image = this.readable.has(each.slide) ? make("img", { alt: "", loading: "lazy", src: source }) : null;
      image?.addEventListener("error", () => image.remove());
      return make("li", {}, make("a", { href: this.linkTo(each.slide, each.region), title: name }, image, `${name} (${short(each.cosine)})`));
    });
    const done = found.searched >= found.slides;
    const about = `Cosine of ${found.about}${done ? "" : `; ${found.searched} of ${found.slides} slides searched so far`}.`;
    this.near.replaceChildren(heading, make("ul", { className: "near" }, ...items), make("p", { className: "note", textContent: about }));
    if (!done) setTimeout(() => asked === this.asked && this.#nearest(slide, region, asked), AGAIN_MS);
  }
}

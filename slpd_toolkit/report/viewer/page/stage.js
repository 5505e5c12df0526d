// The slide itself: OpenSeadragon, with the layers above it. Coordinates are level-0 pixels of the slide.

import { ofSlide } from "./api.js";
import { byId } from "./dom.js";
import { Overlay } from "./overlay.js";

const TILE_PX = 512;
const NOTHING = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7";
const PAN = 0.2, ZOOM = 1.5;
const STEPS_UM = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000];

// OpenSeadragon adds a style element for phones, which the page's security policy forbids, unless it finds its mark. The element below
// has the mark, but belongs to no known namespace, so it has no effect as a style.
function keepStyleOut() {
  const mark = document.createElementNS("urn:slpd", "style");
  mark.setAttribute("data-openseadragon-mobile-css", "true");
  document.head.append(mark);
}

export class Stage {
  constructor({ moved, clicked, failed }) {
    this.moved = moved;
    this.slide = null;
    this.hasPixels = false;
    this.shown = { fills: [], selected: null };
    keepStyleOut();
    this.viewer = window.OpenSeadragon({
      element: byId("stage"), drawer: "canvas", showNavigationControl: false, showNavigator: true, navigatorPosition: "TOP_RIGHT",
      navigatorSizeRatio: 0.16, gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: true }, maxZoomPixelRatio: 4, minZoomImageRatio: 0.5,
      visibilityRatio: 0.2, animationTime: 0.35, springStiffness: 9, imageLoaderLimit: 4, timeout: 180000, placeholderFillStyle: "#fff",
    });
    this.viewer.canvas.tabIndex = -1;
    this.overlay = new Overlay(this.viewer.canvas);
    for (const event of ["update-viewport", "animation", "resize", "open"]) this.viewer.addHandler(event, () => this.redraw());
    for (const event of ["animation-finish", "resize"]) this.viewer.addHandler(event, () => this.slide && this.moved());
    this.viewer.addHandler("canvas-key", (event) => { event.preventDefaultAction = true; });
    this.viewer.addHandler("tile-load-failed", (event) => failed(event));
    this.viewer.addHandler("canvas-click", (event) => {
      if (!event.quick || !this.#image()) return;
      const point = this.#image().viewerElementToImageCoordinates(event.position);
      clicked(point.x, point.y);
    });
  }

  // pixels: from the server; without them, only the grid is drawn.
  open(slide, pixels, view) {
    this.slide = slide;
    this.hasPixels = pixels?.state === "ok";
    const width = this.hasPixels ? pixels.width : slide.width, height = this.hasPixels ? pixels.height : slide.height;
    const levels = this.hasPixels ? pixels.levels : 1;
    const coarsest = this.hasPixels ? Math.max(0, levels - 1 - Math.ceil(Math.log2(Math.max(width, height) / TILE_PX))) : 0;
    const source = new window.OpenSeadragon.TileSource({
      width, height, tileSize: this.hasPixels ? TILE_PX : Math.max(width, height), minLevel: coarsest, maxLevel: levels - 1,
    });
    source.getTileUrl = this.hasPixels
      ? (level, column, row) => ofSlide(slide.id, `/tiles/${level}/${column}_${row}.jpg`)
      : () => NOTHING;
    return new Promise((resolve) => {
      this.viewer.addOnceHandler("open", () => {
        this.goTo(view, true);
        this.redraw();
        resolve();
      });
      this.viewer.open({ tileSource: source, opacity: this.hasPixels ? 1 : 0 });
      this.viewer.navigator.element.hidden = !this.hasPixels;
    });
  }

  close() {
    this.slide = null;
    this.viewer.close();
    this.overlay.draw(null);
  }

  // view: x and y of the center and w, the width shown, all in level-0 px; without it, the whole slide.
  goTo(view, immediately) {
    const image = this.#image();
    if (!image) return;
    if (!Number.isFinite(view?.x) || !Number.isFinite(view?.y) || !(view?.w > 0)) {
      this.viewer.viewport.goHome(immediately);
      return;
    }
    const ratio = this.viewer.container.clientHeight / this.viewer.container.clientWidth;
    const corner = image.imageToViewportRectangle(view.x - view.w / 2, view.y - (view.w * ratio) / 2, view.w, view.w * ratio);
    this.viewer.viewport.fitBounds(corner, immediately);
  }

  describe() {
    const image = this.#image();
    if (!image) return {};
    const { x, y, width, height } = image.viewportToImageRectangle(this.viewer.viewport.getBounds());
    return { x: x + width / 2, y: y + height / 2, w: width };
  }

  showRegion(index, closer) {
    const [x, y] = this.slide.regions[index], side = this.slide.region_l0;
    const now = this.describe();
    const ratio = this.viewer.container.clientHeight / this.viewer.container.clientWidth;
    const inside = Math.abs(x + side / 2 - now.x) < now.w / 2 && Math.abs(y + side / 2 - now.y) < (now.w * ratio) / 2;
    if (!inside || closer) this.goTo({ x: x + side / 2, y: y + side / 2, w: closer ? (side * 2) / Math.min(ratio, 1) : now.w });
  }

  pan(across, down) {
    const bounds = this.viewer.viewport.getBounds();
    this.viewer.viewport.panBy(new window.OpenSeadragon.Point(across * PAN * bounds.width, down * PAN * bounds.height));
    this.viewer.viewport.applyConstraints();
  }

  zoom(direction) {
    this.viewer.viewport.zoomBy(ZOOM ** direction);
    this.viewer.viewport.applyConstraints();
  }

  home() {
    this.viewer.viewport.goHome();
  }

  redraw() {
    const image = this.#image();
    if (!image || !this.slide) return;
    const corner = image.imageToViewerElementCoordinates(new window.OpenSeadragon.Point(0, 0));
    const other = image.imageToViewerElementCoordinates(new window.OpenSeadragon.Point(1000, 0));
    const scale = (other.x - corner.x) / 1000;
    this.overlay.draw(this.slide, this.shown, { x: corner.x, y: corner.y, scale }, this.hasPixels);
    this.#drawScale(scale);
  }

  #drawScale(scale) {
    const bar = byId("scale"), { mpp } = this.slide;
    bar.hidden = !mpp;
    if (!mpp) return;
    const um = STEPS_UM.findLast((step) => (step / mpp) * scale <= 160) ?? STEPS_UM[0];
    byId("scale-bar").style.width = `${(um / mpp) * scale}px`;
    byId("scale-text").textContent = um >= 1000 ? `${um / 1000} mm` : `${um} µm`;
  }

  #image() {
    return this.viewer.world.getItemCount() ? this.viewer.world.getItemAt(0) : null;
  }
}

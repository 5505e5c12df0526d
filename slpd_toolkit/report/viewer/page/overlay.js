// Draws the layers of a slide on a canvas above its pixels.

const EDGE_PX = 7;

export class Overlay {
  constructor(stage) {
    this.canvas = document.createElement("canvas");
    this.canvas.className = "overlay";
    stage.append(this.canvas);
    this.context = this.canvas.getContext("2d");
  }

  // slide: from the server; shown: what to draw; view: {x, y, scale}: screen px of level-0 (0, 0), and screen px per level-0 px.
  draw(slide, shown, view, hasPixels) {
    const { canvas, context } = this;
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    if (!slide?.regions) return;
    const { x, y, scale } = view;
    if (!hasPixels) {
      context.fillStyle = "#fff";
      context.fillRect(x, y, slide.width * scale, slide.height * scale);
      context.strokeStyle = "#8a97a3";
      context.strokeRect(x, y, slide.width * scale, slide.height * scale);
    }
    if (shown.tissue) this.#picture(shown.tissue, view);
    const side = slide.region_l0 * scale;
    const visible = [];
    slide.regions.forEach(([left, top], index) => {
      const place = [x + left * scale, y + top * scale, index];
      if (place[0] < width && place[1] < height && place[0] + side > 0 && place[1] + side > 0) visible.push(place);
    });
    for (const { colours, opacity } of shown.fills) this.#fill(visible, side, colours, opacity);
    if (shown.regions) this.#edges(visible, side, shown.regions.opacity);
    if (slide.regions[shown.selected]) this.#select(slide.regions[shown.selected], view, side);
  }

  #picture({ image, x, y, width, height, opacity }, view) {
    const { context } = this;
    context.globalAlpha = opacity;
    context.imageSmoothingEnabled = false;
    context.drawImage(image, view.x + x * view.scale, view.y + y * view.scale, width * view.scale, height * view.scale);
    context.globalAlpha = 1;
  }

  #fill(visible, side, colours, opacity) {
    const { context } = this;
    context.globalAlpha = opacity;
    const size = Math.max(side, 1);
    for (const [left, top, index] of visible) {
      if (colours[index] === null) continue;
      context.fillStyle = colours[index];
      context.fillRect(left, top, size, size);
    }
    context.globalAlpha = 1;
  }

  // Outlines, or a gray shape where the regions are too small on the screen for outlines.
  #edges(visible, side, opacity) {
    const { context } = this;
    if (side < EDGE_PX) {
      context.globalAlpha = 0.4 * opacity;
      context.fillStyle = "#51606d";
      for (const [left, top] of visible) context.fillRect(left, top, Math.max(side, 1), Math.max(side, 1));
      context.globalAlpha = 1;
      return;
    }
    context.globalAlpha = opacity;
    context.lineWidth = 1;
    for (const [colour, offset] of [["#fff", 0.5], ["#1c2833", 0]]) {
      context.strokeStyle = colour;
      context.beginPath();
      for (const [left, top] of visible) context.rect(left + offset, top + offset, side - 2 * offset, side - 2 * offset);
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  #select([left, top], view, side) {
    const { context } = this;
    const place = [view.x + left * view.scale, view.y + top * view.scale, side, side];
    for (const [colour, width] of [["#fff", 6], ["#d9480f", 3]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.strokeRect(...place);
    }
  }
}

// Everything can be done from the keyboard.

import { byId, make } from "./dom.js";

export function setUpKeys(actions) {
  const keys = [
    [["n", "j"], "Next slide", () => actions.step(1)],
    [["p", "k"], "Previous slide", () => actions.step(-1)],
    [["]"], "Next region", () => actions.stepRegion(1)],
    [["["], "Previous region", () => actions.stepRegion(-1)],
    [["z"], "Zoom to the region", () => actions.zoomToRegion()],
    [["ArrowLeft"], "Pan left", () => actions.pan(-1, 0)],
    [["ArrowRight"], "Pan right", () => actions.pan(1, 0)],
    [["ArrowUp"], "Pan up", () => actions.pan(0, -1)],
    [["ArrowDown"], "Pan down", () => actions.pan(0, 1)],
    [["+", "="], "Zoom in", () => actions.zoom(1)],
    [["-"], "Zoom out", () => actions.zoom(-1)],
    [["0"], "Whole slide", () => actions.home()],
    ...[1, 2, 3, 4, 5].map((number) => [[String(number)], `Layer ${number} on or off`, () => actions.toggle(number)]),
    [["/"], "Search", () => byId("search").focus()],
    [["c"], "Copy a link to this view", () => actions.copyLink()],
    [["Escape"], "Deselect the region, or leave the search", () => actions.escape()],
    [["?"], "This list", () => byId("help").showModal()],
  ];
  const names = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc" };
  for (const [pressed, text] of keys) {
    const shown = pressed.flatMap((key, index) => [index ? " " : "", make("kbd", { textContent: names[key] ?? key })]);
    byId("keys").append(make("dt", {}, ...shown), make("dd", { textContent: text }));
  }
  const actionOf = new Map(keys.flatMap(([pressed, , action]) => pressed.map((key) => [key, action])));
  window.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
    const field = event.target.closest?.("input, select, textarea");
    if (field && event.key !== "Escape") return;
    if (event.key.startsWith("Arrow") && event.target.closest?.("#list, #panel, .filters")) return;
    const action = actionOf.get(event.key);
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    action();
  }, true);
}

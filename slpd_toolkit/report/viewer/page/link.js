// The address of a view: the part after # contains everything that is needed to restore it.

const NUMBERS = ["x", "y", "w", "region"];
const TEXTS = ["slide", "q", "label", "predicted", "show", "sort", "result", "run", "attention", "scorer", "class"];

export function read(hash = location.hash) {
  const given = new URLSearchParams(hash.replace(/^#/, ""));
  const state = {};
  for (const name of TEXTS) if (given.has(name)) state[name] = given.get(name);
  for (const name of NUMBERS) {
    const value = Number.parseFloat(given.get(name));
    if (Number.isFinite(value)) state[name] = value;
  }
  if (given.has("layers")) {
    state.layers = {};
    for (const part of given.get("layers").split(",").filter(Boolean)) {
      const [name, opacity] = part.split(":");
      const value = Number.parseFloat(opacity);
      state.layers[name] = Number.isFinite(value) ? Math.min(Math.max(value, 0), 100) / 100 : 0.6;
    }
  }
  return state;
}

export function write(state) {
  const parts = new URLSearchParams();
  for (const name of TEXTS) if (state[name]) parts.set(name, state[name]);
  for (const name of NUMBERS) if (Number.isFinite(state[name])) parts.set(name, String(Math.round(state[name])));
  if (state.layers) {
    const shown = Object.entries(state.layers).map(([name, opacity]) => `${name}:${Math.round(100 * opacity)}`);
    parts.set("layers", shown.join(","));
  }
  return `#${parts.toString().replaceAll("%3A", ":").replaceAll("%2C", ",")}`;
}

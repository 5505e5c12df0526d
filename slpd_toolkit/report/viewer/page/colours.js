// Viridis, as in the figures of the reports: readable for color-blind people and in print.

const VIRIDIS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142], [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43],
  [253, 231, 37],
];
const STEPS = 64;

export const RAMP = Array.from({ length: STEPS }, (_, step) => {
  const place = (step / (STEPS - 1)) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(place), VIRIDIS.length - 2);
  const mixed = VIRIDIS[low].map((value, index) => Math.round(value + (place - low) * (VIRIDIS[low + 1][index] - value)));
  return `rgb(${mixed.join(" ")})`;
});

export function onRamp(value) {
  return RAMP[Math.round(Math.min(Math.max(value, 0), 1) * (STEPS - 1))];
}

const known = new WeakMap();

// Ranks from 0 to 1 within the slide; ties get the mean of their ranks. null stays null.
export function ranks(values) {
  if (!known.has(values)) known.set(values, computeRanks(values));
  return known.get(values);
}

function computeRanks(values) {
  const order = values.map((value, index) => [value, index]).filter(([value]) => value !== null).sort((a, b) => a[0] - b[0]);
  const found = new Array(values.length).fill(null);
  for (let first = 0; first < order.length;) {
    let last = first;
    while (last + 1 < order.length && order[last + 1][0] === order[first][0]) last += 1;
    const rank = order.length > 1 ? (first + last) / 2 / (order.length - 1) : 0.5;
    for (let place = first; place <= last; place += 1) found[order[place][1]] = rank;
    first = last + 1;
  }
  return found;
}

export function drawRamp(canvas) {
  const context = canvas.getContext("2d");
  for (let step = 0; step < canvas.width; step += 1) {
    context.fillStyle = onRamp(step / (canvas.width - 1));
    context.fillRect(step, 0, 1, canvas.height);
  }
}

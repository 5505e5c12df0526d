// Requests to the server of this page.

export async function getJson(path, signal) {
  const answer = await fetch(path, { signal, credentials: "same-origin" });
  const found = await answer.json().catch(() => ({ error: `The server answered ${answer.status}.` }));
  if (!answer.ok) throw new Error(found.error ?? `The server answered ${answer.status}.`);
  return found;
}

export function ofSlide(id, rest = "") {
  return `/api/slides/${encodeURIComponent(id)}${rest}`;
}

export async function getTissue(id, signal) {
  const answer = await fetch(ofSlide(id, "/tissue.png"), { signal, credentials: "same-origin" });
  if (!answer.ok) return null;
  const [x, y, width, height] = answer.headers.get("X-Box").split(",").map(Number);
  return { image: await createImageBitmap(await answer.blob()), x, y, width, height };
}

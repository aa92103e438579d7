// The service's API as the page uses it. What goes wrong is an Error whose message can be shown as it is.

let key = "";

/** The service wants a key that it knows. */
export class KeyNeeded extends Error {}

/** Send this key from now on. Throws KeyNeeded if it can be none. */
export function useKey(value) {
  if (/[^\x21-\x7e]/.test(value)) {
    throw new KeyNeeded("That is no key: a key has only ASCII letters, digits and signs, and no spaces.");
  }
  key = value;
}

async function ask(path, options = {}) {
  const sent = key;
  const headers = sent ? { "X-API-Key": sent } : {};
  let answer;
  try {
    answer = await fetch(path, { cache: "no-store", ...options, headers: { ...headers, ...options.headers } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service did not answer. It may be stopped, or the picture larger than it takes.");
  }
  if (answer.ok) return answer;
  if (answer.status === 401 && sent !== key) return ask(path, options); // another key has been given meanwhile
  const problem = await answer.json().catch(() => ({}));
  const text = problem.title ? `${problem.title}: ${problem.detail}` : `The service answered ${answer.status}.`;
  throw answer.status === 401 ? new KeyNeeded(text) : new Error(text);
}

function post(path, picture, signal) {
  return ask(path, { method: "POST", body: picture, signal, headers: { "Content-Type": "application/octet-stream" } });
}

/** The answer of /v1/predict, and the milliseconds until it was here. */
export async function predict(picture, topK, signal) {
  const started = performance.now();
  const answer = await (await post(`v1/predict?top_k=${topK}`, picture, signal)).json();
  return { ...answer, milliseconds: performance.now() - started };
}

/** Where the network looked: one entry of /v1/explain. */
export async function explain(picture, question, signal) {
  const answer = await post(`v1/explain?${new URLSearchParams(question)}`, picture, signal);
  return (await answer.json()).explanations[0];
}

export async function card() {
  return (await (await ask("v1/models")).json()).models[0];
}

export async function metrics() {
  return (await ask("metrics")).text();
}

export async function exampleNames() {
  return (await ask("page/examples")).json();
}

export async function example(name, signal) {
  return (await ask(exampleAddress(name), { signal })).blob();
}

export function exampleAddress(name) {
  return `page/examples/${encodeURIComponent(name)}`;
}

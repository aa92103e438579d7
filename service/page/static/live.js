// The live strip: requests, latency, batches and queue, from two readings of /metrics some seconds apart.

import * as service from "./service.js";

const SECONDS = 2;
const WINDOW = 5; // readings between the two that are compared: ten seconds
const SAMPLES = 90;
const ROUTES = /^(\/v1\/(predict|explain)|\/v2\/.*\/infer)$/;
const SVG = "http://www.w3.org/2000/svg";

const GAUGES = [
  { name: "Requests/s", lines: ["rate"], text: ({ rate }) => number(rate) },
  {
    name: "Latency p50 / p99, ms",
    lines: ["p50", "p99"],
    text: ({ p50, p99 }) => `${number(p50)} / ${number(p99)}`,
  },
  {
    name: "Images in a batch",
    lines: ["batch"],
    text: ({ batch, largest }) => (batch === null ? "–" : `${number(batch)}, at most ${largest}`),
  },
  { name: "Images waiting", lines: ["queue"], text: ({ queue }) => number(queue) },
];

/** Read /metrics while the page is in view; call `onCompiled` when the network's form has changed, `onKeyNeeded` with the error. */
export function start(list, problem, onCompiled, onKeyNeeded) {
  const shown = GAUGES.map((gauge) => ({ ...gauge, ...addGauge(list, gauge) }));
  const samples = [];
  let readings = [];
  let compiled = null;

  async function tick() {
    if (!document.hidden) {
      try {
        const now = { at: performance.now(), ...read(await service.metrics()) };
        problem.textContent = "";
        const before = readings.at(-1) ?? now;
        if (now.compiled !== (compiled ?? now.compiled)) await onCompiled();
        compiled = now.compiled;
        if (now.requests < before.requests) readings = []; // another service, counting from nothing
        readings = [...readings, now].slice(-WINDOW - 1);
        if (readings.length > 1) samples.push(compare(readings[0], now));
        samples.splice(0, samples.length - SAMPLES);
        if (samples.length) for (const gauge of shown) show(gauge, samples);
      } catch (error) {
        problem.textContent = error.message;
        if (error instanceof service.KeyNeeded) onKeyNeeded(error);
        readings = [];
      }
    }
    setTimeout(tick, SECONDS * 1000);
  }
  tick();
}

function addGauge(list, { name, lines }) {
  const group = list.appendChild(document.createElement("div"));
  group.appendChild(document.createElement("dt")).textContent = name;
  const value = group.appendChild(document.createElement("dd"));
  value.textContent = "–";
  const svg = group.appendChild(document.createElement("dd")).appendChild(document.createElementNS(SVG, "svg"));
  svg.setAttribute("viewBox", `0 0 ${SAMPLES - 1} 1`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  const polylines = lines.map((_, index) => {
    const line = svg.appendChild(document.createElementNS(SVG, "polyline"));
    if (index) line.classList.add("upper");
    return line;
  });
  return { value, polylines };
}

function show({ value, lines, polylines, text }, samples) {
  value.textContent = text(samples.at(-1));
  const most = Math.max(...samples.flatMap((sample) => lines.map((line) => sample[line] ?? 0)), 1e-9);
  polylines.forEach((polyline, index) => {
    const points = samples.map((sample, i) => {
      const x = SAMPLES - samples.length + i;
      return `${x},${1 - 0.94 * ((sample[lines[index]] ?? 0) / most) - 0.03}`;
    });
    polyline.setAttribute("points", points.join(" "));
  });
}

/** What the strip needs of Prometheus' text format; histograms as [upper bound, cumulative count], by bound. */
export function read(text) {
  const found = { requests: 0, latency: new Map(), batches: new Map(), batchImages: 0, batchCount: 0, queue: 0, compiled: 0 };
  const add = (histogram, bound, count) => histogram.set(bound, (histogram.get(bound) ?? 0) + count);
  for (const [, name, labels = "", value] of text.matchAll(/^coordserve_(\w+)(?:\{(.*)\})? (\S+)$/gm)) {
    const label = (key) => labels.match(new RegExp(`${key}="([^"]*)"`))?.[1];
    const bound = () => (label("le") === "+Inf" ? Infinity : Number(label("le")));
    if (name === "http_requests_total" && ROUTES.test(label("route"))) found.requests += Number(value);
    else if (name === "request_duration_seconds_bucket" && ROUTES.test(label("route"))) add(found.latency, bound(), Number(value));
    else if (name === "batch_images_bucket") add(found.batches, bound(), Number(value));
    else if (name === "batch_images_sum") found.batchImages = Number(value);
    else if (name === "batch_images_count") found.batchCount = Number(value);
    else if (name === "queue_images") found.queue = Number(value);
    else if (name === "compiled") found.compiled = Number(value);
  }
  return found;
}

/** What happened between two readings; null where nothing did. */
function compare(before, now) {
  const latency = difference(before.latency, now.latency);
  const batches = difference(before.batches, now.batches);
  const count = now.batchCount - before.batchCount;
  return {
    rate: ((now.requests - before.requests) / (now.at - before.at)) * 1000,
    p50: milliseconds(quantile(latency, 0.5)),
    p99: milliseconds(quantile(latency, 0.99)),
    batch: count > 0 ? (now.batchImages - before.batchImages) / count : null,
    largest: batches.findLast(([, cumulative], i) => cumulative > (batches[i - 1]?.[1] ?? 0))?.[0],
    queue: now.queue,
  };
}

function difference(before, now) {
  return [...now].map(([bound, count]) => [bound, count - (before.get(bound) ?? 0)]).sort(([a], [b]) => a - b);
}

/** As Prometheus' histogram_quantile: linear within a bucket; the last finite bound beyond it. */
export function quantile(buckets, share) {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  const index = buckets.findIndex(([, cumulative]) => cumulative >= share * total);
  const [low, below] = buckets[index - 1] ?? [0, 0];
  const [high, cumulative] = buckets[index];
  return high === Infinity ? low : low + (high - low) * ((share * total - below) / (cumulative - below));
}

const milliseconds = (seconds) => (seconds === null ? null : seconds * 1000);
const number = (value) =>
  value === null ? "–" : value.toLocaleString("en", { maximumSignificantDigits: value >= 100 ? 4 : 2 });

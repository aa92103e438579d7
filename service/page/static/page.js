// The page: ways to bring a picture, and what the service says of it.

import { start as startLive } from "./live.js";
import * as service from "./service.js";
import { paint, Stage, stretched } from "./stage.js";

const $ = (id) => document.getElementById(id);
const stage = new Stage($("stage"), stop, (drawing) => ask(() => (picture = drawing)));

let card = null; // of the model
let picture = null; // a Blob: the one last asked about
let asking = null; // AbortController of the question under way; a new one ends it
let looking = null; // the same of the explanation under way
let explanation = null; // of the picture, by the method chosen

// -- a picture in ------------------------------------------------------------------------------

/** Show the picture that `load` gives, and ask about it. */
async function open(load, name) {
  setDrawing(false);
  await ask(async (signal) => {
    picture = await load(signal);
    await stage.show(picture, name, card.preprocessing, signal);
  });
}

$("file").addEventListener("change", ({ target }) => {
  const [file] = target.files;
  if (file) open(() => file, file.name);
  target.value = ""; // so that the same file can be chosen again
});

addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) open(() => file, "Pasted picture");
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (file) open(() => file, file.name);
  else fail(new Error("That was no file. Save the picture first, then drop the file here."));
});

$("draw").addEventListener("click", () => setDrawing(!stage.drawing));
$("clear").addEventListener("click", clear);

function setDrawing(on) {
  if (on && !stage.drawing) clear();
  stage.drawing = on;
  document.body.classList.toggle("drawing", on);
  $("draw").setAttribute("aria-pressed", on);
  $("clear").hidden = !on;
}

/** An empty square to draw on, and nothing said of what was there. */
function clear() {
  stop();
  picture = explanation = null;
  stage.clear("Your drawing");
  say("");
  $("verdict").textContent = "Nothing drawn yet.";
  $("answer").hidden = true;
}

async function showExamples() {
  const names = await service.exampleNames();
  $("examples").hidden = !names.length;
  for (const name of names) {
    const title = name.replace(/\.\w+$/, "");
    const image = Object.assign(new Image(), { src: service.exampleAddress(name), alt: `Example ${title}`, title });
    const button = Object.assign(document.createElement("button"), { type: "button" });
    button.append(image);
    button.addEventListener("click", () => open((signal) => service.example(name, signal), title));
    $("examples").append(button);
  }
}

// -- its classes -------------------------------------------------------------------------------

/** End what is under way. */
function stop() {
  asking?.abort();
  looking?.abort();
  asking = looking = null;
  stage.forget();
  showWaiting();
}

function showWaiting() {
  document.body.classList.toggle("waiting", Boolean(asking ?? looking));
}

/** Ask about the picture that `prepare` has left in `picture`; ends the question before. */
async function ask(prepare = () => {}) {
  stop();
  const mine = (asking = new AbortController());
  explanation = null;
  showWaiting();
  try {
    if (!card) await showCard(); // it could not be had before
    mine.signal.throwIfAborted();
    await prepare(mine.signal);
    const answer = await service.predict(picture, classesShown(), mine.signal);
    say("");
    $("key-form").hidden = true;
    $("answer").hidden = false;
    showRanking(answer.predictions[0]);
    showTiming(answer.timing, answer.milliseconds);
    offerMethods(answer.predictions[0]);
  } catch (error) {
    if (error.name !== "AbortError") fail(error);
    return;
  } finally {
    if (asking === mine) asking = null;
    showWaiting();
  }
  await look();
}

$("top-k").addEventListener("change", () => {
  if (picture) ask();
});

/** The number in the field, made one of classes that the model has. */
function classesShown() {
  const number = Math.round($("top-k").value) || 1;
  return ($("top-k").value = Math.min(Math.max(number, 1), card.labels.length));
}

function showRanking(ranking) {
  const [best] = ranking;
  $("verdict").textContent = `${best.label}, ${percent(best.score)}`;
  $("ranking").replaceChildren(
    ...ranking.map(({ label, score }) => {
      const item = document.createElement("li");
      const bar = element("span", "bar", "");
      bar.style.width = `${score * 100}%`;
      item.append(bar, element("span", "label", label), element("span", "score", percent(score)));
      return item;
    }),
  );
}

function showTiming({ decode_ms, queue_ms, infer_ms, batch_size }, milliseconds) {
  const way = Math.max(0, milliseconds - decode_ms - queue_ms - infer_ms);
  const parts = [["decode", decode_ms], ["queue", queue_ms], ["infer", infer_ms], ["HTTP", way]];
  $("timing-bar").replaceChildren(
    ...parts.map(([kind, time]) => {
      const part = element("span", kind.toLowerCase(), "");
      part.style.flexGrow = time;
      return part;
    }),
  );
  $("timing-text").replaceChildren(
    ...parts.flatMap(([kind, time]) => [element("i", kind.toLowerCase(), ""), `${kind} ${time.toFixed(1)} ms, `]),
    `in a batch of ${batch_size}`,
  );
}

// -- where the network looked ------------------------------------------------------------------

/** The methods for the classes of a ranking; the one chosen before stays, for the best class. */
function offerMethods(ranking) {
  const before = $("method").value;
  const gradcam = ranking.map(({ index, label }) => new Option(`Grad-CAM for ${label}`, `gradcam ${index}`));
  const coordatt = card?.network.includes("_ca_") ? [new Option("Coordinate Attention", "coordatt")] : [];
  $("method").replaceChildren(...coordatt, ...gradcam);
  if (before.startsWith("gradcam")) gradcam[0].selected = true;
}

$("method").addEventListener("change", () => {
  if (picture && !asking) look(); // a question under way looks when it is answered
});

/** Explain the picture by the method chosen; ends the explanation before. What goes wrong leaves the ranking. */
async function look() {
  looking?.abort();
  const mine = (looking = new AbortController());
  showWaiting();
  const [method, target] = $("method").value.split(" ");
  try {
    explanation = await service.explain(picture, target ? { method, target } : { method }, mine.signal);
    offerViews();
    showView();
  } catch (error) {
    if (error.name === "AbortError") return;
    explanation = null;
    stage.cover(null);
    $("views").hidden = true;
    $("looked").textContent = error.message;
    $("key-form").hidden = !(error instanceof service.KeyNeeded);
  } finally {
    if (looking === mine) looking = null;
    showWaiting();
  }
}

function offerViews() {
  const chosen = document.querySelector("#view-list :checked")?.value ?? "";
  $("views").hidden = !explanation.blocks.length;
  const whole = view("", "whole image", explanation.map);
  const blocks = explanation.blocks.map(({ name, map }) => view(name, name.replace("features.", "block "), stretched(map)));
  $("view-list").replaceChildren(whole, ...blocks);
  const again = document.querySelector(`#view-list [value="${CSS.escape(chosen)}"]`);
  (again ?? whole.querySelector("input")).checked = true;
}

function view(value, title, map) {
  const label = document.createElement("label");
  const input = Object.assign(document.createElement("input"), { type: "radio", name: "view", value });
  const thumbnail = document.createElement("canvas");
  paint(thumbnail, map);
  label.append(input, thumbnail, title);
  return label;
}

$("view-list").addEventListener("change", showView);

function showView() {
  if (!explanation) return; // of the picture before, while a question is under way
  const name = document.querySelector("#view-list :checked").value;
  const block = explanation.blocks.find((one) => one.name === name);
  if (!block) {
    stage.cover(explanation.map);
    $("looked").textContent = explanation.blocks.length
      ? "Bright: where the attention of all blocks moved the features most."
      : `Bright: what speaks for ${explanation.target.label}.`;
    return;
  }
  stage.cover(block.map, { rows: block.a_h, columns: block.a_w });
  const gates = block.map.flat();
  const [low, high] = [Math.min(...gates), Math.max(...gates)].map((gate) => gate.toFixed(3));
  $("looked").textContent =
    `${block.name}, ${block.a_h.length}×${block.a_w.length}: gates of its rows (left edge) times those of its ` +
    `columns (bottom edge), means over its channels, ${low} (dark) to ${high} (bright).`;
}

$("opacity").addEventListener("input", showOpacity);

function showOpacity() {
  stage.opacity = $("opacity").value / 100;
}

// -- what goes wrong ---------------------------------------------------------------------------

function fail(error) {
  say(error.message);
  $("verdict").textContent = "";
  $("answer").hidden = true;
  stage.cover(null);
  $("key-form").hidden = !(error instanceof service.KeyNeeded);
}

function say(text) {
  $("problem").textContent = text;
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  try {
    service.useKey($("key").value.trim());
  } catch (error) {
    fail(error);
    return;
  }
  say("");
  $("key-form").hidden = true;
  if (picture) ask();
});

/** Show the form, as the metrics need a key; whatever else is shown stays. */
function askForKey(error) {
  if (!$("key-form").hidden) return;
  say(error.message);
  $("key-form").hidden = false;
}

// -- the model ---------------------------------------------------------------------------------

async function showCard() {
  card = await service.card();
  $("serving").textContent = `serving ${card.name}`;
  $("description").textContent = card.description;
  const whole = (value) => value?.toLocaleString("en") ?? "–";
  const best = Math.max(...Object.values(card.images_per_second), 0);
  const facts = {
    Network: card.network,
    "Sees pixels": `${card.input_size} × ${card.input_size}`,
    Parameters: whole(card.parameters),
    "Multiply-adds": whole(card.multiply_adds),
    "Runs on": card.device ? `${card.device}, ${card.dtype}` : "–",
    Form: card.form === "eager" ? `eager (${card.compile.state})` : (card.form ?? "starting"),
    "Largest batch": whole(card.batch_cap),
    "Images/s, measured": best ? whole(Math.round(best)) : "–",
    "Weights, SHA-256": card.weights_sha256 ? `${card.weights_sha256.slice(0, 16)}…` : "–",
  };
  $("facts").replaceChildren(
    ...Object.entries(facts).map(([name, value]) => {
      const group = document.createElement("div");
      group.append(element("dt", "", name), element("dd", "", value));
      return group;
    }),
  );
  $("labels-summary").textContent = `${whole(card.labels.length)} classes`;
  $("labels").textContent = card.labels.join(", ");
  $("top-k").max = card.labels.length;
}

// -- colours -----------------------------------------------------------------------------------

const dark = matchMedia("(prefers-color-scheme: dark)");
let scheme = dark.matches ? "dark" : "light";

function showScheme() {
  document.documentElement.style.colorScheme = scheme;
  $("theme").setAttribute("aria-pressed", scheme === "dark");
}

dark.addEventListener("change", () => {
  scheme = dark.matches ? "dark" : "light";
  showScheme();
});
$("theme").addEventListener("click", () => {
  scheme = scheme === "dark" ? "light" : "dark";
  showScheme();
});

// ----------------------------------------------------------------------------------------------

function element(kind, className, text) {
  return Object.assign(document.createElement(kind), { className, textContent: text });
}

function percent(share) {
  return `${(share * 100).toFixed(1)} %`;
}

showScheme();
showOpacity();
try {
  await Promise.all([showCard(), showExamples()]);
} catch (error) {
  fail(error);
}
startLive($("gauges"), $("live-problem"), showCard, askForKey);

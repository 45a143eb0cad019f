// The page: what is written is translated, and everything else goes on from there.

import { Refused, get, key, post } from "./api.js";
import { Candidates } from "./candidates.js";
import { byId, copy, make } from "./dom.js";
import { Files } from "./files.js";
import { Languages } from "./languages.js";
import { fromLink, toCurl, toLink } from "./link.js";
import { Words } from "./words.js";

const MOST_ALTERNATIVES = 3; // that are shown

const text = byId("text");
const attention = byId("attention");
let settings;
let languages;
let timer; // of the translation that waits for a pause in typing
let current = new AbortController(); // of the last request: a new one ends it, so that no late answer is shown
let isFresh = false; // whether the translation shown is of the text as it stands: only then its words are looked into

const words = new Words(byId("translation"), (word) => {
  if (isFresh) candidates.open(word, words.parts[word.part].tokens);
});
const candidates = new Candidates(
  (part, position) => asked("candidates", part, position, []).then((answer) => answer?.candidates),
  async (part, position, piece) => {
    const answer = await asked("explain", part, position, [piece]);
    if (!answer) return;
    words.replace(part, answer.parts[0], position);
    shown();
  },
);

// Ask on behalf of the one request that counts. Null: it was refused, which is told, or another has taken its place.
async function ask(path, fields) {
  current.abort();
  const own = (current = new AbortController());
  byId("translation").ariaBusy = String(path === "explain");
  try {
    const answer = await post(path, fields, own.signal, (seconds) => tell(`The server is busy; asked again in ${seconds} s.`));
    if (own !== current) return null;
    tell("");
    return answer;
  } catch (error) {
    if (own !== current || error.name === "AbortError") return null;
    if (!(error instanceof Refused)) throw error;
    tell(error.message, true);
    return null;
  } finally {
    if (own === current) byId("translation").ariaBusy = "false";
  }
}

// Ask about one part of the translation, whose tokens before a position stay, followed by some pieces.
function asked(path, number, position, pieces) {
  const { source, tokens } = words.parts[number];
  const prefix = [...tokens.slice(0, position).map((token) => token.piece), ...pieces];
  return ask(path, { q: source, source: languages.knownSource, target: languages.target, prefix });
}

async function translate() {
  clearTimeout(timer);
  isFresh = false;
  candidates.close();
  const q = text.value;
  const size = [...q].length;
  byId("count").textContent = size ? `${size.toLocaleString("en")} of ${settings.charLimit.toLocaleString("en")} characters` : "";
  if (!q.trim() || size > settings.charLimit) {
    current.abort();
    current = new AbortController();
    tell(size > settings.charLimit ? "The text is too long for one request. As a file it is translated in several." : "", true);
    return show({ before: "", parts: [], alternatives: [] });
  }
  const { source, target } = languages;
  const answer = await ask("explain", { q, source, target, alternatives: MOST_ALTERNATIVES });
  if (answer) show(answer);
}

function show({ before, parts, alternatives, detectedLanguage: detected }) {
  languages.setDetected(detected?.language ?? null);
  byId("detected").textContent = detected ? `${languages.name(detected.language)}, ${detected.confidence} % sure` : "";
  words.show({ before, parts });
  isFresh = true;
  byId("alternatives").hidden = !alternatives.length;
  const items = alternatives.map((one) => make("li", { textContent: one, dir: "auto", lang: languages.target }));
  byId("alternatives").querySelector("ul").replaceChildren(...items);
  shown();
}

// What goes with every translation, also one that was chosen from.
function shown() {
  byId("undo").hidden = !words.hasChoices;
  byId("copy").hidden = !words.text;
  if (words.hasChoices) byId("alternatives").hidden = true; // they are of the translation before
  byId("spoken").textContent = words.text;
  showAttention();
}

function tell(message, isError = false) {
  byId("status").textContent = message;
  byId("status").classList.toggle("error", isError && message !== "");
}

// The view of attention is a module of its own, loaded when it is first opened, and told of each translation.
async function showAttention() {
  if (attention.hidden) return;
  const { mount } = await import("./attention.js");
  const { knownSource: source, target } = languages;
  mount(attention, { source, target, text: text.value, translation: words.text });
}

function openAttention(isOpen) {
  attention.hidden = !isOpen;
  byId("attention-button").ariaExpanded = String(isOpen);
  showAttention();
}

function openDialog(title, content) {
  byId("dialog-title").textContent = title;
  byId("dialog-text").value = content;
  byId("dialog").showModal();
  byId("dialog-text").select();
  byId("dialog-text").scrollTop = 0; // which selecting has moved to the end
}

function showShades(isOn) {
  byId("shades").checked = isOn;
  byId("translation").classList.toggle("plain", !isOn);
}

function view() {
  const { source, target } = languages;
  return { text: text.value, source, target, shades: byId("shades").checked, attention: !attention.hidden };
}

function restore() {
  const found = fromLink();
  if (!found) return;
  languages.choose(found.source, found.target);
  text.value = found.text;
  showShades(found.shades);
  if (settings.attention) openAttention(found.attention);
  translate();
}

async function copied(button, content, field) {
  const before = button.textContent;
  button.textContent = (await copy(content, field)) ? "Copied" : "Press Ctrl+C";
  setTimeout(() => (button.textContent = before), 2000);
}

async function start() {
  let all;
  [settings, all] = await Promise.all([get("frontend/settings"), get("languages")]);
  languages = new Languages(all, settings.detection, settings.language, translate);
  new Files(settings, () => languages);
  byId("key-form").hidden = !settings.keyRequired;
  byId("key").value = key.get();
  byId("attention-button").hidden = !settings.attention;
  text.addEventListener("input", () => {
    clearTimeout(timer);
    isFresh = false;
    timer = setTimeout(translate, settings.frontendTimeout);
  });
  addEventListener("hashchange", restore);
  if (fromLink()) restore();
  else translate(); // what a browser has kept in the field
}

byId("swap").addEventListener("click", () => {
  if (words.text) text.value = words.text;
  languages.swap();
  translate();
});
byId("key-form").addEventListener("submit", (event) => event.preventDefault()); // its field has changed by then
byId("key").addEventListener("change", () => {
  key.set(byId("key").value);
  translate();
});
byId("shades").addEventListener("change", () => showShades(byId("shades").checked));
byId("undo").addEventListener("click", translate);
byId("copy").addEventListener("click", () => copied(byId("copy"), words.text));
byId("link").addEventListener("click", () => openDialog("A link to this text", toLink(view())));
byId("curl").addEventListener("click", () => openDialog("The same for a shell", toCurl(view(), settings.keyRequired)));
byId("dialog-copy").addEventListener("click", () => copied(byId("dialog-copy"), byId("dialog-text").value, byId("dialog-text")));
byId("dialog-close").addEventListener("click", () => byId("dialog").close());
byId("attention-button").addEventListener("click", () => openAttention(attention.hidden));

start().catch((error) => {
  if (!(error instanceof Refused)) throw error;
  tell(error.message, true);
});

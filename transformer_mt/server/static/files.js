// A file of text, translated line by line in requests that the server takes, and offered as a file again.

import { Refused, post } from "./api.js";
import { byId } from "./dom.js";
import { AUTO } from "./languages.js";

const MOST_LINES = 32; // of a request, so that progress is seen
const MOST_CHARACTERS = 4000;

export class Files {
  #input = byId("file");
  #panel = byId("file-progress");
  #message = byId("file-message");
  #bar = byId("progress");
  #download = byId("download");
  #limits;
  #direction;
  #stop = null; // AbortController of the file that is being translated

  // `limits`: the settings' {charLimit, textLimit}; `direction()` returns {source, target}.
  constructor(limits, direction) {
    this.#limits = limits;
    this.#direction = direction;
    this.#input.addEventListener("change", () => {
      const [file] = this.#input.files;
      this.#input.value = ""; // so that the same file may be chosen again
      if (file) this.#translate(file);
    });
    byId("stop").addEventListener("click", () => this.#stop?.abort());
  }

  async #translate(file) {
    this.#stop?.abort();
    const stop = (this.#stop = new AbortController());
    const { source, target } = this.#direction();
    this.#panel.hidden = byId("stop").hidden = this.#bar.hidden = false;
    this.#download.hidden = true;
    this.#bar.value = 0;
    this.#say(`${file.name}: reading.`);
    try {
      const text = decoded(await file.arrayBuffer());
      const translated = await this.#translated(text, source, target, stop.signal, file.name);
      this.#offer(translated, file.name.replace(/(\.[^.]*)?$/, (end) => `.${target}${end}`));
      this.#say(`${file.name}: translated.`);
    } catch (error) {
      if (this.#stop !== stop) return; // another file has taken its place
      if (error.name !== "AbortError" && !(error instanceof Refused)) throw error;
      this.#say(error.name === "AbortError" ? `${file.name}: stopped.` : `${file.name}: ${error.message}`);
    }
    this.#bar.hidden = byId("stop").hidden = true;
  }

  async #translated(text, source, target, signal, name) {
    const pieces = text.split(/(\r?\n)/); // lines, and the line ends between them
    const lines = pieces.filter((_, i) => i % 2 === 0);
    const result = [];
    this.#say(`${name}: ${lines.length} lines.`); // how far it is says the bar, which voices can be asked for
    for (const batch of batches(lines, this.#limits)) {
      const fields = { q: batch, source, target };
      const answer = await post("translate", fields, signal, (seconds) => this.#say(`${name}: the server is busy; asked again in ${seconds} s`));
      if (source === AUTO) source = answer.detectedLanguage[0].language; // one file is in one language
      result.push(...answer.translatedText);
      this.#bar.value = result.length / lines.length;
    }
    return pieces.map((piece, i) => (i % 2 ? piece : result[i / 2])).join("");
  }

  #offer(text, name) {
    URL.revokeObjectURL(this.#download.href);
    this.#download.href = URL.createObjectURL(new Blob([text], { type: "text/plain;charset=utf-8" }));
    this.#download.download = name;
    this.#download.textContent = `Download ${name}`;
    this.#download.hidden = false;
    this.#download.focus();
  }

  #say(text) {
    this.#message.textContent = text;
  }
}

function decoded(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new Refused("not a text in UTF-8.");
  }
}

// Lines in groups that a request may have. The whole file is looked at before anything is sent.
function batches(lines, { charLimit, textLimit }) {
  const found = [[]];
  let size = 0;
  lines.forEach((line, i) => {
    if (line.length > charLimit) throw new Refused(`line ${i + 1} has ${line.length} characters, the server takes ${charLimit}.`);
    if (found.at(-1).length >= Math.min(MOST_LINES, textLimit) || size + line.length > Math.min(MOST_CHARACTERS, charLimit)) {
      found.push([]);
      size = 0;
    }
    found.at(-1).push(line);
    size += line.length;
  });
  return found.filter((batch) => batch.length);
}

// The two choices of languages: only directions that the server has can be chosen.

import { byId, make } from "./dom.js";

export const AUTO = "auto";

export class Languages {
  #all; // [{code, name, targets}]
  #source = byId("source");
  #target = byId("target");
  #detected = null; // the code that `auto` was found to be, last

  // `first`: the settings' {source, target}. `changed` is called when a reader has chosen.
  constructor(all, detects, first, changed) {
    this.#all = all.filter((language) => language.targets.length || all.some((one) => one.targets.includes(language.code)));
    const sources = this.#all.filter((language) => language.targets.length);
    const auto = detects && sources.length > 1 ? [make("option", { value: AUTO, textContent: "Detect language" })] : [];
    this.#source.replaceChildren(...auto, ...sources.map(option));
    this.choose(first.source.code, first.target.code);
    this.#source.addEventListener("change", () => {
      this.choose(this.source, this.target);
      changed();
    });
    this.#target.addEventListener("change", () => {
      this.#mark();
      changed();
    });
  }

  get source() {
    return this.#source.value;
  }

  get target() {
    return this.#target.value;
  }

  // The source as a language, where it was detected as well.
  get knownSource() {
    return this.source === AUTO ? this.#detected : this.source;
  }

  name(code) {
    return this.#all.find((language) => language.code === code)?.name ?? code;
  }

  // Choose what there is of a direction; else the first that there is.
  choose(source, target) {
    const has = (select, value) => [...select.options].some((one) => one.value === value);
    if (has(this.#source, source)) this.#source.value = source;
    const targets = this.#targets(this.source);
    this.#target.replaceChildren(...this.#all.filter((one) => targets.has(one.code)).map(option));
    if (has(this.#target, target)) this.#target.value = target;
    this.#mark();
  }

  setDetected(code) {
    this.#detected = code;
    this.#mark();
  }

  swap() {
    this.choose(this.target, this.knownSource);
  }

  #targets(source) {
    return new Set(this.#all.filter((one) => source === AUTO || one.code === source).flatMap((one) => one.targets));
  }

  // Say what is written in which language: for voices, fonts and spelling. Swapping needs the way back.
  #mark() {
    byId("text").lang = this.knownSource ?? "";
    byId("translation").lang = this.target;
    byId("swap").disabled = !this.knownSource || !this.#targets(this.target).has(this.knownSource);
  }
}

const option = ({ code, name }) => make("option", { value: code, textContent: name });

// The translation as words, each with a shade that says how sure the model was of it. A word is a button: one of them
// is a stop of the tab key, arrows lead to the others.

import { make } from "./dom.js";

const DOUBTS = [0.8, 0.6, 0.4, 0.2]; // below the first of these a word has the first shade, and so on

export const percent = (probability) =>
  probability >= 0.0095 ? `${Math.round(100 * probability)} %` : probability >= 0.0005 ? `${(100 * probability).toFixed(1)} %` : "< 0.1 %";

export class Words {
  #element;
  #opened;
  #before = "";
  #parts = []; // {source, text, after, tokens, chosen}: as the server tells them; chosen: pieces that a reader has fixed

  // `opened(word)` is called with {element, part, tokens} of a word that was clicked on: numbers of the part and its tokens.
  constructor(element, opened) {
    this.#element = element;
    this.#opened = opened;
    element.addEventListener("click", (event) => this.#open(event.target));
    element.addEventListener("keydown", (event) => this.#key(event));
  }

  get text() {
    return this.#before + this.#parts.map((part) => part.text + part.after).join("");
  }

  get parts() {
    return this.#parts;
  }

  get hasChoices() {
    return this.#parts.some((part) => part.chosen.size);
  }

  show({ before, parts }) {
    this.#before = before;
    this.#parts = parts.map((part) => ({ ...part, chosen: new Set() }));
    this.#render();
  }

  // A part that was translated anew from a token on, which a reader has chosen; it gets the focus.
  replace(number, part, position) {
    const old = this.#parts[number];
    const chosen = new Set([...old.chosen].filter((one) => one < position)).add(position);
    this.#parts[number] = { ...old, text: part.text, tokens: part.tokens, chosen };
    this.#render();
    this.#focus(this.#words.find((one) => +one.dataset.part === number && +one.dataset.end > position));
  }

  get #words() {
    return [...this.#element.querySelectorAll(".word")];
  }

  #render() {
    const nodes = this.#parts.flatMap((part, number) => [
      ...grouped(part.tokens).flatMap((word) => this.#rendered(part, number, word)),
      part.after,
    ]);
    this.#element.replaceChildren(this.#before, ...nodes);
    this.#element.querySelector(".word")?.setAttribute("tabindex", "0");
  }

  // The white space before a word, and the word.
  #rendered(part, number, { start, end }) {
    const tokens = part.tokens.slice(start, end);
    const text = tokens.map((token) => token.text).join("");
    const probability = Math.exp(tokens.reduce((sum, token) => sum + token.logProb, 0));
    const isChosen = tokens.some((_, i) => part.chosen.has(start + i));
    const word = make(
      "span",
      {
        className: "word",
        tabIndex: -1,
        role: "button",
        ariaHasPopup: "listbox",
        title: `${percent(probability)}${isChosen ? ", chosen by you" : ""}`,
        data: { part: number, start, end, doubt: DOUBTS.filter((least) => probability < least).length },
      },
      text.trimStart(),
    );
    word.classList.toggle("chosen", isChosen);
    return [text.slice(0, text.length - text.trimStart().length), word];
  }

  #open(element) {
    const word = element.closest?.(".word");
    if (!word) return;
    this.#focus(word);
    const { part, start, end } = word.dataset;
    this.#opened({ element: word, part: +part, start: +start, end: +end });
  }

  #key(event) {
    const words = this.#words;
    const at = words.indexOf(event.target);
    if (at < 0 || event.ctrlKey || event.altKey || event.metaKey) return;
    const forward = getComputedStyle(event.target).direction === "rtl" ? "ArrowLeft" : "ArrowRight";
    const back = forward === "ArrowRight" ? "ArrowLeft" : "ArrowRight";
    const to = { [forward]: at + 1, [back]: at - 1, Home: 0, End: words.length - 1 }[event.key];
    if (to !== undefined) this.#focus(words[to]);
    else if (event.key === "Enter" || event.key === " " || event.key === "ArrowDown") this.#open(event.target);
    else return;
    event.preventDefault();
  }

  #focus(word) {
    if (!word) return;
    this.#element.querySelector('.word[tabindex="0"]')?.setAttribute("tabindex", "-1");
    word.tabIndex = 0;
    word.focus();
  }
}

// Where the words of some tokens start and end. Tokens without a text of their own (a space, a byte of several) go with the next.
function grouped(tokens) {
  const words = [];
  tokens.forEach((token, i) => {
    const last = words.at(-1);
    if (last && (last.number === token.word || !last.hasText)) {
      last.end = i + 1;
      last.number = token.word;
      last.hasText ||= token.text.trim() !== "";
    } else words.push({ number: token.word, start: i, end: i + 1, hasText: token.text.trim() !== "" });
  });
  return words;
}

// What else might stand in the place of a word: a list beside it, and how the translation would go on.

import { byId, make } from "./dom.js";
import { percent } from "./words.js";

const MARGIN = 8; // pixels between the list and the edge of the window

export class Candidates {
  #popover = byId("candidates");
  #list = this.#popover.querySelector("[role=listbox]");
  #pieces = byId("pieces");
  #preview = byId("preview");
  #ask;
  #chosen;
  #word = null; // as `Words` tells it, with its tokens
  #position = 0; // of the token whose place is looked at
  #found = [];
  #turn = 0; // of what was asked for last: an answer to anything else comes too late

  // `ask(part, position)` returns a promise of candidates; `chosen(part, position, piece)` is called with the one taken.
  constructor(ask, chosen) {
    this.#ask = ask;
    this.#chosen = chosen;
    this.#list.addEventListener("click", (event) => this.#take(event.target.closest("[role=option]")));
    this.#list.addEventListener("pointerover", (event) => this.#show(event.target.closest("[role=option]")));
    this.#list.addEventListener("focusin", (event) => this.#show(event.target.closest("[role=option]")));
    this.#popover.addEventListener("keydown", (event) => this.#key(event));
    this.#popover.addEventListener("toggle", () => this.#toggled());
    addEventListener("resize", () => this.#place());
  }

  open(word, tokens) {
    if (this.#word) this.#word.element.ariaExpanded = "false";
    this.#word = { ...word, tokens: tokens.slice(word.start, word.end) };
    word.element.ariaExpanded = "true";
    this.#pieces.hidden = this.#word.tokens.length < 2;
    this.#pieces.replaceChildren(
      ...this.#word.tokens.map((token, i) => {
        const button = make("button", { type: "button", textContent: token.text.trim() || "␣", title: percent(Math.exp(token.logProb)) });
        button.addEventListener("click", () => this.#load(word.start + i));
        return button;
      }),
    );
    if (!this.#isOpen) this.#popover.showPopover();
    this.#load(word.start);
  }

  close() {
    this.#popover.hidePopover();
  }

  async #load(position) {
    const word = this.#word;
    const turn = ++this.#turn;
    this.#position = position;
    [...this.#pieces.children].forEach((one, i) => (one.ariaPressed = String(word.start + i === position)));
    this.#list.ariaBusy = "true";
    this.#list.replaceChildren(make("li", { className: "quiet", textContent: "…" }));
    this.#preview.textContent = "";
    this.#place();
    const found = await this.#ask(word.part, position);
    if (turn !== this.#turn) return;
    if (!found) return this.close(); // it has been said why
    this.#found = found;
    const current = word.tokens[position - word.start].piece;
    this.#list.ariaBusy = "false";
    this.#list.replaceChildren(...found.map((one, i) => this.#option(one, i, one.piece === current)));
    (this.#list.querySelector('[aria-selected="true"]') ?? this.#list.firstElementChild)?.focus();
    this.#place();
  }

  #option(candidate, number, isCurrent) {
    const probability = Math.exp(candidate.logProb);
    const bar = make("span", { className: "bar" });
    bar.style.width = probability < 0.01 ? "0" : `${100 * probability}%`; // a dot would be read as a mark
    return make(
      "li",
      { role: "option", tabIndex: -1, ariaSelected: String(isCurrent), data: { number } },
      make("bdi", { textContent: candidate.word || candidate.piece, lang: byId("translation").lang }),
      make("span", { className: "number", textContent: percent(probability) }),
      bar,
    );
  }

  #show(option) {
    const candidate = this.#found[option?.dataset.number];
    if (candidate) this.#preview.textContent = candidate.translatedText;
  }

  #take(option) {
    const candidate = this.#found[option?.dataset.number];
    if (!candidate) return;
    const { part } = this.#word;
    this.close();
    this.#chosen(part, this.#position, candidate.piece);
  }

  #key(event) {
    const options = [...this.#list.querySelectorAll("[role=option]")];
    const at = options.indexOf(document.activeElement);
    const to = { ArrowDown: at + 1, ArrowUp: at < 0 ? options.length - 1 : at - 1, Home: 0, End: options.length - 1 }[event.key];
    if (to !== undefined) options[to]?.focus();
    else if ((event.key === "Enter" || event.key === " ") && at >= 0) this.#take(options[at]);
    else return;
    event.preventDefault();
  }

  get #isOpen() {
    return this.#popover.matches(":popover-open");
  }

  // The browser closes it for Escape and for a click elsewhere, and tells it later.
  #toggled() {
    if (this.#isOpen || !this.#word) return;
    const { element } = this.#word;
    this.#word = null;
    element.ariaExpanded = "false";
    if (document.activeElement === document.body && element.isConnected) element.focus();
  }

  // Below the word, or above where there is more room; never beyond the window.
  #place() {
    if (!this.#word) return;
    const word = this.#word.element.getBoundingClientRect();
    const own = this.#popover.getBoundingClientRect();
    const isBelow = word.bottom + own.height + MARGIN <= innerHeight || word.top < innerHeight - word.bottom;
    const isFromRight = getComputedStyle(this.#word.element).direction === "rtl";
    const left = Math.min(isFromRight ? word.right - own.width : word.left, innerWidth - own.width - MARGIN);
    this.#popover.style.left = `${Math.max(MARGIN, left)}px`;
    this.#popover.style.top = `${isBelow ? word.bottom + 4 : Math.max(MARGIN, word.top - own.height - 4)}px`;
  }
}

// What the model looks at in a sentence and its translation: mount() puts the view into an element of the page.

import { post } from "./api.js";
import { Grid } from "./attention_grid.js";
import { colourOf, Lines } from "./attention_lines.js";
import { gridOf, largest, shares } from "./attention_weights.js";
import { make } from "./dom.js";

const USES = {
  cross: { name: "Attention over the source", headings: ["Translation looks at", "Source"] },
  encoder: { name: "Encoder self-attention", headings: ["Source looks at", "Source"] },
  decoder: { name: "Masked decoder self-attention", headings: ["Translation looks at", "Translation so far"] },
};
const NOTE =
  "Attention is no explanation: the weights tell where a head reads, not why the model wrote a word, and there are " +
  "models that answer the same with quite different weights (Jain and Wallace 2019, “Attention is not Explanation”).";
const MOST_ROWS = 8; // of the table of one word
const MOST_LETTERS = 60; // of a line, where it is chosen

// What was chosen stays from one translation to the next. A place is [layer, head]; behind the last of them are means.
const choice = { use: "cross", byPieces: false, isSeveral: false, places: [], shape: "" };
let view;

// Shows the attention of a text and its translation in an element of the page, line by line, as they were translated.
export function mount(element, { source, target, text, translation }) {
  view ??= new View(element);
  const translated = translation.split("\n");
  const lines = text.split("\n").map((q, i) => ({ q, translation: translated[i] ?? "", source, target }));
  view.setLines(lines.filter((line) => line.q.trim()));
}

class View {
  constructor(element) {
    this.element = element;
    this.asking = new AbortController();
    this.word = this.pointed = null; // the word that was chosen, the one under the pointer: {side, index}
    this.line = make("select");
    this.lineField = make("label", {}, "Line ", this.line);
    this.uses = make("fieldset", {}, make("legend", { textContent: "Which attention" }));
    this.message = make("p", { className: "attention-message", role: "status" });
    this.title = make("h3", { className: "attention-title" });
    this.legend = make("ul", { className: "attention-legend" });
    this.told = make("p", { className: "attention-told", role: "status" });
    this.table = make("table", { className: "attention-table" });
    this.back = make("button", { type: "button", textContent: "Show all words" });
    this.grid = new Grid((places) => this.choosePlaces(places));
    this.lines = new Lines((word) => this.point(word), (word) => this.choose(word));
    this.body = make("div", { className: "attention-body", hidden: true }, ...this.parts());
    this.line.addEventListener("change", () => this.ask());
    this.back.addEventListener("click", () => this.choose(null));
    this.body.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.choose(null);
    });
    const heading = make("h2", { textContent: "Attention" });
    const note = make("p", { className: "attention-note", textContent: NOTE });
    element.replaceChildren(stylesheet(), heading, this.lineField, this.uses, this.message, this.body, note);
  }

  parts() {
    const several = this.checkbox("Several at once", "isSeveral", () => {});
    const pieces = this.checkbox("By the model's pieces", "byPieces", () => this.setUse(choice.use));
    return [
      make("div", { className: "attention-chooser" }, several, pieces, this.grid.element),
      make("div", { className: "attention-shown" }, this.title, this.legend, this.told, this.lines.element),
      make("div", { className: "attention-word" }, this.table, this.back),
    ];
  }

  checkbox(text, name, onChange) {
    const box = make("input", { type: "checkbox", checked: choice[name] });
    box.addEventListener("change", () => {
      choice[name] = box.checked;
      onChange();
    });
    return make("label", {}, box, ` ${text}`);
  }

  // Offers the lines of a text, and asks for the one with the number of the one before.
  setLines(lines) {
    const before = Math.min(this.line.selectedIndex, lines.length - 1);
    this.offered = lines;
    this.line.replaceChildren(
      ...lines.map(({ q }, i) => make("option", { value: i, textContent: `${i + 1}: ${q.slice(0, MOST_LETTERS)}` })),
    );
    this.line.selectedIndex = Math.max(before, 0);
    this.lineField.hidden = lines.length < 2;
    this.ask();
  }

  // Asks the server. What was shown stays until there is something new.
  async ask() {
    this.asking.abort();
    const own = (this.asking = new AbortController());
    const fields = this.offered[this.line.selectedIndex];
    if (!fields) return this.refuse("There is no text yet.");
    this.element.ariaBusy = "true";
    try {
      const answer = await post("attention", fields, own.signal);
      if (own === this.asking) this.show(answer);
    } catch (error) {
      if (own === this.asking) this.refuse(error.message);
    }
  }

  refuse(message) {
    this.element.ariaBusy = "false";
    this.message.textContent = message;
    this.uses.hidden = this.body.hidden = true;
  }

  show(answer) {
    this.answer = answer;
    this.element.ariaBusy = "false";
    this.message.textContent = "";
    this.uses.hidden = this.body.hidden = false;
    const found = Object.keys(USES).filter((use) => answer[use]);
    const radios = found.map((use) => {
      const radio = make("input", { type: "radio", name: "attention-use", value: use });
      radio.addEventListener("change", () => this.setUse(use));
      return make("label", {}, radio, ` ${USES[use].name}`);
    });
    this.uses.replaceChildren(this.uses.firstChild, ...radios);
    this.setUse(found.includes(choice.use) ? choice.use : found[0]);
  }

  setUse(use) {
    choice.use = use;
    this.uses.querySelector(`[value=${use}]`).checked = true;
    this.shown = gridOf(this.answer[use], choice.byPieces);
    const { rows, numLayers, queries, keys } = this.shown;
    const shape = `${rows.length} ${rows[0].length}`;
    if (choice.shape !== shape) choice.places = [[numLayers - 1, rows[0].length - 1]]; // the last layer, mean of heads
    choice.shape = shape;
    this.word = this.pointed = null;
    this.grid.set(this.shown);
    this.lines.setWords(USES[use].headings, queries, keys);
    this.draw();
  }

  choosePlaces(places) {
    if (choice.isSeveral) {
      const isIn = (all, [layer, head]) => all.some((place) => place[0] === layer && place[1] === head);
      const kept = choice.places.filter((place) => !isIn(places, place));
      const added = places.filter((place) => !isIn(choice.places, place));
      if (added.length) places = [...choice.places, ...added];
      else if (kept.length) places = kept;
    }
    choice.places = places;
    this.draw();
  }

  choose(word) {
    this.word = word;
    this.pointed = null;
    this.draw();
  }

  point(word) {
    this.pointed = word;
    this.draw();
  }

  draw() {
    const cells = choice.places.map(([layer, head]) => this.shown.rows[layer][head]);
    const tables = cells.map((cell) => cell.table);
    const word = this.pointed ?? this.word;
    const faintest = this.lines.draw(tables, word, word && shares(tables, word.side, word.index));
    this.grid.mark(choice.places);
    this.title.textContent = cells.length > 1 ? `${cells.length} at once, each in its colour` : cells[0].name;
    this.legend.hidden = cells.length === 1;
    this.legend.replaceChildren(...cells.map((cell, i) => make("li", {}, swatch(i), cell.name)));
    this.told.textContent = word
      ? this.sentence(tables, word)
      : `Choose a word to see its lines only. Weights below ${percent(faintest)} have no line.`;
    this.table.hidden = this.back.hidden = !this.word; // nothing moves under the pointer while it only points
    if (this.word) this.table.replaceChildren(...this.tableOf(cells, this.word));
  }

  // Says what a word has most to do with.
  sentence(tables, { side, index }) {
    const verb = side === "queries" ? "looks most at" : "is looked at most by";
    const most = largest(tables, side, index, 3).map(
      ({ other, weights }) => `${quoted(this.others(side)[other])} ${percent(Math.max(...weights))}`,
    );
    return `${quoted(this.shown[side][index])} ${verb} ${most.join(", ")}.`;
  }

  // Its largest weights as rows of a table, for those who do not see the lines.
  tableOf(cells, { side, index }) {
    const heads = cells.map((cell, i) => {
      const name = make("abbr", { title: cell.name, textContent: cell.short });
      return make("th", { scope: "col", abbr: cell.name }, ...(cells.length > 1 ? [swatch(i), make("br")] : []), name);
    });
    const rows = largest(cells.map((cell) => cell.table), side, index, MOST_ROWS).map(({ other, weights }) => {
      const name = make("th", { scope: "row", dir: "auto", textContent: this.others(side)[other] });
      return make("tr", {}, name, ...weights.map((weight) => make("td", { textContent: percent(weight) })));
    });
    const caption = make("caption", {}, `Largest weights of ${quoted(this.shown[side][index])}`);
    return [caption, make("tr", {}, make("th", { scope: "col", textContent: "Word" }), ...heads), ...rows];
  }

  others(side) {
    return side === "queries" ? this.shown.keys : this.shown.queries;
  }
}

function stylesheet() {
  return make("link", { rel: "stylesheet", href: new URL("attention.css", import.meta.url).href });
}

function swatch(number) {
  return make("span", { className: `attention-swatch ${colourOf(number)}`, ariaHidden: "true" });
}

function percent(weight) {
  return `${Number((100 * weight).toPrecision(2))}\u00a0%`;
}

// A word within a sentence of ours, whatever direction it is written in.
function quoted(word) {
  return `“\u2068${word}\u2069”`;
}

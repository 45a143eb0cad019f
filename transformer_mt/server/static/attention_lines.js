// Two columns of words and the lines between them, as opaque as the weight, each head in its colour.
// Draws what it is told to, and tells which word is pointed at (hover) or chosen (focus, click).

import { make } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const FAINTEST = 0.02; // what is less is not seen
const MOST_LINES = 1500; // of all words together, the strongest: more take a browser longer than a glance
const NUM_COLOURS = 7; // in attention.css; further heads have them again, in dashes

export class Lines {
  constructor(onPoint, onChoose) {
    this.element = make("div", { className: "attention-figure", dir: "ltr" });
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("aria-hidden", "true");
    this.svg.setAttribute("preserveAspectRatio", "none");
    this.sides = { queries: new Words("queries", onPoint, onChoose), keys: new Words("keys", onPoint, onChoose) };
    const { queries, keys } = this.sides;
    queries.onCross = () => keys.list.children[keys.current].focus();
    keys.onCross = () => queries.list.children[queries.current].focus();
    this.element.append(queries.element, this.svg, keys.element);
  }

  setWords(headings, queries, keys) {
    this.sides.queries.set(headings[0], queries);
    this.sides.keys.set(headings[1], keys);
    this.element.style.setProperty("--rows", Math.max(queries.length, keys.length));
  }

  // Draws the tables' lines, or of one word, {side, index}, only those that it has; shade says how much the words of
  // the other side have to do with it. Returns the weight below which there are none.
  draw(tables, word, shade) {
    const lines = tables.flatMap((table, head) => linesOf(table, head, word));
    lines.sort((one, two) => two.weight - one.weight);
    const faintest = Math.max(FAINTEST, lines[MOST_LINES]?.weight ?? 0);
    const [numQueries, numKeys] = [tables[0].length, tables[0][0].length];
    const numRows = Math.max(numQueries, numKeys);
    this.svg.setAttribute("viewBox", `0 0 100 ${numRows}`);
    const place = (index, count, head) =>
      ((index + 0.5) / count) * numRows + ((head - (tables.length - 1) / 2) / tables.length) * 0.6;
    this.svg.replaceChildren(
      ...lines
        .filter((line) => line.weight >= faintest)
        .map(({ query, key, head, weight }) => {
          const line = document.createElementNS(SVG, "line");
          const ends = { x1: 0, y1: place(query, numQueries, head), x2: 100, y2: place(key, numKeys, head) };
          for (const [name, value] of Object.entries(ends)) line.setAttribute(name, value);
          line.setAttribute("class", `${colourOf(head)}${tables.length > 1 ? " thin" : ""}`);
          line.setAttribute("stroke-opacity", Math.min(1, weight).toFixed(3));
          return line;
        }),
    );
    this.sides.queries.mark(word, shade);
    this.sides.keys.mark(word, shade);
    return faintest;
  }
}

// The words of one side: a list of which one is chosen. Tab comes to the list, arrows move within it and across.
class Words {
  constructor(side, onPoint, onChoose) {
    this.side = side;
    this.current = 0; // where Tab comes to
    this.heading = make("h3", { id: `attention-${side}` });
    this.list = make("ul", { role: "listbox" });
    this.list.setAttribute("aria-labelledby", this.heading.id);
    this.element = make("div", { className: `attention-words ${side}` }, this.heading, this.list);
    const indexOf = (event) => [...this.list.children].indexOf(event.target.closest("li"));
    this.list.addEventListener("pointerover", (event) => {
      if (indexOf(event) >= 0) onPoint({ side, index: indexOf(event) });
    });
    this.list.addEventListener("pointerleave", () => onPoint(null));
    this.list.addEventListener("focusin", (event) => {
      this.setCurrent(indexOf(event));
      onChoose({ side, index: this.current });
    });
    this.list.addEventListener("keydown", (event) => this.move(event));
  }

  set(heading, texts) {
    this.heading.textContent = heading;
    this.current = Math.min(this.current, texts.length - 1);
    this.list.replaceChildren(
      ...texts.map((text) =>
        make("li", { role: "option", tabIndex: -1, title: text }, make("bdi", { textContent: text })),
      ),
    );
    this.setCurrent(this.current);
  }

  mark(word, shade) {
    for (const [index, item] of [...this.list.children].entries()) {
      const isIt = word?.side === this.side && word.index === index;
      item.ariaSelected = String(isIt);
      item.classList.toggle("faded", word !== null && word.side === this.side && !isIt);
      item.style.setProperty("--share", word !== null && word.side !== this.side ? shade[index].toFixed(3) : "0");
    }
  }

  setCurrent(index) {
    this.list.children[this.current].tabIndex = -1;
    this.list.children[index].tabIndex = 0;
    this.current = index;
  }

  move(event) {
    const items = this.list.children;
    const last = items.length - 1;
    const to = { ArrowUp: this.current - 1, ArrowDown: this.current + 1, Home: 0, End: last }[event.key];
    const isAcross = event.key === (this.side === "queries" ? "ArrowRight" : "ArrowLeft");
    if (to === undefined && !isAcross) return;
    event.preventDefault();
    if (isAcross) this.onCross();
    else items[Math.max(0, Math.min(to, last))].focus();
  }
}

export function colourOf(head) {
  return `colour-${head % NUM_COLOURS}${head >= NUM_COLOURS ? " dashed" : ""}`;
}

function linesOf(table, head, word) {
  const lines = [];
  for (const [query, row] of table.entries())
    for (const [key, weight] of row.entries())
      if (weight >= FAINTEST && (word === null || word.index === (word.side === "queries" ? query : key)))
        lines.push({ query, key, head, weight });
  return lines;
}

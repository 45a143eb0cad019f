// Small pictures of all layers and heads to choose from: each a button, arrow keys move among them.

import { make } from "./dom.js";

const MARGIN = 6; // of what marks a picture

export class Grid {
  // onChoose gets the places, [layer, head], that a button stands for: one, or a whole row or column.
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.table = make("table", { role: "grid", ariaLabel: "Layers and heads" });
    this.table.addEventListener("keydown", (event) => this.move(event));
    this.element = make("div", { className: "attention-grid" }, this.table);
  }

  set({ numLayers, numHeads, rows }) {
    const [layers, heads] = [namesOf("Layer", numLayers), namesOf("Head", numHeads)];
    const allOf = (name, places) =>
      this.button({ textContent: name.short, ariaLabel: `${name.long}, each in its colour` }, places);
    const head = heads.map((name, j) =>
      make("th", { scope: "col" }, allOf(name, rows.slice(0, numLayers).map((_, i) => [i, j]))),
    );
    const body = rows.map((cells, i) => {
      const first = make("th", { scope: "row" }, allOf(layers[i], cells.slice(0, numHeads).map((_, j) => [i, j])));
      const pictures = cells.map((cell, j) => {
        const button = this.button({ className: "picture", ariaLabel: cell.name, title: cell.name }, [[i, j]]);
        button.append(pictureOf(cell.table));
        return make("td", {}, button);
      });
      return make("tr", {}, first, ...pictures);
    });
    this.current = null; // row and column of the button that Tab comes to
    this.table.replaceChildren(make("tr", {}, make("td", {}), ...head), ...body);
    this.buttons = [...this.table.rows].map((row) => [...row.cells].map((cell) => cell.firstChild)); // the first is null
  }

  // Shows which places are chosen; Tab comes to the first of them, which is in sight, unless a button has the focus.
  mark(places) {
    for (const picture of this.table.querySelectorAll(".picture")) picture.ariaPressed = "false";
    for (const [layer, head] of places) this.buttons[layer + 1][head + 1].ariaPressed = "true";
    if (this.table.contains(document.activeElement)) return;
    const [row, column] = [places[0][0] + 1, places[0][1] + 1];
    this.setCurrent(row, column);
    const right = (element) => element.getBoundingClientRect().right;
    this.element.scrollLeft += Math.max(0, right(this.buttons[row][column]) + MARGIN - right(this.element));
  }

  button(properties, places) {
    const button = make("button", { type: "button", tabIndex: -1, ...properties });
    button.addEventListener("click", () => this.onChoose(places));
    button.addEventListener("focus", () => {
      const row = button.closest("tr").rowIndex;
      this.setCurrent(row, button.parentElement.cellIndex);
    });
    return button;
  }

  setCurrent(row, column) {
    if (this.current) this.buttons[this.current[0]][this.current[1]].tabIndex = -1;
    this.buttons[row][column].tabIndex = 0;
    this.current = [row, column];
  }

  move(event) {
    const [row, column] = this.current;
    const [bottom, right] = [this.buttons.length - 1, this.buttons[0].length - 1];
    const to = {
      ArrowUp: [row - 1, column],
      ArrowDown: [row + 1, column],
      ArrowLeft: [row, column - 1],
      ArrowRight: [row, column + 1],
      Home: [row, row === 0 ? 1 : 0],
      End: [row, right],
    }[event.key];
    if (!to) return;
    event.preventDefault();
    this.buttons[Math.min(Math.max(to[0], 0), bottom)][Math.min(Math.max(to[1], 0), right)]?.focus();
  }
}

function namesOf(what, count) {
  const each = Array.from({ length: count }, (_, i) => ({
    short: `${what} ${i + 1}`,
    long: `All ${what === "Layer" ? "heads" : "layers"} of ${what.toLowerCase()} ${i + 1}`,
  }));
  const mean = { short: "Mean", long: what === "Layer" ? "All heads, means of layers" : "All layers, means of heads" };
  return count > 1 ? [...each, mean] : each;
}

// A dot for each weight, as opaque as its root: weak ones are seen too.
function pictureOf(table) {
  const canvas = make("canvas", { width: table[0].length, height: table.length, ariaHidden: "true" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(canvas.width, canvas.height);
  for (const [i, weight] of table.flat().entries()) image.data.set([59, 130, 246, 255 * Math.sqrt(weight)], 4 * i);
  context.putImageData(image, 0, 0);
  return canvas;
}

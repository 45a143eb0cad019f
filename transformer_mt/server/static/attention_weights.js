// What the server tells of attention, as tables of numbers: nothing here touches the document.
// A table has a row for each query and a column for each key; its weights are from 0 to 1.

const PARTS = 1000; // the server's unit: thousandths

// Returns the labels of both sides, and a grid of tables: a row for each layer, a column for each head, and where
// there are several, the mean of them last. Each has a name to be shown by, and a short one.
export function gridOf(found, byPieces) {
  const [queries, keys] = [found.queries, found.keys].map((side) => (byPieces ? eachPiece(side) : side.words));
  const layers = found.weights.map((heads) => heads.map((table) => merged(table, queries, keys)));
  const withMeans = layers.map((heads) => withMean(heads));
  const columns = withMeans[0].map((_, head) => withMean(withMeans.map((heads) => heads[head])));
  const [numLayers, numHeads] = [layers.length, layers[0].length];
  const rows = columns[0].map((_, layer) =>
    columns.map((tables, head) => ({ ...nameOf(layer, numLayers, head, numHeads), table: tables[layer] })),
  );
  return { queries: textsOf(queries), keys: textsOf(keys), numLayers, numHeads, rows };
}

// Returns the largest weights of one word, with every table's: of a query over the keys, of a key over the queries.
export function largest(tables, side, index, most) {
  const weights = tables.map((table) => (side === "queries" ? table[index] : table.map((row) => row[index])));
  return weights[0]
    .map((_, other) => ({ other, weights: weights.map((own) => own[other]) }))
    .sort((one, two) => Math.max(...two.weights) - Math.max(...one.weights))
    .slice(0, most);
}

// Returns how much a word and each word of the other side have to do with one another, in the mean of some tables.
export function shares(tables, side, index) {
  const table = mean(tables);
  return side === "queries" ? table[index] : table.map((row) => row[index]);
}

// What a word's pieces get is added up, what they give is averaged: each query gives 1 in all.
function merged(table, queries, keys) {
  return queries.map((query) => {
    const rows = table.slice(query.start, query.end);
    return keys.map((key) => sum(rows.map((row) => sum(row.slice(key.start, key.end)))) / rows.length / PARTS);
  });
}

function withMean(tables) {
  return tables.length > 1 ? [...tables, mean(tables)] : tables;
}

function mean(tables) {
  if (tables.length === 1) return tables[0];
  return tables[0].map((row, i) => row.map((_, j) => sum(tables.map((table) => table[i][j])) / tables.length));
}

function nameOf(layer, numLayers, head, numHeads) {
  const [own, its] = [layer + 1, head + 1];
  if (layer === numLayers && head === numHeads) return { name: "Mean of all layers and heads", short: "mean" };
  if (layer === numLayers) return { name: `Head ${its}, mean of ${numLayers} layers`, short: `H${its}` };
  if (head === numHeads) return { name: `Layer ${own}, mean of ${numHeads} heads`, short: `L${own}` };
  return { name: `Layer ${own}, head ${its}`, short: `L${own} H${its}` };
}

function eachPiece(side) {
  return side.pieces.map((text, start) => ({ text, start, end: start + 1 }));
}

function textsOf(units) {
  return units.map((unit) => unit.text);
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}

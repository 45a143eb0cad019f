// What a link to this page holds: text, languages and what is shown. It stands in the fragment, which a browser never
// sends, so that no text gets into a server's log.

export function toLink({ text, source, target, shades, attention }) {
  const fields = new URLSearchParams({ source, target, text });
  if (!shades) fields.set("shades", "0");
  if (attention) fields.set("attention", "1");
  return `${location.origin}${location.pathname}#${fields}`;
}

// What the address holds, or null where it holds nothing.
export function fromLink() {
  const fields = new URLSearchParams(location.hash.slice(1));
  if (!fields.has("text")) return null;
  return {
    text: fields.get("text"),
    source: fields.get("source"),
    target: fields.get("target"),
    shades: fields.get("shades") !== "0",
    attention: fields.get("attention") === "1",
  };
}

// The same request for a shell. A key is left to whoever runs it: what is copied is passed on.
export function toCurl({ text, source, target }, needsKey) {
  const fields = { q: text, source, target, ...(needsKey ? { api_key: "KEY" } : {}) };
  const quoted = (word) => `'${word.replaceAll("'", "'\\''")}'`;
  const address = quoted(new URL("translate", location.href.split("#")[0]).href);
  return `curl ${address} -H 'Content-Type: application/json' \\\n  --data-binary ${quoted(JSON.stringify(fields))}`;
}

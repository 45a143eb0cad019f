// Elements by their ids, and new ones. Text is only ever set as text, never as markup.

export const byId = (id) => document.getElementById(id);

// A new element: properties, data attributes, and children, which are elements or text.
export function make(tag, { data = {}, ...properties } = {}, ...children) {
  const element = document.createElement(tag);
  Object.assign(element, properties);
  Object.assign(element.dataset, data);
  element.append(...children);
  return element;
}

// Copy text, where the browser lets a page do so (not on plain http but at this machine); else select it.
export async function copy(text, field) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    field?.select?.();
    return false;
  }
}

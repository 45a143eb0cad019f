// What the page starts with. Addresses are relative, so that a proxy may serve it under any path.

const settings = await (await fetch("frontend/settings")).json();

// The view of attention is a module of its own, loaded when it is first opened. It is mounted anew whenever a
// translation has come while it is open.
const button = document.getElementById("attention-button");
const section = document.getElementById("attention");
button.hidden = !settings.attention;
button.addEventListener("click", () => {
  section.hidden = !section.hidden;
  button.ariaExpanded = String(!section.hidden);
  showAttention();
});

async function showAttention() {
  if (section.hidden) return;
  const { mount } = await import("./attention.js");
  const value = (id) => document.getElementById(id).value;
  const translation = document.getElementById("translation").textContent;
  mount(section, { source: value("source"), target: value("target"), text: value("text"), translation });
}

"use strict";
for (const browser of document.querySelectorAll("[data-browser]")) {
  const controls = browser.querySelector(".controls");
  const buttons = [...controls.querySelectorAll("button")];
  const search = controls.querySelector("input");
  const status = controls.querySelector("output");
  const examples = [...browser.querySelectorAll(".example")];
  let kind = "";
  const apply = () => {
    const words = search.value.trim().toLowerCase();
    let shown = 0;
    for (const example of examples) {
      const fits = (!kind || example.dataset.kind === kind) &&
        (!words || example.textContent.toLowerCase().includes(words));
      example.hidden = !fits;
      shown += fits;
    }
    status.textContent = `${shown} of ${examples.length} shown`;
  };
  for (const button of buttons) {
    button.addEventListener("click", () => {
      kind = button.dataset.kind;
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      apply();
    });
  }
  search.addEventListener("input", apply);
  controls.hidden = examples.length === 0;
  apply();
}
let closed = [];
addEventListener("beforeprint", () => {
  closed = [...document.querySelectorAll("details:not([open])")];
  for (const part of closed) part.open = true;
});
addEventListener("afterprint", () => {
  for (const part of closed) part.open = false;
});

// What all parts of the page have: how it looks, and its explorers.

const root = document.documentElement;

function toggle(id, changed) {
  document.getElementById(id)?.addEventListener("click", (event) => {
    const on = event.currentTarget.getAttribute("aria-pressed") !== "true";
    event.currentTarget.setAttribute("aria-pressed", on);
    changed(on);
  });
}

const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
document.getElementById("dark")?.setAttribute("aria-pressed", isDark);
root.dataset.theme = isDark ? "dark" : "light";
toggle("dark", (on) => (root.dataset.theme = on ? "dark" : "light"));
toggle("blur", (on) => root.classList.toggle("blurred", on));
root.classList.add("scripted");

const explorers = [...document.querySelectorAll("[data-explorer]")].map((element) => {
  const data = JSON.parse(document.getElementById(`explorer-${element.dataset.explorer}`).textContent);
  return new Explorer(element, data);
});

// Texts and pictures stand last in the file: the numbers are there before they are read.
addEventListener("DOMContentLoaded", () => {
  setTimeout(() => {
    explorers.forEach((explorer, number) => {
      explorer.samples.contents = JSON.parse(document.getElementById(`contents-${number}`).textContent);
      explorer.samples.redraw();
    });
    root.dataset.ready = "true";
  });
});

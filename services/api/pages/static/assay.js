// What pages do with a script on top of what they do without: choosing rows, dropping files.
"use strict";

// Compare: the button tells how many are chosen and takes two to four.
function watchChoice(form) {
  const name = form.getAttribute("id"); // form.id would be the fields that are called id
  const button = document.querySelector(`button[form="${name}"][data-compare]`);
  if (!button) return;
  const boxes = () => Array.from(document.querySelectorAll(`input[form="${name}"][type=checkbox]`));
  const update = () => {
    const chosen = boxes().filter((box) => box.checked).length;
    for (const box of boxes()) box.closest("tr").classList.toggle("marked", box.checked);
    button.textContent = chosen ? `Compare ${chosen}` : "Compare";
    button.setAttribute("aria-disabled", String(chosen < 2 || chosen > 4));
  };
  document.addEventListener("change", (event) => { if (boxes().includes(event.target)) update(); });
  form.addEventListener("submit", (event) => {
    if (button.getAttribute("aria-disabled") === "true") event.preventDefault();
  });
  update();
}

// Upload: files dropped on the area are put into the form's own field.
function watchDrop(area) {
  const field = area.querySelector("input[type=file]");
  const told = area.querySelector("[data-chosen]");
  const tell = () => {
    const names = Array.from(field.files, (file) => file.name);
    told.textContent = names.length ? `${names.length} chosen: ${names.slice(0, 5).join(", ")}${names.length > 5 ? ", …" : ""}` : "";
  };
  for (const kind of ["dragenter", "dragover"]) {
    area.addEventListener(kind, (event) => { event.preventDefault(); area.classList.add("over"); });
  }
  for (const kind of ["dragleave", "drop"]) {
    area.addEventListener(kind, () => area.classList.remove("over"));
  }
  area.addEventListener("drop", (event) => {
    event.preventDefault();
    field.files = event.dataTransfer.files;
    tell();
  });
  field.addEventListener("change", tell);
}

document.querySelectorAll("form[data-choice]").forEach(watchChoice);
document.querySelectorAll("[data-drop]").forEach(watchDrop);
// Filters that are chosen from a list apply at once; the button stays for those without a script.
document.querySelectorAll("form[data-auto] select").forEach((field) => {
  field.addEventListener("change", () => field.form.requestSubmit());
});
document.querySelectorAll("[data-print]").forEach((button) => {
  button.hidden = false;
  button.addEventListener("click", () => window.print());
});

// What pages do with a script on top of what they do without: choosing rows, dropping files, counting down,
// an interview's clock.
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

// The interview's clock: phases one after the other, kept in this browser so that a reload loses nothing.
// It speaks only when a phase's time is up or another begins.
function watchClock(box) {
  const name = `assay-clock-${box.dataset.clock}`;
  const phases = Array.from(box.querySelectorAll("[data-clock-phase]"));
  const [time, said, start] = ["time", "said", "start"].map((part) => box.querySelector(`[data-clock-${part}]`));
  // began: when the running phase began, in ms; spent: what its earlier stretches took.
  const fresh = () => ({ phase: 0, began: null, spent: 0, told: false });
  let state = fresh();
  try { state = { ...state, ...JSON.parse(localStorage.getItem(name) ?? "{}") }; } catch { state = fresh(); }
  if (!phases[state.phase]) state = fresh();
  const keep = () => { try { localStorage.setItem(name, JSON.stringify(state)); } catch { /* it runs on without */ } };
  const spent = () => state.spent + (state.began === null ? 0 : Date.now() - state.began);
  const title = (phase) => phase.childNodes[1].textContent.trim();
  const show = () => {
    const seconds = Math.max(0, Math.floor(spent() / 1000));
    const late = seconds >= 60 * Number(phases[state.phase].dataset.clockPhase);
    time.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
    time.classList.toggle("clock-late", late);
    start.textContent = state.began === null ? (spent() ? "Go on" : "Start") : "Pause";
    phases.forEach((phase, number) => {
      phase.classList.toggle("clock-now", number === state.phase);
      if (number === state.phase) phase.setAttribute("aria-current", "step"); else phase.removeAttribute("aria-current");
      phase.querySelector("[data-clock-mark]").textContent = number < state.phase ? "✓" : number === state.phase ? "▸" : "·";
    });
    box.querySelector("[data-clock-next]").disabled = state.phase === phases.length - 1;
    if (late && !state.told) {
      state.told = true;
      said.textContent = `${title(phases[state.phase])}: the time is up.`;
      keep();
    }
  };
  const act = (part, change) => box.querySelector(`[data-clock-${part}]`).addEventListener("click", () => { change(); keep(); show(); });
  act("start", () => {
    if (state.began === null) state.began = Date.now();
    else { state.spent = spent(); state.began = null; }
  });
  act("next", () => {
    state = { phase: state.phase + 1, began: state.began === null ? null : Date.now(), spent: 0, told: false };
    said.textContent = `${title(phases[state.phase])} begins.`;
  });
  act("reset", () => { state = fresh(); said.textContent = "The clock is set back."; });
  box.hidden = false;
  show();
  setInterval(show, 1000);
}

document.querySelectorAll("[data-clock]").forEach(watchClock);

// Time left: counted down from what the server said, whatever the clock here shows; read out at few marks only.
function watchTime(shown) {
  const ends = performance.now() + 1000 * Number(shown.dataset.left);
  const said = document.querySelector("[data-left-said]");
  const marks = [600, 300, 60].filter((mark) => mark < Number(shown.dataset.left));
  const two = (number) => String(number).padStart(2, "0");
  const turn = () => {
    const left = Math.max(0, Math.ceil((ends - performance.now()) / 1000));
    const minutes = Math.floor(left / 60);
    shown.textContent = minutes >= 60
      ? `${Math.floor(minutes / 60)}:${two(minutes % 60)}:${two(left % 60)}` : `${minutes}:${two(left % 60)}`;
    if (marks.length && left <= marks[0]) said.textContent = `${marks.shift() / 60} min left`;
    if (left) return;
    clearInterval(timer);
    said.textContent = "Your time is over; you can still hand in.";
    document.querySelectorAll("[data-over]").forEach((one) => { one.hidden = false; });
  };
  const timer = setInterval(turn, 1000);
}

document.querySelectorAll("[data-left]").forEach(watchTime);
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

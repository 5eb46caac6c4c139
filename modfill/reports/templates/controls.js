// What moves the viewer: wheel, pointer, keys, sliders and buttons.

// Move the cursor through a plane, by as many slices towards feet, back or left.
function step(plane, slices) {
  if (!shown) return;
  const axis = PLANES[plane].through;
  shown.cursor[axis] = Math.min(Math.max(shown.cursor[axis] + slices, 0), lengthOf(axis) - 1);
  refresh();
}

let turned = 0;
function wheel(event, plane) {
  if (event.ctrlKey) return;  // zooms the page
  event.preventDefault();
  view.plane = plane;
  turned += event.deltaMode ? 100 * event.deltaY : event.deltaY;
  if (Math.abs(turned) < 50) return;  // a touchpad sends many small turns
  step(plane, Math.sign(turned));
  turned = 0;
}

function point(event, pane, plane) {
  if (!(event.buttons & 1)) return;
  const {across, down} = PLANES[plane], box = pane.getBoundingClientRect();
  const left = (box.width - extent(across) * shown.scale) / 2;
  const shares = [(event.clientX - box.left - left) / (box.width - 2 * left), (event.clientY - box.top) / (box.height - BAND)];
  [across, down].forEach((axis, i) => {
    const index = Math.floor(shares[i] * lengthOf(axis));
    shown.cursor[axis] = Math.min(Math.max(index, 0), lengthOf(axis) - 1);
  });
  view.plane = plane;
  refresh();
}

function choosePlane(plane) {
  view.plane = plane;
  if (view.layout !== "all") setLayout(plane);
  refresh();
}

function setLayout(layout) {
  view.layout = byId("layout").value = layout;
  if (layout !== "all") view.plane = layout;
  layOut();
}

function swap() {
  if (!shown || byId("compare").hidden) return;
  view.swapped = !view.swapped;
  if (!timer) byId("viewer-told").textContent = view.swapped ? "Acquired images in place of synthetic" : "Synthetic images";
  refresh();
}

function stopFlicker() {
  clearInterval(timer);
  timer = 0;
  byId("flicker").setAttribute("aria-pressed", "false");
}

function setOpacity(percent) {
  view.opacity = percent;
  byId("opacity").value = percent;
  refresh();
}

function reset() {
  Object.assign(view, {opacity: 0, width: 100, level: 50, cross: true, swapped: false});
  stopFlicker();
  for (const name of ["opacity", "width", "level"]) byId(name).value = view[name];
  refresh();
}

function cross() {
  view.cross = !view.cross;
  refresh();
}

function otherCase(by) {
  const all = viewable(), next = shown && all[all.indexOf(shown.article) + by];
  if (next) openCase(next);
}

const KEYS = {
  ArrowUp: () => step(view.plane, -1), ArrowRight: () => step(view.plane, -1), PageUp: () => step(view.plane, -10),
  ArrowDown: () => step(view.plane, 1), ArrowLeft: () => step(view.plane, 1), PageDown: () => step(view.plane, 10),
  a: () => choosePlane("axial"), c: () => choosePlane("coronal"), s: () => choosePlane("sagittal"),
  l: () => setLayout(view.layout === "all" ? view.plane : "all"),
  f: swap, u: () => setOpacity(view.opacity ? 0 : 60), x: cross, r: reset,
  p: () => otherCase(-1), n: () => otherCase(1),
};

document.addEventListener("keydown", event => {  // the focus may be on nothing, after a button was disabled
  if (!viewer.open) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const own = event.target.matches("select") || event.target.matches("input") && key.length > 1;
  if (own || event.ctrlKey || event.metaKey || event.altKey || !Object.hasOwn(KEYS, key)) return;
  event.preventDefault();
  KEYS[key]();
});
viewer.addEventListener("close", () => {
  stopFlicker();
  shown = null;  // frees the volumes
  byId("panes").replaceChildren();
});
for (const [name, {through}] of Object.entries(PLANES)) {
  byId(name).addEventListener("input", event => {
    view.plane = name;
    shown.cursor[through] = lengthOf(through) - event.target.value;
    refresh();
  });
  byId(name).addEventListener("focus", () => choosePlane(name));
}
for (const name of ["opacity", "width", "level"]) {
  byId(name).addEventListener("input", event => {
    view[name] = Number(event.target.value);
    refresh();
  });
}
byId("layout").addEventListener("change", event => setLayout(event.target.value));
byId("cross").addEventListener("click", cross);
byId("swap").addEventListener("click", swap);
byId("flicker").addEventListener("click", () => {
  if (timer) return stopFlicker();
  timer = setInterval(swap, FLICKER);
  toggle(byId("flicker"));
});
byId("reset").addEventListener("click", reset);
byId("previous").addEventListener("click", () => otherCase(-1));
byId("next").addEventListener("click", () => otherCase(1));
byId("close").addEventListener("click", () => viewer.close());
window.addEventListener("resize", layOut);
for (const article of articles.filter(article => article.matches(".viewable"))) {
  const button = article.querySelector(".view");
  button.hidden = false;
  button.addEventListener("click", () => openCase(article));
  for (const picture of article.querySelectorAll("figure img")) picture.addEventListener("click", () => openCase(article));
}

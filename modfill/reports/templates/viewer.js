// The viewer: one case, its images side by side, one cursor in all of them.
const AMBER = [255, 180, 84];
const BAND = 20;  // pixels below each slice for the words
const FLICKER = 600;  // ms that each image is shown: below three changes a second
const viewer = byId("viewer");
const view = {plane: "axial", layout: "all", swapped: false, cross: true, opacity: 0, width: 100, level: 50};
const stacked = matchMedia("(max-width: 60rem)");  // as in viewer.css: the controls are below the images
let shown = null;  // the case: article, grid, images, cursor
let timer = 0;
let asked = 0;  // the number of the latest case, as decoding takes time
let pending = false;

const viewable = () => Array.from(list.querySelectorAll("article.viewable"));
const lengthOf = axis => shown.images[0].volume.shape[axis];
const extent = axis => lengthOf(axis) * shown.grid.spacing[axis];

async function openCase(article) {
  const number = ++asked;
  stopFlicker();
  view.swapped = false;
  shown = null;
  byId("panes").replaceChildren();
  byId("viewed").textContent = article.dataset.case;
  if (!viewer.open) viewer.showModal();
  const figures = Array.from(article.querySelectorAll("figure[data-volume]"));
  let volumes;
  try {
    volumes = await Promise.all(figures.map(decodeVolume));
  } catch (error) {
    byId("panes").textContent = "This browser cannot decode the slices (" + error.name + ").";
    return;
  }
  if (number !== asked || !viewer.open) return;
  const parts = figures.map(({dataset}, i) => ({...dataset, volume: volumes[i]}));
  const images = parts.filter(part => part.kind !== "uncertainty");
  for (const image of images.filter(image => image.kind === "synthetic")) {
    image.map = parts.find(part => part.kind === "uncertainty" && part.modality === image.modality)?.volume;
    image.partner = images.find(other => other.kind === "acquired" && other.modality === image.partner);
  }
  shown = {article, images, grid: JSON.parse(article.dataset.grid)};
  shown.cursor = images[0].volume.shape.map(length => Math.floor(length / 2));
  byId("uncertainties").hidden = !images.some(image => image.map);
  byId("compare").hidden = !images.some(image => image.partner);
  const all = viewable(), place = all.indexOf(article);
  byId("previous").disabled = place === 0;
  byId("next").disabled = place === all.length - 1;
  for (const [name, {through}] of Object.entries(PLANES)) byId(name).max = lengthOf(through);
  byId("panes").replaceChildren(...images.map(makeImage));
  layOut();
}

function element(tag, className, text = "") {
  const made = document.createElement(tag);
  made.className = className;
  made.textContent = text;
  return made;
}

function makeImage(image) {
  const column = element("div", "image");
  image.heading = element("h3", "");
  image.panes = Object.entries(PLANES).map(([plane, {letters}]) => {
    const pane = element("div", "pane");
    const canvas = element("canvas", "");
    canvas.setAttribute("role", "img");
    pane.append(canvas, element("span", "number"));
    for (const [side, letter] of Object.entries(letters)) pane.append(element("span", side, letter));
    pane.querySelectorAll("span").forEach(span => span.setAttribute("aria-hidden", "true"));
    pane.dataset.plane = plane;
    pane.addEventListener("wheel", event => wheel(event, plane), {passive: false});
    for (const kind of ["pointerdown", "pointermove"]) pane.addEventListener(kind, event => point(event, pane, plane));
    return {plane, pane, canvas};
  });
  column.append(image.heading, ...image.panes.map(({pane}) => pane));
  return column;
}

// Give all panes one scale, the largest at which they fit.
function layOut() {
  if (!shown) return;
  const planes = view.layout === "all" ? Object.keys(PLANES) : [view.layout];
  const widest = Math.max(...planes.map(plane => extent(PLANES[plane].across)));
  const heights = planes.map(plane => extent(PLANES[plane].down));
  const count = shown.images.length, box = byId("panes"), gap = 4, heading = 26;
  const room = stacked.matches ? .9 * viewer.clientHeight : box.clientHeight;
  const scaleOf = columns => {
    const rows = Math.ceil(count / columns);
    const high = room / rows - heading - (gap + BAND) * planes.length - 2 * gap;
    const total = heights.reduce((sum, height) => sum + height, 0);
    return Math.min(((box.clientWidth - gap) / columns - gap) / widest, high / total);
  };
  const choices = planes.length > 1 ? [count] : Array.from(shown.images, (_, i) => i + 1);
  const columns = choices.reduce((best, next) => scaleOf(next) > scaleOf(best) ? next : best);
  shown.scale = Math.max(scaleOf(columns), 80 / widest);
  const width = Math.floor(widest * shown.scale);
  box.style.gridTemplateColumns = "repeat(" + columns + ", " + width + "px)";
  for (const {panes} of shown.images) {
    for (const {plane, pane} of panes) {
      pane.hidden = !planes.includes(plane);
      pane.style.height = Math.round(extent(PLANES[plane].down) * shown.scale) + BAND + "px";
    }
  }
  refresh();
}

function refresh() {
  if (!pending) requestAnimationFrame(() => {
    pending = false;
    if (shown) paint();
  });
  pending = true;
}

function paint() {
  const low = view.level - view.width / 2;
  const greys = colourTable(value => {
    const grey = 255 * (value / 2.55 - low) / view.width;
    return [grey, grey, grey, 255];
  });
  const ambers = colourTable(value => [...AMBER, value * view.opacity / 100]);
  for (const image of shown.images) {
    const swapped = view.swapped && image.partner;
    const painted = swapped ? image.partner : image;
    const synthetic = painted.kind === "synthetic";
    image.heading.replaceChildren(
      painted.modality + " ", element("b", synthetic ? "estimated" : "", painted.kind.toUpperCase()),
      element("i", "", swapped ? " in place of " + image.modality : synthetic ? " " + image.value : ""));
    image.heading.title = image.heading.textContent;  // what does not fit beside many images
    for (const pane of image.panes) if (!pane.pane.hidden) paintPane(pane, painted, greys, ambers);
  }
  tellPlace();
}

function paintPane({plane, pane, canvas}, image, greys, ambers) {
  const {across, down, through} = PLANES[plane];
  const sharp = window.devicePixelRatio;
  canvas.width = Math.round(pane.clientWidth * sharp);
  canvas.height = Math.round(pane.clientHeight * sharp);
  const context = canvas.getContext("2d");
  context.scale(sharp, sharp);
  const width = extent(across) * shown.scale, height = extent(down) * shown.scale;
  const left = (pane.clientWidth - width) / 2;
  const index = shown.cursor[through], length = lengthOf(through);
  drawSlice(context, image.volume, plane, index, greys, left, 0, width, height);
  if (image.map && view.opacity > 0) {
    drawSlice(context, image.map, plane, scaled(index, length, image.map, through), ambers, left, 0, width, height);
  }
  if (view.cross) {
    const x = left + (shown.cursor[across] + .5) / lengthOf(across) * width;
    const y = (shown.cursor[down] + .5) / lengthOf(down) * height;
    context.fillStyle = "rgba(124, 196, 255, .75)";
    for (const sign of [-1, 1]) {  // open in the middle: the voxel stays free
      context.fillRect(sign < 0 ? left : x + 6, y - .5, sign < 0 ? x - 6 - left : left + width - x - 6, 1);
      context.fillRect(x - .5, sign < 0 ? 0 : y + 6, 1, sign < 0 ? y - 6 : height - y - 6);
    }
  }
  // in the picture itself, so that a copy of it has the word too
  const synthetic = image.kind === "synthetic";
  context.fillStyle = synthetic ? "rgb(" + AMBER + ")" : "#14181f";
  context.fillRect(0, pane.clientHeight - BAND, pane.clientWidth, BAND);
  context.fillStyle = synthetic ? "#14181f" : "#a7b0ba";
  context.font = (synthetic ? "700" : "400") + " 12px system-ui, sans-serif";
  context.textAlign = "center";
  context.textBaseline = "middle";
  context.fillText(image.modality + "  " + image.kind.toUpperCase(), pane.clientWidth / 2, pane.clientHeight - BAND / 2);
  const number = length - index + " / " + length;
  pane.querySelector(".number").textContent = plane[0].toUpperCase() + plane.slice(1) + " " + number;
  pane.classList.toggle("chosen", plane === view.plane);
  canvas.setAttribute("aria-label", image.modality + ", " + image.kind + ", " + plane + " slice " + number);
}

// The numbers beside the sliders and the values at the cursor. Values are shares of the range from black to white.
function tellPlace() {
  for (const [name, {through}] of Object.entries(PLANES)) {
    const length = lengthOf(through);
    byId(name).value = length - shown.cursor[through];
    byId(name + "-number").textContent = byId(name).value + " / " + length;
    byId(name).parentElement.classList.toggle("chosen", name === view.plane);
  }
  for (const name of ["opacity", "width", "level"]) byId(name + "-value").textContent = view[name] + " %";
  for (const name of ["cross", "swap"]) {
    byId(name).setAttribute("aria-pressed", String(name === "swap" ? view.swapped : view.cross));
  }
  const apply = rows => rows.map(row => row[3] + shown.cursor.reduce((sum, at, axis) => sum + row[axis] * at, 0));
  const at = (volume, place) => volume.values[(place[2] * volume.shape[1] + place[1]) * volume.shape[0] + place[0]];
  const share = value => Math.round(value / 2.55) + " %";
  const letters = ["RL", "AP", "SI"];
  const world = apply(shown.grid.world).map((mm, axis) => letters[axis][mm < 0 ? 1 : 0] + " " + Math.abs(mm).toFixed(0));
  const rows = [["mm", world.join(" ")], ["voxel", apply(shown.grid.voxel).map(Math.round).join(", ")]];
  for (const {modality, kind, volume, map} of shown.images) {
    const name = modality + (kind === "synthetic" ? " synthetic" : "");
    const place = map && shown.cursor.map((index, axis) => scaled(index, lengthOf(axis), map, axis));
    const deviation = map ? " ± " + share(at(map, place) * FULL_AMBER) : "";
    rows.push([name, share(at(volume, shown.cursor)) + deviation]);
  }
  const row = ([name, text]) => {
    const made = element("div", "");
    made.append(element("dt", "", name), element("dd", "", text));
    return made;
  };
  byId("place").replaceChildren(...rows.map(row));
}

/* Format switches, weights, memory, and the chart that follows them. */

const data = JSON.parse(document.getElementById("lab-data").textContent);
const byId = (id) => document.getElementById(id);
const shown = new Set(data.formats.map((format) => format.name));
const formatOf = new Map(data.formats.map((format) => [format.name, format]));
const SVG = "http://www.w3.org/2000/svg";

/* Text is only ever set as text: what a model wrote cannot become markup. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) if (value !== null) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function svgEl(tag, attributes = {}, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const ink = (color) => (color === "#000000" ? "currentColor" : color);

/* The charts' markers: shape and colour both tell formats apart. */
const MARKERS = {
  o: "M5 0A5 5 0 1 1-5 0A5 5 0 1 1 5 0Z",
  s: "M-4.5-4.5H4.5V4.5H-4.5Z",
  "^": "M0-5.5L5.2 4H-5.2Z",
  v: "M0 5.5L5.2-4H-5.2Z",
  "<": "M-5.5 0L4-5.2V5.2Z",
  ">": "M5.5 0L-4-5.2V5.2Z",
  D: "M0-6L6 0L0 6L-6 0Z",
  P: "M-1.8-5.5H1.8V-1.8H5.5V1.8H1.8V5.5H-1.8V1.8H-5.5V-1.8H-1.8Z",
  X: "M0-2.4L3.2-5.6L5.6-3.2L2.4 0L5.6 3.2L3.2 5.6L0 2.4L-3.2 5.6L-5.6 3.2L-2.4 0L-5.6-3.2L-3.2-5.6Z",
  p: "M0-5.6L5.3-1.7L3.3 4.5H-3.3L-5.3-1.7Z",
  h: "M0-5.6L4.9-2.8V2.8L0 5.6L-4.9 2.8V-2.8Z",
  "*": "M0-6L1.6-2L6-1.9L2.6 0.8L3.7 5L0 2.6L-3.7 5L-2.6 0.8L-6-1.9L-1.6-2Z",
};

function swatch(name) {
  const format = formatOf.get(name);
  const mark = svgEl("svg", { viewBox: "-8 -8 16 16", width: 14, height: 14, class: "swatch", "aria-hidden": "true" });
  mark.append(svgEl("path", { d: MARKERS[format.marker], fill: ink(format.color) }));
  return mark;
}

const titleOf = (name) => (formatOf.get(name).marked ? `${name} ⚠` : name);

function label(name) {
  return el("span", { class: "format" }, swatch(name), titleOf(name));
}

const significant = (value, digits = 3) => {
  if (value === 0) return "0";
  return value.toFixed(Math.max(0, digits - 1 - Math.floor(Math.log10(Math.abs(value)))));
};
function sizeText(bytes) {
  for (const [unit, factor] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
    if (Math.abs(bytes) >= factor) return `${significant(bytes / factor)} ${unit}`;
  return `${bytes} bytes`;
}
const gib = (bytes) => `${(bytes / data.fit.gib).toFixed(3)} GiB`;
function signed(value, digits = 2) {
  const size = Math.abs(value).toFixed(digits);
  return `${Number(size) === 0 ? "" : value < 0 ? "-" : "+"}${size} %`;
}
const inWords = (names, last = "and") =>
  names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} ${last} ${names[names.length - 1]}`;

/* -- which formats -- */

const listeners = [];
function refresh() {
  for (const row of document.querySelectorAll("tr[data-format]")) row.hidden = !shown.has(row.dataset.format);
  const off = data.formats.map((format) => format.name).filter((name) => !shown.has(name));
  for (const note of document.querySelectorAll(".switched-off")) {
    note.hidden = !off.length;
    note.textContent = off.length
      ? `${inWords(off.map(titleOf))} ${off.length > 1 ? "are" : "is"} switched off under Explore and left out of the tables; sentences and pictures were written with all formats.`
      : "";
  }
  for (const listener of listeners) listener();
}

function buildSwitches() {
  const box = byId("switches");
  for (const { name } of data.formats) {
    const input = el("input", { type: "checkbox", id: `show-${name}`, value: name });
    input.checked = true;
    if (name === data.base) {
      input.disabled = true;
      input.title = "All others are compared with it";
    }
    input.addEventListener("change", () => {
      if (input.checked) shown.add(name);
      else shown.delete(name);
      refresh();
    });
    box.append(el("label", { class: "chip", for: input.id }, input, label(name)));
  }
  for (const row of document.querySelectorAll("#worksheet tbody tr, #recommendation tbody tr")) {
    const name = row.cells[0].textContent.replace("⚠", "").trim();
    if (formatOf.has(name)) row.dataset.format = name;
  }
}

/* -- weights -- */

const TERMS = ["size", "quality", "speed"];
const PRESETS = { course: [30, 40, 30], speed: [20, 30, 50], equal: [1, 1, 1] };
const MAP_STEPS = 50;

const values = () => TERMS.map((term) => Number(byId(`weight-${term}`).value));
function shares() {
  const raw = values();
  const sum = raw[0] + raw[1] + raw[2];
  return sum > 0 ? raw.map((value) => value / sum) : null;
}
const normalisedChosen = () => byId("score-normalised").checked;
const candidates = () => data.candidates.filter((one) => shown.has(one.format));

function setWeights(weights) {
  const sum = weights[0] + weights[1] + weights[2];
  TERMS.forEach((term, i) => (byId(`weight-${term}`).value = Math.round((100 * weights[i]) / sum)));
  renderScores();
}

/* tradeoffs.py, place and _leader */
const placeText = (score) => (score.best === score.worst ? String(score.best) : `${score.best} to ${score.worst}`);
function winnerWords(id, ranked) {
  const first = firsts(ranked);
  const names = inWords(first.map((score) => score.format), "or");
  return first.length === 1
    ? [el("strong", { id }, names), ` wins with ${first[0].total.toFixed(3)}.`]
    : ["not settled: ", el("strong", { id }, names), "."];
}

function renderScores() {
  const weights = shares();
  const found = candidates();
  const raw = values();
  TERMS.forEach((term, i) => {
    const text = weights ? `${Math.round(100 * weights[i])} %` : "0 %";
    byId(`share-${term}`).textContent = text;
    byId(`weight-${term}`).setAttribute("aria-valuetext", `${raw[i]}, ${text} of the whole`);
  });
  const body = byId("ranking");
  const winners = byId("winners");
  if (!weights || found.length < 2) {
    body.replaceChildren();
    winners.textContent = weights
      ? "Size, perplexity and speed of the baseline and of one smaller format are needed."
      : "All weights are zero: move a slider.";
    return;
  }
  const literal = ranking(literalBoard(found, data.leads), weights);
  const normal = ranking(normalisedBoard(found, data.leads), weights);
  const other = new Map((normalisedChosen() ? literal : normal).map((score) => [score.format, score.total]));
  const main = normalisedChosen() ? normal : literal;
  const most = Math.max(...main.map((score) => score.total), 1e-9);
  winners.replaceChildren(
    "Literal score: ", ...winnerWords("winner-literal", literal),
    " Normalised score: ", ...winnerWords("winner-normalised", normal),
  );
  byId("other-score").textContent = normalisedChosen() ? "Literal" : "Normalised";
  body.replaceChildren(
    ...main.map((score) => {
      const bar = el("span", { class: "bar" }, el("span", {}));
      bar.firstChild.style.width = `${Math.max(0, (100 * score.total) / most)}%`;
      return el(
        "tr",
        { "data-rank": placeText(score), "data-first": score.best === 1 ? "" : null, "data-ranked": score.format, "data-total": score.total, "data-other": other.get(score.format) },
        el("td", { class: "number" }, placeText(score)),
        el("th", { scope: "row" }, label(score.format)),
        el("td", { class: "wide" }, bar),
        el("td", { class: "number" }, score.total.toFixed(3)),
        el("td", { class: "number muted" }, other.get(score.format).toFixed(3)),
      );
    }),
  );
  placeWeightMark(weights);
}

const CORNERS = { size: [20, 208], quality: [140, 8], speed: [260, 208] };
const inTriangle = (w) => [0, 1].map((axis) => w[0] * CORNERS.size[axis] + w[1] * CORNERS.quality[axis] + w[2] * CORNERS.speed[axis]);

function placeWeightMark(weights) {
  const mark = byId("weight-mark");
  if (!mark) return;
  const [x, y] = inTriangle(weights);
  mark.setAttribute("transform", `translate(${x} ${y})`);
}

/* The winner for every division of the weights. */
function renderMap() {
  const found = candidates();
  const svg = byId("triangle");
  const legend = byId("triangle-legend");
  if (found.length < 2) {
    svg.replaceChildren();
    legend.replaceChildren();
    return;
  }
  const cells = winnerMap((normalisedChosen() ? normalisedBoard : literalBoard)(found, data.leads), MAP_STEPS);
  const paths = new Map();
  const counts = new Map();
  const settled = new Map();
  for (const cell of cells) {
    const [x, y] = inTriangle(cell.weights);
    const dot = `M${x.toFixed(1)} ${(y - 3).toFixed(1)}l2.7 1.4v3.2l-2.7 1.4l-2.7-1.4v-3.2z`;
    const path = JSON.stringify([cell.format, cell.settled]);
    paths.set(path, (paths.get(path) || "") + dot);
    counts.set(cell.format, (counts.get(cell.format) || 0) + 1);
    if (cell.settled) settled.set(cell.format, (settled.get(cell.format) || 0) + 1);
  }
  const order = [...counts].sort((a, b) => b[1] - a[1]);
  svg.replaceChildren(
    ...[...paths].map(([path, d]) => {
      const [name, sure] = JSON.parse(path);
      return svgEl("path", { d, fill: ink(formatOf.get(name).color), "fill-opacity": sure ? 1 : 0.4 });
    }),
    svgEl("text", { x: 20, y: 224, "text-anchor": "start" }, "only size"),
    svgEl("text", { x: 154, y: 13, "text-anchor": "start" }, "only quality"),
    svgEl("text", { x: 260, y: 224, "text-anchor": "end" }, "only speed"),
    svgEl("g", { id: "weight-mark" }, svgEl("circle", { r: 6.5, class: "halo" }), svgEl("circle", { r: 6.5, class: "ring" })),
  );
  const share = (count) => `${Math.round((100 * count) / cells.length)} %`;
  const shareText = (name, n) => `${share(n)} (settled ${share(settled.get(name) || 0)})`;
  svg.setAttribute("aria-label", `Highest score for every division of the weights: ${order.map(([name, n]) => `${name} ${shareText(name, n)}`).join(", ")}`);
  legend.replaceChildren(...order.map(([name, n]) => el("li", {}, label(name), ` ${shareText(name, n)}`)));
}

function buildScores() {
  const start = data.weights.reduce((sum, weight) => sum + weight, 0) > 0 ? data.weights : [30, 40, 30];
  for (const term of TERMS) byId(`weight-${term}`).addEventListener("input", renderScores);
  for (const id of ["score-normalised", "score-literal"])
    byId(id).addEventListener("change", () => { renderMap(); renderScores(); });
  for (const button of document.querySelectorAll("[data-preset]"))
    button.addEventListener("click", () => setWeights(PRESETS[button.dataset.preset]));
  byId("triangle").addEventListener("click", (event) => {
    const box = byId("triangle").getBoundingClientRect();
    const x = ((event.clientX - box.left) * 280) / box.width;
    const y = ((event.clientY - box.top) * 230) / box.height;
    const quality = (CORNERS.size[1] - y) / (CORNERS.size[1] - CORNERS.quality[1]);
    const speed = (x - CORNERS.size[0] - quality * (CORNERS.quality[0] - CORNERS.size[0])) / (CORNERS.speed[0] - CORNERS.size[0]);
    const weights = [1 - quality - speed, quality, speed].map((weight) => Math.min(1, Math.max(0, weight)));
    setWeights(weights);
  });
  setWeights(start);
  listeners.push(renderMap, renderScores);
}

/* -- memory -- */

const CONTEXTS = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072];

function renderFit() {
  const ram = Number(byId("ram").value);
  const nCtx = CONTEXTS[Number(byId("context").value)];
  byId("ram-value").textContent = `${ram} GB`;
  byId("ram").setAttribute("aria-valuetext", `${ram} gigabytes`);
  byId("context-value").textContent = `${nCtx.toLocaleString("en")} tokens`;
  byId("context").setAttribute("aria-valuetext", `${nCtx} tokens`);
  const rows = data.formats.filter((format) => shown.has(format.name)).map((format) => ({ name: format.name, ...fit(format.memory, ram, nCtx, data.fit) }));
  const fitting = rows.filter((row) => row.verdict === "fits").map((row) => row.name);
  const measured = rows.filter((row) => row.need !== null);
  const beyond = data.fit.n_ctx_train > 0 && nCtx > data.fit.n_ctx_train;
  byId("fit-words").textContent = !measured.length
    ? "Memory was not measured."
    : beyond ? "A context longer than the model was trained for." : fitting.length === measured.length
      ? "Every format shown fits."
      : fitting.length ? `These fit: ${inWords(fitting)}.` : "No format shown fits comfortably.";
  byId("fit-note").textContent =
    beyond ? `The model was trained for ${data.fit.n_ctx_train.toLocaleString("en")} tokens of context at most.` : "";
  byId("fit-free").textContent = `${gib(rows[0].free)} of ${ram} GiB are left after ${gib(rows[0].reserve)} for the system.`;
  byId("fit").replaceChildren(
    ...rows.map((row) =>
      el(
        "tr",
        { "data-fit": row.name, "data-verdict": row.verdict, "data-need": row.need },
        el("th", { scope: "row" }, label(row.name)),
        el("td", { class: "number" }, row.need === null ? "not measured" : sizeText(row.need)),
        el("td", { class: "number extra" }, row.kv === null ? "" : sizeText(row.kv)),
        el("td", {}, el("span", { class: `pill ${{ fits: "good", tight: "fair", [data.fit.too_long]: "fair" }[row.verdict] || "bad"}` }, row.verdict)),
      ),
    ),
  );
}

function buildFit() {
  for (const id of ["ram", "context"]) byId(id).addEventListener("input", renderFit);
  listeners.push(renderFit);
}

/* -- chart -- */

const MEASURES = {
  increase: { name: "Increase of perplexity, % (lower is better)", key: "ppl_increase_pct", low: "ppl_increase_low_pct", high: "ppl_increase_high_pct", limit: true, text: (v) => signed(v) },
  generation: { name: "Generated tokens per second (higher is better)", key: "tg_tps", low: "tg_low_tps", high: "tg_high_tps", text: (v) => `${significant(v)} tokens/second` },
  prompt: { name: "Prompt tokens per second (higher is better)", key: "pp_tps", low: "pp_low_tps", high: "pp_high_tps", text: (v) => `${significant(v)} tokens/second` },
  memory: { name: "Peak memory, MB (lower is better)", key: "peak_rss_bytes", scale: 1e6, fromZero: true, text: (v) => `${significant(v)} MB` },
};

function ticks(low, high, count) {
  const step0 = (high - low || 1) / count;
  const power = 10 ** Math.floor(Math.log10(step0));
  const step = [1, 2, 5, 10].map((k) => k * power).find((one) => one >= step0);
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

const overlap = (one, other) => one.x0 < other.x1 && other.x0 < one.x1 && one.y0 < other.y1 && other.y0 < one.y1;

/* Whether a straight line touches a box. */
function meets([x0, y0], [x1, y1], box) {
  let [enter, leave] = [0, 1];
  for (const [step, before, after] of [[x1 - x0, box.x0 - x0, box.x1 - x0], [y1 - y0, box.y0 - y0, box.y1 - y0]]) {
    if (step === 0) {
      if (before > 0 || after < 0) return false;
      continue;
    }
    const ends = [before / step, after / step];
    [enter, leave] = [Math.max(enter, Math.min(...ends)), Math.min(leave, Math.max(...ends))];
  }
  return enter <= leave;
}

function cross(one, other) {
  const side = ([[x0, y0], [x1, y1]], [x, y]) => (x1 - x0) * (y - y0) - (y1 - y0) * (x - x0);
  return side(one, other[0]) * side(one, other[1]) < 0 && side(other, one[0]) * side(other, one[1]) < 0;
}

const ANGLES = [45, -45, 135, -135, 0, 180, 90, -90, 20, -20, 160, -160, 70, -70, 110, -110].map((degrees) => (degrees * Math.PI) / 180);
const RADII = [9, 14, 22, 32, 44, 58, 74, 92, 112, 135, 160, 190, 225];

/* Names beside their markers, clear of all that is taken; one that stands farther off gets a thin line. Of several orders
   the one with the most names is kept; a name that then has no room is left out: its marker still has its title. */
function placeLabels(names, spots, taken, frame) {
  const places = names.map((_, place) => place);
  const by = (key) => [...places].sort((one, other) => key(spots[one]) - key(spots[other]));
  const orders = [places, [...places].reverse(), by(([x]) => x), by(([x]) => -x), by(([, y]) => y), by(([, y]) => -y), by(([x, y]) => x - y)];
  return orders.map((order) => labelsInOrder(order, names, spots, [...taken], frame))
    .reduce((best, one) => (one.count > best.count ? one : best)).parts;
}

function labelsInOrder(order, names, spots, taken, frame) {
  const parts = [];
  const leaders = [];
  let count = 0;
  for (const place of order) {
    const [x, y] = spots[place];
    const half = names[place].length * 4.1 + 3;
    const others = taken.filter((box) => !(box.x0 <= x && x <= box.x1 && box.y0 <= y && y <= box.y1));
    const free = RADII.flatMap((radius) => ANGLES.map((angle) => [x + Math.cos(angle) * (radius + half), y - Math.sin(angle) * (radius + 8)]))
      .map(([cx, cy]) => {
        const box = { x0: cx - half, x1: cx + half, y0: cy - 8, y1: cy + 8 };
        const end = [Math.min(Math.max(x, box.x0), box.x1), Math.min(Math.max(y, box.y0), box.y1)];
        return { cx, cy, box, end, far: Math.hypot(end[0] - x, end[1] - y) > 16 };
      })
      .find(({ box, end, far }) =>
        box.x0 >= frame.x0 && box.x1 <= frame.x1 && box.y0 >= frame.y0 && box.y1 <= frame.y1 &&
        !taken.some((other) => overlap(box, other)) && !leaders.some(([from, to]) => meets(from, to, box)) &&
        !(far && (others.some((other) => meets([x, y], end, other)) || leaders.some((line) => cross(line, [[x, y], end])))));
    if (!free) continue;
    if (free.far) {
      parts.push(svgEl("line", { x1: x, y1: y, x2: free.end[0], y2: free.end[1], class: "leader" }));
      leaders.push([[x, y], free.end]);
    }
    taken.push(free.box);
    parts.push(svgEl("text", { x: free.cx, y: free.cy + 4, "text-anchor": "middle", class: "point-name" }, names[place]));
    count += 1;
  }
  return { parts, count };
}

function renderChart() {
  const svg = byId("chart");
  const measure = MEASURES[byId("measure").value];
  const scale = measure.scale || 1;
  const points = data.formats
    .filter((format) => shown.has(format.name))
    .map((format) => {
      const at = (key) => (key && format[key] !== null ? format[key] / scale : null);
      let value = at(measure.key);
      if (measure.key === "ppl_increase_pct" && format.name === data.base && format.ppl !== null) value = 0;
      return { format, x: format.size_bytes, value, low: at(measure.low), high: at(measure.high) };
    })
    .filter((point) => point.x !== null && point.value !== null);
  const width = Math.max(280, svg.parentNode.clientWidth);
  const height = Math.min(380, Math.max(260, width * 0.55));
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.height = `${height}px`;
  if (!points.length) {
    svg.replaceChildren(svgEl("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "Not measured"));
    svg.setAttribute("aria-label", "Not measured");
    return;
  }
  const unit = Math.max(...points.map((point) => point.x)) >= 1e9 ? ["GB", 1e9] : ["MB", 1e6];
  const ends = points.flatMap((point) => [point.value, point.low, point.high].filter((one) => one !== null));
  if (measure.limit) ends.push(data.limit_pct);
  let [bottom, top] = [Math.min(...ends), Math.max(...ends)];
  const room = (top - bottom || Math.abs(top) || 1) * 0.12;
  bottom = measure.limit ? bottom - room : measure.fromZero ? 0 : Math.max(0, bottom - room);
  top += room;
  const xs = points.map((point) => point.x / unit[1]);
  const wide = (Math.max(...xs) - Math.min(...xs) || xs[0] || 1) * 0.1;
  const [left, right] = [Math.max(0, Math.min(...xs) - wide), Math.max(...xs) + wide];
  const box = { left: 58, right: width - 12, top: 30, bottom: height - 46 };
  const px = (x) => box.left + ((x - left) / (right - left)) * (box.right - box.left);
  const py = (y) => box.bottom - ((y - bottom) / (top - bottom)) * (box.bottom - box.top);
  const parts = [svgEl("text", { x: 4, y: 14, class: "name" }, measure.name)];
  const taken = [];
  for (const tick of ticks(bottom, top, 5)) {
    parts.push(svgEl("line", { x1: box.left, x2: box.right, y1: py(tick), y2: py(tick), class: "rule" }));
    parts.push(svgEl("text", { x: box.left - 8, y: py(tick) + 4, "text-anchor": "end", class: "tick" }, String(tick)));
  }
  for (const tick of ticks(left, right, width < 420 ? 3 : 6))
    parts.push(svgEl("text", { x: px(tick), y: box.bottom + 18, "text-anchor": "middle", class: "tick" }, String(tick)));
  parts.push(svgEl("line", { x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom, class: "axis" }));
  parts.push(svgEl("text", { x: (box.left + box.right) / 2, y: height - 8, "text-anchor": "middle", class: "name" }, `File size, ${unit[0]} (smaller is better)`));
  if (measure.limit) {
    const y = py(data.limit_pct);
    parts.push(svgEl("line", { x1: box.left, x2: box.right, y1: y, y2: y, class: "limit" }));
    const words = `limit ${Number(data.limit_pct.toPrecision(6))} %`;
    const long = 7.5 * words.length;
    const struck = (at) => points.some((point) => {
      const x = px(point.x / unit[1]);
      const reach = [point.value, point.low ?? point.value, point.high ?? point.value].map(py);
      return x > at - 8 && x < at + long + 8 && Math.max(...reach) > y - 24 && Math.min(...reach) < y + 9;
    });
    const starts = [box.left + 4, ...points.map((point) => px(point.x / unit[1]) + 12)].filter((at) => at + long < box.right);
    const at = starts.find((one) => !struck(one)) ?? starts[0];
    parts.push(svgEl("text", { x: at, y: y - 5, class: "limit-name" }, words));
    taken.push({ x0: at - 4, x1: at + long, y0: y - 17, y1: y + 2 });
  }
  const spots = points.map((point) => [px(point.x / unit[1]), py(point.value)]);
  for (const [x, y] of spots) taken.push({ x0: x - 7, x1: x + 7, y0: y - 7, y1: y + 7 });
  points.forEach((point, place) => {
    const [x, y] = spots[place];
    const style = `color:${ink(point.format.color) === "currentColor" ? "inherit" : point.format.color}`;
    const group = svgEl("g", { style, class: "point" });
    if (point.low !== null && point.high !== null && point.high > point.low) {
      taken.push({ x0: x - 5, x1: x + 5, y0: py(point.high), y1: py(point.low) });
      group.append(svgEl("path", { d: `M${x} ${py(point.low)}V${py(point.high)}M${x - 4} ${py(point.low)}h8M${x - 4} ${py(point.high)}h8`, class: "whisker" }));
    }
    group.append(svgEl("path", { d: MARKERS[point.format.marker], transform: `translate(${x} ${y})`, fill: "currentColor" }));
    group.append(svgEl("title", {}, `${point.format.name}: ${sizeText(point.x)}, ${measure.text(point.value)}`));
    parts.push(group);
  });
  parts.push(...placeLabels(points.map((point) => titleOf(point.format.name)), spots, taken, { x0: box.left, x1: width, y0: box.top, y1: box.bottom }));
  svg.replaceChildren(...parts);
  svg.setAttribute("aria-label", `${measure.name} against file size. ${points.map((point) => `${point.format.name}: ${sizeText(point.x)}, ${measure.text(point.value)}`).join("; ")}.`);
}

function buildChart() {
  byId("measure").addEventListener("change", renderChart);
  let queued = 0;
  window.addEventListener("resize", () => {
    cancelAnimationFrame(queued);
    queued = requestAnimationFrame(renderChart);
  });
  listeners.push(renderChart);
}

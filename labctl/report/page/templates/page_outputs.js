/* Texts side by side, and the blind comparison. */

const DECODINGS = { greedy: "always the most likely token", sampled: "sampled" };

function outputsOf(number, decoding) {
  const entry = data.outputs.find((one) => one.number === number);
  return entry ? entry[decoding] : {};
}

function renderOutputs() {
  const number = Number(byId("prompt").value);
  const decoding = byId("decoding").value;
  const entry = data.outputs.find((one) => one.number === number);
  const texts = outputsOf(number, decoding);
  byId("texts").replaceChildren(
    ...data.formats
      .filter(({ name }) => shown.has(name) && texts[name])
      .map(({ name }) => {
        const text = texts[name];
        const body = el("p", { class: "text" }, el("span", { class: "muted" }, entry.prompt), text.same);
        if (text.first !== null)
          body.append(
            el("mark", {}, el("span", { class: "hidden-words" }, "first difference: "), text.first || "(ends here)"),
            el("span", { class: "after" }, text.rest),
          );
        else body.append(text.rest);
        const note =
          name === data.base ? "baseline"
          : text.n_same === null ? "no baseline to compare with"
          : text.first === null ? (text.n_tokens ? `all ${text.n_tokens} tokens as in ${data.base}` : `empty, as in ${data.base}`)
          : `first ${text.n_same} of ${text.n_tokens} tokens as in ${data.base}`;
        return el("article", { class: "output", "data-output": name }, el("h4", {}, label(name)), body, el("p", { class: "note" }, note));
      }),
  );
}

function buildOutputs() {
  for (const { number, prompt } of data.outputs) byId("prompt").append(el("option", { value: number }, `${number}. ${prompt}`));
  if (data.outputs.some((one) => one.number === 2)) byId("prompt").value = 2;
  for (const id of ["prompt", "decoding"]) byId(id).addEventListener("change", renderOutputs);
  listeners.push(renderOutputs);
}

/* -- blind comparison -- */

const VOTES_KIND = "labctl-blind-votes";
const STORE = `${VOTES_KIND}:${data.outputs_key}`;
const MOST_VOTES = 20000;
let votes = [];
let pair = null;

const isVote = (one) =>
  one !== null && typeof one === "object" &&
  typeof one.id === "string" && /^[0-9a-z-]{4,64}$/.test(one.id) &&
  data.outputs.some((entry) => entry.number === one.prompt) &&
  Object.hasOwn(DECODINGS, one.decoding) &&
  formatOf.has(one.left) && formatOf.has(one.right) && one.left !== one.right &&
  ["left", "right", "equal"].includes(one.pick);
const plain = ({ id, prompt, decoding, left, right, pick }) => ({ id, prompt, decoding, left, right, pick });

function loadVotes() {
  try {
    const stored = JSON.parse(localStorage.getItem(STORE) || "[]");
    if (Array.isArray(stored)) votes = stored.filter(isVote).slice(0, MOST_VOTES).map(plain);
  } catch {
    byId("vote-note").textContent = "This browser keeps no votes for this page: export them before you leave.";
  }
}

function keepVotes() {
  try {
    localStorage.setItem(STORE, JSON.stringify(votes));
  } catch {
    byId("vote-note").textContent = "This browser keeps no votes for this page: export them before you leave.";
  }
}

/* Every two formats whose texts differ; the pairs seen least come first, in random order. */
function nextPair() {
  const seen = new Map();
  const key = (prompt, decoding, names) => [prompt, decoding, ...[...names].sort()].join("\n");
  for (const vote of votes) {
    const one = key(vote.prompt, vote.decoding, [vote.left, vote.right]);
    seen.set(one, (seen.get(one) || 0) + 1);
  }
  const found = [];
  for (const entry of data.outputs)
    for (const decoding of Object.keys(DECODINGS)) {
      const names = Object.keys(entry[decoding]).filter((name) => shown.has(name));
      names.forEach((one, i) =>
        names.slice(i + 1).forEach((other) => {
          if (entry[decoding][one].text.trim() === entry[decoding][other].text.trim()) return;
          found.push({ prompt: entry.number, decoding, names: [one, other], n: seen.get(key(entry.number, decoding, [one, other])) || 0 });
        }),
      );
    }
  const least = Math.min(...found.map((one) => one.n));
  const fresh = found.filter((one) => one.n === least);
  if (!fresh.length) return null;
  const chosen = fresh[Math.floor(Math.random() * fresh.length)];
  const [left, right] = Math.random() < 0.5 ? chosen.names : [...chosen.names].reverse();
  return { prompt: chosen.prompt, decoding: chosen.decoding, left, right };
}

function renderPair() {
  pair = nextPair();
  for (const side of ["left", "equal", "right"]) byId(`pick-${side}`).disabled = pair === null;
  if (pair === null) {
    byId("blind-prompt").textContent = "There are no two different texts among the formats shown.";
    byId("text-left").textContent = byId("text-right").textContent = "";
    return;
  }
  const entry = data.outputs.find((one) => one.number === pair.prompt);
  byId("blind-prompt").textContent = entry.prompt;
  for (const side of ["left", "right"]) byId(`text-${side}`).textContent = entry[pair.decoding][pair[side]].text;
}

function vote(pick) {
  if (pair === null) return;
  if (votes.length >= MOST_VOTES) {
    byId("vote-note").textContent = "That is as many votes as one page keeps: export them and clear.";
    return;
  }
  const random = Array.from({ length: 4 }, () => Math.floor(Math.random() * 2 ** 24).toString(36)).join("");
  votes.push({ id: `${Date.now().toString(36)}-${random}`, ...pair, pick });
  keepVotes();
  byId("vote-note").textContent = `Text A was ${pair.left}, text B was ${pair.right}.`;
  renderTally();
  renderPair();
}

function renderTally() {
  const tally = new Map(data.formats.map(({ name }) => [name, { won: 0, equal: 0, lost: 0 }]));
  for (const one of votes) {
    if (one.pick === "equal") {
      tally.get(one.left).equal += 1;
      tally.get(one.right).equal += 1;
    } else {
      const won = one.pick;
      tally.get(one[won]).won += 1;
      tally.get(one[won === "left" ? "right" : "left"]).lost += 1;
    }
  }
  byId("vote-count").textContent = votes.length === 1 ? "1 vote" : `${votes.length} votes`;
  byId("undo").disabled = byId("clear").disabled = byId("export").disabled = votes.length === 0;
  byId("tally").replaceChildren(
    ...data.formats.map(({ name }) => {
      const { won, equal, lost } = tally.get(name);
      const n = won + equal + lost;
      const share = n ? `${Math.round((100 * (won + equal / 2)) / n)} %` : "–";
      return el(
        "tr",
        { "data-tally": name, "data-won": won, "data-equal": equal, "data-lost": lost },
        el("th", { scope: "row" }, label(name)),
        ...[won, equal, lost].map((count) => el("td", { class: "number" }, String(count))),
        el("td", { class: "number" }, share),
      );
    }),
  );
}

function exportVotes() {
  const content = { kind: VOTES_KIND, version: 1, model: data.model, outputs: data.outputs_key, votes };
  const url = URL.createObjectURL(new Blob([`${JSON.stringify(content, null, 1)}\n`], { type: "application/json" }));
  const link = el("a", { href: url, download: "blind-votes.json" });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

async function importVotes(file) {
  const note = byId("vote-note");
  try {
    if (file.size > 8e6) throw new Error("it is too large");
    const content = JSON.parse(await file.text());
    if (content === null || content.kind !== VOTES_KIND || !Array.isArray(content.votes)) throw new Error("it holds no votes");
    if (content.outputs !== data.outputs_key) throw new Error("its votes are about other texts");
    const known = new Set(votes.map((one) => one.id));
    const added = [];
    for (const one of content.votes.filter(isVote)) {
      if (known.has(one.id) || votes.length + added.length >= MOST_VOTES) continue;
      known.add(one.id);
      added.push(plain(one));
    }
    votes.push(...added);
    keepVotes();
    note.textContent = `${added.length === 1 ? "1 vote" : `${added.length} votes`} added, ${content.votes.length - added.length} left out (known already, or not valid).`;
    renderTally();
    renderPair();
  } catch (error) {
    note.textContent = `This file was not imported: ${error instanceof SyntaxError ? "it is not JSON" : error.message}.`;
  }
}

function buildBlind() {
  for (const side of ["left", "equal", "right"]) byId(`pick-${side}`).addEventListener("click", () => vote(side));
  byId("blind").addEventListener("keydown", (event) => {
    const side = { ArrowLeft: "left", ArrowDown: "equal", ArrowRight: "right" }[event.key];
    if (!side || !event.target.closest(".picks") || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    byId(`pick-${side}`).focus();
    vote(side);
  });
  byId("undo").addEventListener("click", () => {
    votes.pop();
    keepVotes();
    byId("vote-note").textContent = "The last vote is taken back.";
    renderTally();
  });
  byId("clear").addEventListener("click", () => {
    if (!window.confirm(`Delete all ${votes.length} votes?`)) return;
    votes = [];
    keepVotes();
    byId("vote-note").textContent = "All votes are deleted.";
    renderTally();
    renderPair();
  });
  byId("export").addEventListener("click", exportVotes);
  byId("import").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (file) await importVotes(file);
    event.target.value = "";
  });
  loadVotes();
  listeners.push(renderTally, renderPair);
}

function printPart(part) {
  document.body.dataset.print = part;
  window.print();
}

buildSwitches();
buildScores();
buildFit();
buildChart();
if (data.outputs.length) {
  buildOutputs();
  buildBlind();
}
for (const button of document.querySelectorAll("[data-print-part]"))
  button.addEventListener("click", () => printPart(button.dataset.printPart));
window.addEventListener("afterprint", () => delete document.body.dataset.print);
refresh();

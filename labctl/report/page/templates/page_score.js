/* The arithmetic of scoring.py and fit.py, step for step, so that the page and the worksheet never disagree. */

/* math.fsum: the exact sum, rounded once. Source: CPython Modules/mathmodule.c, math_fsum. */
function fsum(values) {
  const partials = [];
  for (let x of values) {
    let kept = 0;
    for (let y of partials) {
      if (Math.abs(x) < Math.abs(y)) [x, y] = [y, x];
      const high = x + y;
      const low = y - (high - x);
      if (low !== 0) partials[kept++] = low;
      x = high;
    }
    partials.length = kept;
    partials.push(x);
  }
  let n = partials.length;
  if (n === 0) return 0;
  let high = partials[--n];
  let low = 0;
  while (n > 0) {
    const x = high;
    const y = partials[--n];
    high = x + y;
    low = y - (high - x);
    if (low !== 0) break;
  }
  if (n > 0 && ((low < 0 && partials[n - 1] < 0) || (low > 0 && partials[n - 1] > 0))) {
    const y = low * 2;
    const x = high + y;
    if (y === x - high) high = x;
  }
  return high;
}

/* Python's round(): halves go to the even neighbour. */
function roundEven(value) {
  const floor = Math.floor(value);
  const over = value - floor;
  if (over !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/* scoring.py, weigh: a term without weight counts nothing, whatever it is. */
const weigh = (terms, weights) => fsum(terms.map((term, i) => (weights[i] ? term * weights[i] : 0)));

/* scoring.py, _differ */
function differ(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  return high - low > 1e-12 * Math.max(Math.abs(high), Math.abs(low));
}

/* board.py: the terms of one score, and what each term of one format is at least above another's (null: no bound). */
function literalBoard(candidates, leads) {
  return { scores: candidates, lead: (one, other, term) => leads[one][other][term] ?? -Infinity };
}

/* scoring.py, normalised_scores and scaled_leads */
function normalisedBoard(candidates, leads) {
  const columns = [0, 1, 2].map((term) => candidates.map((one) => one.terms[term]));
  const lows = columns.map((column) => Math.min(...column));
  const spans = columns.map((column, term) => (differ(column) ? Math.max(...column) - lows[term] : null));
  const literal = literalBoard(candidates, leads);
  return {
    scores: candidates.map((one) => ({
      format: one.format,
      terms: one.terms.map((value, term) => (spans[term] === null ? 0.5 : (value - lows[term]) / spans[term])),
    })),
    lead: (one, other, term) => (spans[term] === null ? 0 : literal.lead(one, other, term) / spans[term]),
  };
}

/* scoring.py, score_order: by score, of equal ones the better size term, of those the first; and which places each can have. */
function ranking(board, weights) {
  const ranked = board.scores
    .map((score, place) => ({ ...score, place, total: weigh(score.terms, weights) }))
    .map((score) => ({ ...score, rounded: Number(score.total.toFixed(12)), best: 1, worst: board.scores.length }))
    .sort((a, b) => b.rounded - a.rounded || b.terms[0] - a.terms[0] || a.place - b.place);
  const ahead = (a, b) => weigh([0, 1, 2].map((term) => board.lead(a.format, b.format, term)), weights) > 1e-12;
  ranked.forEach((a, i) => {
    for (const b of ranked.slice(i + 1)) {
      if (!ahead(a, b)) continue;
      b.best += 1;
      a.worst -= 1;
    }
  });
  return ranked;
}

/* order.py, Order.first: formats that none is shown to beat. */
const firsts = (ranked) => ranked.filter((score) => score.best === 1);

/* scoring.py, winner_map */
function winnerMap(board, steps) {
  const cells = [];
  for (let size = 0; size <= steps; size++) {
    for (let quality = 0; quality <= steps - size; quality++) {
      const weights = [size / steps, quality / steps, (steps - size - quality) / steps];
      const first = firsts(ranking(board, weights));
      cells.push({ weights, format: first[0].format, settled: first.length === 1 });
    }
  }
  return cells;
}

/* fit.py, _fit */
function fit(memory, ramGib, nCtx, rule) {
  const reserve = roundEven(rule.gib * (1 + ramGib / 8));
  const free = Math.max(0, roundEven(ramGib * rule.gib) - reserve);
  if (!memory) return { verdict: "not measured", need: null, free, reserve, kv: null };
  const kv =
    memory.kv_bytes_per_token !== null
      ? memory.kv_bytes_per_token * nCtx
      : roundEven((memory.kv_load_bytes * nCtx) / memory.n_ctx);
  const need = memory.peak_bytes + kv - memory.kv_measured_bytes;
  const beyond = rule.n_ctx_train > 0 && nCtx > rule.n_ctx_train;
  const verdict = need > free ? "does not fit" : beyond ? rule.too_long : need <= rule.comfortable * free ? "fits" : "tight";
  return { verdict, need, free, reserve, kv };
}

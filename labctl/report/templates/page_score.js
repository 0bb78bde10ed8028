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

const weigh = (terms, weights) => fsum(terms.map((term, i) => term * weights[i]));

/* scoring.py, literal_scores */
function literalTerms(candidates) {
  const base = candidates[0];
  return candidates.map((one) => ({
    format: one.format,
    terms: [1 - one.size_bytes / base.size_bytes, base.ppl / one.ppl, one.tg_tps / base.tg_tps],
  }));
}

/* scoring.py, _scaled */
function scaled(values) {
  const low = Math.min(...values);
  const high = Math.max(...values);
  if (high - low <= 1e-12 * Math.max(Math.abs(high), Math.abs(low))) return values.map(() => 0.5);
  return values.map((value) => (value - low) / (high - low));
}

/* scoring.py, normalised_scores */
function normalisedTerms(candidates) {
  const literal = literalTerms(candidates);
  const columns = [0, 1, 2].map((term) => scaled(literal.map((score) => score.terms[term])));
  return literal.map((score, row) => ({ format: score.format, terms: columns.map((column) => column[row]) }));
}

/* scoring.py, winner: the highest score; of equal ones the better size term; of those the first. */
function ranking(scores, weights) {
  return scores
    .map((score, place) => ({ ...score, place, total: weigh(score.terms, weights) }))
    .map((score) => ({ ...score, rounded: Number(score.total.toFixed(12)) }))
    .sort((a, b) => b.rounded - a.rounded || b.terms[0] - a.terms[0] || a.place - b.place);
}

/* scoring.py, winner_map */
function winnerMap(scores, steps) {
  const cells = [];
  for (let size = 0; size <= steps; size++) {
    for (let quality = 0; quality <= steps - size; quality++) {
      const weights = [size / steps, quality / steps, (steps - size - quality) / steps];
      cells.push({ weights, format: ranking(scores, weights)[0].format });
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
  const verdict = need <= rule.comfortable * free ? "fits" : need <= free ? "tight" : "does not fit";
  return { verdict, need, free, reserve, kv };
}

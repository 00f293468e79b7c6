const all = (query, root = document) => [...root.querySelectorAll(query)];
const cards = all('.swap'), rows = all('#trials tr[data-trial]'), chosen = new Set();
const tip = document.querySelector('.tip');

function show() {
  for (const card of cards) card.hidden = !chosen.has(card.dataset.trial);
  for (const row of rows) row.classList.toggle('on', chosen.has(row.dataset.trial));
  const settings = new Set(rows.filter(r => chosen.has(r.dataset.trial)).map(r => r.dataset.setting));
  for (const mark of all('[data-pick]')) mark.classList.toggle('on', settings.has(mark.dataset.pick));
}
function toggle(trial) { chosen.delete(trial) || chosen.add(trial); show(); }
function toggleSetting(number) {  // its first seed; the others have their rows
  const of = rows.filter(r => r.dataset.setting === number).map(r => r.dataset.trial).sort();
  const there = of.filter(t => chosen.has(t));
  if (there.length) there.forEach(t => chosen.delete(t)); else chosen.add(of[0]);
  show();
}
function near(number) {
  for (const item of [...rows, ...cards]) item.classList.toggle('near', item.dataset.setting === number);
}
function place(mark) {
  const card = cards.find(c => c.dataset.setting === mark.dataset.pick);
  const box = tip.parentElement.getBoundingClientRect(), at = mark.getBoundingClientRect();
  tip.replaceChildren();
  const text = card ? card.querySelector('figcaption').cloneNode(true) : null;
  if (!text) return;
  tip.append(text, card.querySelector('img').cloneNode());
  tip.hidden = false;
  const right = at.right - box.left + 12;
  tip.style.left = Math.max(4, right + 254 > box.width ? at.left - box.left - 262 : right) + 'px';
  tip.style.top = Math.min(Math.max(4, at.top - box.top - 60), Math.max(4, box.height - tip.offsetHeight - 4)) + 'px';
}
function nearest(svg, event) {
  let best = null, least = 28;
  for (const mark of all('[data-pick]', svg)) {
    const b = mark.getBoundingClientRect();
    const away = Math.hypot(event.clientX - (b.left + b.right) / 2, event.clientY - (b.top + b.bottom) / 2);
    if (away < least) [best, least] = [mark, away];
  }
  return best;
}
for (const svg of all('.figure svg')) {
  svg.addEventListener('pointermove', event => {
    const mark = nearest(svg, event);
    svg.style.cursor = mark ? 'pointer' : '';
    near(mark ? mark.dataset.pick : null);
    if (mark) place(mark); else tip.hidden = true;
  });
  svg.addEventListener('pointerleave', () => { tip.hidden = true; near(null); });
  svg.addEventListener('click', event => {
    const mark = nearest(svg, event);
    if (mark) toggleSetting(mark.dataset.pick);
  });
}
for (const mark of all('.charts [data-pick]')) {
  mark.addEventListener('click', () => toggleSetting(mark.dataset.pick));
  mark.addEventListener('pointerenter', () => near(mark.dataset.pick));
  mark.addEventListener('pointerleave', () => near(null));
}
for (const row of rows) {
  row.addEventListener('click', () => toggle(row.dataset.trial));
  row.addEventListener('keydown', event => {
    if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); toggle(row.dataset.trial); }
  });
}
for (const card of cards) card.querySelector('.drop').addEventListener('click', () => toggle(card.dataset.trial));
for (const [column, head] of all('#trials th').entries()) {
  head.querySelector('button').addEventListener('click', () => {
    const up = head.getAttribute('aria-sort') !== 'ascending', body = document.querySelector('#trials tbody');
    for (const other of all('#trials th')) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', up ? 'ascending' : 'descending');
    const key = row => row.cells[column].dataset.v, number = text => text !== '' && isFinite(text);
    const compare = (a, b) => number(a) && number(b) ? a - b : a < b ? -1 : a > b ? 1 : 0;
    body.append(...[...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      return x === '' || y === '' ? (x === '') - (y === '') : (up ? 1 : -1) * compare(x, y);
    }));
  });
}
for (const card of cards) if ('first' in card.dataset) chosen.add(card.dataset.trial);
show();

// Cards of swaps, rows of the table, and marks in the charts stand for trials and settings: choosing one shows it in all.
const all = (query, root = document) => [...root.querySelectorAll(query)];
const cards = all('.swap'), rows = all('#trials tr[data-trial]'), marks = all('svg [id*="pick-"]');
const tip = document.querySelector('.tip');
const chosen = new Set(cards.filter(card => 'first' in card.dataset).map(card => card.dataset.trial));
const settingOf = mark => mark.id.split('pick-')[1];

function show() {
  for (const card of cards) card.hidden = !chosen.has(card.dataset.trial);
  for (const row of rows) row.classList.toggle('on', chosen.has(row.dataset.trial));
  const settings = new Set(rows.filter(r => chosen.has(r.dataset.trial)).map(r => r.dataset.setting));
  for (const mark of marks) mark.classList.toggle('on', settings.has(settingOf(mark)));
}
function toggle(trial) { chosen.delete(trial) || chosen.add(trial); show(); }
function toggleSetting(number) {  // its first seed; the others have their rows
  const trials = rows.filter(r => r.dataset.setting === number).map(r => r.dataset.trial).sort();
  const there = trials.filter(t => chosen.has(t));
  if (there.length) there.forEach(t => chosen.delete(t)); else chosen.add(trials[0]);
  show();
}
function highlight(number) {
  for (const item of [...rows, ...cards]) item.classList.toggle('near', item.dataset.setting === number);
}

function showTip(mark) {
  const card = cards.find(c => c.dataset.setting === settingOf(mark));
  if (!card) return;
  tip.replaceChildren(card.querySelector('figcaption').cloneNode(true), card.querySelector('img').cloneNode());
  tip.hidden = false;
  const box = tip.parentElement.getBoundingClientRect(), at = mark.getBoundingClientRect();
  const right = at.right - box.left + 12;
  tip.style.left = Math.max(4, right + 254 > box.width ? at.left - box.left - 262 : right) + 'px';
  tip.style.top = Math.min(Math.max(4, at.top - box.top - 60), Math.max(4, box.height - tip.offsetHeight - 4)) + 'px';
}
function nearest(svg, event) {
  let best = null, least = 28;
  for (const mark of marks.filter(m => svg.contains(m))) {
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
    highlight(mark && settingOf(mark));
    if (mark) showTip(mark); else tip.hidden = true;
  });
  svg.addEventListener('pointerleave', () => { tip.hidden = true; highlight(null); });
  svg.addEventListener('click', event => {
    const mark = nearest(svg, event);
    if (mark) toggleSetting(settingOf(mark));
  });
}
for (const mark of marks.filter(m => m.closest('.charts'))) {
  mark.addEventListener('click', () => toggleSetting(settingOf(mark)));
  mark.addEventListener('pointerenter', () => highlight(settingOf(mark)));
  mark.addEventListener('pointerleave', () => highlight(null));
}
for (const row of rows) {
  row.addEventListener('click', () => toggle(row.dataset.trial));
  row.addEventListener('keydown', event => {
    if (event.key === 'Enter' || event.key === ' ') { event.preventDefault(); toggle(row.dataset.trial); }
  });
}
for (const card of cards) card.querySelector('.drop').addEventListener('click', () => toggle(card.dataset.trial));

const heads = all('#trials th'), body = document.querySelector('#trials tbody');
const isNumber = text => text !== '' && isFinite(text);
const compare = (a, b) => isNumber(a) && isNumber(b) ? a - b : a < b ? -1 : a > b ? 1 : 0;
for (const [column, head] of heads.entries()) {
  head.querySelector('button').addEventListener('click', () => {
    const ascending = head.getAttribute('aria-sort') !== 'ascending';
    for (const other of heads) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', ascending ? 'ascending' : 'descending');
    const key = row => row.cells[column].dataset.key;
    body.append(...[...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      return x === '' || y === '' ? (x === '') - (y === '') : (ascending ? 1 : -1) * compare(x, y);
    }));
  });
}
show();

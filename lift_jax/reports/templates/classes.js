// Search, sorting and pages of the table of all classes. Without it the table is a plain one.
(() => {
  const SIZE = 50, box = document.getElementById('classes');
  const table = box.querySelector('table'), body = table.tBodies[0], tools = box.querySelector('.tools');
  const input = tools.querySelector('input'), output = tools.querySelector('output');
  const [previous, next] = tools.querySelectorAll('button');
  const data = document.getElementById('class-data');
  const rows = data ? JSON.parse(data.textContent)
    : Array.from(body.rows, row => Array.from(row.cells, cell => cell.textContent));
  const number = text => parseFloat(text.replace(/,/g, '').replace('−', '-'));
  const heads = Array.from(table.tHead.rows[0].cells);
  let shown = rows, first = 0;

  function compare(column, sign) {
    return (a, b) => {
      if ('text' in heads[column].dataset) return sign * a[column].localeCompare(b[column]);
      const x = number(a[column]), y = number(b[column]);
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);  // a dash comes last either way
      return sign * (x - y);
    };
  }
  function draw() {
    const part = shown.slice(first, first + SIZE).map(row => {
      const line = document.createElement('tr');
      row.forEach((text, column) => {
        const cell = document.createElement(column ? 'td' : 'th');
        if (!column) cell.scope = 'row';
        cell.textContent = text;
        line.append(cell);
      });
      return line;
    });
    body.replaceChildren(...part);
    const count = shown.length.toLocaleString('en');
    output.textContent = shown.length
      ? `${(first + 1).toLocaleString('en')} to ${(first + part.length).toLocaleString('en')} of ${count}`
      : 'no such class';
    previous.disabled = !first;
    next.disabled = first + SIZE >= shown.length;
  }
  function search() {
    const words = input.value.toLowerCase();
    shown = rows.filter(row => row[0].toLowerCase().includes(words));
    first = 0;
    draw();
  }
  heads.forEach((head, column) => {
    const button = document.createElement('button');
    button.type = 'button';
    button.append(...head.childNodes);
    head.append(button);
    if (!head.hasAttribute('aria-sort')) head.setAttribute('aria-sort', 'none');
    button.addEventListener('click', () => {
      const sign = head.getAttribute('aria-sort') === 'ascending' ? -1 : 1;
      heads.forEach(each => each.setAttribute('aria-sort', 'none'));
      head.setAttribute('aria-sort', sign > 0 ? 'ascending' : 'descending');
      rows.sort(compare(column, sign));
      search();
    });
  });
  input.addEventListener('input', search);
  previous.addEventListener('click', () => { first -= SIZE; draw(); });
  next.addEventListener('click', () => { first += SIZE; draw(); });
  tools.hidden = false;
  draw();
})();

// A drag over the picture marks an object: a box, or an outline. Points are x, y in 0 to 1.
let points = null;

function place(event) {
  const box = element.querySelector('img').getBoundingClientRect();
  const share = (at, start, length) => Math.min(1, Math.max(0, (at - start) / length));
  return [share(event.clientX, box.left, box.width), share(event.clientY, box.top, box.height)];
}

function draw() {
  const [first, last] = [points[0], points[points.length - 1]];
  const corners = [first, [last[0], first[1]], last, [first[0], last[1]]];
  const line = props.mode === 'box' ? corners : points;
  element.querySelector('polygon').setAttribute('points', line.map((p) => p.join()).join(' '));
}

element.addEventListener('pointerdown', (event) => {
  if (event.target.tagName !== 'IMG' || event.button !== 0) return;
  event.preventDefault();
  element.setPointerCapture(event.pointerId);
  points = [place(event)];
});
element.addEventListener('pointermove', (event) => {
  if (!points) return;
  points.push(place(event));
  draw();
});
element.addEventListener('pointerup', (event) => {
  if (!points) return;
  points.push(place(event));
  trigger('drawn', { points: props.mode === 'box' ? [points[0], points[points.length - 1]] : points });
  points = null;
});
element.addEventListener('pointercancel', () => { points = null; });

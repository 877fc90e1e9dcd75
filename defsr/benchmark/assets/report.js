// The page of a benchmark: its images, all moved alike, and compared. Text from outside is only ever
// set as textContent, alt or title.
'use strict';
(() => {
  const $ = (id) => document.getElementById(id);
  const root = document.documentElement;
  const { images } = JSON.parse($('data').textContent);
  const NEAR = 2; // enlargement from which on pixels are shown as squares
  let current = 0;
  let view = null; // the one Panzoom; every frame hands its events to it
  let first = null; // the frame that it measures
  const started = new Map(); // pointer -> frame

  const make = (name, options = {}, ...children) => {
    const element = Object.assign(document.createElement(name), options);
    element.append(...children);
    return element;
  };

  // -- theme, help, tables ---------------------------------------------------------------------

  const isDark = () => getComputedStyle(root).colorScheme === 'dark' ||
    (!root.dataset.theme && matchMedia('(prefers-color-scheme: dark)').matches);
  const press = (button, on) => button.setAttribute('aria-pressed', String(on));
  press($('theme'), isDark());
  $('theme').onclick = () => {
    root.dataset.theme = isDark() ? 'light' : 'dark';
    press($('theme'), isDark());
  };
  $('help').onclick = () => $('keys').showModal();
  for (const head of document.querySelectorAll('.sortable thead th')) {
    head.tabIndex = 0;
    head.onkeydown = (event) => {
      if (event.key === 'Enter' || event.key === ' ') {
        event.preventDefault();
        head.click();
      }
    };
  }
  if (!images.length) return;

  // -- one zoom for all ------------------------------------------------------------------------

  function move(_, { x, y, scale }) { // as shares of a frame, whatever its size
    root.style.setProperty('--s', scale);
    root.style.setProperty('--x', `${(100 * x) / first.clientWidth}%`);
    root.style.setProperty('--y', `${(100 * y) / first.clientHeight}%`);
    root.classList.toggle('zoomed', scale > 1.001);
    root.classList.toggle('near', scale >= NEAR);
  }

  // An event in a frame, as if it were at the same place of the first.
  function shifted(event, frame) {
    const from = frame.getBoundingClientRect();
    const to = first.getBoundingClientRect();
    const factor = to.width / from.width;
    return {
      target: event.target,
      pointerId: event.pointerId,
      deltaX: event.deltaX,
      deltaY: event.deltaY,
      clientX: to.left + (event.clientX - from.left) * factor,
      clientY: to.top + (event.clientY - from.top) * factor,
      preventDefault: () => event.preventDefault(),
      stopPropagation: () => {},
    };
  }

  function follow(frame) {
    frame.addEventListener('pointerdown', (event) => {
      if (event.button) return;
      started.set(event.pointerId, frame);
      view.handleDown(shifted(event, frame));
    });
    frame.addEventListener('wheel', (event) => {
      const isWhole = view.getScale() <= 1.001;
      if (event.ctrlKey || !isWhole || event.deltaY < 0) view.zoomWithWheel(shifted(event, frame));
    }, { passive: false }); // else the page scrolls
    frame.addEventListener('dblclick', reset);
  }

  document.addEventListener('pointermove', (event) => {
    const frame = started.get(event.pointerId);
    if (frame) view.handleMove(shifted(event, frame));
  });
  for (const end of ['pointerup', 'pointercancel']) {
    document.addEventListener(end, (event) => {
      const frame = started.get(event.pointerId);
      started.delete(event.pointerId);
      if (frame) view.handleUp(shifted(event, frame));
    });
  }

  function reset() {
    view.reset({ animate: false });
  }

  // -- an image --------------------------------------------------------------------------------

  function layer(pane, side) {
    if (!pane.src) return make('div', { className: 'layer missing', textContent: 'no image' });
    const image = make('img', { src: pane.src, alt: `${pane.name}, ${side}`, draggable: false });
    if (pane.exact) image.className = 'exact';
    const found = make('div', { className: 'layer' }, image);
    if (pane.method) {
      found.classList.add('wrong');
      const label = `error map of ${pane.name}`;
      const canvas = make('canvas', { width: pane.size[0], height: pane.size[1] });
      canvas.setAttribute('role', 'img');
      canvas.setAttribute('aria-label', label);
      found.append(canvas);
    }
    return found;
  }

  function figure(pane, text) {
    const frame = make('div', { className: 'frame' }, layer(pane, text));
    const caption = make('figcaption', {}, make('b', { textContent: pane.name }));
    const scores = [['whole', pane.whole], ['window', pane.window]];
    for (const [name, score] of scores) {
      if (!score) continue;
      const label = pane.window ? `${name} ${score}` : score;
      caption.append(make('span', { className: 'score', textContent: label }));
    }
    follow(frame);
    return make('figure', {}, frame, caption);
  }

  function wide(picture) {
    const image = make('img', { src: picture.src, alt: picture.name });
    [image.width, image.height] = picture.size;
    return make('figure', {}, image, make('figcaption', { textContent: picture.name }));
  }

  function place(image) {
    const [top, left, height, width, of, by] = image.place;
    if (height === of && width === by) return `${by} × ${of} pixels, whole.`;
    return `${width} × ${height} of ${by} × ${of} pixels, from column ${left} and row ${top}.`;
  }

  function show(number) {
    current = (number + images.length) % images.length;
    const image = images[current];
    const text = `${image.dataset}, ${image.name}`;
    view?.destroy();
    started.clear();
    root.style.setProperty('--ratio', `${image.place[3]} / ${image.place[2]}`);
    $('which').value = String(current);
    $('about').textContent = `${current + 1} of ${images.length}. ${text}: ${place(image)}`;
    $('maps').textContent = image.maps;
    $('panes').replaceChildren(...image.panes.map((pane) => figure(pane, text)));
    $('wide').replaceChildren(...image.wide.map(wide));
    first = $('panes').querySelector('.frame');
    view = Panzoom(first.firstChild, {
      noBind: true, contain: 'outside', maxScale: 16, step: 0.5, pinchAndPan: true,
      setTransform: move, cursor: '', touchAction: '', overflow: '',
      handleStartEvent: (event) => root.classList.contains('zoomed') && event.preventDefault(),
    });
    reset();
    compare();
  }

  // -- before and after ------------------------------------------------------------------------

  function compare() {
    const image = images[current];
    const sides = ['left', 'right'].map((name) => {
      const pane = image.panes[Number($(name).value)] || image.panes[1];
      const part = make('div', { className: `side ${name}` }, layer(pane, image.name));
      return [part, make('span', { className: `tag ${name}`, textContent: pane.name })];
    });
    const frame = make('div', { className: 'frame' }, ...sides.flat());
    $('compare').replaceChildren(frame);
    follow(frame);
    paint();
  }

  // LR, GT and methods are the same for all images, maps stand behind them.
  const most = images.reduce((a, b) => (b.panes.length > a.panes.length ? b : a)).panes;
  const methods = [...most.keys()].filter((number) => most[number].method);
  for (const name of ['left', 'right']) {
    $(name).append(...most.map((pane, number) =>
      make('option', { value: String(number), textContent: pane.name })));
    $(name).onchange = compare;
  }
  $('left').value = String(methods[0]);
  $('right').value = String(methods.length > 1 ? methods[methods.length - 1] : 1);
  $('split').oninput = () => root.style.setProperty('--split', `${$('split').value}%`);

  // -- errors ----------------------------------------------------------------------------------

  async function pixels(image) {
    await image.decode();
    const canvas = make('canvas', { width: image.naturalWidth, height: image.naturalHeight });
    const context = canvas.getContext('2d', { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  }

  // |SR - GT|, mean of the colours, times a factor: black is right.
  async function paint() {
    if (!root.classList.contains('errors')) return;
    const shown = current;
    const factor = Number($('amplify').value) / 3;
    const gt = (await pixels(make('img', { src: images[shown].panes[1].src }))).data;
    for (const part of document.querySelectorAll('.layer.wrong')) {
      const found = await pixels(part.querySelector('img'));
      if (shown !== current) return;
      const { data } = found;
      for (let i = 0; i < data.length; i += 4) {
        const error = Math.abs(data[i] - gt[i]) + Math.abs(data[i + 1] - gt[i + 1]) +
          Math.abs(data[i + 2] - gt[i + 2]);
        data[i] = data[i + 1] = data[i + 2] = factor * error;
      }
      part.querySelector('canvas').getContext('2d').putImageData(found, 0, 0);
    }
  }

  function toggle() {
    press($('errors'), root.classList.toggle('errors'));
    paint();
  }
  $('errors').onclick = toggle;
  $('amplify').oninput = () => {
    $('times').textContent = $('amplify').value;
    paint();
  };

  // -- which image, keys -----------------------------------------------------------------------

  $('which').append(...images.map((image, number) =>
    make('option', { value: String(number), textContent: `${image.dataset}, ${image.name}` })));
  $('which').onchange = () => show(Number($('which').value));
  $('previous').onclick = () => show(current - 1);
  $('next').onclick = () => show(current + 1);
  $('reset').onclick = reset;
  const KEYS = {
    ArrowLeft: () => show(current - 1),
    ArrowRight: () => show(current + 1),
    e: toggle,
    0: reset,
    '+': () => view.zoomIn({ animate: false }),
    '-': () => view.zoomOut({ animate: false }),
    '?': () => $('keys').showModal(),
  };
  document.addEventListener('keydown', (event) => {
    const isTaken = event.target.closest('input, select, .scroll') && event.key.startsWith('Arrow');
    const more = event.ctrlKey || event.metaKey || event.altKey || isTaken || $('keys').open;
    if (!more && Object.hasOwn(KEYS, event.key)) {
      event.preventDefault();
      KEYS[event.key]();
    }
  });
  show(0);
})();

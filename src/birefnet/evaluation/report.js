"use strict";
// Texts from outside become text nodes only; see `add`.
(() => {
  const about = JSON.parse(document.querySelector("#about").textContent);
  const lower = new Set(about.lower);
  const find = (selector, inside = document) => inside.querySelector(selector);
  const start = { set: 0, method: 0, measure: about.measure, x: "rank", other: 0, sort: "name", down: 0, filter: "", page: 0, per: 50, image: null };
  const state = { ...start };

  // ---- small helpers -------------------------------------------------------------------------------------------

  function add(parent, tag, attributes = {}, text = null) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    if (text !== null) element.textContent = text;
    if (parent) parent.append(element);
    return element;
  }

  function show(measure, value) {
    if (value === null || value === undefined) return "–";
    return value.toFixed(about.decimals[measure]).replace(/^(-?)0\./, "$1.");
  }

  const percent = (value) => (value === null ? "–" : `${(100 * value).toFixed(1)} %`);

  function alarm(text) {
    const place = find("#alarm");
    place.textContent = text;
    place.hidden = false;
  }

  function compare(a, b) {
    if (a === b) return 0;
    // What has no value comes last, whichever way the rest is sorted.
    if (a === null || a === undefined) return Infinity;
    if (b === null || b === undefined) return -Infinity;
    return a < b ? -1 : 1;
  }

  function order(keys, down) {
    const numbers = Array.from(keys, (_, number) => number);
    return numbers.sort((a, b) => {
      const way = compare(keys[a], keys[b]);
      return (Math.abs(way) === Infinity || !down ? way : -way) || a - b;
    });
  }

  // A timer, not the next frame: a page that nobody sees gets no frames, and has to answer all the same.
  function shortened(callback) {
    let waiting = 0;
    return () => {
      clearTimeout(waiting);
      waiting = setTimeout(callback, 16);
    };
  }

  // ---- data: scripts beside the page, as a page opened from a disk may read no other files --------------------------

  const arrived = new Map();
  const awaited = new Map();

  window.birefnetReport = (name, data) => arrived.set(name, data);

  function need(name) {
    if (!awaited.has(name)) {
      awaited.set(name, new Promise((give, fail) => {
        const script = add(null, "script", { src: `${about.folder}/${name}.js` });
        script.onload = () => give(arrived.get(name));
        script.onerror = () => fail(new Error(`${about.folder}/${name}.js is missing: keep it beside this page`));
        document.head.append(script);
      }));
    }
    return awaited.get(name);
  }

  const link = (links, number) => (links.rest[number] === null ? null : links.start + links.rest[number]);

  // The images from the worst to the best by the chosen measure; those without a value are left out.
  function ranked(data, method, measure) {
    const values = data.methods[method].values[measure];
    return order(values, !lower.has(measure) ? 0 : 1).filter((number) => values[number] !== null);
  }

  // ---- the address tells the state, so that a view can be kept and sent ----------------------------------------------

  function readAddress() {
    const fields = new URLSearchParams(location.hash.slice(1));
    if (![...fields.values()].some((value) => value !== "")) return false;
    Object.assign(state, start);
    for (const [key, value] of fields) {
      if (!(key in start)) continue;
      state[key] = typeof start[key] === "number" ? Math.max(0, Number.parseInt(value, 10) || 0) : value;
    }
    mend();
    return true;
  }

  // An address may be of another report, or made up.
  function mend() {
    if (state.set >= about.sets.length) state.set = 0;
    const methods = about.methods[state.set].length;
    if (state.method >= methods) state.method = 0;
    if (state.other >= methods) state.other = state.method;
    if (!about.measures.includes(state.measure)) state.measure = about.measure;
    if (![25, 50, 100].includes(state.per)) state.per = 50;
  }

  function writeAddress() {
    const fields = new URLSearchParams();
    for (const key of Object.keys(start)) if (state[key] !== start[key] && state[key] !== null) fields.set(key, state[key]);
    const text = fields.toString();
    history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
  }

  // ---- tables ------------------------------------------------------------------------------------------------------

  function mark(head, key, down) {
    for (const button of head.querySelectorAll("button")) {
      const cell = button.closest("th");
      if (button.dataset.key === key) cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  // The first click shows the best on top: large values first, but for names and errors.
  const firstDown = (key) => (key === "name" || key === "method" || key === "set" || lower.has(key) ? 0 : 1);

  function sortableScores() {
    const table = find("#scores");
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const buttons = [...table.tHead.querySelectorAll("button")];
    let key = null;
    let down = 0;
    table.tHead.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      down = key === button.dataset.key ? 1 - down : firstDown(button.dataset.key);
      key = button.dataset.key;
      const column = buttons.indexOf(button);
      const keys = rows.map(({ cells }) => {
        const cell = cells[column];
        if (column < 2) return cell.textContent;
        return cell.dataset.value === undefined ? null : Number(cell.dataset.value);
      });
      body.replaceChildren(...order(keys, down).map((number) => rows[number]));
      mark(table.tHead, key, down);
    });
  }

  // One page of a long list: `columns` are {key, title, hint, kind}, `fill(cell, row, column)` writes a cell.
  function pagedTable(place, columns, rows, fill, view, changed) {
    const pages = Math.max(1, Math.ceil(rows.length / view.per));
    view.page = Math.min(view.page, pages - 1);
    const first = view.page * view.per;
    const shown = rows.slice(first, first + view.per);
    const focused = document.activeElement?.dataset?.control;
    place.replaceChildren();
    if (rows.length > 25) {
      const pager = add(place, "div", { class: "pager" });
      const move = (control, text, page, label) => {
        const button = add(pager, "button", { type: "button", "data-control": control, "aria-label": label }, text);
        button.disabled = page < 0 || page >= pages || page === view.page;
        button.onclick = () => changed({ page });
      };
      move("first", "«", 0, "first page");
      move("before", "‹", view.page - 1, "page before");
      add(pager, "span", {}, `${(first + 1).toLocaleString("en")} to ${(first + shown.length).toLocaleString("en")} of ${rows.length.toLocaleString("en")}`);
      move("after", "›", view.page + 1, "next page");
      move("last", "»", pages - 1, "last page");
      const select = add(add(pager, "label", {}, "rows "), "select", { "data-control": "per" });
      for (const per of [25, 50, 100]) add(select, "option", per === view.per ? { selected: "" } : {}, String(per));
      select.onchange = () => changed({ per: Number(select.value), page: 0 });
    }
    const wide = add(place, "div", { class: "wide", tabindex: "0", role: "region", "aria-label": "list" });
    const table = add(wide, "table", { class: "numbers" });
    const head = add(add(table, "thead"), "tr");
    for (const column of columns) {
      const cell = add(head, "th", { scope: "col", class: column.kind || "" });
      if (!view.sort) { cell.textContent = column.title; continue; }
      const button = add(cell, "button", { type: "button", "data-key": column.key, "data-control": `sort-${column.key}` });
      column.title.split(/(?<=[a-z])(?=[A-Z]{2})/).forEach((part, place) => {
        if (place) add(button, "wbr");
        button.append(part);
      });
      if (column.hint) button.title = column.hint;
      button.onclick = () => changed({ sort: column.key, down: view.sort === column.key ? 1 - view.down : firstDown(column.key), page: 0 });
    }
    if (view.sort) mark(head, view.sort, view.down);
    const body = add(table, "tbody");
    for (const row of shown) {
      const line = add(body, "tr");
      columns.forEach((column, number) => {
        const cell = add(line, number ? "td" : "th", number ? {} : { scope: "row" });
        if (column.kind) cell.className = column.kind;
        fill(cell, row, column.key);
      });
    }
    if (focused) find(`[data-control="${CSS.escape(focused)}"]`, place)?.focus();
  }

  function showProblems() {
    const folded = find("#problems");
    const view = { page: 0, per: 50 };
    const columns = ["kind", "file", "detail", "method", "set"].map((key) => ({ key, title: key, kind: key === "kind" ? "text" : "free" }));
    const places = { method: 0, set: 1, kind: 2, file: 3, detail: 4 };
    const draw = async () => {
      const rows = await need("problems");
      pagedTable(find(".paged", folded), columns, rows, (cell, row, key) => { cell.textContent = row[places[key]]; }, view, (change) => {
        Object.assign(view, change);
        draw();
      });
    };
    folded.addEventListener("toggle", () => { if (folded.open) draw().catch((error) => alarm(error.message)); });
  }

  let listed = [];

  function showImages(data) {
    const { values, notes } = data.methods[state.method];
    const columns = [
      { key: "name", title: "name", kind: "text" },
      { key: "pixels", title: "size", hint: "width x height" },
      { key: "share", title: "object", hint: "share of the picture that is the object" },
      ...about.measures.map((key) => ({ key, title: key, hint: lower.has(key) ? "less is better" : "more is better" })),
    ];
    if (Object.keys(notes).length) columns.push({ key: "notes", title: "notes", kind: "free" });
    if (!columns.some(({ key }) => key === state.sort)) state.sort = "name";
    const keys = {
      name: () => data.names,
      pixels: () => data.sizes.map((size) => (size ? size[0] * size[1] : null)),
      share: () => data.shares,
      notes: () => data.names.map((_, number) => notes[number]?.length ?? null),
    }[state.sort] || (() => values[state.sort]);
    const wanted = state.filter.toLowerCase();
    listed = order(keys(), state.down).filter((number) => data.names[number].toLowerCase().includes(wanted));
    const fill = (cell, number, key) => {
      if (key === "name") {
        const button = add(cell, "button", { type: "button", class: "name", title: data.names[number] }, data.names[number]);
        button.onclick = () => open(number, listed);
      } else if (key === "pixels") {
        const size = data.sizes[number];
        cell.textContent = size ? `${size[1]} x ${size[0]}` : "–";
      } else if (key === "share") cell.textContent = percent(data.shares[number]);
      else if (key === "notes") cell.textContent = (notes[number] || []).join("; ");
      else cell.textContent = show(key, values[key][number]);
    };
    pagedTable(find("#images .paged"), columns, listed, fill, state, (change) => {
      Object.assign(state, change);
      showImages(data);
      writeAddress();
    });
    if (!listed.length) add(find("#images .paged"), "p", { class: "remark" }, "No name contains this.");
  }

  // ---- points ------------------------------------------------------------------------------------------------------

  const points = { list: [], at: -1, draw: () => {} };

  function across(data) {
    if (state.x === "rank") {
      const places = new Array(data.names.length).fill(null);
      const values = data.methods[state.method].values[state.measure];
      order(values, 0).filter((number) => values[number] !== null).forEach((number, place) => { places[number] = place + 1; });
      return { title: "position in sorted order", values: places };
    }
    if (state.x === "share") return { title: "object's share of the picture", values: data.shares };
    if (state.x === "pixels") return { title: "megapixels", values: data.sizes.map((size) => (size ? (size[0] * size[1]) / 1e6 : null)) };
    const names = about.methods[state.set];
    const of = names.length > 1 ? ` of ${names[state.other]}` : "";
    return { title: state.x + of, values: data.methods[state.other].values[state.x] };
  }

  function ticks(low, high) {
    const rough = (high - low) / 5 || 1;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
    const found = [];
    for (let tick = Math.ceil(low / step - 1e-9) * step; tick <= high + step * 1e-6; tick += step) found.push(Number(tick.toPrecision(10)));
    return found;
  }

  function range(values) {
    let low = Infinity;
    let high = -Infinity;
    for (const value of values) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (low > high) return [0, 1];
    const margin = (high - low) * 0.03 || Math.abs(high) * 0.05 || 0.5;
    return [low - margin, high + margin];
  }

  function showPoints(data) {
    const canvas = find("#scatter canvas");
    const names = about.methods[state.set];
    const upTitle = names.length > 1 ? `${state.measure} of ${names[state.method]}` : state.measure;
    const up = data.methods[state.method].values[state.measure];
    const horizontal = across(data);
    const list = data.names.map((_, number) => number).filter((number) => up[number] !== null && horizontal.values[number] !== null && horizontal.values[number] !== undefined);
    list.sort((a, b) => horizontal.values[a] - horizontal.values[b] || up[a] - up[b]);
    const xs = list.map((number) => horizontal.values[number]);
    const ys = list.map((number) => up[number]);
    const [left, right] = range(xs);
    const [bottom, top] = range(ys);
    canvas.setAttribute("aria-label", `${list.length} images: ${upTitle} over ${horizontal.title}`);
    find("#up").textContent = upTitle;

    points.draw = (ink = null) => {
      const { width, height } = canvas.getBoundingClientRect();
      if (!width) return;
      const scale = window.devicePixelRatio || 1;
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
      const colours = getComputedStyle(document.documentElement);
      const colour = (name) => ink?.[name] || colours.getPropertyValue(name).trim();
      const pen = canvas.getContext("2d");
      pen.scale(scale, scale);
      pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
      const box = { left: 56, right: width - 10, top: 22, bottom: height - 38 };
      const toX = (value) => box.left + ((value - left) / (right - left)) * (box.right - box.left);
      const toY = (value) => box.bottom - ((value - bottom) / (top - bottom)) * (box.bottom - box.top);
      pen.strokeStyle = colour("--edge");
      pen.fillStyle = colour("--pale");
      pen.textAlign = "center";
      pen.beginPath();
      for (const tick of ticks(left, right)) {
        pen.moveTo(toX(tick), box.top);
        pen.lineTo(toX(tick), box.bottom);
        pen.fillText(String(tick), toX(tick), box.bottom + 15);
      }
      pen.textAlign = "right";
      for (const tick of ticks(bottom, top)) {
        pen.moveTo(box.left, toY(tick));
        pen.lineTo(box.right, toY(tick));
        pen.fillText(String(tick), box.left - 6, toY(tick) + 4);
      }
      pen.stroke();
      pen.fillStyle = colour("--ink");
      pen.textAlign = "center";
      pen.fillText(horizontal.title, (box.left + box.right) / 2, height - 6);
      pen.textAlign = "left";
      pen.fillText(upTitle, 4, 13);
      const px = Float32Array.from(xs, toX);
      const py = Float32Array.from(ys, toY);
      const radius = list.length > 2000 ? 2 : list.length > 400 ? 2.7 : 3.6;
      pen.fillStyle = colour("--point");
      pen.globalAlpha = list.length > 400 ? 0.5 : 0.75;
      for (let place = 0; place < list.length; place += 1) {
        pen.beginPath();
        pen.arc(px[place], py[place], radius, 0, 7);
        pen.fill();
      }
      Object.assign(points, { px, py, width });
    };
    points.tell = (place) => `${data.names[list[place]]}: ${state.measure} ${show(state.measure, ys[place])}, ${horizontal.title} ${state.x === "share" ? percent(xs[place]) : state.x in about.decimals ? show(state.x, xs[place]) : Number(xs[place].toPrecision(4))}`;
    points.list = list;
    points.draw();
    point(-1);
  }

  function point(place) {
    points.at = place;
    const ring = find(".ring");
    const tip = find(".tip");
    ring.hidden = tip.hidden = place < 0;
    if (place < 0) return;
    const x = points.px[place];
    const y = points.py[place];
    ring.style.left = `${x}px`;
    ring.style.top = `${y}px`;
    tip.textContent = points.tell(place);
    tip.style.left = x < points.width / 2 ? `${x + 14}px` : "";
    tip.style.right = x < points.width / 2 ? "" : `${points.width - x + 14}px`;
    tip.style.top = `${Math.max(0, y - 12)}px`;
  }

  function nearest(x, y) {
    let found = -1;
    let least = 24 * 24;
    for (let place = 0; place < points.list.length; place += 1) {
      const away = (points.px[place] - x) ** 2 + (points.py[place] - y) ** 2;
      if (away < least) [least, found] = [away, place];
    }
    return found;
  }

  function listenToPoints() {
    const canvas = find("#scatter canvas");
    let mouse = [0, 0];
    const follow = shortened(() => point(nearest(...mouse)));
    canvas.addEventListener("pointermove", (event) => { mouse = [event.offsetX, event.offsetY]; follow(); });
    canvas.addEventListener("pointerleave", () => { if (document.activeElement !== canvas) { mouse = [-999, -999]; follow(); } });
    canvas.addEventListener("click", (event) => {
      const place = nearest(event.offsetX, event.offsetY);
      if (place >= 0) open(points.list[place], points.list);
    });
    canvas.addEventListener("keydown", (event) => {
      const last = points.list.length - 1;
      const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: 10, ArrowDown: -10 };
      let place = points.at;
      if (event.key in steps) place = Math.min(last, Math.max(0, place + steps[event.key]));
      else if (event.key === "Home") place = Math.min(0, last);
      else if (event.key === "End") place = last;
      else if (event.key === "Enter" && place >= 0) { open(points.list[place], points.list); return; }
      else return;
      event.preventDefault();
      point(place);
      if (place >= 0) find("#told").textContent = points.tell(place);
    });
    new ResizeObserver(shortened(() => { points.draw(); point(-1); })).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => points.draw());
    // A canvas does not know that it is printed, where colours are those of light paper.
    addEventListener("beforeprint", () => points.draw({ "--ink": "#000", "--pale": "#555", "--edge": "#ccc", "--point": "#0072b2" }));
    addEventListener("afterprint", () => points.draw());
  }

  // ---- pictures ----------------------------------------------------------------------------------------------------

  // The pictures of an image: those made for the report, else straight from the image's own files.
  function views(data, number) {
    const made = data.pictures[number];
    const names = about.methods[state.set];
    const alone = names.length === 1;
    const address = (view, large) => {
      const kind = view === "photo" || view[0] === "e" ? "jpg" : "png";
      return `${about.folder}/pictures/${made.id}-${view}${large && about.large ? "-large" : ""}.${kind}`;
    };
    const one = (view, title, method, original) => {
      if (made) {
        const there = made.views.includes(view);
        return { view, title, method, small: there ? address(view, false) : null, large: there ? address(view, true) : null };
      }
      return { view, title, method, small: original, large: original, live: view[0] === "e" };
    };
    return [
      one("photo", "image", null, link(data.photos, number)),
      one("truth", "truth", null, link(data.truths, number)),
      ...names.flatMap((name, method) => [
        one(`p${method}`, alone ? "prediction" : `${name}: prediction`, method, link(data.methods[method].predictions, number)),
        one(`e${method}`, alone ? "errors" : `${name}: errors`, method, null),
      ]),
    ];
  }

  function placeholder(place, text) {
    place.replaceChildren();
    add(place, "span", { class: "none" }, text);
  }

  function picture(place, address, text, eager = false) {
    if (!address) {
      placeholder(place, "no such picture");
      return null;
    }
    const image = add(place, "img", { alt: text, loading: eager ? "eager" : "lazy", decoding: "async" });
    image.onerror = () => placeholder(place, "cannot be shown: the file has moved, or browsers do not show its kind");
    image.src = address;
    return image;
  }

  // Errors without a picture made for them, painted by ways of blending, as a page may show but not read other files.
  function paintErrors(place, truth, prediction, text) {
    const limit = Math.min(1, 1280 / Math.max(truth.naturalWidth, truth.naturalHeight));
    const width = Math.max(1, Math.round(truth.naturalWidth * limit));
    const height = Math.max(1, Math.round(truth.naturalHeight * limit));
    const layer = (...steps) => {
      const canvas = add(null, "canvas", { width, height });
      const pen = canvas.getContext("2d");
      for (const [way, what] of steps) {
        pen.globalCompositeOperation = way;
        if (typeof what === "string") {
          pen.fillStyle = what;
          pen.fillRect(0, 0, width, height);
        } else pen.drawImage(what, 0, 0, width, height);
      }
      return canvas;
    };
    const both = layer(["source-over", truth], ["darken", prediction]);
    const [excess, lack] = [prediction, truth].map((side) => layer(["source-over", side], ["difference", both]));
    const [positive, negative] = about.colours.map((colour) => `rgb(${colour.join(" ")})`);
    const right = layer(["source-over", excess], ["lighter", lack], ["difference", "#fff"]);
    const canvas = layer(
      ["source-over", truth], ["multiply", "#808080"], ["difference", "#d4d4d4"], ["multiply", right],
      ["lighter", layer(["source-over", excess], ["multiply", positive])],
      ["lighter", layer(["source-over", lack], ["multiply", negative])],
    );
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", text);
    place.replaceChildren(canvas);
  }

  function paintWhenThere(place, truth, prediction, text) {
    if (!truth || !prediction) {
      placeholder(place, "no truth or no prediction");
      return;
    }
    const paint = () => {
      if (truth.complete && prediction.complete && truth.naturalWidth && prediction.naturalWidth) paintErrors(place, truth, prediction, text);
    };
    for (const image of [truth, prediction]) {
      image.addEventListener("load", paint);
      image.addEventListener("error", () => placeholder(place, "no truth or no prediction"));
    }
    paint();
  }

  function notesOf(data, number) {
    const names = about.methods[state.set];
    const found = new Map((data.pictures[number]?.notes || []).map((note) => [note, names]));
    data.methods.forEach((method, place) => {
      for (const note of method.notes[number] || []) found.set(note, [...(found.get(note) || []), names[place]]);
    });
    // What is said of every method is said once.
    return [...found].map(([note, of]) => (of.length < names.length ? `${of.join(", ")}: ${note}` : note));
  }

  function addNotes(place, notes) {
    if (!notes.length) return;
    const list = add(place, "ul", { class: "notes" });
    for (const note of notes) add(list, "li", {}, note);
  }

  function showCases(data) {
    const all = ranked(data, state.method, state.measure);
    const half = Math.min(about.half, Math.ceil(all.length / 2));
    const values = data.methods[state.method].values[state.measure];
    const lists = { worst: all.slice(0, half), best: all.slice(Math.max(half, all.length - about.half)).reverse() };
    for (const [name, numbers] of Object.entries(lists)) {
      const place = find(`#${name}`);
      place.replaceChildren();
      numbers.forEach((number, rank) => {
        const box = add(place, "article", { class: "case" });
        const title = add(box, "h4", {}, `${rank + 1}. ${data.names[number]} `);
        add(title, "b", {}, `${state.measure} ${show(state.measure, values[number])}`);
        const strip = add(box, "div", { class: "strip" });
        const shown = {};
        let pair = null;
        views(data, number).forEach((view, at) => {
          if (at % 2 === 0) pair = add(strip, "div", { class: "pair" });
          const figure = add(pair, "figure", { class: "picture" });
          const button = add(figure, "button", { type: "button", "aria-label": `enlarge ${view.title} of ${data.names[number]}` });
          const text = `${view.title} of ${data.names[number]}`;
          if (view.live) paintWhenThere(button, shown.truth, shown[`p${view.method}`], text);
          else shown[view.view] = picture(button, view.small, text);
          button.onclick = () => open(number, numbers, view.view);
          const score = view.method !== null && view.view[0] === "e" ? ` ${state.measure} ${show(state.measure, data.methods[view.method].values[state.measure][number])}` : "";
          add(figure, "figcaption", { title: view.title + score }, view.title + score);
        });
        addNotes(box, notesOf(data, number));
      });
      if (!numbers.length) add(place, "p", { class: "remark" }, "None.");
    }
  }

  // ---- one image, large ---------------------------------------------------------------------------------------------

  const viewer = find("#viewer");
  const viewed = { list: [], number: 0, view: "photo", data: null };

  function open(number, list, view = null) {
    viewed.data = arrived.get(`set-${state.set}`);
    Object.assign(viewed, { number, list: [...list], view: view || `e${state.method}` });
    showViewer();
    if (!viewer.open) viewer.showModal();
  }

  function showViewer() {
    const { data, number } = viewed;
    const all = views(data, number);
    const place = viewed.list.indexOf(number);
    find("#viewer-name").textContent = data.names[number];
    for (const button of viewer.querySelectorAll("[data-step]")) {
      button.disabled = viewed.list[place + Number(button.dataset.step)] === undefined;
    }
    const tabs = find(".tabs", viewer);
    const focused = tabs.contains(document.activeElement);
    tabs.replaceChildren();
    for (const view of all) {
      const button = add(tabs, "button", { type: "button", "aria-pressed": view.view === viewed.view }, view.title);
      button.onclick = () => { viewed.view = view.view; showViewer(); };
      if (focused && view.view === viewed.view) button.focus();
    }
    const stage = find(".stage", viewer);
    stage.replaceChildren();
    const current = all.find(({ view }) => view === viewed.view) || all[0];
    const text = `${current.title} of ${data.names[number]}`;
    if (current.live) {
      const [truth, prediction] = ["truth", `p${current.method}`].map((key) => picture(document.createElement("div"), all.find(({ view }) => view === key).small, "", true));
      placeholder(stage, "…");
      paintWhenThere(stage, truth, prediction, text);
    } else picture(stage, current.large, text, true);
    const facts = find(".facts", viewer);
    facts.replaceChildren();
    const table = add(facts, "table", { class: "numbers" });
    const head = add(add(table, "thead"), "tr");
    add(head, "th", { scope: "col", class: "text" }, "measure");
    for (const name of about.methods[state.set]) add(head, "th", { scope: "col" }, name);
    const body = add(table, "tbody");
    for (const measure of about.measures) {
      const line = add(body, "tr");
      add(line, "th", { scope: "row", class: "text" }, `${measure} ${lower.has(measure) ? "↓" : "↑"}`);
      for (const method of data.methods) add(line, "td", {}, show(measure, method.values[measure][number]));
    }
    const size = data.sizes[number];
    add(facts, "p", { class: "remark" }, `${size ? `${size[1]} x ${size[0]} pixels` : ""}; the object takes ${percent(data.shares[number])} of them.`);
    addNotes(facts, notesOf(data, number));
    state.image = data.names[number];
    writeAddress();
  }

  function listenToViewer() {
    const step = (by) => {
      const next = viewed.list[viewed.list.indexOf(viewed.number) + by];
      if (next === undefined) return;
      viewed.number = next;
      showViewer();
    };
    for (const button of viewer.querySelectorAll("[data-step]")) button.onclick = () => step(Number(button.dataset.step));
    find(".close", viewer).onclick = () => viewer.close();
    viewer.addEventListener("close", () => { state.image = null; writeAddress(); });
    viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
    viewer.addEventListener("keydown", (event) => {
      const all = views(viewed.data, viewed.number);
      const place = all.findIndex(({ view }) => view === viewed.view);
      const turn = { ArrowLeft: all.length - 1, ArrowRight: 1 }[event.key];
      if (turn) {
        viewed.view = all[(place + turn) % all.length].view;
        showViewer();
        event.preventDefault();
      } else if (event.key === "n") step(1);
      else if (event.key === "p") step(-1);
    });
  }

  // ---- everything together --------------------------------------------------------------------------------------------

  function fillSelect(select, options, chosen) {
    select.replaceChildren();
    for (const [value, text] of options) add(select, "option", { value }, text);
    select.value = String(chosen);
    select.disabled = options.length < 2;
  }

  function showChoice() {
    const methods = about.methods[state.set].map((name, number) => [number, name]);
    const measures = about.measures.map((name) => [name, name]);
    fillSelect(find("[name=set]"), about.sets.map((name, number) => [number, name]), state.set);
    fillSelect(find("[name=method]"), methods, state.method);
    fillSelect(find("[name=measure]"), measures, state.measure);
    const axes = [["rank", "position in sorted order"], ["share", "object's share of the picture"], ["pixels", "megapixels"], ...measures];
    if (!axes.some(([key]) => key === state.x)) state.x = "rank";
    fillSelect(find("[name=x]"), axes, state.x);
    fillSelect(find("[name=other]"), methods, state.other);
    find("#of").hidden = methods.length < 2 || !about.measures.includes(state.x);
    find("[name=filter]").value = state.filter;
  }

  async function showAll() {
    showChoice();
    const data = await need(`set-${state.set}`);
    showPoints(data);
    showCases(data);
    showImages(data);
    const number = state.image === null ? -1 : data.names.indexOf(state.image);
    if (number >= 0) open(number, listed.includes(number) ? listed : [number]);
    else state.image = null;
  }

  function again() {
    mend();
    writeAddress();
    showAll().catch((error) => alarm(error.message));
  }

  for (const name of ["set", "method", "measure", "x", "other"]) {
    find(`[name=${name}]`).addEventListener("change", (event) => {
      state[name] = typeof start[name] === "number" ? Number(event.target.value) : event.target.value;
      if (name === "set") Object.assign(state, { method: 0, other: 0, page: 0 });
      again();
    });
  }
  find("#choice").addEventListener("submit", (event) => event.preventDefault());
  const showFiltered = shortened(() => {
    const data = arrived.get(`set-${state.set}`);
    if (data) showImages(data);
    writeAddress();
  });
  find("[name=filter]").addEventListener("input", (event) => {
    // At once, so that nothing that is shown in the meantime puts the older text back.
    Object.assign(state, { filter: event.target.value, page: 0 });
    showFiltered();
  });
  addEventListener("hashchange", () => { if (readAddress()) showAll().catch((error) => alarm(error.message)); });
  sortableScores();
  showProblems();
  listenToPoints();
  listenToViewer();
  readAddress();
  showAll().then(() => { document.documentElement.dataset.ready = "yes"; }, (error) => alarm(error.message));
})();

// Draws the pictures, fills the table of trials, sorts tables, follows links to trials. All it needs is in the page.
"use strict";
(() => {
  const told = (id) => JSON.parse(document.getElementById(id).textContent);
  const studies = told("studies-data"), sets = told("sets");
  const specs = told("specs");
  const byLabel = new Map(studies.map((study) => [study.label, study]));
  const el = (id) => document.getElementById(id);
  const make = (name, more, ...children) => {
    const made = Object.assign(document.createElement(name), more);
    made.append(...children);
    return made;
  };
  const text = (column, i) => column.texts[column.at[i]];

  // --- light and dark

  const system = matchMedia("(prefers-color-scheme: dark)");
  const kept = (value) => { // a sandboxed frame has no storage
    try { return value === undefined ? localStorage.theme : (localStorage.theme = value); } catch { return undefined; }
  };
  const dark = () => document.documentElement.hasAttribute("data-dark");
  const paint = (on) => document.documentElement.toggleAttribute("data-dark", on);
  paint(kept() ? kept() === "dark" : system.matches);
  el("theme").onclick = () => { paint(!dark()); kept(dark() ? "dark" : "light"); redraw(); };
  system.addEventListener("change", (event) => { paint(event.matches); redraw(); });

  const config = () => {
    const [ink, soft, line] = dark() ? ["#e8ebf0", "#a3adbd", "#39414e"] : ["#1b1f26", "#566072", "#dfe3ea"];
    const font = "system-ui, Segoe UI, Roboto, sans-serif";
    return {
      background: "transparent", font, view: { stroke: null }, mark: { tooltip: { content: "data" } },
      axis: { labelColor: soft, titleColor: ink, gridColor: line, domainColor: line, tickColor: line,
        titleFontWeight: 500, labelLimit: 160 },
      legend: { labelColor: soft, titleColor: ink, symbolOpacity: 1 }, text: { color: ink },
    };
  };

  // --- pictures

  const tip = el("tip");
  const tooltip = (handler, event, item, value) => {
    tip.hidden = value === null || value === undefined || value === "";
    if (tip.hidden) return;
    tip.replaceChildren(...about(item.datum));
    const { clientX: x, clientY: y } = event, { offsetWidth: w, offsetHeight: h } = tip;
    tip.style.left = `${Math.max(4, x + w + 20 > innerWidth ? x - w - 12 : x + 14)}px`;
    tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - h - 6))}px`;
  };
  const line = (name, value) => make("div", {}, make("b", { textContent: `${name} ` }), value);
  const about = (datum) => {
    const [study, i] = trial(datum.at ?? "");
    if (!study) {
      const number = (v) => (typeof v === "number" ? Number(v.toPrecision(4)).toString() : String(v));
      return Object.entries(datum).filter(([k]) => !k.startsWith("_")).map(([k, v]) => line(k, number(v)));
    }
    const knobs = study.knobs.filter((k) => i === 0 || text(k, i) !== text(k, 0)).slice(0, 12);
    return [
      line(`trial ${i}`, studies.length > 1 ? `of ${study.name}` : ""), line("", text(study.status, i)),
      ...study.metrics.slice(0, 5).filter((m) => text(m, i)).map((m) => line(m.name, text(m, i))),
      ...knobs.map((k) => line(k.name, text(k, i))),
    ];
  };
  const views = new Map();
  const draw = async (figure) => {
    const place = figure.querySelector(".canvas"), name = figure.dataset.picture;
    figure.dataset.drawn = "soon";
    views.get(name)?.finalize();
    const spec = { ...specs[name], width: "container", autosize: { type: "fit-x", contains: "padding" },
      description: place.getAttribute("aria-label") };
    const options = { mode: "vega-lite", renderer: "svg", config: config(), tooltip, downloadFileName: name,
      actions: { export: true, source: false, compiled: false, editor: false } };
    const { view } = await vegaEmbed(place, spec, options);
    views.set(name, view);
    view.addEventListener("click", (event, item) => { if (item?.datum?.at) location.hash = item.datum.at; });
    figure.dataset.drawn = "yes";
  };
  const figures = [...document.querySelectorAll("figure[data-picture]")];
  const redraw = () => figures.filter((f) => f.dataset.drawn).forEach(draw);
  const watcher = new IntersectionObserver((seen) => seen.filter((s) => s.isIntersecting).forEach((s) => {
    watcher.unobserve(s.target);
    draw(s.target);
  }), { rootMargin: "800px" });
  figures.forEach((f) => watcher.observe(f));
  addEventListener("beforeprint", () => figures.filter((f) => !f.dataset.drawn).forEach(draw));

  // --- tables that stand in the page are sorted by their values, else by their words

  const sorter = (heading, sort) => {
    const button = make("button", { type: "button" }, ...heading.childNodes);
    button.onclick = () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      heading.parentNode.querySelectorAll("th").forEach((th) => th.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      sort(down ? -1 : 1);
    };
    heading.append(button);
  };
  const compare = (a, b, sign) => { // what is absent comes last
    if (a === "" || b === "") return (a === "") - (b === "");
    return sign * (typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  };
  document.querySelectorAll("table.sortable").forEach((table) => {
    [...(table.rows[1]?.cells ?? [])].forEach((cell, i) => table.rows[0].cells[i].classList.toggle("numbers", cell.className === "number"));
    table.querySelectorAll("th").forEach((heading, column) => sorter(heading, (sign) => {
      const key = (row) => {
        const { dataset, textContent } = row.cells[column];
        return dataset.value === undefined ? textContent.trim() : Number(dataset.value);
      };
      table.tBodies[0].append(...[...table.rows].slice(1).sort((a, b) => compare(key(a), key(b), sign)));
    }));
  });

  // --- the table of trials

  const PAGE = 100;
  const state = { study: studies[0], numbers: null, sort: null, sign: 1, page: 0, here: null };
  const trial = (address) => { // S1.44 → its study and number
    const [label, number] = address.split("."), study = byLabel.get(label);
    return study && Number(number) < study.n ? [study, Number(number)] : [];
  };
  const columns = (study) => [
    { name: "trial", value: (i) => i, show: (i) => `${i}${i === study.best ? " ★" : ""}` },
    { name: "status", value: (i) => text(study.status, i), show: (i) => text(study.status, i) },
    ...study.metrics.map((m) => ({ name: m.name, value: (i) => m.values[i] ?? "", show: (i) => text(m, i), number: true })),
    ...study.knobs.map((k) => {
      const numeric = k.texts.every((t) => t === "" || !Number.isNaN(Number(t)));
      return { name: k.name, value: (i) => (numeric && text(k, i) !== "" ? Number(text(k, i)) : text(k, i)), show: (i) => text(k, i) };
    }),
    { name: "log", value: (i) => text(study.log, i), show: (i) => text(study.log, i) },
  ];
  const run = (study, i) => {
    const id = study.runs?.[i];
    return study.mlflow && id ? `${study.mlflow.experiment}/runs/${id}` : "";
  };
  const chosen = () => {
    const { study, numbers, sort, sign } = state, all = columns(study);
    const words = el("words").value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = numbers ? numbers.filter((i) => i < study.n) : [...Array(study.n).keys()];
    if (words.length) {
      found = found.filter((i) => {
        const row = all.map((c) => `${c.name}=${c.show(i)}`).join(" ").toLowerCase();
        return words.every((word) => row.includes(word));
      });
    }
    const by = all.find((c) => c.name === sort);
    return by ? found.map((i) => [by.value(i), i]).sort((a, b) => compare(a[0], b[0], sign)).map(([, i]) => i) : found;
  };
  const fill = () => {
    const { study } = state, all = columns(study).filter((c) => c.name !== "log" || study.log.texts.some(Boolean));
    const found = chosen();
    if (state.here !== null && found.includes(state.here)) state.page = Math.floor(found.indexOf(state.here) / PAGE);
    state.page = Math.max(0, Math.min(state.page, Math.ceil(found.length / PAGE) - 1));
    const heading = make("tr", {}, ...all.map((c) => {
      const th = make("th", { scope: "col", textContent: c.name, className: c.number ? "numbers" : "" });
      sorter(th, () => { state.sign = state.sort === c.name ? -state.sign : 1; state.sort = c.name; state.here = null; fill(); });
      if (state.sort === c.name) th.setAttribute("aria-sort", state.sign > 0 ? "ascending" : "descending");
      return th;
    }), ...(study.runs ? [make("th", { scope: "col", textContent: "run" })] : []));
    const rows = found.slice(state.page * PAGE, (state.page + 1) * PAGE).map((i) => {
      const kind = [text(study.status, i).startsWith("failed") && "failed", i === study.best && "best", i === state.here && "here"];
      const address = run(study, i);
      return make("tr", { id: `${study.label}.${i}`, className: kind.filter(Boolean).join(" ") },
        ...all.map((c) => make("td", { textContent: c.show(i), className: c.number ? "number" : "", title: c.show(i).length > 40 ? c.show(i) : "" })),
        ...(study.runs ? [make("td", {}, address ? make("a", { href: address, target: "_blank", textContent: "MLflow" }) : "")] : []));
    });
    const table = el("rows");
    table.tHead.replaceChildren(heading);
    table.tBodies[0].replaceChildren(...rows);
    el("study").value = study.label;
    el("all").hidden = !state.numbers;
    const first = found.length ? state.page * PAGE + 1 : 0;
    el("shown").textContent = `${first} to ${first + rows.length - (first ? 1 : 0)} of ${found.length} trials`;
    const move = (by, name) => make("button", { type: "button", textContent: name, disabled: !found.slice((state.page + by) * PAGE).length || state.page + by < 0,
      onclick: () => { state.page += by; state.here = null; fill(); } });
    const parent = study.mlflow ? [make("a", { href: `${study.mlflow.experiment}/runs/${study.mlflow.parent}`, target: "_blank", textContent: "the study in MLflow" })] : [];
    el("pages").replaceChildren(...(found.length > PAGE ? [move(-1, "back"), move(1, "on")] : []), ...parent);
  };
  el("study").append(...studies.map((s) => make("option", { value: s.label, textContent: `${s.label} ${s.name}` })));
  el("study").onchange = () => { Object.assign(state, { study: byLabel.get(el("study").value), numbers: null, sort: null, page: 0, here: null }); fill(); };
  el("words").oninput = () => { state.page = 0; state.here = null; fill(); };
  el("all").onclick = () => { state.numbers = null; state.page = 0; fill(); };
  el("choose").onsubmit = () => false;

  // --- links: #S1.44 is a trial, #set-3 trials of a study

  const numbers = (ranges) => ranges.split(",").flatMap((range) => {
    const [a, b = a] = range.split("-").map(Number);
    return Array.from({ length: b - a + 1 }, (_, k) => a + k);
  });
  const follow = () => {
    const address = decodeURIComponent(location.hash.slice(1));
    const [study, number] = trial(address);
    const set = /^set-(\d+)$/.exec(address);
    if (study) {
      Object.assign(state, { study, numbers: null, here: number, sort: null });
    } else if (set && sets[Number(set[1])]) {
      const [label, ranges] = sets[Number(set[1])].split(" ")[0].split(":");
      if (!byLabel.has(label)) return;
      Object.assign(state, { study: byLabel.get(label), numbers: numbers(ranges), here: null, page: 0, sort: null });
    } else return;
    el("words").value = "";
    fill();
    (study ? document.querySelector("tr.here") : el("trials")).scrollIntoView({ block: study ? "center" : "start" });
  };
  addEventListener("hashchange", follow);
  document.addEventListener("click", (event) => { // the same link again
    const link = event.target.closest?.("a[href^='#']");
    if (link && link.getAttribute("href") === location.hash) follow();
  });

  document.querySelector("nav").append(...[...document.querySelectorAll("main > section[id]")].map((section) => {
    const title = section.querySelector("h2").textContent;
    return make("a", { href: `#${section.id}`, textContent: title.length > 32 ? `${title.slice(0, 31)}…` : title });
  }));
  fill();
  follow();
})();

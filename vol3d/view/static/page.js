// The page: tabs, keys, and what follows a click. `window.vol3d` is for scripts and tests.
const started = performance.now();
const byId = id => document.getElementById(id);
const record = JSON.parse(byId("record").textContent);
const KEYS = [
  ["j, k", "next, previous sentence of the report"], ["n", "next lesion of a sentence that has several"], ["t", "next tab"],
  ["m a c s r", "three planes, axial, coronal, sagittal, 3D"], ["p", "PET projection (MIP) on and off"],
  ["up, down", "next, previous slice (axial, or the plane shown)"], ["left, right", "the same across"],
  ["1 \u2013 6", `CT window: ${WINDOWS.map(w => w[0]).join(", ")}`], ["f", "PET on and off"], ["- =", "PET opacity"],
  ["h", "masks on and off"], ["i", "only the mask looked at"], ["[ ]", "mask opacity"], ["o", "outlines"], ["z x 0", "zoom in, out, whole image"], ["?", "these keys"],
];
const MOUSE = [["left", "moves the crosshair; wheel: slices, with ctrl: zoom"], ["right drag", "CT window"], ["middle drag", "moves and zooms"], ["shift and drag", "measures"]];

class View {
  constructor() {
    this.stage = new Stage(byId("gl"), record);
    this.suv = record.images.find(i => i.kind === "pet")?.shown[1] ?? 8;
    this.sentence = null;
    this.lesion = 0;
    this.mask = null;
  }

  async start() {
    this.build();
    const loaded = () => {
      this.setPet(this.stage.petOpacity, this.suv);
      this.setWindow(0);
    };
    await this.stage.start(loadVolume, loaded, () => this.located());
    if (this.stage.volumes.pet) {
      this.mip = new Mip(byId("mip-canvas"), this.stage.volumes.pet, record);
      byId("mip-toggle").hidden = false;
      this.toggleMip(true);
      new ResizeObserver(() => this.drawMip()).observe(byId("mip-canvas"));
    }
    this.stage.onWindow = () => { byId("window").value = ""; };
    const first = record.report?.sentences.findIndex(s => s.masks.length) ?? -1;
    if (first >= 0) this.readSentence(first);
    else if (record.masks.length) this.select(0);
    else this.stage.nv.createOnLocationChange();
    await new Promise(requestAnimationFrame);
    await new Promise(requestAnimationFrame);
    byId("loading").remove();
    document.body.dataset.ready = Math.round(performance.now());
  }

  // -- the page round the images -------------------------------------------------------------------------------------
  build() {
    const flagged = record.report?.sentences.filter(s => s.status !== "supported").length ?? 0;
    const tabs = [
      record.report && ["report", "Report", reportPanel, flagged], record.findings.length && ["findings", "Findings", findingsPanel, 0],
      ["measurements", "Measurements", measurementsPanel, 0],
    ].filter(Boolean);
    for (const [id, title, panel, count] of tabs) {
      const mark = count ? make("span", { class: "count", title: `${count} sentences that the image does not support` }, `${count} flagged`) : null;
      byId("tabs").append(make("button", { role: "tab", id: `tab-${id}`, "aria-controls": id, onclick: () => this.open(id) }, title, mark && " ", mark));
      byId("panels").append(make("div", { role: "tabpanel", id, hidden: true }, panel(record, this)));
    }
    this.tabs = tabs.map(tab => tab[0]);
    this.open(this.tabs[0]);
    byId("window").append(...WINDOWS.map(([name, centre, width], i) => make("option", { value: i, title: `centre ${centre} HU, width ${width} HU` }, name)), make("option", { value: "", hidden: true }, "own"));
    byId("window").onchange = event => this.setWindow(Number(event.target.value));
    byId("window-label").hidden = !record.images.some(i => i.kind === "ct");
    const fused = record.images.length > 1, pet = record.images.some(i => i.kind === "pet");
    byId("pet-label").hidden = !fused;
    byId("suv-label").hidden = !pet;
    byId("mask-label").hidden = byId("outline").hidden = !record.labels.length;
    byId("pet-opacity").oninput = event => this.setPet(Number(event.target.value), this.suv);
    byId("suv").oninput = event => this.setPet(this.stage.petOpacity, Number(event.target.value));
    byId("mask-opacity").oninput = event => this.setMasks(Number(event.target.value));
    byId("mask-opacity").value = this.stage.maskOpacity;
    byId("outline").onclick = () => this.toggleOutline();
    byId("mip-toggle").onclick = () => this.toggleMip();
    for (const button of document.querySelectorAll("[data-layout]")) button.onclick = () => this.setLayout(button.dataset.layout);
    this.pressLayout("multi");
    const list = rows => make("dl", {}, ...rows.flatMap(([key, text]) => [make("dt", {}, make("kbd", {}, key)), make("dd", {}, text)]));
    byId("help").append(make("b", {}, "Keys"), list(KEYS), make("b", {}, "Mouse"), list(MOUSE), make("button", { onclick: () => byId("help").close() }, "close"));
    byId("help-open").onclick = () => byId("help").showModal();
    byId("mip-canvas").onclick = event => {
      const ratio = window.devicePixelRatio || 1, mm = this.mip?.mmAt(event.offsetX * ratio, event.offsetY * ratio);
      if (mm) this.stage.moveTo(mm);
    };
    window.addEventListener("keydown", event => this.key(event), true);
    for (const kind of ["keydown", "keyup", "dblclick"]) { // NiiVue's own: other keys, another contrast
      byId("view").addEventListener(kind, event => { if (kind !== "dblclick") event.stopPropagation(); }, true);
    }
    byId("view").addEventListener("dblclick", () => this.stage.zoom(null));
    byId("view").addEventListener("wheel", event => {
      if (!event.ctrlKey) return;
      event.preventDefault();
      event.stopPropagation();
      this.stage.zoom(event.deltaY < 0 ? 1.15 : 1 / 1.15);
    }, { capture: true, passive: false });
  }

  open(id) {
    for (const tab of this.tabs) {
      byId(tab).hidden = tab !== id;
      byId(`tab-${tab}`).setAttribute("aria-selected", tab === id);
    }
    this.tab = id;
  }

  // -- where to look -------------------------------------------------------------------------------------------------
  readSentence(number, lesion = null) {
    const { masks } = record.report.sentences[number];
    this.lesion = lesion ?? (number === this.sentence && masks.length ? (this.lesion + 1) % masks.length : 0);
    this.sentence = number;
    this.open("report");
    this.mark(masks[this.lesion] ?? null);
    if (masks.length) this.stage.moveTo(record.masks[masks[this.lesion]].point.mm);
  }

  select(id) {
    this.sentence = null;
    this.mark(id);
    this.stage.moveTo(record.masks[id].point.mm);
  }

  mark(mask) {
    this.mask = mask;
    if (this.stage.only !== null && mask !== null) this.isolate(true);
    for (const element of document.querySelectorAll("[data-sentence]")) element.classList.toggle("current", Number(element.dataset.sentence) === this.sentence);
    for (const element of document.querySelectorAll("[data-mask]")) element.classList.toggle("current", mask !== null && Number(element.dataset.mask) === mask);
    const current = document.querySelector(this.sentence === null ? `#${this.tab} .current` : ".sentence.current");
    current?.scrollIntoView({ block: "nearest" });
    this.drawMip();
  }

  located() {
    const mm = this.stage.crosshairMm(), [x, y, z] = mm, side = (value, up, down) => `${Math.abs(value).toFixed(1)} ${value >= 0 ? up : down}`;
    byId("at").textContent = `${side(x, "R", "L")}  ${side(y, "A", "P")}  ${side(z, "S", "I")} mm`;
    byId("at").dataset.mm = mm.join(",");
    byId("at").title = "RAS+ millimetres of the patient: R right, A anterior, S superior";
    const values = record.images.map(({ kind }) => {
      const volume = this.stage.volumes[kind], index = indexAt(volume.hdr, mm);
      return index < 0 ? null : kind === "ct" ? `${Math.round(volume.img[index])} HU` : `SUV ${volume.img[index].toFixed(2)}`;
    });
    byId("values").replaceChildren(...values.filter(Boolean).map(value => make("b", {}, value)));
    const here = this.stage.masksAt(mm);
    byId("here").replaceChildren(...here.map(id => make("span", {}, dot(record.masks[id].colour), record.masks[id].name)));
    byId("here").dataset.masks = here.join(",");
    this.drawMip();
  }

  // -- how it is shown -----------------------------------------------------------------------------------------------
  setLayout(name) {
    this.stage.setLayout(name);
    this.pressLayout(name);
  }

  pressLayout(name) {
    for (const button of document.querySelectorAll("[data-layout]")) button.setAttribute("aria-pressed", button.dataset.layout === name);
  }

  setWindow(i) {
    byId("window").value = i;
    this.stage.setWindow(WINDOWS[i][1], WINDOWS[i][2]);
  }

  setPet(opacity, suv) {
    this.stage.petOpacity = Math.min(Math.max(opacity, 0), 1);
    this.suv = suv;
    byId("pet-opacity").value = this.stage.petOpacity;
    byId("suv").value = suv;
    byId("suv-out").textContent = suv;
    this.stage.setPet(this.stage.petOpacity, suv);
    this.drawMip();
  }

  setMasks(opacity) {
    this.stage.maskOpacity = Math.min(Math.max(opacity, 0), 1);
    byId("mask-opacity").value = this.stage.maskOpacity;
    this.stage.styleMasks();
  }

  toggleOutline() {
    this.stage.outline = !this.stage.outline;
    byId("outline").setAttribute("aria-pressed", this.stage.outline);
    this.stage.styleMasks();
  }

  toggleMip(on = byId("mip").hidden) {
    byId("mip").hidden = !on;
    byId("mip-toggle").setAttribute("aria-pressed", on);
    this.drawMip();
  }

  drawMip() {
    if (this.mip && !byId("mip").hidden) this.mip.draw(this.suv, this.stage.crosshairMm(), id => this.stage.shows(id), this.mask);
  }

  show(id, on) {
    this.stage.hidden[on ? "delete" : "add"](id);
    const box = document.querySelector(`[data-show="${id}"]`);
    if (box) box.checked = on;
    byId("all-masks").checked = !this.stage.hidden.size;
    this.stage.applyMasks();
    this.drawMip();
  }

  showAll(on) {
    this.stage.hidden = new Set(on ? [] : record.masks.map(mask => mask.id));
    for (const box of document.querySelectorAll("[data-show]")) box.checked = on;
    if (byId("all-masks")) byId("all-masks").checked = on;
    this.stage.applyMasks();
    this.drawMip();
  }

  isolate(on = this.stage.only === null) {
    this.stage.only = on ? this.mask : null;
    byId("only-mask").checked = this.stage.only !== null;
    this.stage.applyMasks();
    this.drawMip();
  }

  // -- keys ----------------------------------------------------------------------------------------------------------
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open || /^(SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const focused = event.target.closest?.("[tabindex], button, input");
    if ((event.key === "Enter" || event.key === " ") && focused) {
      if (focused.matches("div, tbody")) { focused.click(); event.preventDefault(); }
      return;
    }
    if (event.target.type === "range" && event.key.startsWith("Arrow")) return;
    const action = this.actions()[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  }

  actions() {
    const { stage } = this, plane = stage.layout in PLANES && stage.layout !== "render" ? stage.layout : "axial";
    const layouts = { m: "multi", a: "axial", c: "coronal", s: "sagittal", r: "render" };
    return {
      j: () => this.walk(1), k: () => this.walk(-1), n: () => this.sentence !== null && this.readSentence(this.sentence),
      t: () => this.open(this.tabs[(this.tabs.indexOf(this.tab) + 1) % this.tabs.length]),
      p: () => this.mip && this.toggleMip(), o: () => this.toggleOutline(), "?": () => byId("help").showModal(),
      f: () => this.setPet(stage.petOpacity ? ((this.before = stage.petOpacity), 0) : (this.before ?? 0.45), this.suv),
      "-": () => this.setPet(stage.petOpacity - 0.1, this.suv), "=": () => this.setPet(stage.petOpacity + 0.1, this.suv),
      h: () => this.showAll(stage.hidden.size > 0), i: () => this.isolate(),
      "[": () => this.setMasks(stage.maskOpacity - 0.1), "]": () => this.setMasks(stage.maskOpacity + 0.1),
      z: () => stage.zoom(1.25), x: () => stage.zoom(0.8), 0: () => stage.zoom(null),
      ArrowUp: () => stage.step(plane, 1), ArrowDown: () => stage.step(plane, -1),
      ArrowLeft: () => stage.step(plane === "sagittal" ? "coronal" : "sagittal", plane === "sagittal" ? 1 : 1),
      ArrowRight: () => stage.step(plane === "sagittal" ? "coronal" : "sagittal", plane === "sagittal" ? -1 : -1),
      ...Object.fromEntries(Object.entries(layouts).map(([key, name]) => [key, () => this.setLayout(name)])),
      ...Object.fromEntries(WINDOWS.map((_, i) => [i + 1, () => this.stage.volumes.ct && this.setWindow(i)])),
    };
  }

  walk(by) {
    const sentences = record.report?.sentences.length ?? 0;
    if (!sentences) return;
    const order = [...document.querySelectorAll("[data-sentence]")].map(element => Number(element.dataset.sentence));
    const at = order.indexOf(this.sentence);
    this.readSentence(order[Math.min(Math.max(at + by, 0), order.length - 1)], 0);
  }
}

async function loadVolume(name) {
  const inside = document.querySelector(`script[data-volume="${name}"]`);
  if (!inside) return new URL(`volumes/${name}`, location.href).href;
  const packed = await (await fetch(`data:application/octet-stream;base64,${inside.textContent}`)).blob();
  inside.remove(); // once is enough
  const data = await new Response(packed.stream().pipeThrough(new DecompressionStream("gzip"))).blob();
  return URL.createObjectURL(data);
}

const view = new View();
window.vol3d = { view, record, nv: view.stage.nv };
view.start().catch(error => {
  const note = byId("loading");
  note.classList.add("failed");
  note.textContent = `The images cannot be shown: ${error.message ?? error}\nThe page needs a browser with WebGL 2.`;
  console.error(error);
});

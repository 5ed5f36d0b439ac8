// The images: NiiVue with a CT (or PET) as ground, a PET and label maps on it. World coordinates are RAS+ mm throughout.
const WINDOWS = [ // name, centre, width in HU
  ["soft tissue", 40, 400], ["lung", -600, 1500], ["bone", 500, 2000], ["liver", 80, 150], ["brain", 40, 80], ["mediastinum", 50, 350],
];
const PLANES = { axial: 0, coronal: 1, sagittal: 2, render: 4 };
const GAP = 6; // pixels between pictures

class Stage {
  constructor(canvas, record) {
    this.canvas = canvas;
    this.record = record;
    this.layout = "multi";
    this.hidden = new Set();
    this.only = null;
    this.petOpacity = record.images.length > 1 ? 0.6 : 1;
    this.maskOpacity = 0.15;
    this.outline = true;
    this.nv = new globalThis.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.2, 0.9, 0.8, 0.75], crosshairWidth: 0.25, crosshairWidthUnit: "percent", crosshairGap: 8,
      isRadiologicalConvention: true, sagittalNoseLeft: true, isOrientationTextVisible: true, showAllOrientationMarkers: true,
      fontColor: [1, 0.85, 0.45, 1], show3Dcrosshair: true, dragAndDropEnabled: false, logLevel: "error", loadingText: "",
      multiplanarShowRender: 0, selectionBoxColor: [1, 1, 1, 0.3],
      mouseEventConfig: { leftButton: { primary: 8, withShift: 2, withCtrl: 3 }, rightButton: 9, centerButton: 3 },
    });
  }

  async start(load, loaded, located) {
    await this.nv.attachToCanvas(this.canvas);
    smoothFloats(this.nv.gl);
    this.nv.onLocationChange = located;
    this.nv.onIntensityChange = () => this.onWindow?.();
    const layers = [...this.record.images, ...this.record.labels];
    const sources = await Promise.all(layers.map(layer => load(layer.file)));
    const ground = this.record.images[0].kind;
    this.nv.updateGLVolume = () => {}; // NiiVue would draw all layers anew for each that arrives
    await this.nv.loadVolumes(layers.map((layer, i) => ({
      url: sources[i], name: layer.file, opacity: 1,
      colormap: layer.kind === "ct" || !layer.kind ? "gray" : ground === "pet" ? "gray" : "hot",
    })));
    sources.forEach(source => source.startsWith("blob:") && URL.revokeObjectURL(source));
    this.volumes = Object.fromEntries(layers.map((layer, i) => [layer.kind ?? layer.file, this.nv.volumes[i]]));
    this.fused = ground === "ct" && Boolean(this.volumes.pet);
    if (ground === "pet") {
      this.volumes.pet.colormapInvert = true;
      this.nv.opts.fontColor = [0.7, 0.35, 0, 1]; // letters on white
    }
    this.labels = this.record.labels.map(layer => {
      const volume = this.volumes[layer.file];
      return { volume, sets: layer.sets, codes: volume.img.slice() };
    });
    this.applyMasks();
    loaded();
    delete this.nv.updateGLVolume;
    this.nv.updateGLVolume();
    this.live = true;
    this.setLayout("multi");
    new ResizeObserver(() => this.arrange()).observe(this.canvas.parentElement);
  }

  // -- where we are --------------------------------------------------------------------------------------------------
  crosshairMm() { return [...this.nv.frac2mm(this.nv.scene.crosshairPos, 0, true)].slice(0, 3); }

  moveTo(mm) {
    const frac = this.nv.mm2frac([...mm], 0, true);
    for (let axis = 0; axis < 3; axis++) frac[axis] = Math.min(Math.max(frac[axis], 0), 1);
    this.nv.scene.crosshairPos = frac;
    this.centre();
    this.nv.createOnLocationChange();
    this.nv.drawScene();
  }

  step(plane, by) { // of the ground's voxels, which the viewer has turned to RAS
    const axis = { axial: 2, coronal: 1, sagittal: 0 }[plane];
    this.nv.moveCrosshairInVox(...[0, 1, 2].map(a => (a === axis ? by : 0)));
  }

  centre() { // when zoomed in, the crosshair stays in the middle
    const pan = this.nv.scene.pan2Dxyzmm, zoom = pan[3];
    if (zoom === 1) return;
    const middle = this.nv.frac2mm([0.5, 0.5, 0.5]), mm = this.nv.frac2mm(this.nv.scene.crosshairPos);
    for (let i = 0; i < 3; i++) pan[i] = middle[i] - zoom * mm[i];
  }

  zoom(factor) {
    const zoom = factor ? Math.min(Math.max(this.nv.scene.pan2Dxyzmm[3] * factor, 1), 12) : 1;
    this.nv.scene.pan2Dxyzmm = [0, 0, 0, zoom];
    this.centre();
    this.nv.drawScene();
  }

  // -- how it is shown -----------------------------------------------------------------------------------------------
  setLayout(name) {
    this.layout = name;
    this.nv.clearCustomLayout();
    this.nv.setSliceType(name === "render" ? 4 : 3);
    this.arrange();
  }

  arrange() { // the planes as large as they can be; each tile as large as its picture, at whose edges NiiVue writes R, L, ...
    const box = this.canvas.parentElement.getBoundingClientRect();
    if (this.layout === "render" || !box.width || !box.height) return;
    const planes = this.layout === "multi" ? null : [PLANES[this.layout]];
    this.nv.setCustomLayout(bestLayout(this.extent(), box.width, box.height, planes));
  }

  extent() { // mm along x, y, z of the ground
    const volume = this.nv.volumes[0];
    return [1, 2, 3].map(axis => volume.dimsRAS[axis] * volume.pixDimsRAS[axis]);
  }

  setWindow(centre, width) {
    const ct = this.volumes.ct;
    if (!ct) return;
    [ct.cal_min, ct.cal_max] = [centre - width / 2, centre + width / 2];
    this.redraw(true);
  }

  window() { const ct = this.volumes.ct; return ct && [(ct.cal_min + ct.cal_max) / 2, ct.cal_max - ct.cal_min]; }

  setPet(opacity, suv) {
    const pet = this.volumes.pet;
    if (!pet) return;
    [pet.opacity, pet.cal_min, pet.cal_max] = [opacity, 0, suv];
    if (this.fused) { // low uptake lets the CT through: opacity grows with the square of the SUV up to here
      pet.colormapType = 2;
      pet.cal_min = 0.35 * suv;
    }
    this.redraw(pet === this.nv.volumes[0]);
  }

  redraw(ground) { // overlays blend in order, so they are redrawn together; once a frame at most
    if (!this.live) return;
    this.stale = { ground: ground || this.stale?.ground, overlays: !ground || this.stale?.overlays };
    this.frame ??= requestAnimationFrame(() => {
      const { ground: first, overlays } = this.stale;
      this.frame = this.stale = undefined;
      this.nv.volumes.forEach((volume, i) => (i === 0 ? first : overlays) && this.nv.refreshLayers(volume, i));
      this.nv.drawScene();
    });
  }

  // -- masks ---------------------------------------------------------------------------------------------------------
  applyMasks() { // a shown set is coloured as its smallest mask: a lesion stays visible in its organ
    const masks = this.record.masks;
    for (const { volume, sets, codes } of this.labels) {
      const shown = [""], table = new Uint16Array(sets.length);
      sets.forEach((set, code) => {
        const key = set.filter(id => this.shows(id)).join();
        table[code] = shown.includes(key) ? shown.indexOf(key) : shown.push(key) - 1;
      });
      for (let i = 0; i < codes.length; i++) volume.img[i] = table[codes[i]];
      const colours = shown.map(key => {
        const members = key === "" ? [] : key.split(",").map(id => masks[id]);
        return members.length ? rgb(members.reduce((a, b) => (b.voxels < a.voxels ? b : a)).colour) : [0, 0, 0];
      });
      if (colours.length === 1) colours.push([0, 0, 0]); // the viewer wants two labels
      const column = c => colours.map(colour => colour[c]);
      volume.setColormapLabel({
        R: column(0), G: column(1), B: column(2), A: colours.map((_, i) => (i ? 255 : 0)), I: colours.map((_, i) => i),
        labels: colours.map((_, i) => shown[i] ?? ""),
      });
    }
    this.styleMasks();
  }

  styleMasks() {
    this.nv.opts.atlasOutline = this.outline ? 1 : 0;
    for (const { volume } of this.labels) volume.opacity = this.outline ? Math.max(this.maskOpacity, 0.004) : this.maskOpacity;
    this.redraw(false);
  }

  masksAt(mm) { // ids of all masks that hold a point, hidden ones too
    const found = [];
    for (const { volume, sets, codes } of this.labels) {
      const index = indexAt(volume.hdr, mm);
      if (index >= 0) found.push(...sets[codes[index]]);
    }
    return found;
  }

  shows(id) { return this.only === null ? !this.hidden.has(id) : id === this.only; }
}

function smoothFloats(gl) { // the PET between its voxels: NiiVue samples overlays at the nearest voxel
  if (!gl.getExtension("OES_texture_float_linear")) return;
  const store = gl.texStorage3D.bind(gl);
  gl.texStorage3D = (target, levels, format, ...size) => {
    store(target, levels, format, ...size);
    if (format !== gl.R32F) return;
    gl.texParameteri(target, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
    gl.texParameteri(target, gl.TEXTURE_MAG_FILTER, gl.LINEAR);
  };
}

function bestLayout([x, y, z], width, height, planes) {
  const sizes = { 0: [x, y], 1: [x, z], 2: [y, z] }, whole = x + x + y;
  const options = planes ? [[[planes[0], [0, 0, 1, 1]]]] : [[[0, [0, 0, x / whole, 1]], [1, [x / whole, 0, x / whole, 1]], [2, [(2 * x) / whole, 0, y / whole, 1]]]];
  for (const part of planes ? [] : [0.4, 0.45, 0.5, 0.55, 0.6, 0.65]) {
    for (const cut of [0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65]) {
      for (const [big, top, bottom] of [[0, 1, 2], [1, 0, 2]]) {
        options.push([[big, [0, 0, part, 1]], [top, [part, 0, 1 - part, cut]], [bottom, [part, cut, 1 - part, 1 - cut]]]);
      }
    }
  }
  const scaleOf = (plane, [, , w, h]) => Math.min((w * width - GAP) / sizes[plane][0], (h * height - GAP) / sizes[plane][1]);
  // the lengths of the pictures' diagonals, so that no plane is starved for another
  const total = option => option.reduce((sum, [plane, tile]) => sum + scaleOf(plane, tile) * Math.hypot(...sizes[plane]), 0);
  const best = options.reduce((a, b) => (total(b) > total(a) ? b : a));
  return best.map(([plane, [l, t, w, h]]) => {
    const scale = scaleOf(plane, [l, t, w, h]), [pw, ph] = [(scale * sizes[plane][0]) / width, (scale * sizes[plane][1]) / height];
    return { sliceType: plane, position: [l + (w - pw) / 2, t + (h - ph) / 2, pw, ph] };
  });
}

function rgb(hex) { return [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16)); }

function indexAt(hdr, mm) { // of the voxel in a file's own order; -1 outside
  const [nx, ny, nz] = hdr.dims.slice(1, 4), a = hdr.affine;
  const [i, j, k] = solve(a, mm).map(Math.round);
  return i < 0 || j < 0 || k < 0 || i >= nx || j >= ny || k >= nz ? -1 : i + nx * (j + ny * k);
}

function solve(a, mm) { // continuous index (i, j, k) of a world point: Cramer's rule on the affine
  const det = (m) => m[0][0] * (m[1][1] * m[2][2] - m[1][2] * m[2][1]) - m[0][1] * (m[1][0] * m[2][2] - m[1][2] * m[2][0])
    + m[0][2] * (m[1][0] * m[2][1] - m[1][1] * m[2][0]);
  const linear = [0, 1, 2].map(r => [a[r][0], a[r][1], a[r][2]]), right = [0, 1, 2].map(r => mm[r] - a[r][3]), whole = det(linear);
  return [0, 1, 2].map(c => det(linear.map((row, r) => row.map((v, at) => (at === c ? right[r] : v)))) / whole);
}

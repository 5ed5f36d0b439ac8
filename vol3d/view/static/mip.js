// Maximum intensity projection of the PET from the front: the patient's right on the left of the picture, head up.
class Mip {
  constructor(canvas, volume, record) {
    this.canvas = canvas;
    this.record = record;
    const { dims, affine, pixDims } = volume.hdr;
    this.affine = affine;
    this.spacing = pixDims.slice(1, 4);
    this.dims = dims.slice(1, 4);
    const along = this.dims.map((_, axis) => [0, 1, 2].map(row => affine[row][axis] / this.spacing[axis]));
    const orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]; // file axes that run along x, y, z
    this.axes = orders.reduce((a, b) => {
      const fit = order => order.reduce((sum, axis, row) => sum + Math.abs(along[axis][row]), 0);
      return fit(b) > fit(a) ? b : a;
    });
    this.rising = this.axes.map((axis, row) => along[axis][row] > 0);
    this.project(volume.img);
  }

  project(img) {
    const [across, depth, up] = this.axes, [nx, ny, nz] = this.dims;
    const width = this.dims[across], height = this.dims[up];
    this.size = [width, height];
    this.most = new Float32Array(width * height).fill(-Infinity);
    this.at = new Uint16Array(width * height);
    const index = [0, 0, 0];
    let i = 0;
    for (index[2] = 0; index[2] < nz; index[2]++) {
      for (index[1] = 0; index[1] < ny; index[1]++) {
        for (index[0] = 0; index[0] < nx; index[0]++, i++) {
          const pixel = index[across] + width * index[up];
          if (img[i] > this.most[pixel]) {
            this.most[pixel] = img[i];
            this.at[pixel] = index[depth];
          }
        }
      }
    }
  }

  place() { // pixels of the picture on the canvas
    const [width, height] = this.size, [across, , up] = this.axes;
    const w = width * this.spacing[across], h = height * this.spacing[up];
    const scale = Math.min(this.canvas.width / w, this.canvas.height / h);
    return { left: (this.canvas.width - w * scale) / 2, top: (this.canvas.height - h * scale) / 2, w: w * scale, h: h * scale };
  }

  draw(suv, crosshairMm, shows, current) {
    const ratio = window.devicePixelRatio || 1, box = this.canvas.getBoundingClientRect();
    [this.canvas.width, this.canvas.height] = [Math.max(1, box.width * ratio), Math.max(1, box.height * ratio)];
    const [width, height] = this.size, picture = new OffscreenCanvas(width, height), pen = picture.getContext("2d");
    const data = pen.createImageData(width, height);
    for (let row = 0; row < height; row++) {
      for (let column = 0; column < width; column++) {
        const from = (this.rising[0] ? width - 1 - column : column) + width * (this.rising[2] ? height - 1 - row : row);
        const grey = 255 * (1 - Math.min(Math.max(this.most[from] / suv, 0), 1)), to = 4 * (column + width * row);
        data.data[to] = data.data[to + 1] = data.data[to + 2] = grey;
        data.data[to + 3] = 255;
      }
    }
    pen.putImageData(data, 0, 0);
    const context = this.canvas.getContext("2d"), { left, top, w, h } = this.place();
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(picture, left, top, w, h);
    const [x, y] = this.pixelOf(crosshairMm);
    context.strokeStyle = "#0a8f80";
    context.lineWidth = ratio;
    for (const line of [[x, top, x, top + h], [left, y, left + w, y]]) {
      context.beginPath();
      context.moveTo(line[0], line[1]);
      context.lineTo(line[2], line[3]);
      context.stroke();
    }
    for (const mask of this.record.masks) {
      if (!shows(mask.id) || mask.point.kind !== "hottest") continue;
      const [px, py] = this.pixelOf(mask.point.mm);
      context.beginPath();
      context.arc(px, py, (mask.id === current ? 7 : 4.5) * ratio, 0, 2 * Math.PI);
      context.lineWidth = 3.5 * ratio;
      context.strokeStyle = "#222";
      context.stroke();
      context.lineWidth = 2 * ratio;
      context.strokeStyle = mask.colour;
      context.stroke();
    }
    context.fillStyle = "#7a4b00";
    context.font = `600 ${13 * ratio}px system-ui, sans-serif`;
    context.fillText("R", left + 4 * ratio, top + h / 2);
    context.fillText("L", left + w - 12 * ratio, top + h / 2);
  }

  pixelOf(mm) {
    const index = solve(this.affine, mm), [across, , up] = this.axes, { left, top, w, h } = this.place();
    const share = (axis, turned) => {
      const part = (index[axis] + 0.5) / this.dims[axis];
      return turned ? 1 - part : part;
    };
    return [left + w * share(across, this.rising[0]), top + h * share(up, this.rising[2])];
  }

  mmAt(x, y) { // the voxel that a pixel of the canvas shows; null beside the picture
    const { left, top, w, h } = this.place(), [width, height] = this.size, [across, depth, up] = this.axes;
    const column = Math.floor(((x - left) / w) * width), row = Math.floor(((y - top) / h) * height);
    if (column < 0 || row < 0 || column >= width || row >= height) return null;
    const index = [0, 0, 0];
    index[across] = this.rising[0] ? width - 1 - column : column;
    index[up] = this.rising[2] ? height - 1 - row : row;
    index[depth] = this.at[index[across] + width * index[up]];
    return [0, 1, 2].map(r => this.affine[r][3] + this.affine[r][0] * index[0] + this.affine[r][1] * index[1] + this.affine[r][2] * index[2]);
  }
}

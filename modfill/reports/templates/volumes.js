// Volumes: 8-bit values, x fastest, axes towards the patient's left, back and feet. With these axes every plane is
// shown as radiologists expect it, x to the right and y down.
const PLANES = {
  axial: {across: 0, down: 1, through: 2, letters: {left: "R", right: "L", up: "A", down: "P"}},
  coronal: {across: 0, down: 2, through: 1, letters: {left: "R", right: "L", up: "S", down: "I"}},
  sagittal: {across: 1, down: 2, through: 0, letters: {left: "A", right: "P", up: "S", down: "I"}},
};

// The volume of a figure, whose picture holds its slices row by row.
async function decodeVolume(figure) {
  const shape = figure.dataset.shape.split(" ").map(Number);
  const [width, height, depth] = shape;
  const picture = new Image();
  picture.src = figure.dataset.volume;
  await picture.decode();
  const canvas = document.createElement("canvas");
  canvas.width = picture.naturalWidth;
  canvas.height = picture.naturalHeight;
  const context = canvas.getContext("2d", {willReadFrequently: true});
  context.drawImage(picture, 0, 0);
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  const columns = canvas.width / width;
  const values = new Uint8Array(width * height * depth);
  let to = 0;
  for (let z = 0; z < depth; z++) {
    for (let y = 0; y < height; y++) {
      let from = 4 * ((Math.floor(z / columns) * height + y) * canvas.width + (z % columns) * width);
      for (let x = 0; x < width; x++, from += 4) values[to++] = pixels[from];
    }
  }
  return {shape, values};
}

// The index along an axis of a volume that may be coarser than the one of `length` voxels that `index` counts.
const scaled = (index, length, volume, axis) => Math.floor(index * volume.shape[axis] / length);

// Draw one slice of a volume to a rectangle of a canvas; `colours` has an RGBA value for each grey value.
function drawSlice(context, volume, plane, index, colours, x, y, width, height) {
  const {across, down, through} = PLANES[plane];
  const strides = [1, volume.shape[0], volume.shape[0] * volume.shape[1]];
  const image = new ImageData(volume.shape[across], volume.shape[down]);
  const pixels = new Uint32Array(image.data.buffer);
  let to = 0;
  for (let row = 0; row < image.height; row++) {
    let from = index * strides[through] + row * strides[down];
    for (let column = 0; column < image.width; column++, from += strides[across]) {
      pixels[to++] = colours[volume.values[from]];
    }
  }
  const sheet = document.createElement("canvas");
  sheet.width = image.width;
  sheet.height = image.height;
  sheet.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(sheet, x, y, width, height);
}

// For each of the 256 values the RGBA value that `rgba` gives, as one number in the byte order of this machine.
function colourTable(rgba) {
  const bytes = new Uint8ClampedArray(4 * 256);
  for (let value = 0; value < 256; value++) bytes.set(rgba(value), 4 * value);
  return new Uint32Array(bytes.buffer);
}

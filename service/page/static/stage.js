// The square that the network sees: shows a picture's part of it, takes drawings, and lies a map over it.

const PAPER = "#ffffff"; // as the service: what shows through transparent pixels
const INK = "#16121c";
const PEN = 0.075; // of the edge

// As service/overlay.py: brighter where the network looked more.
const STOPS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

export class Stage {
  #stroke = 0; // counts what has been drawn or forgotten

  /** root: the element with the canvases; onStroke: called as a stroke begins; onDrawn: with a Blob after it. */
  constructor(root, onStroke, onDrawn) {
    this.root = root;
    this.onStroke = onStroke;
    this.onDrawn = onDrawn;
    [this.picture, this.heat, this.rows, this.columns] = ["picture", "heat", "rows", "columns"].map((id) =>
      root.querySelector(`#${id}`),
    );
    this.drawing = false;
    this.picture.addEventListener("pointerdown", (event) => this.#draw(event));
  }

  /** Show a picture as the network sees it, or an empty square if the browser cannot read it. */
  async show(blob, name, preprocessing, signal) {
    const bitmap = await createImageBitmap(blob).catch(() => null);
    signal.throwIfAborted();
    this.clear(bitmap ? name : "A picture that this browser cannot show");
    if (!bitmap) return;
    const edge = this.picture.width;
    const [x, y, width, height] = seen(bitmap.width, bitmap.height, preprocessing);
    this.picture.getContext("2d").drawImage(bitmap, x, y, width, height, 0, 0, edge, edge);
    bitmap.close();
  }

  /** Of a stroke that has ended, but of which onDrawn has not been called yet, it never will be. */
  forget() {
    this.#stroke += 1;
  }

  /** An empty square. */
  clear(name) {
    const pen = this.picture.getContext("2d");
    pen.fillStyle = PAPER;
    pen.fillRect(0, 0, this.picture.width, this.picture.height);
    this.picture.setAttribute("aria-label", name);
    this.root.classList.add("filled");
    this.root.querySelector("#invitation").hidden = true;
    this.cover(null);
  }

  /** Lay a map, rows of columns from 0 to 1, over the picture; with it the gates of rows and columns, if given. */
  cover(map, gates = null) {
    this.heat.hidden = map === null;
    this.rows.hidden = this.columns.hidden = gates === null;
    this.heat.classList.toggle("blocky", gates !== null);
    if (map) paint(this.heat, gates ? stretched(map) : map);
    if (gates) {
      paint(this.rows, stretched(gates.rows.map((gate) => [gate])));
      paint(this.columns, stretched([gates.columns]));
    }
  }

  set opacity(share) {
    this.heat.style.opacity = share;
  }

  #draw(event) {
    if (!this.drawing || event.button !== 0) return;
    event.preventDefault();
    this.onStroke();
    this.cover(null);
    const canvas = this.picture;
    const pen = canvas.getContext("2d");
    const place = ({ clientX, clientY }) => {
      const box = canvas.getBoundingClientRect();
      return [((clientX - box.left) / box.width) * canvas.width, ((clientY - box.top) / box.height) * canvas.height];
    };
    pen.strokeStyle = INK;
    pen.lineWidth = PEN * canvas.width;
    pen.lineCap = pen.lineJoin = "round";
    let last = place(event);
    const lineTo = (point) => {
      pen.beginPath();
      pen.moveTo(...last);
      pen.lineTo(...point);
      pen.stroke();
      last = point;
    };
    lineTo(last); // a dot, if nothing follows
    const end = new AbortController();
    const { signal } = end;
    canvas.setPointerCapture(event.pointerId);
    canvas.addEventListener("pointermove", (move) => move.getCoalescedEvents().map(place).forEach(lineTo), { signal });
    for (const kind of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(
        kind,
        () => {
          end.abort();
          const mine = (this.#stroke += 1);
          canvas.toBlob((drawing) => mine === this.#stroke && this.onDrawn(drawing));
        },
        { signal },
      );
    }
  }
}

/** The part of a picture that the network sees, as models/images.py crops it: left, top, width, height. */
export function seen(width, height, { resize_size, input_size }) {
  const edge = (Math.min(width, height) * input_size) / resize_size;
  return [(width - edge) / 2, (height - edge) / 2, edge, edge];
}

/** A canvas of a pixel a value: rows of columns from 0 to 1 in the colours of the overlay. */
export function paint(canvas, map) {
  canvas.width = map[0].length;
  canvas.height = map.length;
  const image = new ImageData(canvas.width, canvas.height);
  map.flat().forEach((value, index) => {
    const [low, share] = [Math.min(Math.floor(value * (STOPS.length - 1)), STOPS.length - 2), value * (STOPS.length - 1)];
    const colour = STOPS[low].map((channel, i) => channel + (STOPS[low + 1][i] - channel) * (share - low));
    image.data.set([...colour, 255], 4 * index);
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
}

/** The same values from 0, the least, to 1, the greatest, because gates differ by little; 0.5 if they are all one. */
export function stretched(map) {
  const values = map.flat();
  const [low, high] = [Math.min(...values), Math.max(...values)];
  return map.map((row) => row.map((value) => (high > low ? (value - low) / (high - low) : 0.5)));
}

// A sheet to draw on with mouse, finger or pen: dark on white, as a picture of handwriting is.

const PEN = 40; // canvas pixels of 560: in 28 pixels the stroke is two wide, as in handwriting scanned for digits

/** `onStroke` is called when a stroke ends, `onEmpty` when nothing is left. */
export function drawingSheet(canvas, undo, clear, { onStart, onStroke, onEmpty }) {
  const pen = canvas.getContext("2d");
  let strokes = [];
  let pointer = null;

  canvas.addEventListener("pointerdown", (event) => {
    if (pointer !== null || event.button !== 0) return;
    event.preventDefault();
    pointer = event.pointerId;
    canvas.setPointerCapture(pointer);
    strokes.push([position(event)]);
    onStart();
    redraw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerId !== pointer) return;
    const passed = event.getCoalescedEvents?.() ?? [];
    strokes.at(-1).push(...(passed.length ? passed : [event]).map(position));
    redraw();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, lift);
  undo.addEventListener("click", () => take(strokes.slice(0, -1)));
  clear.addEventListener("click", () => take([]));
  redraw();

  function lift(event) {
    if (event.pointerId !== pointer) return;
    pointer = null;
    onStroke();
  }

  function take(left) {
    if (strokes.length === 0) return;
    strokes = left;
    redraw();
    if (strokes.length) onStroke(); else onEmpty();
  }

  function position(event) {
    const box = canvas.getBoundingClientRect();
    const scale = canvas.width / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  }

  function redraw() {
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    Object.assign(pen, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#16181d" });
    strokes.forEach(line);
    // Not `disabled`: that would take the keyboard's place away from the one who just pressed it.
    for (const button of [undo, clear]) button.setAttribute("aria-disabled", strokes.length === 0);
  }

  // Through the midpoints, with the points themselves as handles: corners of a quick hand become curves.
  function line(points) {
    pen.beginPath();
    pen.moveTo(...points[0]);
    for (let i = 1; i < points.length - 1; i += 1) {
      const [x, y] = points[i];
      pen.quadraticCurveTo(x, y, (x + points[i + 1][0]) / 2, (y + points[i + 1][1]) / 2);
    }
    pen.lineTo(...points.at(-1));
    pen.stroke();
  }

  return {
    isEmpty: () => strokes.length === 0,
    wipe() { strokes = []; redraw(); },
    async file() {
      const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
      return new File([blob], "drawing.png", { type: "image/png" });
    },
  };
}

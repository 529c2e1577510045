// Canvas for drawing with mouse, finger or pen: dark on white, like an image of handwriting.

const PEN_WIDTH = 40; // of 560 canvas pixels: two of the 28 pixels of a digit, as in scanned handwriting

/** `onStroke` is called when a stroke ends, `onEmpty` when nothing is left. */
export function drawingCanvas(canvas, undo, clear, { onStart, onStroke, onEmpty }) {
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
    const coalesced = event.getCoalescedEvents?.() ?? [];
    strokes.at(-1).push(...(coalesced.length ? coalesced : [event]).map(position));
    redraw();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, endStroke);
  undo.addEventListener("click", () => replaceStrokes(strokes.slice(0, -1)));
  clear.addEventListener("click", () => replaceStrokes([]));
  redraw();

  function endStroke(event) {
    if (event.pointerId !== pointer) return;
    pointer = null;
    onStroke();
  }

  function replaceStrokes(remaining) {
    if (strokes.length === 0) return;
    strokes = remaining;
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
    Object.assign(pen, { lineWidth: PEN_WIDTH, lineCap: "round", lineJoin: "round", strokeStyle: "#16181d" });
    strokes.forEach(line);
    // Not `disabled`: a disabled button would lose the keyboard focus.
    for (const button of [undo, clear]) button.setAttribute("aria-disabled", strokes.length === 0);
  }

  // Quadratic curves through the midpoints, with the points as control points: this smooths corners.
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
    clear() { strokes = []; redraw(); },
    async file() {
      const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
      return new File([blob], "drawing.png", { type: "image/png" });
    },
  };
}

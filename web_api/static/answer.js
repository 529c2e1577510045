// Shows one answer: copies the blank one that the server rendered and fills its slots.

const TOP = 5;
const blank = document.getElementById("blank");

/** Fills `container` with `answer` to `picture`, a File; `notice` is what the model wants said. */
export function showAnswer(container, answer, picture, notice) {
  const view = blank.content.firstElementChild.cloneNode(true);
  const slot = (name) => view.querySelector(`[data-slot="${name}"]`);
  const said = wording(answer);
  slot("label").textContent = answer.label;
  slot("percent").textContent = said.value;
  slot("memory").textContent = said.memory;
  slot("memory").dataset.remembered = answer.cached;
  slot("notice").textContent = answer.notice ?? notice ?? "";
  slot("notice").hidden = !slot("notice").textContent;
  slot("bars").replaceChildren(...bars(answer));
  slot("total").textContent = said.time;
  slot("device").textContent = answer.device.toUpperCase();
  slot("model").textContent = answer.model;
  slot("version").textContent = answer.version;
  slot("json").textContent = JSON.stringify(answer, (key, value) => (key === "age" ? undefined : value), 2);
  slot("curl").textContent = curlLine(answer.model, picture.name);
  copyButton(slot("copy"), slot("curl"));
  showPicture(slot("sent"), picture, picture.name);
  container.replaceChildren(view);
  return { showSeen: (blob) => blob && showPicture(slot("seen"), blob) };
}

/** Takes the answer away and gives its pictures back to the browser. */
export function clearAnswer(container) {
  for (const image of container.querySelectorAll('img[src^="blob:"]')) URL.revokeObjectURL(image.src);
  container.replaceChildren();
}

/** The short texts of an answer, the same in a table row, in the full answer and for a screen reader. */
export function wording(answer) {
  return {
    value: number(answer.value, looksLikeShares(answer)),
    memory: answer.cached ? ["Remembered", ago(answer.age)].filter(Boolean).join(" · ") : "Fresh",
    time: milliseconds(answer.timing_ms.total),
  };
}

function bars(answer) {
  const shares = looksLikeShares(answer);
  const top = [...answer.probabilities].sort((a, b) => b.value - a.value).slice(0, TOP);
  const full = shares ? 1 : Math.max(...top.map(({ value }) => Math.abs(value)), Number.MIN_VALUE);
  return top.map(({ label, value }) => {
    const row = document.createElement("li");
    const bar = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const rect = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    bar.setAttribute("aria-hidden", "true");
    rect.setAttribute("width", `${Math.min(Math.max(value / full, 0), 1) * 100}%`);
    rect.setAttribute("height", "100%");
    bar.append(rect);
    row.append(text(label), bar, text(number(value, shares)));
    return row;
  });
}

function text(content) {
  const span = document.createElement("span");
  span.textContent = content;
  return span;
}

/** Whether the values can be read as per cent: a model may also answer with raw scores. */
function looksLikeShares({ probabilities, value }) {
  return [value, ...probabilities.map((each) => each.value)].every((each) => each >= -1e-4 && each <= 1.0001);
}

/** Never rounds up to a certainty that the model did not state. */
function number(value, isShare) {
  if (!isShare) return String(Number(value.toPrecision(5)));
  if (value < 1 && value >= 0.99995) return "> 99.99 %";
  if (value > 0 && value < 0.00005) return "< 0.01 %";
  return `${(value * 100).toFixed(2)} %`;
}

function milliseconds(ms) {
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}

function ago(seconds) {
  if (seconds === null || Number.isNaN(seconds)) return "";
  if (seconds < 5) return "just now";
  const [size, unit] = [[86400, "d"], [3600, "h"], [60, "min"]].find(([size]) => seconds >= size) ?? [1, "s"];
  return `${Math.floor(seconds / size)} ${unit} ago`;
}

/** Quoted for the shell, and for curl, to which `;` `,` and `"` mean something in a form field. */
function curlLine(model, name) {
  const field = /^[\w.-]+$/.test(name) ? `image=@${name}` : `image=@"${name.replace(/[\\"]/g, "\\$&")}"`;
  const quoted = /^[\w.@=-]+$/.test(field) ? field : `'${field.replaceAll("'", "'\\''")}'`;
  return `curl -F ${quoted} ${location.origin}/predict/${model}`;
}

function showPicture(figure, blob, saveAs) {
  const image = figure.querySelector("img");
  const caption = figure.querySelector("figcaption");
  const said = caption.textContent;
  image.onload = () => { caption.textContent = `${said} · ${image.naturalWidth} × ${image.naturalHeight}`; addSave(); };
  image.onerror = () => { image.hidden = true; caption.textContent = `${said} · this browser cannot show ${saveAs ?? "it"}`; };
  image.src = URL.createObjectURL(blob);
  figure.hidden = false;

  // A drawing or a pasted picture is no file yet; the curl line needs one.
  function addSave() {
    if (!saveAs) return;
    const link = document.createElement("a");
    Object.assign(link, { href: image.src, download: saveAs, textContent: "Save" });
    caption.append(" ", link);
  }
}

/** The old command as well: browsers offer the clipboard only to https and localhost. */
export function copyButton(button, source) {
  button.hidden = false;
  button.onclick = async () => {
    try {
      await navigator.clipboard.writeText(source.textContent);
    } catch {
      getSelection().selectAllChildren(source);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  };
}

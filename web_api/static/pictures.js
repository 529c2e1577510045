// Pictures on the page. Each holds its file in the browser's memory until it is given back.

/** A small picture of `file`, or nothing where the browser cannot show it. */
export function thumbnail(file, alt = "") {
  const image = Object.assign(new Image(40, 40), { alt, loading: "lazy", src: URL.createObjectURL(file) });
  image.onerror = () => { image.hidden = true; };
  return image;
}

/** Shows `blob` in `figure`; with `saveAs`, a link that saves it under this name. */
export function showPicture(figure, blob, saveAs) {
  const [image, caption] = figure.children;
  const said = caption.textContent;
  image.onload = () => {
    caption.textContent = `${said} · ${image.naturalWidth}\u00a0×\u00a0${image.naturalHeight} `;
    if (saveAs) caption.append(Object.assign(document.createElement("a"), { href: image.src, download: saveAs, textContent: "Save" }));
  };
  image.onerror = () => { image.hidden = true; caption.textContent = `${said} · this browser cannot show it`; };
  image.src = URL.createObjectURL(blob);
  figure.hidden = false;
}

/** A figure of `blob` called `title`, with a link that saves it as `saveAs`. */
export function picture(blob, title, saveAs) {
  const figure = document.createElement("figure");
  figure.dataset.slot = "result";
  const image = Object.assign(new Image(), { alt: title, className: "pixels" });
  figure.append(image, Object.assign(document.createElement("figcaption"), { textContent: title }));
  showPicture(figure, blob, saveAs);
  return figure;
}

/** Shows in `figure` the picture `below` with `above` over it. */
export function layers(figure, below, above) {
  figure.querySelectorAll("img").forEach((image, place) => { image.src = URL.createObjectURL([below, above][place]); });
  figure.hidden = false;
}

/** Takes away what is in `container` and gives its pictures back. */
export function empty(container) {
  for (const image of container.querySelectorAll('img[src^="blob:"]')) URL.revokeObjectURL(image.src);
  container.replaceChildren();
}

// Images on the page. Each object URL keeps its file in memory until it is revoked.

/** A thumbnail of `file`, hidden where the browser cannot display it. */
export function thumbnail(file, alt = "") {
  const image = Object.assign(new Image(40, 40), { alt, loading: "lazy", src: URL.createObjectURL(file) });
  image.onerror = () => { image.hidden = true; };
  return image;
}

/** Shows `blob` in `figure`, with a download link where `saveAs` is given. */
export function showImage(figure, blob, saveAs) {
  const [image, caption] = figure.children;
  const title = caption.textContent;
  image.onload = () => {
    caption.textContent = `${title} · ${image.naturalWidth}\u00a0×\u00a0${image.naturalHeight} `;
    if (saveAs) caption.append(Object.assign(document.createElement("a"), { href: image.src, download: saveAs, textContent: "Save" }));
  };
  image.onerror = () => { image.hidden = true; caption.textContent = `${title} · this browser cannot display it`; };
  image.src = URL.createObjectURL(blob);
  figure.hidden = false;
}

/** A figure of `blob` with a title, and a link that downloads it as `saveAs`. */
export function imageFigure(blob, title, saveAs) {
  const figure = document.createElement("figure");
  figure.dataset.slot = "result";
  const image = Object.assign(new Image(), { alt: title, className: "pixels" });
  figure.append(image, Object.assign(document.createElement("figcaption"), { textContent: title }));
  showImage(figure, blob, saveAs);
  return figure;
}

/** Shows in `figure` the image `below` with the image `above` over it. */
export function showLayers(figure, below, above) {
  figure.querySelectorAll("img").forEach((image, index) => { image.src = URL.createObjectURL([below, above][index]); });
  figure.hidden = false;
}

/** Removes the content of `container` and revokes the object URLs of its images. */
export function clear(container) {
  for (const image of container.querySelectorAll('img[src^="blob:"]')) URL.revokeObjectURL(image.src);
  container.replaceChildren();
}

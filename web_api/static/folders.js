// Files of folders with their paths. A selection is a list of [File, path, isSkipped].

const ARCHIVE = /\.(zip|tar|tgz|tar\.gz)$/i;
// Not only by the media type of the browser: some browsers have none for PNM. The server has the same list.
const IMAGE = /\.(avif|bmp|dib|gif|hei[cf]|jfif|jpe|jpe?g|jxl|p[abgnp]m|png|tiff?|webp)$/i;
const collator = new Intl.Collator(undefined, { numeric: true });

export const isArchive = ({ name }) => ARCHIVE.test(name);

/** Whether the file is an image or an archive. Of other files, only the name is sent. */
export const isInput = ([, , isSkipped]) => !isSkipped;

/** Selection of individual files. */
export const singleFiles = (files) => [...files].map((file) => [file, file.name]);

/** Selection of a folder. */
export const folderFiles = (files) => markSkipped([...files].map((file) => [file, file.webkitRelativePath || file.name]));

/** Selection of dropped files and folders. The lists of the event are empty after the event, so they are read first. */
export async function droppedFiles({ items, files }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return singleFiles(files);
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return markSkipped(found);
}

async function walk(entry, found) {
  if (entry.isFile) found.push([await new Promise((resolve, reject) => { entry.file(resolve, reject); }), entry.fullPath.slice(1)]);
  if (!entry.isDirectory) return;
  const reader = entry.createReader();
  const more = () => new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
  // A reader returns up to a hundred entries at a time, and none at the end.
  for (let some = await more(); some.length; some = await more()) {
    for (const each of some) await walk(each, found);
  }
}

/**
 * Marks files that are not images: folders also contain notes, lists of labels, and files of file managers. Only their names are sent,
 * so that the server can report what it has skipped.
 */
function markSkipped(found) {
  const isHidden = (path) => path.split("/").some((part) => part.startsWith("."));
  const isSent = ([file, path]) => !isHidden(path) && (IMAGE.test(path) || file.type.startsWith("image/") || isArchive(file));
  const sorted = found.sort(([, a], [, b]) => collator.compare(a, b));
  return sorted.map(([file, path]) => (isSent([file, path]) ? [file, path, false] : [new File([], file.name), path, true]));
}

// Files out of folders, under their paths in them. What people choose is a list of [File, path, isSkipped].

const ARCHIVE = /\.(zip|tar|tgz|tar\.gz)$/i;
// Not by the browser's media type alone: some know none for PNM. The server has the same list.
const PICTURE = /\.(avif|bmp|dib|gif|hei[cf]|jfif|jpe|jpe?g|jxl|p[abgnp]m|png|tiff?|webp)$/i;
const inOrder = new Intl.Collator(undefined, { numeric: true });

export const isArchive = ({ name }) => ARCHIVE.test(name);

/** Whether it is an image or an archive, and not a file whose name alone is sent. */
export const isInput = ([, , isSkipped]) => !isSkipped;

/** Files that were chosen one by one. */
export const loose = (files) => [...files].map((file) => [file, file.name]);

/** What is worth sending of a folder that was chosen. */
export const ofFolder = (files) => worthSending([...files].map((file) => [file, file.webkitRelativePath || file.name]));

/** What was dropped, with all that is in its folders. The event's own list is empty once the event is over. */
export async function dropped({ items, files }) {
  const entries = [...items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return loose(files);
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return worthSending(found);
}

async function walk(entry, found) {
  if (entry.isFile) found.push([await new Promise((resolve, reject) => { entry.file(resolve, reject); }), entry.fullPath.slice(1)]);
  if (!entry.isDirectory) return;
  const reader = entry.createReader();
  const more = () => new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
  // A reader gives a hundred at a time, and none when it is at the end.
  for (let some = await more(); some.length; some = await more()) {
    for (const each of some) await walk(each, found);
  }
}

/**
 * Folders hold more than pictures: notes, lists of labels, what file managers leave behind. Of these the names alone are sent, so
 * that the server can say what it has skipped.
 */
function worthSending(found) {
  const isHidden = (path) => path.split("/").some((part) => part.startsWith("."));
  const isWorth = ([file, path]) => !isHidden(path) && (PICTURE.test(path) || file.type.startsWith("image/") || isArchive(file));
  const ordered = found.sort(([, a], [, b]) => inOrder.compare(a, b));
  return ordered.map(([file, path]) => (isWorth([file, path]) ? [file, path, false] : [new File([], file.name), path, true]));
}

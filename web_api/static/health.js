// Model availability: polls the health route, and loads the page again where something has changed.

const POLL_INTERVAL_MS = 5000;

/** Comparable states of the models of the page, from a list of models of the page or of the health route. */
function states(shown, list) {
  return JSON.stringify(shown.map(({ name, version }) => {
    const model = list.find((each) => each.name === name && each.version === version);
    return model && [model.state, model.reason ?? null];
  }));
}

/**
 * Polls while the page is visible, and never returns. `shown()` returns the models of the page, and whether model_api responded when it
 * was rendered. `onChange(page)` receives a new copy of the page where one of them has changed.
 */
export async function watchHealth(shown, onChange) {
  for (;;) {
    await new Promise((resolve) => { setTimeout(resolve, POLL_INTERVAL_MS); });
    if (document.hidden) continue;
    try {
      const health = await (await fetch("/health/ready")).json();
      const { models, reachable } = shown();
      if (health.model_api.running === reachable && states(models, health.models) === states(models, models)) continue;
      const page = await (await fetch("/", { headers: { Accept: "text/html" } })).text();
      onChange(new DOMParser().parseFromString(page, "text/html"));
    } catch {
      // The server is unreachable. The next request of the user shows that.
    }
  }
}

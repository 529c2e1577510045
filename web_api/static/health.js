// Which models can be used: polls the health route and, where something has changed, reads the page anew.

const POLL_MS = 5000;

/** What is to be compared of the models that the page shows, in a list of models from the page or from the health route. */
function states(shown, list) {
  return JSON.stringify(shown.map(({ name, version }) => {
    const model = list.find((each) => each.name === name && each.version === version);
    return model && [model.state, model.reason ?? null];
  }));
}

/**
 * Polls for ever, while the page is visible. `shown()` gives the models that the page shows and whether it shows that model_api
 * answers. `onChange(page)` gets a fresh copy of the page where that is no longer so.
 */
export async function watchHealth(shown, onChange) {
  for (;;) {
    await new Promise((resolve) => { setTimeout(resolve, POLL_MS); });
    if (document.hidden) continue;
    try {
      const health = await (await fetch("/health/ready")).json();
      const { models, reachable } = shown();
      if (health.model_api.running === reachable && states(models, health.models) === states(models, models)) continue;
      const page = await (await fetch("/", { headers: { Accept: "text/html" } })).text();
      onChange(new DOMParser().parseFromString(page, "text/html"));
    } catch {
      // The server itself does not answer: a request that the page sends shows that.
    }
  }
}

// Shows /openapi.json; the page's own query (?model=…&version=…) chooses whose examples.

const dark = matchMedia("(prefers-color-scheme: dark)");
const follow = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", follow);
follow();

SwaggerUIBundle({
  url: `/openapi.json${location.search}`,
  dom_id: "#docs",
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
  // The only thing it would ask of another host.
  validatorUrl: null,
});

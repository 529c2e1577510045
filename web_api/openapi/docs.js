// Shows /openapi.json. The query of the page (?model=…&version=…) selects the model of the examples.

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
  // Disables the validator badge, which would send a request to another host.
  validatorUrl: null,
});

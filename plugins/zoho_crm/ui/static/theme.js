// Use Airflow's light or dark theme: read before the page is drawn, and whenever it changes.
"use strict";
(() => {
  const system = window.matchMedia("(prefers-color-scheme: dark)");

  const airflowRoot = () => {
    try {
      return window.parent === window ? null : window.parent.document.documentElement;
    } catch {
      return null; // a parent from another origin
    }
  };

  const chosen = () => {
    const root = airflowRoot();
    if (root?.classList.contains("dark")) return "dark";
    if (root?.classList.contains("light")) return "light";
    let stored = null;
    try {
      stored = window.localStorage.getItem("theme");
    } catch {
      // storage may be forbidden
    }
    if (stored === "dark" || stored === "light") return stored;
    return system.matches ? "dark" : "light";
  };

  const apply = () => {
    const theme = chosen();
    if (document.documentElement.dataset.theme === theme) return;
    document.documentElement.dataset.theme = theme;
    document.dispatchEvent(new Event("themechange"));
  };

  apply();
  system.addEventListener("change", apply);
  window.addEventListener("storage", apply);
  const root = airflowRoot();
  if (root) {
    const observer = new MutationObserver(apply);
    observer.observe(root, { attributes: true, attributeFilter: ["class"] });
    // Airflow outlives this page: stop observing, so that the page can be freed.
    window.addEventListener("pagehide", () => observer.disconnect());
  }
})();

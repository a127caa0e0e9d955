/* Light, dark, or as the system has it. Runs before the first paint, so that a chosen theme does not flash; knows nothing
   of the rest of the page. */
(() => {
  const THEMES = ["system", "light", "dark"];
  const SIGNS = { system: "\u25d0", light: "\u2600", dark: "\u263e" };
  const SAID = { system: "as the system", light: "light", dark: "dark" };
  const STORED = "p2pnet-theme";

  function stored() {
    try {
      const theme = localStorage.getItem(STORED) ?? "";
      return THEMES.includes(theme) ? theme : "system";
    } catch {
      return "system"; // storage is forbidden here
    }
  }

  function apply(theme) {
    if (theme === "system") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
    const button = document.getElementById("theme-button");
    if (!button) return;
    button.textContent = SIGNS[theme];
    button.setAttribute("aria-label", `Theme: ${SAID[theme]}. Change it.`);
    button.title = `Theme: ${SAID[theme]}`;
  }

  let theme = stored();
  apply(theme);
  addEventListener("DOMContentLoaded", () => {
    apply(theme);
    document.getElementById("theme-button")?.addEventListener("click", () => {
      theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
      apply(theme);
      try {
        localStorage.setItem(STORED, theme);
      } catch {
        // it lasts as long as the page
      }
    });
  });
})();
